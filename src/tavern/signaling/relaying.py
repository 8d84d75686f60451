"""Whom an offer, answer or candidate reaches. Pure."""

from __future__ import annotations

import msgspec

from tavern.signaling import messages
from tavern.signaling.requests import RELAYED, Relayed, read_members
from tavern.signaling.rooms import Channel, Deliver, Peer
from tavern.signaling.transport import Membership

_CONTENT = {f'"{kind}"'.encode(): content for kind, content in RELAYED.items()}


def relay(peer: Peer, message: Relayed) -> Deliver:
    """What `peer` sends its target (with an offer that has none: all others), with `from` set by us.

    Raises SignalingError where the peer is in no room, not in the channel it names, or its target is not there.
    """
    place = peer.place
    if place is None:
        raise messages.not_in_room()
    if isinstance(place, Channel) and (
        message.channel_id not in (None, place.channel_id) or message.tavern_id not in (None, place.room.room_id)
    ):
        raise messages.not_in_room()
    if message.target is not None:
        target = place.members.get(message.target)
        if target is None or target is peer:
            raise messages.target_not_found()
        recipients: tuple[Peer, ...] = (target,)
    else:
        recipients = tuple(member for member in place.members.values() if member is not peer)
    return Deliver(recipients, {"type": message.type, "from": place.address(peer), **message.passed_on})


def membership(peer: Peer) -> Membership | None:
    """What the peer's transport has to know to do what `pass_on` does; None where that is nothing."""
    place = peer.place
    if not isinstance(place, Channel):
        return None
    raw_address = msgspec.json.encode(place.address(peer))
    return Membership(peer, place, place.raw_tavern_id, place.raw_channel_id, raw_address)


def pass_on(peer: Peer, data: str) -> tuple[Peer, bytes, bytes] | None:
    """What `relay` and `parse_message` come to, for nearly all that is ever relayed, at a third of their price.

    The target, the message for it, and its content (the JSON text of the SDP or the candidate), for a message to one
    other member of the sender's channel. None for everything else, which may be in order or not.
    """
    place = peer.place
    if not isinstance(place, Channel):
        return None
    try:
        fields = read_members(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    kind, named = fields.pop("type", None), fields.pop("target", None)
    if kind is None or named is None:
        return None
    content = fields.get(_CONTENT.get(bytes(kind), ""))
    raw_target = bytes(named)
    if content is None or raw_target[:1] != b'"' or b"\\" in raw_target:
        return None
    text = bytes(content)
    target = place.members.get(raw_target[1:-1].decode())
    if text[:1] != b'"' or target is None or target is peer:
        return None
    for name, expected in (("tavernId", place.raw_tavern_id), ("channelId", place.raw_channel_id)):
        if name in fields and bytes(fields[name]) != expected:
            return None
    fields.pop("from", None)  # nobody speaks for somebody else
    return target, messages.encode({"type": kind, "from": place.address(peer), **fields}), text

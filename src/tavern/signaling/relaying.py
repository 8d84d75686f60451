"""Whom an offer, answer or candidate reaches. Pure."""

from __future__ import annotations

from tavern.signaling import messages
from tavern.signaling.requests import Relayed
from tavern.signaling.rooms import Channel, Deliver, Peer


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

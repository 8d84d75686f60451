"""Who is where, and who hears what: all presence and the relaying between peers, as one state machine. Pure.

Methods change the state and return effects in the order in which they must happen; the shell sends, closes and
supervises. A peer is in one place at most: a channel of a tavern, or a legacy room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import attrs

from tavern.signaling import messages
from tavern.signaling.messages import IceCandidate, Identity, Offer, Relayed

MAX_MEMBERS = 8
"""A mesh: each of 8 people sends 7 times. The protocol fixes the number."""

CLOSE_NORMAL = 1000

RoomKind = Literal["tavern", "legacy"]


@attrs.define(eq=False)
class Peer:
    """One connection as others in its place see it. `outlet` is the shell's own handle and opaque here."""

    peer_id: str
    outlet: Any = None
    identity: Identity | None = None
    place: Channel | LegacyRoom | None = None


@attrs.define(eq=False)
class Room:
    """What lives and is supervised as one: a tavern with somebody in it, or a legacy room."""

    kind: RoomKind
    room_id: str
    places: dict[str, Channel | LegacyRoom] = attrs.field(factory=dict)

    def peers(self) -> Iterator[Peer]:
        for place in self.places.values():
            yield from place.members.values()

    def __str__(self) -> str:
        return f"{self.kind}:{self.room_id}"


@attrs.define(eq=False)
class Channel:
    """A voice channel with somebody in it; members by public key, in the order they came."""

    room: Room
    channel_id: str
    members: dict[str, Peer] = attrs.field(factory=dict)

    @property
    def place_id(self) -> str:
        return self.channel_id

    @staticmethod
    def address(peer: Peer) -> str:
        """What `from` and `target` name a member by."""
        assert peer.identity is not None, "a peer joins a channel with an identity"
        return peer.identity.publicKeyHex


@attrs.define(eq=False)
class LegacyRoom:
    """A room that is only a name; members by the server's peer ids."""

    room: Room
    members: dict[str, Peer] = attrs.field(factory=dict)

    @property
    def place_id(self) -> str:
        return self.room.room_id

    @staticmethod
    def address(peer: Peer) -> str:
        return peer.peer_id


@attrs.frozen(eq=False)
class Deliver:
    """Send one message to each recipient, in order, without waiting."""

    recipients: tuple[Peer, ...]
    message: dict[str, Any]


@attrs.frozen(eq=False)
class Close:
    """Close the peer's connection, after what was delivered to it before."""

    peer: Peer
    code: int
    reason: str


@attrs.frozen(eq=False)
class Moved:
    """The peer is in this place now; None: nowhere."""

    peer: Peer
    place: Channel | LegacyRoom | None


@attrs.frozen(eq=False)
class RoomOpened:
    room: Room


@attrs.frozen(eq=False)
class RoomEmptied:
    room: Room


Effect = Deliver | Close | Moved | RoomOpened | RoomEmptied
Effects = list[Effect]


class Presence:
    """Every live room, and which peer holds which public key. Never stored: it is gone with the process."""

    def __init__(self) -> None:
        self.rooms: dict[tuple[RoomKind, str], Room] = {}
        self._peer_by_key: dict[str, Peer] = {}

    def active_taverns(self) -> int:
        """Taverns with at least one peer in a channel."""
        return sum(kind == "tavern" for kind, _ in self.rooms)

    def channel_members(self, tavern_id: str, channel_id: str) -> tuple[Peer, ...]:
        room = self.rooms.get(("tavern", tavern_id))
        place = room.places.get(channel_id) if room else None
        return tuple(place.members.values()) if place else ()

    def tavern_peers(self, tavern_id: str) -> tuple[Peer, ...]:
        room = self.rooms.get(("tavern", tavern_id))
        return tuple(room.peers()) if room else ()

    def join_channel(self, peer: Peer, tavern_id: str, channel_id: str, identity: Identity) -> Effects:
        """`peer` is in this channel and nowhere else; another session with its key is replaced.

        Joining the channel where it already is under the same key answers again. Raises SignalingError (channel full)
        and then changes nothing. The caller has checked that tavern and channel exist.
        """
        key = identity.publicKeyHex
        place = peer.place
        already_here = isinstance(place, Channel) and (place.room.room_id, place.channel_id) == (tavern_id, channel_id)
        if already_here and Channel.address(peer) == key:
            return [*self.update_identity(peer, identity), self._channel_joined(peer)]
        replaced = self._other_with_key(peer, key)
        staying = [m for m in self.channel_members(tavern_id, channel_id) if m is not peer and m is not replaced]
        if len(staying) >= MAX_MEMBERS:
            raise messages.channel_full()
        effects = self._replace(replaced) if replaced else []
        effects += self.leave(peer)
        self._take_key(peer, identity)
        room = self._open_room("tavern", tavern_id, effects)
        channel = room.places.get(channel_id)
        if not isinstance(channel, Channel):
            channel = room.places[channel_id] = Channel(room, channel_id)
        others = tuple(channel.members.values())
        channel.members[key] = peer
        peer.place = channel
        effects.append(Moved(peer, channel))
        effects.append(self._channel_joined(peer))
        joined = {"type": "peer-joined-channel", "tavernId": tavern_id, "channelId": channel_id}
        effects += _deliver(others, {**joined, "peer": messages.peer_object(identity, tavern_id, channel_id)})
        return effects

    def join_room(self, peer: Peer, name: str, identity: Identity | None) -> Effects:
        """`peer` is in this legacy room and nowhere else. Raises SignalingError (room full), changing nothing."""
        replaced = self._other_with_key(peer, identity.publicKeyHex) if identity else None
        room = self.rooms.get(("legacy", name))
        members = room.peers() if room else ()
        others = tuple(m for m in members if m is not peer and m is not replaced)
        if len(others) >= MAX_MEMBERS:
            raise messages.room_full()
        effects = self._replace(replaced) if replaced else []
        already_here = room is not None and peer.place is not None and peer.place.room is room
        if not already_here:
            effects += self.leave(peer)
        if identity is not None:
            self._take_key(peer, identity)
        room = self._open_room("legacy", name, effects)
        place = room.places.setdefault(name, LegacyRoom(room))
        place.members[peer.peer_id] = peer
        peer.place = place
        effects.append(Moved(peer, place))
        effects += _deliver((peer,), {"type": "peer-list", "peers": [{"peerId": p.peer_id} for p in others]})
        if not already_here:
            joined: dict[str, Any] = {"type": "peer-joined", "peerId": peer.peer_id}
            if identity is not None:
                joined["identity"] = messages.identity_object(identity)
            effects += _deliver(others, joined)
        return effects

    def leave_channel(self, peer: Peer, tavern_id: str, channel_id: str) -> Effects:
        """`peer` is not in this channel; nothing happens where it was not."""
        place = peer.place
        if isinstance(place, Channel) and (place.room.room_id, place.channel_id) == (tavern_id, channel_id):
            return self.leave(peer)
        return []

    def leave(self, peer: Peer) -> Effects:
        """`peer` is nowhere; those it was with are told."""
        place = peer.place
        if place is None:
            return []
        peer.place = None
        del place.members[place.address(peer)]
        if isinstance(place, Channel):
            told = {
                "type": "peer-left-channel",
                "tavernId": place.room.room_id,
                "channelId": place.channel_id,
                "publicKeyHex": place.address(peer),
            }
        else:
            told = {"type": "peer-left", "peerId": peer.peer_id}
        effects: Effects = [Moved(peer, None), *_deliver(place.members.values(), told)]
        if not place.members:
            del place.room.places[place.place_id]
            if not place.room.places:
                del self.rooms[place.room.kind, place.room.room_id]
                effects.append(RoomEmptied(place.room))
        return effects

    def disconnect(self, peer: Peer) -> Effects:
        """`peer` is forgotten: it left its place and its key is free. Doing it twice is doing it once."""
        effects = self.leave(peer)
        if peer.identity is not None and self._peer_by_key.get(peer.identity.publicKeyHex) is peer:
            del self._peer_by_key[peer.identity.publicKeyHex]
        peer.identity = None
        return effects

    def update_identity(self, peer: Peer, identity: Identity) -> Effects:
        """`peer` goes by this identity; those it is with are told under the address they know it by.

        Raises SignalingError (`identity-in-use`) if another connection has the key.
        """
        if self._other_with_key(peer, identity.publicKeyHex):
            raise messages.SignalingError("identity-in-use", "Another connection has this identity")
        if peer.identity == identity:
            return []
        place = peer.place
        known_as = place.address(peer) if place else None
        self._take_key(peer, identity)
        if place is None or known_as is None:
            return []
        # Same order of members as before: the others' lists do not jump.
        members = [(place.address(member), member) for member in place.members.values()]
        place.members.clear()
        place.members.update(members)
        told = {"type": "peer-identity-updated", "peerId": known_as, "identity": messages.identity_object(identity)}
        return _deliver((p for p in place.members.values() if p is not peer), told)

    def relay(self, peer: Peer, message: Relayed) -> Deliver:
        """An offer, answer or candidate from `peer` for its target (an offer without one: for all others).

        Raises SignalingError where the peer is in no room, not in the channel it names, or its target is not there.
        """
        place = peer.place
        if place is None:
            raise messages.not_in_room()
        if isinstance(place, Channel) and (
            message.channelId not in (None, place.channel_id) or message.tavernId not in (None, place.room.room_id)
        ):
            raise messages.not_in_room()
        if message.target is not None:
            target = place.members.get(message.target)
            if target is None or target is peer:
                raise messages.target_not_found()
            recipients: tuple[Peer, ...] = (target,)
        else:
            recipients = tuple(member for member in place.members.values() if member is not peer)
        sender = place.address(peer)
        relayed: dict[str, Any]
        if isinstance(message, IceCandidate):
            relayed = {"type": "ice-candidate", "from": sender, "candidate": message.candidate}
        else:
            kind = "offer" if isinstance(message, Offer) else "answer"
            relayed = {"type": kind, "from": sender, "sdp": message.sdp}
        if message.tavernId is not None:
            relayed["tavernId"] = message.tavernId
        if message.channelId is not None:
            relayed["channelId"] = message.channelId
        return Deliver(recipients, relayed)

    def discard_room(self, room: Room) -> tuple[Peer, ...]:
        """The room is gone, whatever state it was in, and its members are nowhere and untold; who they were."""
        if self.rooms.get((room.kind, room.room_id)) is room:
            del self.rooms[room.kind, room.room_id]
        members = tuple(room.peers())
        room.places.clear()
        for peer in members:
            peer.place = None
        return members

    def _other_with_key(self, peer: Peer, key: str) -> Peer | None:
        holder = self._peer_by_key.get(key)
        return holder if holder is not peer else None

    def _take_key(self, peer: Peer, identity: Identity) -> None:
        if peer.identity is not None:
            self._peer_by_key.pop(peer.identity.publicKeyHex, None)
        peer.identity = identity
        self._peer_by_key[identity.publicKeyHex] = peer

    def _replace(self, peer: Peer) -> Effects:
        effects = self.disconnect(peer)
        effects += _deliver((peer,), {"type": "session-replaced"})
        effects.append(Close(peer, CLOSE_NORMAL, "session replaced"))
        return effects

    def _open_room(self, kind: RoomKind, room_id: str, effects: Effects) -> Room:
        room = self.rooms.get((kind, room_id))
        if room is None:
            room = self.rooms[kind, room_id] = Room(kind, room_id)
            effects.append(RoomOpened(room))
        return room

    def _channel_joined(self, peer: Peer) -> Effect:
        channel = peer.place
        assert isinstance(channel, Channel)
        tavern_id = channel.room.room_id
        answer = {
            "type": "channel-joined",
            "tavernId": tavern_id,
            "channelId": channel.channel_id,
            "peers": [peer_in_channel(other, channel) for other in channel.members.values() if other is not peer],
        }
        return Deliver((peer,), answer)


def peer_in_channel(peer: Peer, channel: Channel) -> dict[str, Any]:
    assert peer.identity is not None
    return messages.peer_object(peer.identity, channel.room.room_id, channel.channel_id)


def _deliver(recipients: Iterable[Peer], message: dict[str, Any]) -> Effects:
    peers = tuple(recipients)
    return [Deliver(peers, message)] if peers else []

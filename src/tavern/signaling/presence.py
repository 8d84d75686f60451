"""Who is where, and who replaces whom: all presence as one state machine. Pure.

Methods change the state and return effects in the order in which they must happen; the shell sends, closes and
supervises. A peer is in one place at most: a channel of a tavern, or a legacy room.
"""

from __future__ import annotations

from typing import Any

from tavern.signaling import messages
from tavern.signaling.messages import Identity
from tavern.signaling.rooms import (
    MAX_MEMBERS,
    Changed,
    Channel,
    Close,
    Deliver,
    Effect,
    Effects,
    LegacyRoom,
    Moved,
    Peer,
    Readdressed,
    Room,
    RoomEmptied,
    RoomKind,
    RoomOpened,
    deliver,
    peer_in_channel,
)

CLOSE_NORMAL = 1000


class Presence:
    """Every live room, and which peer holds which public key. Never stored: it is gone with the process."""

    def __init__(self) -> None:
        self.rooms: dict[tuple[RoomKind, str], Room] = {}
        self._peer_by_key: dict[str, Peer] = {}

    def active_taverns(self) -> int:
        """Taverns with at least one peer in a channel."""
        return sum(kind == "tavern" for kind, _ in self.rooms)

    def is_in_use(self, tavern_id: str) -> bool:
        """Whether anybody is in a channel of this tavern."""
        return ("tavern", tavern_id) in self.rooms

    def channel(self, tavern_id: str, channel_id: str) -> Channel | None:
        """The channel, if anybody is in it."""
        room = self.rooms.get(("tavern", tavern_id))
        place = room.places.get(channel_id) if room else None
        return place if isinstance(place, Channel) else None

    def channel_members(self, tavern_id: str, channel_id: str) -> tuple[Peer, ...]:
        channel = self.channel(tavern_id, channel_id)
        return tuple(channel.members.values()) if channel else ()

    def tavern_peers(self, tavern_id: str) -> tuple[Peer, ...]:
        room = self.rooms.get(("tavern", tavern_id))
        return tuple(room.peers()) if room else ()

    def peer_with_key(self, key: str) -> Peer | None:
        """Who goes by this key, wherever it is."""
        return self._peer_by_key.get(key)

    def peer_in_tavern(self, tavern_id: str, key: str) -> Peer | None:
        """Who is in a channel of this tavern under this key."""
        peer = self._peer_by_key.get(key)
        if peer is None or not isinstance(peer.place, Channel) or peer.place.room.room_id != tavern_id:
            return None
        return peer

    def join_channel(
        self, peer: Peer, tavern_id: str, channel_id: str, identity: Identity, *, returning: bool = False
    ) -> Effects:
        """`peer` is in this channel and nowhere else; another session with its key is replaced.

        Joining the channel where it already is under the same key answers again. Raises SignalingError (channel full,
        a key that is somebody else's) and then changes nothing. The caller has checked that tavern and channel exist,
        and that the peer may enter. `returning`: it was here before the server started anew, and may be connected to
        the others still.
        """
        key = identity.publicKeyHex
        place = peer.place
        already_here = isinstance(place, Channel) and (place.room.room_id, place.channel_id) == (tavern_id, channel_id)
        if already_here and Channel.address(peer) == key:
            return [*self.update_identity(peer, identity), self._channel_joined(peer)]
        replaced = self._replaceable(peer, key)
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
        effects.append(Changed(tavern_id, channel_id))
        if not returning:
            effects.append(self._channel_joined(peer))
        where = {"tavernId": tavern_id, "channelId": channel_id}
        effects += deliver(
            others,
            {"type": "peer-joined-channel", **where, "peer": peer_in_channel(peer, channel, extended=False)},
            {
                "type": "peer-resumed" if returning else "peer-joined-channel",
                **where,
                "peer": peer_in_channel(peer, channel, extended=True),
            },
        )
        return effects

    def join_room(self, peer: Peer, name: str, identity: Identity | None) -> Effects:
        """`peer` is in this legacy room and nowhere else.

        Raises SignalingError (room full, a key that is somebody else's), changing nothing.
        """
        replaced = self._replaceable(peer, identity.publicKeyHex) if identity else None
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
        effects += deliver((peer,), {"type": "peer-list", "peers": [{"peerId": p.peer_id} for p in others]})
        if not already_here:
            joined: dict[str, Any] = {"type": "peer-joined", "peerId": peer.peer_id}
            if identity is None:
                effects += deliver(others, joined)
            else:
                shown = messages.identity_object(identity)
                effects += deliver(
                    others,
                    {**joined, "identity": shown},
                    {**joined, "identity": {**shown, "verified": peer.verified}},
                )
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
        effects: Effects = [Moved(peer, None)]
        if isinstance(place, Channel):
            where = {"tavernId": place.room.room_id, "channelId": place.channel_id}
            told = {"type": "peer-left-channel", **where, "publicKeyHex": place.address(peer)}
            effects.append(Changed(place.room.room_id, place.channel_id))
        else:
            told = {"type": "peer-left", "peerId": peer.peer_id}
        effects += deliver(place.members.values(), told)
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

    def put_out(self, peer: Peer, told: dict[str, Any] | None, error: messages.SignalingError) -> Effects:
        """`peer` is nowhere, because somebody said so: `told` says why to a client that knows the extensions (None:
        it has been told).

        Others get `error` and are closed: existing clients end their calls then, and at nothing else that we can say.
        """
        effects = self.leave(peer)
        if peer.extended:
            return effects + (deliver((peer,), told) if told is not None else [])
        effects += self.disconnect(peer)
        effects += deliver((peer,), messages.error_message(error))
        effects.append(Close(peer, CLOSE_NORMAL, error.code))
        return effects

    def update_identity(self, peer: Peer, identity: Identity) -> Effects:
        """`peer` goes by this identity; those it is with are told under the address they know it by.

        Raises SignalingError (`identity-in-use`) if another connection has the key, and (`identity-fixed`) if it has
        proven another one.
        """
        self._check_proven(peer, identity.publicKeyHex)
        if self._other_with_key(peer, identity.publicKeyHex):
            raise messages.identity_in_use()
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
        return [Readdressed(peer), *self._identity_updated(peer, known_as)]

    def prove(self, peer: Peer, key: str) -> Effects:
        """`peer` has proven to hold this key. Raises SignalingError (`identity-fixed`) where it goes by another one."""
        self._check_proven(peer, key)
        if peer.verified:
            return []
        if peer.identity is not None and peer.identity.publicKeyHex != key:
            if peer.place is not None:
                raise messages.SignalingError("identity-fixed", "Others know you by another key: leave first")
            self.disconnect(peer)
        peer.proven_key = key
        if peer.place is None or peer.identity is None:  # in an old room one may be without any
            return []
        return self._identity_updated(peer, peer.place.address(peer), old_ones=False)

    def discard_room(self, room: Room) -> tuple[Peer, ...]:
        """The room is gone, whatever state it was in, and its members are nowhere and untold; who they were."""
        if self.rooms.get((room.kind, room.room_id)) is room:
            del self.rooms[room.kind, room.room_id]
        members = tuple(room.peers())
        room.places.clear()
        for peer in members:
            peer.place = None
        return members

    def _identity_updated(self, peer: Peer, known_as: str, *, old_ones: bool = True) -> Effects:
        place = peer.place
        assert place is not None
        assert peer.identity is not None
        shown = messages.identity_object(peer.identity)
        told = {"type": "peer-identity-updated", "peerId": known_as, "identity": shown}
        others = [p for p in place.members.values() if p is not peer and (old_ones or p.extended)]
        effects = deliver(others, told, {**told, "identity": {**shown, "verified": peer.verified}})
        if isinstance(place, Channel):
            effects.append(Changed(place.room.room_id, place.channel_id))
        return effects

    def _check_proven(self, peer: Peer, key: str) -> None:
        if peer.proven_key not in (None, key):
            raise messages.identity_fixed()

    def _other_with_key(self, peer: Peer, key: str) -> Peer | None:
        holder = self._peer_by_key.get(key)
        return holder if holder is not peer else None

    def _replaceable(self, peer: Peer, key: str) -> Peer | None:
        """Whom `peer` replaces when it comes by this key. Naming a key throws nobody out who has proven it."""
        self._check_proven(peer, key)
        holder = self._other_with_key(peer, key)
        if holder is not None and holder.verified and not peer.verified:
            raise messages.identity_in_use()
        return holder

    def _take_key(self, peer: Peer, identity: Identity) -> None:
        if peer.identity is not None:
            self._peer_by_key.pop(peer.identity.publicKeyHex, None)
        peer.identity = identity
        self._peer_by_key[identity.publicKeyHex] = peer

    def _replace(self, peer: Peer) -> Effects:
        effects = self.disconnect(peer)
        effects += deliver((peer,), {"type": "session-replaced"})
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
        answer = {
            "type": "channel-joined",
            "tavernId": channel.room.room_id,
            "channelId": channel.channel_id,
            "peers": others_in_channel(peer, channel),
        }
        return Deliver((peer,), answer)


def others_in_channel(peer: Peer, channel: Channel) -> list[dict[str, Any]]:
    """The other members, as this one's client understands them."""
    others = (other for other in channel.members.values() if other is not peer)
    return [peer_in_channel(other, channel, extended=peer.extended) for other in others]

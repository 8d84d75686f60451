"""Peers and the places they can be in, and what a change there has the shell do. Pure: the changes are `presence`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import attrs

from tavern.signaling import messages
from tavern.signaling.messages import Identity

MAX_MEMBERS = 8
"""A mesh: each of 8 people sends 7 times. The protocol fixes the number."""

RoomKind = Literal["tavern", "legacy"]


@attrs.define(eq=False)
class Peer:
    """One client as others in its place see it, for as long as one connection lasts or several that resume it.

    `outlet` is the shell's own handle and opaque here.
    """

    peer_id: str
    outlet: Any = None
    host: str = ""
    """The address that its client comes from."""
    identity: Identity | None = None
    place: Channel | LegacyRoom | None = None
    proven_key: str | None = None
    """The key that its client has shown to hold: the only one that it goes by from then on."""
    extended: bool = False
    """Whether its client knows what this project adds to the protocol."""

    @property
    def verified(self) -> bool:
        """Whether it goes by a proven key."""
        return self.proven_key is not None


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
    raw_tavern_id: bytes = attrs.field(init=False)
    """As it stands in messages, in its quotes; the same of the channel's."""
    raw_channel_id: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.raw_tavern_id = f'"{self.room.room_id}"'.encode()
        self.raw_channel_id = f'"{self.channel_id}"'.encode()

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
    message: Mapping[str, Any]
    extended: Mapping[str, Any] | None = None
    """What clients that know the extensions get instead."""


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
class Readdressed:
    """The others in its place know the peer by another address from now on."""

    peer: Peer


@attrs.frozen(eq=False)
class Changed:
    """Who is in this channel, or what they are called, is not what it was."""

    tavern_id: str
    channel_id: str


@attrs.frozen(eq=False)
class RoomOpened:
    room: Room


@attrs.frozen(eq=False)
class RoomEmptied:
    room: Room


Effect = Deliver | Close | Moved | Readdressed | Changed | RoomOpened | RoomEmptied
Effects = list[Effect]


def deliver(
    recipients: Iterable[Peer], message: Mapping[str, Any], extended: Mapping[str, Any] | None = None
) -> Effects:
    """One Deliver, or nothing where there is nobody."""
    peers = tuple(recipients)
    return [Deliver(peers, message, extended)] if peers else []


def peer_in_channel(peer: Peer, channel: Channel, *, extended: bool) -> dict[str, Any]:
    """The object that stands for a member in messages; `extended` for clients that know the extensions."""
    assert peer.identity is not None
    found = messages.peer_object(peer.identity, channel.room.room_id, channel.channel_id)
    return {**found, "verified": peer.verified} if extended else found

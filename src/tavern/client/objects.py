"""What servers' messages are made of, as attrs classes. Pure.

Attribute names are the wire's own. Unknown fields are ignored: servers may be newer than this client.
"""

from __future__ import annotations

import attrs

from tavern.signaling.messages import Identity


@attrs.frozen
class Peer:
    publicKeyHex: str
    displayName: str
    tavernId: str
    channelId: str
    tag: str
    isSpeaking: bool = False
    verified: bool = False
    """Whether it has proven to hold its key."""


@attrs.frozen
class Channel:
    id: str
    name: str
    peers: list[Peer]


@attrs.frozen
class Tavern:
    id: str
    name: str
    channels: list[Channel]
    createdBy: str
    createdAt: str
    icon: str | None = None
    owner: str = ""
    """The key that it belongs to; empty where it belongs to nobody."""
    locked: bool = False
    moderators: list[str] = attrs.field(factory=list)


@attrs.frozen
class TavernSummary:
    """A tavern without its channels."""

    id: str
    name: str
    createdBy: str
    createdAt: str
    owner: str
    locked: bool
    moderators: list[str]
    icon: str | None = None


@attrs.frozen
class PeerIdentity(Identity):
    """Who another peer says it is."""

    verified: bool = False
    """Whether it has proven to hold its key."""


@attrs.frozen
class NamedChannel:
    id: str
    name: str


@attrs.frozen
class Ban:
    id: str
    publicKeyHex: str
    displayName: str
    byAddress: bool
    bannedBy: str
    createdAt: str


@attrs.frozen
class Invite:
    id: str
    uses: int
    createdBy: str
    createdAt: str
    maxUses: int | None = None
    expiresAt: str | None = None
    token: str | None = attrs.field(default=None, repr=False)
    """Told once, when it is made."""


@attrs.frozen
class Member:
    publicKeyHex: str
    displayName: str
    role: str
    """`member` or `moderator`."""
    addedAt: str


@attrs.frozen
class RoomPeer:
    peerId: str


@attrs.frozen
class IceServer:
    urls: list[str]
    username: str | None = None
    credential: str | None = attrs.field(default=None, repr=False)

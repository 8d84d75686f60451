"""What a server sends, as attrs classes. Pure.

Attribute names are the wire's own, but `from`, which Python keeps for itself: it is `sender` here. Unknown fields are
ignored and an unknown type is an `UnknownEvent`: servers may be newer than this client.
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from tavern.client.objects import (
    Ban,
    Channel,
    IceServer,
    Invite,
    Member,
    NamedChannel,
    Peer,
    PeerIdentity,
    RoomPeer,
    Tavern,
    TavernSummary,
)


@attrs.frozen
class TavernCreated:
    tavern: Tavern


@attrs.frozen
class TavernInfo:
    tavern: Tavern


@attrs.frozen
class ChannelCreated:
    tavernId: str
    channel: Channel


@attrs.frozen
class ChannelJoined:
    tavernId: str
    channelId: str
    peers: list[Peer]
    """Those who were there already."""


@attrs.frozen
class PeerJoinedChannel:
    tavernId: str
    channelId: str
    peer: Peer


@attrs.frozen
class PeerLeftChannel:
    tavernId: str
    channelId: str
    publicKeyHex: str


@attrs.frozen
class PeerIdentityUpdated:
    peerId: str
    """What the peer was known by until now."""
    identity: PeerIdentity


@attrs.frozen
class ReceivedOffer:
    sender: str
    sdp: str
    tavernId: str | None = None
    channelId: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict)
    """What else its sender put in."""


@attrs.frozen
class ReceivedAnswer:
    sender: str
    sdp: str
    tavernId: str | None = None
    channelId: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict)
    """What else its sender put in."""


@attrs.frozen
class ReceivedIceCandidate:
    sender: str
    candidate: str
    tavernId: str | None = None
    channelId: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict)
    """What else its sender put in."""


@attrs.frozen
class PeerList:
    peers: list[RoomPeer]


@attrs.frozen
class PeerJoined:
    peerId: str
    identity: PeerIdentity | None = None


@attrs.frozen
class PeerLeft:
    peerId: str


@attrs.frozen
class IceServers:
    iceServers: list[IceServer]
    expiresAt: str
    """ISO 8601 UTC: ask again before."""


@attrs.frozen
class Welcome:
    """What the server answers a hello with."""

    server: str
    """What it calls itself; who proves an identity to it checks that this is whom he called."""
    connection: str
    nonce: str = attrs.field(repr=False)
    verified: bool
    identityRequired: bool
    inviteRequired: bool
    mayCreate: str
    """`anyone`, `verified` or `listed`."""


@attrs.frozen
class IdentityProven:
    publicKeyHex: str


@attrs.frozen
class TavernWatched:
    tavern: Tavern


@attrs.frozen
class PresenceChanged:
    """Who is in a channel of a watched tavern: all of them."""

    tavernId: str
    channelId: str
    peers: list[Peer]


@attrs.frozen
class WatchEnded:
    tavernId: str
    reason: str
    """An error's code: why the tavern may not be watched any more."""


@attrs.frozen
class Done:
    request: str


@attrs.frozen
class TavernUpdated:
    tavern: TavernSummary


@attrs.frozen
class TavernDeleted:
    tavernId: str


@attrs.frozen
class ChannelUpdated:
    tavernId: str
    channel: NamedChannel


@attrs.frozen
class ChannelDeleted:
    """Who was in it is nowhere now."""

    tavernId: str
    channelId: str


@attrs.frozen
class Kicked:
    """We are in no channel any more, since somebody put us out."""

    tavernId: str
    channelId: str
    reason: str | None = None
    banned: bool = False


@attrs.frozen
class Bans:
    tavernId: str
    bans: list[Ban]


@attrs.frozen
class InviteCreated:
    tavernId: str
    invite: Invite


@attrs.frozen
class Invites:
    tavernId: str
    invites: list[Invite]


@attrs.frozen
class Members:
    tavernId: str
    members: list[Member]


@attrs.frozen
class ResumeTokenReceived:
    token: str = attrs.field(repr=False)
    expiresAt: str


@attrs.frozen
class Resumed:
    """Back in the channel. `continued`: the others did not notice; else the server has started anew meanwhile."""

    tavernId: str
    channelId: str
    peers: list[Peer]
    continued: bool
    connection: str


@attrs.frozen
class PeerResumed:
    """Somebody is back after the server started anew: a connection to him that works still is kept."""

    tavernId: str
    channelId: str
    peer: Peer


@attrs.frozen
class SessionReplaced:
    """Another connection took this one's identity; the server closes this one."""


@attrs.frozen
class ServerShutdown:
    """The server is stopping and closes the connection; try again in a moment."""


@attrs.frozen
class ErrorReceived:
    message: str
    code: str | None = None
    """None from servers that have no codes."""
    field: str | None = None


@attrs.frozen
class UnknownEvent:
    """A message of a type that this client does not know, as it came."""

    message: dict[str, Any]


Event = (
    TavernCreated
    | TavernInfo
    | ChannelCreated
    | ChannelJoined
    | PeerJoinedChannel
    | PeerLeftChannel
    | PeerIdentityUpdated
    | ReceivedOffer
    | ReceivedAnswer
    | ReceivedIceCandidate
    | PeerList
    | PeerJoined
    | PeerLeft
    | IceServers
    | Welcome
    | IdentityProven
    | TavernWatched
    | PresenceChanged
    | WatchEnded
    | Done
    | TavernUpdated
    | TavernDeleted
    | ChannelUpdated
    | ChannelDeleted
    | Kicked
    | Bans
    | InviteCreated
    | Invites
    | Members
    | ResumeTokenReceived
    | Resumed
    | PeerResumed
    | SessionReplaced
    | ServerShutdown
    | ErrorReceived
    | UnknownEvent
)

EVENT_TYPES: dict[str, type[Event]] = {
    "tavern-created": TavernCreated,
    "tavern-info": TavernInfo,
    "channel-created": ChannelCreated,
    "channel-joined": ChannelJoined,
    "peer-joined-channel": PeerJoinedChannel,
    "peer-left-channel": PeerLeftChannel,
    "peer-identity-updated": PeerIdentityUpdated,
    "offer": ReceivedOffer,
    "answer": ReceivedAnswer,
    "ice-candidate": ReceivedIceCandidate,
    "peer-list": PeerList,
    "peer-joined": PeerJoined,
    "peer-left": PeerLeft,
    "ice-servers": IceServers,
    "welcome": Welcome,
    "identity-proven": IdentityProven,
    "tavern-watched": TavernWatched,
    "presence-changed": PresenceChanged,
    "watch-ended": WatchEnded,
    "done": Done,
    "tavern-updated": TavernUpdated,
    "tavern-deleted": TavernDeleted,
    "channel-updated": ChannelUpdated,
    "channel-deleted": ChannelDeleted,
    "kicked": Kicked,
    "bans": Bans,
    "invite-created": InviteCreated,
    "invites": Invites,
    "members": Members,
    "resume-token": ResumeTokenReceived,
    "resumed": Resumed,
    "peer-resumed": PeerResumed,
    "session-replaced": SessionReplaced,
    "server-shutdown": ServerShutdown,
    "error": ErrorReceived,
}


_RELAYED = (ReceivedOffer, ReceivedAnswer, ReceivedIceCandidate)


def parse_event(data: str | bytes) -> Event:
    """One message of a server. Raises ValueError for what is no message of a Tavern server."""
    message = msgspec.json.decode(data)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError(f"not a message of a Tavern server: {data[:80]!r}")  # noqa: TRY004  the data is wrong
    kind = EVENT_TYPES.get(message["type"])
    if kind is None:
        return UnknownEvent(message)
    if "from" in message:
        message["sender"] = message.pop("from")
    if kind in _RELAYED:
        known = {field.name for field in attrs.fields(kind)} - {"extra"}
        message["extra"] = {name: message.pop(name) for name in set(message) - known - {"type"}}
    return msgspec.convert(message, kind)

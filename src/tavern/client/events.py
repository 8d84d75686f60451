"""What a server sends, as attrs classes. Pure.

Attribute names are the wire's own, but `from`, which Python keeps for itself: it is `sender` here. Unknown fields are
ignored and an unknown type is an `UnknownEvent`: servers may be newer than this client.
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from tavern.signaling.messages import Identity


@attrs.frozen
class Peer:
    publicKeyHex: str
    displayName: str
    tavernId: str
    channelId: str
    tag: str
    isSpeaking: bool = False


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
    identity: Identity


@attrs.frozen
class ReceivedOffer:
    sender: str
    sdp: str
    tavernId: str | None = None
    channelId: str | None = None


@attrs.frozen
class ReceivedAnswer:
    sender: str
    sdp: str
    tavernId: str | None = None
    channelId: str | None = None


@attrs.frozen
class ReceivedIceCandidate:
    sender: str
    candidate: str
    tavernId: str | None = None
    channelId: str | None = None


@attrs.frozen
class RoomPeer:
    peerId: str


@attrs.frozen
class PeerList:
    peers: list[RoomPeer]


@attrs.frozen
class PeerJoined:
    peerId: str
    identity: Identity | None = None


@attrs.frozen
class PeerLeft:
    peerId: str


@attrs.frozen
class IceServer:
    urls: list[str]
    username: str | None = None
    credential: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class IceServers:
    iceServers: list[IceServer]
    expiresAt: str
    """ISO 8601 UTC: ask again before."""


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
    | SessionReplaced
    | ServerShutdown
    | ErrorReceived
    | UnknownEvent
)

_EVENT_TYPES: dict[str, type[Event]] = {
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
    "session-replaced": SessionReplaced,
    "server-shutdown": ServerShutdown,
    "error": ErrorReceived,
}


def parse_event(data: str | bytes) -> Event:
    """One message of a server. Raises ValueError for what is no message of a Tavern server."""
    message = msgspec.json.decode(data)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError(f"not a message of a Tavern server: {data[:80]!r}")  # noqa: TRY004  the data is wrong
    kind = _EVENT_TYPES.get(message["type"])
    if kind is None:
        return UnknownEvent(message)
    if "from" in message:
        message["sender"] = message.pop("from")
    return msgspec.convert(message, kind)

"""The wire's messages: what clients send, parsed strictly into attrs classes, and what the server answers. Pure.

Attribute names are the wire's own, so that a field is called the same in the document, in the error and here.
Unknown fields are ignored: newer clients may send more.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import attrs
import msgspec
from msgspec import Meta

from tavern.errors import RemoteError

MAX_MESSAGE_BYTES = 64 * 1024
"""An offer with 8 people's worth of codecs is under 10 KiB; what is larger is not signaling."""

Code = Literal[
    "bad-json",
    "bad-message",
    "unknown-type",
    "tavern-not-found",
    "channel-not-found",
    "channel-full",
    "room-full",
    "target-not-found",
    "target-busy",
    "not-in-room",
    "rate-limited",
    "identity-in-use",
    "limit-reached",
    "store-unavailable",
]


class SignalingError(RemoteError):
    """What the client asked for cannot be done; it is told why and stays connected."""

    def __init__(self, code: Code, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.field = field


# Texts that existing clients match on.
def tavern_not_found() -> SignalingError:
    return SignalingError("tavern-not-found", "Tavern not found")


def channel_not_found() -> SignalingError:
    return SignalingError("channel-not-found", "Channel not found")


def channel_full() -> SignalingError:
    return SignalingError("channel-full", "Channel full")


def room_full() -> SignalingError:
    return SignalingError("room-full", "Room full")


def target_not_found() -> SignalingError:
    return SignalingError("target-not-found", "Target peer not found in channel")


def target_busy() -> SignalingError:
    return SignalingError("target-busy", "Target peer does not read fast enough")


def not_in_room() -> SignalingError:
    return SignalingError("not-in-room", "Join a room before signaling")


def rate_limited() -> SignalingError:
    return SignalingError("rate-limited", "rate-limited")


# Limits are generous beside what clients send (keys of 64 digits, names that fit a list) and bound what one message
# can make every member's list hold. Lengths count characters.
_NonBlank = r"\S"
Key = Annotated[str, Meta(min_length=1, max_length=128, pattern=_NonBlank)]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=_NonBlank)]
DisplayName = Annotated[str, Meta(max_length=128)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=_NonBlank)]
Icon = Annotated[str, Meta(max_length=4096)]
Identifier = Annotated[str, Meta(min_length=1, max_length=128, pattern=_NonBlank)]


@attrs.frozen
class Identity:
    """Who a peer says it is; unverified, and any non-blank text will do."""

    publicKeyHex: Key
    tag: Tag
    displayName: DisplayName | None = None

    @property
    def shown_name(self) -> str:
        """The display name without surrounding blanks, the tag where there is none."""
        return (self.displayName or "").strip() or self.tag


@attrs.frozen
class CreateTavern:
    name: Name
    icon: Icon | None = None


@attrs.frozen
class GetTavernInfo:
    tavernId: Identifier


@attrs.frozen
class CreateChannel:
    tavernId: Identifier
    name: Name


@attrs.frozen
class JoinChannel:
    tavernId: Identifier
    channelId: Identifier
    identity: Identity


@attrs.frozen
class LeaveChannel:
    tavernId: Identifier
    channelId: Identifier


@attrs.frozen
class UpdateIdentity:
    identity: Identity


@attrs.frozen
class Offer:
    sdp: str
    target: Identifier | None = None
    tavernId: Identifier | None = None
    channelId: Identifier | None = None


@attrs.frozen
class Answer:
    sdp: str
    target: Identifier
    tavernId: Identifier | None = None
    channelId: Identifier | None = None


@attrs.frozen
class IceCandidate:
    candidate: str
    target: Identifier
    tavernId: Identifier | None = None
    channelId: Identifier | None = None


@attrs.frozen
class Join:
    room: Identifier
    identity: Identity | None = None


@attrs.frozen
class GetIceServers:
    """Extension: ask for ICE servers with a credential of this server's own relay."""


Relayed = Offer | Answer | IceCandidate
Message = (
    CreateTavern
    | GetTavernInfo
    | CreateChannel
    | JoinChannel
    | LeaveChannel
    | UpdateIdentity
    | Relayed
    | Join
    | GetIceServers
)

MESSAGE_TYPES: dict[str, type[Message]] = {
    "create-tavern": CreateTavern,
    "get-tavern-info": GetTavernInfo,
    "create-channel": CreateChannel,
    "join-channel": JoinChannel,
    "leave-channel": LeaveChannel,
    "update-identity": UpdateIdentity,
    "offer": Offer,
    "answer": Answer,
    "ice-candidate": IceCandidate,
    "join": Join,
    "get-ice-servers": GetIceServers,
}


class _Envelope(msgspec.Struct):
    type: str


_envelope_decoder = msgspec.json.Decoder(_Envelope)
# Any: the decoders of different types share one table.
_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    name: msgspec.json.Decoder(kind) for name, kind in MESSAGE_TYPES.items()
}
_encoder = msgspec.json.Encoder()


def parse_message(data: str | bytes) -> Message:
    """The message in one text frame (or a binary frame that holds UTF-8 JSON).

    Raises SignalingError (`bad-json`, `unknown-type`, `bad-message` with the field), and nothing else.
    """
    try:
        kind = _envelope_decoder.decode(data).type
        decoder = _decoders.get(kind)
        if decoder is None:
            # The name is echoed for whoever debugs a client; cut, since it is theirs.
            raise SignalingError("unknown-type", f"Unknown message type {kind[:40]!r}", field="type")
        message: Message = decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _bad_message(str(error)) from None
    except (msgspec.DecodeError, UnicodeError):
        raise SignalingError("bad-json", "Message is not valid JSON") from None
    except RecursionError:
        raise SignalingError("bad-json", "Message is nested too deeply") from None
    return message


def _bad_message(reason: str) -> SignalingError:
    """msgspec's reason ("Expected `str`, got `int` - at `$.identity.tag`") as an error that names the field."""
    what, _, where = reason.partition(" - at ")
    field = where.strip("`").removeprefix("$").removeprefix(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing:
        field = ".".join(filter(None, (field, missing[1])))
        what = "is missing"
    elif "matching regex" in what or what.endswith("length >= 1"):
        what = "must not be blank"
    elif limit := re.fullmatch(r"Expected `str` of length <= (\d+)", what):
        what = f"must have at most {limit[1]} characters"
    else:
        what = what[:1].lower() + re.sub(r"`([^`]*)`", _json_types, what[1:])
    if not field:
        return SignalingError("bad-message", f"Message is not a JSON object: {what}")
    return SignalingError("bad-message", f"Field {field}: {what}", field=field)


# What Python calls them, in the words of who wrote the JSON.
_JSON_TYPES = {"str": "string", "int": "number", "float": "number", "bool": "boolean"}


def _json_types(quoted: re.Match[str]) -> str:
    return re.sub(r"\w+", lambda word: _JSON_TYPES.get(word[0], word[0]), quoted[1])


def encode(message: dict[str, Any]) -> bytes:
    """UTF-8 JSON of a message to clients."""
    return _encoder.encode(message)


def error_message(error: SignalingError) -> dict[str, Any]:
    answer = {"type": "error", "message": error.message, "code": error.code}
    return answer if error.field is None else {**answer, "field": error.field}


def identity_object(identity: Identity) -> dict[str, Any]:
    """As its owner stated it: unlike a peer's, its display name may be null."""
    return {"publicKeyHex": identity.publicKeyHex, "tag": identity.tag, "displayName": identity.displayName}


def peer_object(identity: Identity, tavern_id: str, channel_id: str) -> dict[str, Any]:
    return {
        "publicKeyHex": identity.publicKeyHex,
        "displayName": identity.shown_name,
        "tavernId": tavern_id,
        "channelId": channel_id,
        "isSpeaking": False,
        "tag": identity.tag,
    }

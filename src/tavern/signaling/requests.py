"""What clients send: every message of theirs, parsed strictly into attrs classes. Pure.

Attribute names are the wire's own, so that a field is called the same in the document, in the error and here.
Unknown fields are ignored, since newer clients may send more; those of offers, answers and candidates are passed on.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import attrs
import msgspec
from msgspec import Meta

from tavern.signaling.messages import NON_BLANK, Identity, Key, SignalingError

_T = TypeVar("_T")

# Generous beside what clients send; they bound what one message can make every member's list hold.
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NON_BLANK)]
Icon = Annotated[str, Meta(max_length=4096)]
Identifier = Annotated[str, Meta(min_length=1, max_length=128, pattern=NON_BLANK)]
Token = Annotated[str, Meta(min_length=1, max_length=256, pattern=NON_BLANK)]
ResumeToken = Annotated[str, Meta(min_length=1, max_length=2048)]  # twice what the longest names make it
Signature = Annotated[str, Meta(min_length=1, max_length=256)]
Reason = Annotated[str, Meta(max_length=200)]
InviteLifetime = Annotated[int, Meta(ge=60, le=31_536_000)]  # a minute to a year, in seconds
InviteUses = Annotated[int, Meta(ge=1, le=100_000)]


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
    invite: Token | None = None
    """Extension: a token that makes its bearer a member of the tavern."""


@attrs.frozen
class LeaveChannel:
    tavernId: Identifier
    channelId: Identifier


@attrs.frozen
class UpdateIdentity:
    identity: Identity


RELAYED: Final = {"offer": "sdp", "answer": "sdp", "ice-candidate": "candidate"}
"""The types that are passed on, and the member that each must have."""


@attrs.frozen
class Relayed:
    """An offer, an answer or a candidate for others in the sender's channel or room."""

    type: str
    """`offer`, `answer` or `ice-candidate`."""
    target: str | None
    """None, which only offers may have: all others."""
    tavern_id: str | None
    channel_id: str | None
    passed_on: dict[str, msgspec.Raw]
    """All other members as they came: clients sign what they send each other, and byte for byte is the promise."""

    @property
    def content(self) -> bytes:
        """What may name addresses: the JSON text of the SDP or the candidate."""
        return bytes(self.passed_on[RELAYED[self.type]])


@attrs.frozen
class Join:
    room: Identifier
    identity: Identity | None = None


# Extensions, see docs/protocol.md. A client that sends none of those below, but for GetIceServers, is an old one.


@attrs.frozen
class GetIceServers:
    """ICE servers with a credential of this server's own relay."""


@attrs.frozen
class Hello:
    invite: Token | None = None
    """The server's own invite, where it has one."""


@attrs.frozen
class ProveIdentity:
    publicKeyHex: Key
    signature: Signature


@attrs.frozen
class WatchTavern:
    tavernId: Identifier


@attrs.frozen
class UnwatchTavern:
    tavernId: Identifier


@attrs.frozen
class GetResumeToken:
    pass


@attrs.frozen
class Resume:
    token: ResumeToken


@attrs.frozen
class UpdateTavern:
    tavernId: Identifier
    name: Name | None = None
    icon: Icon | None = None
    locked: bool | None = None


@attrs.frozen
class DeleteTavern:
    tavernId: Identifier


@attrs.frozen
class UpdateChannel:
    tavernId: Identifier
    channelId: Identifier
    name: Name


@attrs.frozen
class DeleteChannel:
    tavernId: Identifier
    channelId: Identifier


@attrs.frozen
class Kick:
    tavernId: Identifier
    publicKeyHex: Key
    reason: Reason | None = None


@attrs.frozen
class Ban:
    tavernId: Identifier
    publicKeyHex: Key
    address: bool = False
    """Whether the address that the peer comes from is banned with it."""
    reason: Reason | None = None


@attrs.frozen
class Unban:
    tavernId: Identifier
    banId: Identifier


@attrs.frozen
class GetBans:
    tavernId: Identifier


@attrs.frozen
class SetModerator:
    tavernId: Identifier
    publicKeyHex: Key
    moderator: bool


@attrs.frozen
class TransferTavern:
    tavernId: Identifier
    publicKeyHex: Key


@attrs.frozen
class CreateInvite:
    tavernId: Identifier
    expiresInS: InviteLifetime | None = None
    maxUses: InviteUses | None = None


@attrs.frozen
class RotateInvite:
    tavernId: Identifier
    inviteId: Identifier


@attrs.frozen
class RevokeInvite:
    tavernId: Identifier
    inviteId: Identifier


@attrs.frozen
class GetInvites:
    tavernId: Identifier


@attrs.frozen
class GetMembers:
    tavernId: Identifier


@attrs.frozen
class RemoveMember:
    tavernId: Identifier
    publicKeyHex: Key


ManagementRequest = (
    UpdateTavern
    | DeleteTavern
    | UpdateChannel
    | DeleteChannel
    | Kick
    | Ban
    | Unban
    | GetBans
    | SetModerator
    | TransferTavern
    | CreateInvite
    | RotateInvite
    | RevokeInvite
    | GetInvites
    | GetMembers
    | RemoveMember
)
"""What owners and moderators of a tavern send."""

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
    | Hello
    | ProveIdentity
    | WatchTavern
    | UnwatchTavern
    | GetResumeToken
    | Resume
    | ManagementRequest
)

_PARSED: dict[str, type[Any]] = {
    "create-tavern": CreateTavern,
    "get-tavern-info": GetTavernInfo,
    "create-channel": CreateChannel,
    "join-channel": JoinChannel,
    "leave-channel": LeaveChannel,
    "update-identity": UpdateIdentity,
    "join": Join,
    "get-ice-servers": GetIceServers,
    "hello": Hello,
    "prove-identity": ProveIdentity,
    "watch-tavern": WatchTavern,
    "unwatch-tavern": UnwatchTavern,
    "get-resume-token": GetResumeToken,
    "resume": Resume,
    "update-tavern": UpdateTavern,
    "delete-tavern": DeleteTavern,
    "update-channel": UpdateChannel,
    "delete-channel": DeleteChannel,
    "kick": Kick,
    "ban": Ban,
    "unban": Unban,
    "get-bans": GetBans,
    "set-moderator": SetModerator,
    "transfer-tavern": TransferTavern,
    "create-invite": CreateInvite,
    "rotate-invite": RotateInvite,
    "revoke-invite": RevokeInvite,
    "get-invites": GetInvites,
    "get-members": GetMembers,
    "remove-member": RemoveMember,
}

MESSAGE_TYPES: tuple[str, ...] = (*_PARSED, *RELAYED)
"""Every type that the server takes."""

OLD_TYPES: frozenset[str] = frozenset(
    {"create-tavern", "get-tavern-info", "create-channel", "join-channel", "leave-channel", "update-identity", "join"}
    | {"get-ice-servers", *RELAYED}
)
"""Those that do not tell that the client knows the extensions."""

REQUEST_NAMES: dict[type[Any], str] = {kind: name for name, kind in _PARSED.items()}


read_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""The members of a JSON object as they stand in it. Raises msgspec.MsgspecError, UnicodeError, RecursionError."""
# Any: the decoders of different types share one table.
_decoders: dict[str, msgspec.json.Decoder[Any]] = {name: msgspec.json.Decoder(kind) for name, kind in _PARSED.items()}
_string_decoder = msgspec.json.Decoder(str)
_identifier_decoder: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(Identifier | None)


def parse_message(data: str | bytes) -> Message:
    """The message in one text frame (or a binary frame that holds UTF-8 JSON).

    Raises SignalingError (`bad-json`, `unknown-type`, `bad-message` with the field), and nothing else.
    """
    try:
        if isinstance(data, bytes):
            data = data.decode()  # members are passed on as they came: what is no text would close their receiver
        fields = read_members(data)
        kind = _read_member(fields, "type", _string_decoder)
        if kind in RELAYED:
            return _relayed(kind, fields)
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


def _read_member(fields: dict[str, msgspec.Raw], name: str, decoder: msgspec.json.Decoder[_T]) -> _T:
    raw = fields.get(name)
    if raw is None:
        raise SignalingError("bad-message", f"Field {name}: is missing", field=name)
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _bad_message(f"{error} - at `$.{name}`") from None


def _relayed(kind: str, fields: dict[str, msgspec.Raw]) -> Relayed:
    """Takes from `fields` what the server writes itself, and leaves the rest to be passed on."""
    content = RELAYED[kind]
    if content not in fields or bytes(fields[content])[:1] != b'"':
        _read_member(fields, content, _string_decoder)  # raises, and says why
    del fields["type"]
    fields.pop("from", None)  # nobody speaks for somebody else
    target = _read_member(fields, "target", _identifier_decoder) if kind != "offer" or "target" in fields else None
    if target is None and kind != "offer":
        raise SignalingError("bad-message", "Field target: expected string, got null", field="target")
    fields.pop("target", None)
    return Relayed(kind, target, _place(fields, "tavernId"), _place(fields, "channelId"), fields)


def _place(fields: dict[str, msgspec.Raw], name: str) -> str | None:
    if name not in fields:
        return None
    place = _read_member(fields, name, _identifier_decoder)
    if place is None:
        del fields[name]
    return place


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

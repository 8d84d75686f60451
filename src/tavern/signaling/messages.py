"""What the server answers: errors, and the objects that its messages are made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
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
    "disk-full",
    "proof-invalid",
    "identity-required",
    "identity-fixed",
    "invite-required",
    "invite-invalid",
    "invite-not-found",
    "ban-not-found",
    "peer-not-found",
    "create-not-permitted",
    "not-permitted",
    "tavern-locked",
    "banned",
    "kicked",
    "channel-deleted",
    "tavern-deleted",
    "resume-failed",
]


class SignalingError(RemoteError):
    """What the client asked for cannot be done; it is told why and stays connected."""

    def __init__(self, code: Code, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.field = field


# Generous beside what clients send (keys of 64 digits). Lengths count characters.
NON_BLANK = r"\S"
Key = Annotated[str, Meta(min_length=1, max_length=128, pattern=NON_BLANK)]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=NON_BLANK)]
DisplayName = Annotated[str, Meta(max_length=128)]


@attrs.frozen
class Identity:
    """Who a peer says it is; any non-blank text will do where it is not proven."""

    publicKeyHex: Key
    tag: Tag
    displayName: DisplayName | None = None

    @property
    def shown_name(self) -> str:
        """The display name without surrounding blanks, the tag where there is none."""
        return (self.displayName or "").strip() or self.tag


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


# Texts of ours.
def identity_in_use() -> SignalingError:
    return SignalingError("identity-in-use", "Another connection has this identity")


def identity_fixed() -> SignalingError:
    return SignalingError("identity-fixed", "This connection has proven its key and keeps it")


def identity_required() -> SignalingError:
    return SignalingError("identity-required", "This needs a proven identity")


def invite_required() -> SignalingError:
    return SignalingError("invite-required", "This server is entered with its invite only")


def invite_invalid() -> SignalingError:
    return SignalingError("invite-invalid", "This invite is not, or no longer, valid")


def resume_failed() -> SignalingError:
    return SignalingError("resume-failed", "There is nothing to come back to: join again")


_encoder = msgspec.json.Encoder()


def encode(message: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON of a message to clients; `msgspec.Raw` values stand in it as they are."""
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


def done(request: str) -> dict[str, Any]:
    """The answer to a request that has nothing to show for it."""
    return {"type": "done", "request": request}

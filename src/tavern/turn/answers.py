"""The responses of a TURN server as bytes, and the refusals that become error responses. Pure."""

from __future__ import annotations

from enum import IntEnum

from tavern.errors import RemoteError
from tavern.stun.attributes import encode_attribute_types, encode_error_code
from tavern.stun.message import Attribute, AttributeType, Message, MessageClass, encode


class ErrorCode(IntEnum):
    """RFC 8489 §18.6, RFC 8656 §19."""

    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    UNKNOWN_ATTRIBUTE = 420
    ALLOCATION_MISMATCH = 437
    STALE_NONCE = 438
    ADDRESS_FAMILY_NOT_SUPPORTED = 440
    WRONG_CREDENTIALS = 441
    UNSUPPORTED_TRANSPORT = 442
    PEER_ADDRESS_FAMILY_MISMATCH = 443
    ALLOCATION_QUOTA_REACHED = 486
    INSUFFICIENT_CAPACITY = 508


class Refusal(RemoteError):
    """A request is answered with an error; `attributes` go beside ERROR-CODE."""

    def __init__(self, code: ErrorCode, *attributes: Attribute) -> None:
        super().__init__(code)
        self.code = code
        self.attributes = attributes

    def __str__(self) -> str:
        return f"{self.code.value} {_phrase(self.code)}"


class UnknownAttributes(Refusal):
    """420 that names the attributes (RFC 8489 §6.3.1)."""

    def __init__(self, types: list[int]) -> None:
        unknown = (AttributeType.UNKNOWN_ATTRIBUTES, encode_attribute_types(types))
        super().__init__(ErrorCode.UNKNOWN_ATTRIBUTE, unknown)


def _phrase(code: ErrorCode) -> str:
    return code.name.replace("_", " ").capitalize()


def success(request: Message, *attributes: Attribute, key: bytes | None = None) -> bytes:
    """The success response to `request`, signed if there is a key, with FINGERPRINT if the request had one."""
    return encode(
        request.method,
        MessageClass.SUCCESS,
        request.transaction_id,
        attributes,
        integrity_key=key,
        fingerprint=request.get(AttributeType.FINGERPRINT) is not None,
    )


def unauthenticated_error(request: Message, refusal: Refusal) -> bytes:
    """The smallest error response: it goes to who may have forged its address, so it must not amplify."""
    attributes = ((AttributeType.ERROR_CODE, encode_error_code(refusal.code)), *refusal.attributes)
    return encode(request.method, MessageClass.ERROR, request.transaction_id, attributes)


def authenticated_error(request: Message, refusal: Refusal, key: bytes) -> bytes:
    """An error response to a proven user: signed, and with a reason phrase for those who read traces.

    What was not known says itself: a 420 has none.
    """
    reason = "" if isinstance(refusal, UnknownAttributes) else _phrase(refusal.code)
    attributes = ((AttributeType.ERROR_CODE, encode_error_code(refusal.code, reason)), *refusal.attributes)
    return encode(
        request.method,
        MessageClass.ERROR,
        request.transaction_id,
        attributes,
        integrity_key=key,
        fingerprint=request.get(AttributeType.FINGERPRINT) is not None,
    )

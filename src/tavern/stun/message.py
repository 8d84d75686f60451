"""One STUN message: bytes to value and back (RFC 8489 §5, §6). Pure.

The parser is strict where a mistake would let something that is not STUN in, and raises `MalformedMessage` or nothing.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from enum import IntEnum

import attrs

from tavern.errors import RemoteError
from tavern.stun.integrity import FINGERPRINT_SIZE, INTEGRITY_SIZE, fingerprint_of, integrity_of

HEADER_SIZE = 20
TRANSACTION_ID_SIZE = 12
# Each costs time before anything about the sender is known. The largest requests are CreatePermissions: a peer whose
# candidates fill one has more addresses than ICE pairs (RFC 8445 §6.1.2.5 ends at 100 pairs), and asks twice.
MAX_ATTRIBUTES = 64
MAGIC_COOKIE = b"\x21\x12\xa4\x42"

_HEADER = struct.Struct(">HH4s12s")
_ATTRIBUTE = struct.Struct(">HH")
_PADDING = (b"", bytes(3), bytes(2), bytes(1))
"""By the two lowest bits of a value's size."""


class MalformedMessage(RemoteError):
    """These bytes are no STUN message, or one of its attributes is not what its type says."""


class MessageClass(IntEnum):
    """RFC 8489 §5: the two class bits."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Method(IntEnum):
    """RFC 8489 §18.2 and RFC 8656 §17: the methods that this project speaks."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class AttributeType(IntEnum):
    """RFC 8489 §18.3 and RFC 8656 §18: the attributes that this project names."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    XOR_MAPPED_ADDRESS = 0x0020
    RESERVATION_TOKEN = 0x0022
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    ICMP = 0x8004
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A


Attribute = tuple[int, bytes]
"""`(type, value)`; the value without its padding."""

_COMPREHENSION_OPTIONAL = 0x8000
# Plain numbers, which each attribute of each message is compared with: an enum's member costs a look-up every time.
_MESSAGE_INTEGRITY = int(AttributeType.MESSAGE_INTEGRITY)
_FINGERPRINT = int(AttributeType.FINGERPRINT)
_AFTER_INTEGRITY = frozenset({int(AttributeType.MESSAGE_INTEGRITY_SHA256), _FINGERPRINT})
_CLASSES = tuple(MessageClass)


@attrs.frozen
class Message:
    """A message that was received: well-formed, its FINGERPRINT right if it has one, its integrity not yet verified.

    `attributes` are in the order of arrival, without those that RFC 8489 §14.5 says to ignore after MESSAGE-INTEGRITY.
    """

    method: int
    message_class: MessageClass
    transaction_id: bytes
    attributes: tuple[Attribute, ...]
    raw: bytes = attrs.field(repr=False)
    integrity_offset: int | None = attrs.field(repr=False, default=None)
    """Where MESSAGE-INTEGRITY begins in `raw`; None without one."""
    _first: dict[int, bytes] = attrs.field(init=False, repr=False, eq=False)
    """The first value of each type: a dozen are asked for per request."""

    @_first.default
    def _index(self) -> dict[int, bytes]:
        return dict(reversed(self.attributes))

    def get(self, attribute_type: int) -> bytes | None:
        """The value of the first attribute of this type (later ones are ignored, §14), or None."""
        return self._first.get(attribute_type)

    def get_all(self, attribute_type: int) -> list[bytes]:
        """The values of all attributes of this type, in order."""
        return [value for kind, value in self.attributes if kind == attribute_type]

    def unknown_required(self, known: frozenset[int]) -> list[int]:
        """The comprehension-required types that are not in `known`, each once, in order (§6.3.1)."""
        kinds = [kind for kind, _ in self.attributes if kind < _COMPREHENSION_OPTIONAL and kind not in known]
        return list(dict.fromkeys(kinds))

    def is_signed_with(self, key: bytes) -> bool:
        """Whether MESSAGE-INTEGRITY is there and was made with `key` (§9.2.4); compared in constant time."""
        if self.integrity_offset is None:
            return False
        value = self.get(AttributeType.MESSAGE_INTEGRITY)
        return value is not None and hmac.compare_digest(value, integrity_of(self.raw[: self.integrity_offset], key))


def parse(data: bytes) -> Message:
    """`data`, which is exactly one message, as a `Message`. Raises MalformedMessage, and nothing else."""
    if len(data) < HEADER_SIZE:
        raise MalformedMessage("shorter than a header")
    message_type, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if message_type & 0xC000:
        raise MalformedMessage("first two bits are not zero")
    if cookie != MAGIC_COOKIE:
        raise MalformedMessage("no magic cookie")
    if length != len(data) - HEADER_SIZE or length % 4:
        raise MalformedMessage("length is not what follows")
    attributes, integrity_offset = _parse_attributes(data)
    return Message(
        method=(message_type & 0x3E00) >> 2 | (message_type & 0x00E0) >> 1 | message_type & 0x000F,
        message_class=_CLASSES[(message_type & 0x0100) >> 7 | (message_type & 0x0010) >> 4],
        transaction_id=transaction_id,
        attributes=tuple(attributes),
        raw=data,
        integrity_offset=integrity_offset,
    )


def _parse_attributes(data: bytes) -> tuple[list[Attribute], int | None]:
    attributes: list[Attribute] = []
    integrity_offset = None
    offset = HEADER_SIZE
    count = 0
    unpack = _ATTRIBUTE.unpack_from
    whole = len(data)
    while offset < whole:
        count += 1
        if count > MAX_ATTRIBUTES:
            raise MalformedMessage("too many attributes")
        # The message's length is a multiple of 4 and so is every step, so a header always fits.
        kind, size = unpack(data, offset)
        start = offset + 4
        end = start + size
        if end > whole:
            raise MalformedMessage("attribute is longer than the message")
        value = data[start:end]
        if integrity_offset is None or kind in _AFTER_INTEGRITY:
            attributes.append((kind, value))
        if kind == _MESSAGE_INTEGRITY and integrity_offset is None:
            if size != INTEGRITY_SIZE:
                raise MalformedMessage("MESSAGE-INTEGRITY is not 20 bytes")
            integrity_offset = offset
        elif kind == _FINGERPRINT:
            if end != whole:
                raise MalformedMessage("FINGERPRINT is not last")
            if size != FINGERPRINT_SIZE or value != fingerprint_of(data[:offset]):
                raise MalformedMessage("FINGERPRINT is wrong")
        offset = end + (-size & 3)
    return attributes, integrity_offset


def encode(
    method: int,
    message_class: MessageClass,
    transaction_id: bytes,
    attributes: Sequence[Attribute] = (),
    *,
    integrity_key: bytes | None = None,
    fingerprint: bool = False,
) -> bytes:
    """One message as bytes, signed with `integrity_key` and closed with FINGERPRINT where asked.

    A value over 65535 bytes, a method over 12 bits or a transaction id that is not 12 bytes is the caller's bug.
    """
    assert len(transaction_id) == TRANSACTION_ID_SIZE
    assert 0 <= method < 0x1000
    body = b"".join([_encode_attribute(kind, value) for kind, value in attributes])
    message_type = (method & 0xF80) << 2 | (method & 0x070) << 1 | method & 0x00F
    message_type |= (message_class & 2) << 7 | (message_class & 1) << 4
    message = _HEADER.pack(message_type, len(body), MAGIC_COOKIE, transaction_id) + body
    if integrity_key is not None:
        message += _encode_attribute(AttributeType.MESSAGE_INTEGRITY, integrity_of(message, integrity_key))
    if fingerprint:
        message += _encode_attribute(AttributeType.FINGERPRINT, fingerprint_of(message))
    return message[:2] + (len(message) - HEADER_SIZE).to_bytes(2, "big") + message[4:]


def _encode_attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + _PADDING[len(value) & 3]

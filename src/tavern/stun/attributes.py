"""The values inside attributes (RFC 8489 §14, RFC 8656 §18). Pure.

Every `decode_...` raises MalformedMessage for a value of the wrong shape, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from tavern.addresses import IPAddress
from tavern.stun.message import MAGIC_COOKIE, MalformedMessage

_COOKIE = int.from_bytes(MAGIC_COOKIE, "big")
_COOKIE_HIGH = _COOKIE >> 16
_pack_ipv4 = struct.Struct(">BBHI").pack
RESERVATION_TOKEN_SIZE = 8  # bytes; RFC 8656 §18.10
_MAX_REASON_BYTES = 763  # RFC 8489 §14.8


class AddressFamily(IntEnum):
    """The family byte of an address attribute (RFC 8489 §14.1)."""

    IPV4 = 1
    IPV6 = 2


def family_of(address: IPAddress) -> AddressFamily:
    """The family that `address` has on the wire."""
    return AddressFamily.IPV4 if isinstance(address, IPv4Address) else AddressFamily.IPV6


def encode_xor_address(address: IPAddress, port: int, transaction_id: bytes) -> bytes:
    """XOR-MAPPED-, XOR-PEER- or XOR-RELAYED-ADDRESS (§14.2)."""
    if isinstance(address, IPv4Address):
        return _pack_ipv4(0, AddressFamily.IPV4, port ^ _COOKIE_HIGH, int(address) ^ _COOKIE)
    mask = int.from_bytes(MAGIC_COOKIE + transaction_id, "big")
    xored = (int(address) ^ mask).to_bytes(16, "big")
    return struct.pack(">BBH", 0, AddressFamily.IPV6, port ^ _COOKIE_HIGH) + xored


def decode_xor_address(value: bytes, transaction_id: bytes) -> tuple[IPAddress, int]:
    """The inverse of `encode_xor_address`. An IPv4-mapped address stays the IPv6 address that it was sent as."""
    if len(value) < 4:
        raise MalformedMessage("address attribute too short")
    _, family, port = struct.unpack_from(">BBH", value)
    port ^= _COOKIE_HIGH
    if family == AddressFamily.IPV4 and len(value) == 8:
        return IPv4Address(int.from_bytes(value[4:], "big") ^ _COOKIE), port
    if family == AddressFamily.IPV6 and len(value) == 20:
        mask = int.from_bytes(MAGIC_COOKIE + transaction_id, "big")
        return IPv6Address(int.from_bytes(value[4:], "big") ^ mask), port
    raise MalformedMessage("address attribute of no known family and size")


def encode_error_code(code: int, reason: str = "") -> bytes:
    """ERROR-CODE (§14.8); `code` is 300 to 699."""
    return struct.pack(">HBB", 0, code // 100, code % 100) + reason.encode()[:_MAX_REASON_BYTES]


def decode_error_code(value: bytes) -> tuple[int, str]:
    """The code and the reason phrase; bytes of the phrase that are not UTF-8 are replaced."""
    if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise MalformedMessage("ERROR-CODE out of range")
    return (value[2] & 7) * 100 + value[3], value[4:].decode(errors="replace")


def encode_address_error_code(family: AddressFamily, code: int) -> bytes:
    """ADDRESS-ERROR-CODE (RFC 8656 §18.12), with an empty reason phrase."""
    return struct.pack(">BxBB", family, code // 100, code % 100)


def encode_attribute_types(types: Iterable[int]) -> bytes:
    """UNKNOWN-ATTRIBUTES (§14.9)."""
    return b"".join(kind.to_bytes(2, "big") for kind in types)


def encode_lifetime(lifetime_s: int) -> bytes:
    """LIFETIME (RFC 8656 §18.2), in seconds."""
    return lifetime_s.to_bytes(4, "big")


def decode_lifetime(value: bytes) -> int:
    """LIFETIME in seconds, 0 to 2**32 - 1."""
    if len(value) != 4:
        raise MalformedMessage("LIFETIME is not 4 bytes")
    return int.from_bytes(value, "big")


def decode_channel_number(value: bytes) -> int:
    """CHANNEL-NUMBER (RFC 8656 §18.1): any 16-bit number; what range is allowed is the server's rule."""
    if len(value) != 4:
        raise MalformedMessage("CHANNEL-NUMBER is not 4 bytes")
    return int.from_bytes(value[:2], "big")


def decode_requested_transport(value: bytes) -> int:
    """REQUESTED-TRANSPORT (RFC 8656 §18.8): an IANA protocol number."""
    if len(value) != 4:
        raise MalformedMessage("REQUESTED-TRANSPORT is not 4 bytes")
    return value[0]


def decode_requested_family(value: bytes) -> AddressFamily | None:
    """REQUESTED-ADDRESS-FAMILY (RFC 8656 §18.6); None for a family that nobody has defined."""
    if len(value) != 4:
        raise MalformedMessage("REQUESTED-ADDRESS-FAMILY is not 4 bytes")
    return AddressFamily(value[0]) if value[0] in {1, 2} else None


def decode_even_port(value: bytes) -> bool:
    """EVEN-PORT (RFC 8656 §18.7): whether the next port is to be reserved too."""
    if len(value) != 1:
        raise MalformedMessage("EVEN-PORT is not 1 byte")
    return value[0] & 0x80 != 0


def decode_reservation_token(value: bytes) -> bytes:
    """RESERVATION-TOKEN (RFC 8656 §18.10)."""
    if len(value) != RESERVATION_TOKEN_SIZE:
        raise MalformedMessage("RESERVATION-TOKEN is not 8 bytes")
    return value

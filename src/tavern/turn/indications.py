"""Send and Data indications, read and written by hand: they carry all of Firefox's media (RFC 8656 §11). Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

SockAddr = tuple[str, int] | tuple[str, int, int, int]
"""A peer as sockets name it: an IPv6 one with flow info and scope."""

_HEADER_SIZE = 20
_ATTRIBUTE = struct.Struct(">HH")
_COOKIE = 0x2112A442
_PORT_MASK = _COOKIE >> 16
_XOR_PEER_ADDRESS = 0x0012
_DATA = 0x0013
_DONT_FRAGMENT = 0x001A
_ICMP = 0x8004
_MESSAGE_INTEGRITY = 0x0008
# Comprehension-required, but without meaning in an indication that nobody authenticates.
_IGNORED = frozenset({0x0001, 0x0006, 0x0014, 0x0015, 0x0020})
_MAX_ATTRIBUTES = 16  # clients send two to four; 16,000 fit into a datagram, and would hold up all media for 3 ms
_PADDING = (b"", b"\x00\x00\x00", b"\x00\x00", b"\x00")
_USUAL_START = b"\x00\x12\x00\x08\x00\x01"  # XOR-PEER-ADDRESS of 8 bytes, IPv4; DATA follows at byte 32
_USUAL = struct.Struct(">2xH16x6s6sHH")  # the header's length, then the address, and DATA with its size
_unpack_usual = _USUAL.unpack_from


def read_send_indication(data: bytes) -> tuple[SockAddr, bytes, bool] | None:
    """The peer and the DATA of a Send indication, and whether it has DONT-FRAGMENT.

    None if it is malformed, lacks one of the first two, or has more than 16 attributes or a comprehension-required one
    that is not known (§11.2). Never raises. `data` is at least a STUN header of that type.
    """
    size = len(data)
    if size >= _USUAL.size:
        length, start, peer, kind, payload_size = _unpack_usual(data)
        if (
            start == _USUAL_START
            and kind == _DATA
            and length == size - _HEADER_SIZE
            and payload_size + (-payload_size & 3) == size - _USUAL.size
        ):
            return _ipv4_peer(peer), data[36 : 36 + payload_size], False
    if data[2] << 8 | data[3] != size - _HEADER_SIZE or size & 3:
        return None
    return _read_attributes(data)


def _read_attributes(data: bytes) -> tuple[SockAddr, bytes, bool] | None:
    peer: SockAddr | None = None
    dont_fragment = False
    payload: bytes | None = None
    offset = _HEADER_SIZE
    left = _MAX_ATTRIBUTES
    while offset < len(data):
        left -= 1
        if left < 0:
            return None
        kind, size = _ATTRIBUTE.unpack_from(data, offset)
        offset += _ATTRIBUTE.size
        value = data[offset : offset + size]
        if len(value) != size:
            return None
        offset += size + (-size & 3)
        if kind == _XOR_PEER_ADDRESS:
            if peer is None and (peer := _read_peer(value, data[4:20])) is None:
                return None
        elif kind == _DATA:
            payload = value if payload is None else payload
        elif kind == _DONT_FRAGMENT:
            dont_fragment = True
        elif kind == _MESSAGE_INTEGRITY:
            break  # what follows it is ignored
        elif kind < 0x8000 and kind not in _IGNORED:
            return None
    if peer is None or payload is None:
        return None
    return peer, payload, dont_fragment


def _read_peer(value: bytes, cookie_and_transaction: bytes) -> SockAddr | None:
    if len(value) == 8 and value[1] == 1:
        return _ipv4_peer(value[2:])
    if len(value) == 20 and value[1] == 2:
        address = int.from_bytes(value[4:], "big") ^ int.from_bytes(cookie_and_transaction, "big")
        return _ipv6_host(address), (value[2] << 8 | value[3]) ^ _PORT_MASK, 0, 0
    return None


# The caches below hold what clients name; 4096 entries (half a megabyte) are more peers than are in calls at once.


@lru_cache(maxsize=4096)
def _ipv4_peer(xored: bytes) -> SockAddr:
    """From the X-Port and X-Address of an IPv4 address attribute."""
    address = int.from_bytes(xored[2:], "big") ^ _COOKIE
    return str(IPv4Address(address)), int.from_bytes(xored[:2], "big") ^ _PORT_MASK


@lru_cache(maxsize=4096)
def _ipv6_host(address: int) -> str:
    return str(IPv6Address(address))


@lru_cache(maxsize=4096)
def _ipv6_number(host: str) -> int:
    return int(IPv6Address(host.partition("%")[0]))


@lru_cache(maxsize=4096)
def _ipv4_attribute(address: SockAddr) -> bytes:
    """XOR-PEER-ADDRESS and the type of the DATA that follows it."""
    host = int(IPv4Address(address[0])) ^ _COOKIE
    return struct.pack(">HHBBHIH", _XOR_PEER_ADDRESS, 8, 0, 1, address[1] ^ _PORT_MASK, host, _DATA)


# Destination unreachable and time exceeded; in ICMPv6 also packet too big, which ICMP says by a code (§11.5).
_ICMPV4_TYPES = frozenset({3, 11})
_ICMPV4_TOO_BIG = (3, 4)
_ICMPV6_TYPES = frozenset({1, 2, 3})
_ICMPV6_TOO_BIG = 2


def icmp_error_data(address: SockAddr, icmp_type: int, code: int, mtu: int) -> int | None:
    """The Error Data for an ICMP error about a packet to `address` (§18.13); None for a type that is not relayed."""
    if len(address) == 2:
        too_big = (icmp_type, code) == _ICMPV4_TOO_BIG
        known = icmp_type in _ICMPV4_TYPES
    else:
        too_big = icmp_type == _ICMPV6_TOO_BIG
        known = icmp_type in _ICMPV6_TYPES
    return (mtu if too_big else 0) if known else None


class DataIndications:
    """Frames packets from peers as Data indications (§11.3)."""

    def __init__(self, random_96_bits: Callable[[], int]) -> None:
        self._random_96_bits = random_96_bits
        self._start_ipv4 = struct.Struct(">HHI12s14sH")
        self._start_ipv6 = struct.Struct(">HHI12sHHBBH16sHH")

    def frame(self, data: bytes, address: SockAddr) -> bytes:
        """One Data indication that says `data`, at most 65400 bytes, came from `address`."""
        size = len(data)
        padding = _PADDING[size & 3]
        transaction = self._random_96_bits()
        body = size + len(padding)
        if len(address) == 2:
            start = self._start_ipv4.pack(
                0x0017, body + 16, _COOKIE, transaction.to_bytes(12, "big"), _ipv4_attribute(address), size
            )
        else:
            host = _ipv6_number(address[0]) ^ (_COOKIE << 96 | transaction)
            start = self._start_ipv6.pack(
                0x0017,
                body + 28,
                _COOKIE,
                transaction.to_bytes(12, "big"),
                _XOR_PEER_ADDRESS,
                20,
                0,
                2,
                address[1] ^ _PORT_MASK,
                host.to_bytes(16, "big"),
                _DATA,
                size,
            )
        return start + data + padding

    def frame_icmp(self, address: SockAddr, icmp_type: int, code: int, error_data: int) -> bytes:
        """One Data indication that says what ICMP answered to a packet to `address` (§11.5, §18.13)."""
        transaction = self._random_96_bits()
        if len(address) == 2:
            peer = _ipv4_attribute(address)[:12]
        else:
            host = _ipv6_number(address[0]) ^ (_COOKIE << 96 | transaction)
            port = address[1] ^ _PORT_MASK
            peer = struct.pack(">HHBBH16s", _XOR_PEER_ADDRESS, 20, 0, 2, port, host.to_bytes(16, "big"))
        icmp = struct.pack(">HHHHI", _ICMP, 8, 0, icmp_type << 9 | code, error_data)  # 7 bits of type, 9 of code
        header = struct.pack(">HHI12s", 0x0017, len(peer) + len(icmp), _COOKIE, transaction.to_bytes(12, "big"))
        return header + peer + icmp

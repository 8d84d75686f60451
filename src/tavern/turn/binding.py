"""A plain Binding request, answered by hand: it must cost no more than a packet that is relayed (RFC 8489 §2). Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from tavern.turn.indications import SockAddr

PLAIN_BINDING = b"\x00\x01\x00\x00\x21\x12\xa4\x42"
"""How the 20 bytes of a Binding request without attributes begin."""

_COOKIE = 0x2112A442
_PORT_MASK = _COOKIE >> 16
_IPV4_ANSWER = struct.Struct(">HHI12sHHBBHI").pack
_IPV6_ANSWER = struct.Struct(">HHI12sHHBBH16s").pack


def binding_answer(request: bytes, client: SockAddr) -> bytes:
    """The success response with XOR-MAPPED-ADDRESS of `client` alone, 32 or 44 bytes. `request` is a plain one.

    Nothing here is cached by address: sources can be forged, and would evict what the media's caches hold.
    """
    host, port = client[0], client[1] ^ _PORT_MASK
    transaction_id = request[8:20]
    if ":" not in host:
        return _IPV4_ANSWER(
            0x0101, 12, _COOKIE, transaction_id, 0x0020, 8, 0, 1, port, int(IPv4Address(host)) ^ _COOKIE
        )
    mask = _COOKIE << 96 | int.from_bytes(transaction_id, "big")
    address = (int(IPv6Address(host.partition("%")[0])) ^ mask).to_bytes(16, "big")
    return _IPV6_ANSWER(0x0101, 24, _COOKIE, transaction_id, 0x0020, 20, 0, 2, port, address)

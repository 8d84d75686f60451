"""Socket addresses as the kernel has them (`struct sockaddr_in`, `sockaddr_in6`) and as Python has them. Linux."""

from __future__ import annotations

import socket
import struct

from tavern.turn.indications import SockAddr

# The family and the zone are in the machine's order, the rest in the network's.
_FAMILY = struct.Struct("=H")
_SCOPE = struct.Struct("=I")
_IPV4 = struct.Struct("!2xH4s8x")
_IPV6 = struct.Struct("!2xHI16s4x")


def sockaddr_size(family: socket.AddressFamily) -> int:
    """Bytes of one."""
    return _IPV4.size if family == socket.AF_INET else _IPV6.size


def pack_sockaddr(address: SockAddr) -> bytes:
    """As the kernel takes it, and writes it for a packet from there."""
    if len(address) == 2:
        raw = bytearray(_IPV4.pack(address[1], socket.inet_pton(socket.AF_INET, address[0])))
        _FAMILY.pack_into(raw, 0, socket.AF_INET)
    else:
        host, port, flow, scope = address
        raw = bytearray(_IPV6.pack(port, flow, socket.inet_pton(socket.AF_INET6, host)))
        _FAMILY.pack_into(raw, 0, socket.AF_INET6)
        _SCOPE.pack_into(raw, 24, scope)
    return bytes(raw)


def unpack_sockaddr(raw: bytes) -> SockAddr:
    """What `recvfrom` says for `raw`, which may be followed by other bytes."""
    if _FAMILY.unpack_from(raw)[0] == socket.AF_INET:
        port, packed = _IPV4.unpack_from(raw)
        return socket.inet_ntop(socket.AF_INET, packed), port
    port, flow, packed = _IPV6.unpack_from(raw)
    return socket.inet_ntop(socket.AF_INET6, packed), port, flow, _SCOPE.unpack_from(raw, 24)[0]

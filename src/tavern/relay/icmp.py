"""ICMP errors about packets that a relay socket sent, from the kernel's error queue. Linux."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import attrs

from tavern.turn.indications import SockAddr

_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}  # <bits/in.h>
_EXTENDED_ERROR = struct.Struct("=IBBBxII")  # sock_extended_err: errno, origin, type, code, info, data
_FROM_ICMP = frozenset({2, 3})  # origins: ICMP and ICMPv6; others are this host's own errors
_ANCILLARY_SIZE = 128  # a sock_extended_err with an IPv6 address and its header are 64
_MAX_AT_ONCE = 16  # a flood of them waits for the other sockets after so many


@attrs.frozen
class IcmpError:
    """What was said of a packet to `peer`; `info` is the MTU where it was too big."""

    peer: SockAddr
    icmp_type: int
    code: int
    info: int


def report_icmp_errors(sock: socket.socket) -> None:
    """From now on errors are queued, and epoll tells of them.

    The next send or receive fails then, whomever it is for, and has to be done again.
    """
    sock.setsockopt(*_RECVERR[sock.family], 1)


def read_icmp_errors(sock: socket.socket) -> Iterator[IcmpError]:
    """Takes up to 16 errors from the queue of a non-blocking socket. Raises nothing."""
    for _ in range(_MAX_AT_ONCE):
        try:
            _, ancillary, _, peer = sock.recvmsg(0, _ANCILLARY_SIZE, socket.MSG_ERRQUEUE)
        except OSError:  # it is empty; then an error stays for which there was no room in it
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return
        for level, kind, data in ancillary:
            if (level, kind) != _RECVERR[sock.family] or len(data) < _EXTENDED_ERROR.size or not peer:
                continue
            _, origin, icmp_type, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
            if origin in _FROM_ICMP:
                yield IcmpError(peer, icmp_type, code, info)

"""The kernel's word on where packets to an address go: one question to its routing tables by rtnetlink. Linux."""

from __future__ import annotations

import socket
import struct

from tavern.addresses import IPAddress

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: size, type, flags, sequence, port
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, destination's and source's prefix, TOS, table, protocol, scope, type
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: size, type
_ERROR = struct.Struct("=i")
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RTA_DST = 1
_TYPE = 7  # its place in rtmsg
_HERE = frozenset({2, 3, 4})  # RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST: the packets are delivered to this machine
_ANSWER_SIZE = 8192  # an answer to one question is some 200 bytes


def is_local(address: IPAddress) -> bool:
    """Whether packets to `address` come to this machine itself now: no packet leaves, and nothing waits.

    The routing table knows what no interface lists: AnyIP ranges (`ip route add local`) and IPv6 anycast. The source
    address that the kernel would use says less: `2600:db8:9::77` under a local /48 gets the interface's.

    What cannot be asked counts as local: a client can ask for a refused peer again, a hole stays one.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as sock:
            sock.sendto(_question(address), (0, 0))
            # The kernel has answered when the send returns.
            return _leads_here(sock.recv(_ANSWER_SIZE))
    except OSError:
        return True


def _question(address: IPAddress) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    route = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    destination = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _RTA_DST) + address.packed
    body = route + destination
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body


def _leads_here(answer: bytes) -> bool:
    if len(answer) < _HEADER.size + _ERROR.size:
        return True
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        return False  # no route leads there, so no packet goes there either
    if kind != _RTM_NEWROUTE or len(answer) < _HEADER.size + _ROUTE.size:
        return True
    return answer[_HEADER.size + _TYPE] in _HERE

"""The UDP sockets of the relay: listeners that know where packets came to, relay sockets, their options. Linux."""

from __future__ import annotations

import errno
import socket
import struct

import attrs

from tavern.addresses import IPAddress, SocketAddress, format_socket_address
from tavern.errors import StartupError
from tavern.relay.icmp import report_icmp_errors
from tavern.stun.attributes import AddressFamily, family_of
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.indications import SockAddr

_IP_PKTINFO = 8  # Linux, <bits/in.h>; the socket module names it from Python 3.12 on
_SO_RCVBUFFORCE = 33  # Linux: beyond net.core.rmem_max where we are root
_SO_MEMINFO = 55  # Linux: an array of counters, the ninth is the packets dropped for a full buffer
_MEMINFO = struct.Struct("9I")
# Linux, <bits/in.h>: when to fragment. OMIT never sets DF and believes no ICMP message that a path is narrow: a forged
# one would cost a call its packets. In IPv6 only the sender can fragment, and has to believe it. PROBE never fragments.
_MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_PMTUDISC_WANT, _PMTUDISC_PROBE, _PMTUDISC_OMIT = 1, 3, 5
_LISTENER_BUFFER = 4 << 20  # bytes: 20 ms of 100,000 packets/s, as the kernel counts them; all clients share it
_RELAY_BUFFER = 256 << 10  # bytes: a burst of some 300 packets to one client
_SHARED_BUFFER = 1 << 20  # of a port that many share; 64 of them, all full, are 64 MB
_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_EVERYWHERE = ("0.0.0.0", "::")
_SAME_PORT_TRIES = 16  # a free port of one family may be taken in the other; only with port 0, in tests

Ancillary = list[tuple[int, int, bytes]]


@attrs.frozen(eq=False)
class Listener:
    """A bound UDP socket that the relay's clients send to. The data path closes it."""

    sock: socket.socket
    family: socket.AddressFamily
    address: SocketAddress
    has_local: bool
    """Bound to all addresses, so that each packet says which one it came to, and each answer where it leaves from."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.address[1]


def open_listeners(hosts: tuple[str, ...], port: int) -> list[Listener]:
    """One listener per host, or without hosts one per address family, where a missing IPv6 is left out.

    All have the same port; 0 means any free one. StartupError says what is in the way. On any error nothing stays open.
    """
    for _ in range(_SAME_PORT_TRIES):
        try:
            return _open_listeners(hosts, port)
        except StartupError as error:
            in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if port != 0 or not in_use:
                raise
    raise StartupError("no UDP port is free in both address families")


def _open_listeners(hosts: tuple[str, ...], port: int) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        for host in hosts or _EVERYWHERE:
            try:
                listener = _open_listener(host, listeners[0].port if listeners else port)
            except OSError as error:
                if not hosts and host == "::" and error.errno in _NO_FAMILY:
                    continue
                raise StartupError(_explain(host, port, error)) from error
            listeners.append(listener)
    except BaseException:
        for listener in listeners:
            listener.sock.close()
        raise
    return listeners


def _open_listener(host: str, port: int) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        has_local = host in _EVERYWHERE
        if has_local and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif has_local:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        _size_buffer(sock, _LISTENER_BUFFER)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return Listener(sock, family, (host, sock.getsockname()[1]), has_local)


def _explain(host: str, port: int, error: OSError) -> str:
    where = f"UDP {format_socket_address(host, port)}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use: stop the program that has it, or set TAVERN_TURN_PORT to another port"
    if error.errno == errno.EACCES:
        return f"{where} is not permitted: set TAVERN_TURN_PORT to 1024 or higher, or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is no address of this machine: set TAVERN_HOST to one that is, or leave it out"
    return f"{where} cannot be opened: {error.strerror or error}"


def open_relay_socket(
    family: AddressFamily, port: int, advertised: IPAddress, local: frozenset[IPAddress], *, shared: bool = False
) -> socket.socket:
    """A non-blocking UDP socket on `port`, of the advertised address where this machine has it, else of all.

    `shared`: packets to many clients come to it. OSError if it cannot be bound. The caller closes it.
    """
    assert family_of(advertised) is family
    ipv6 = family is AddressFamily.IPV6
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _allow_fragments(sock)
        report_icmp_errors(sock)
        _size_buffer(sock, _SHARED_BUFFER if shared else _RELAY_BUFFER)
        everywhere = "::" if ipv6 else "0.0.0.0"
        sock.bind((str(advertised) if advertised in local else everywhere, port))
    except BaseException:
        sock.close()
        raise
    return sock


def send_unfragmented(relay: socket.socket, data: bytes, peer: SockAddr) -> None:
    """Sends in one piece, with the DF bit where there is one. OSError with EMSGSIZE if the interface is too narrow."""
    relay.setsockopt(*_MTU_DISCOVER[relay.family], _PMTUDISC_PROBE)
    try:
        relay.sendto(data, peer)
    finally:
        _allow_fragments(relay)


def _allow_fragments(relay: socket.socket) -> None:
    discovery = _PMTUDISC_OMIT if relay.family == socket.AF_INET else _PMTUDISC_WANT
    relay.setsockopt(*_MTU_DISCOVER[relay.family], discovery)


def _size_buffer(sock: socket.socket, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)  # the kernel caps it at rmem_max


def dropped_packets(sock: socket.socket) -> int:
    """How many packets the kernel threw away since this socket's buffer was full; 0 where it does not say."""
    try:
        counters = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    return int(_MEMINFO.unpack(counters)[8]) if len(counters) == _MEMINFO.size else 0


def local_address_in_pktinfo(family: socket.AddressFamily) -> slice:
    """Where in a received packet's only ancillary message the local address is that it came to (4 or 16 bytes)."""
    # in_pktinfo: index, local address, header's destination; in6_pktinfo: address, index.
    return slice(4, 8) if family == socket.AF_INET else slice(0, 16)


def reply_ancillary(local: bytes) -> Ancillary:
    """What makes a packet leave from the local address `local`."""
    if len(local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, local, b""))]
    if len(local) == 16:
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16sI", local, 0))]
    return []


def five_tuple_of(listener: Listener, client: SockAddr, local: bytes) -> FiveTuple:
    """The five-tuple of a UDP client, whose packet came to `local`.

    A link-local client's host has its interface's number as the zone: `fe80::1%2`.
    """
    scope = client[3] if len(client) == 4 else 0
    client_host = f"{client[0]}%{scope}" if scope else client[0]
    host = socket.inet_ntop(listener.family, local) if local else listener.address[0]
    return FiveTuple(Transport.UDP, (client_host, client[1]), (host, listener.port))


def _sockaddr(client: SocketAddress) -> SockAddr:
    """The client as recvmsg named it."""
    host, port = client
    if ":" not in host:
        return host, port
    host, _, scope = host.partition("%")
    return host, port, 0, int(scope or 0)


def route(listeners: list[Listener], five_tuple: FiveTuple) -> tuple[Listener, SockAddr, bytes]:
    """The listener of a UDP client, the client as its socket names it, and the local address, if packets say it."""
    server_host = five_tuple.server[0]
    family = socket.AF_INET6 if ":" in server_host else socket.AF_INET
    candidates = [listener for listener in listeners if listener.family == family]
    listener = next((one for one in candidates if one.address[0] == server_host), candidates[0])
    local = socket.inet_pton(family, server_host) if listener.has_local else b""
    return listener, _sockaddr(five_tuple.client), local

"""The relay sockets in the data path's thread: what peers send, what ICMP says of what was sent to them. Linux."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeVar

from tavern.addresses import SocketAddress
from tavern.relay.batches import MAX_DATAGRAM, ReceiveBatch, batch_calls
from tavern.relay.endpoints import Endpoint
from tavern.relay.icmp import read_icmp_errors
from tavern.relay.sockaddrs import unpack_sockaddr
from tavern.relay.sockets import send_unfragmented
from tavern.turn.drops import Drop
from tavern.turn.flows import Flow, sockaddr_of
from tavern.turn.forwarding import Forwarder, Output, Unfragmented
from tavern.turn.indications import SockAddr

_RELAY_DRAIN = 32  # a flooded allocation waits for the others after so many
# One is enough unless the next ICMP message comes within these microseconds: a flood of them must cost no packet.
_TRIES_AFTER_ERRORS = 3
# More than a datagram or, for what must not be fragmented, an interface takes is EMSGSIZE.
_UNSENT: dict[int | None, Drop] = {errno.EAGAIN: Drop.SEND_BUFFER_FULL, errno.EMSGSIZE: Drop.WOULD_FRAGMENT}

_MOST_RECEIVED = 64  # and one socket's: some 0.3 ms
_T = TypeVar("_T")
_Decide = Callable[[_T, bytes, SockAddr, float], Output[Endpoint] | None]
"""What becomes of a packet: at whose socket, its data, its sender, and the time."""
_OnIcmp = Callable[[SockAddr, int, int, int, float], Output[Endpoint] | None]
"""What becomes of an error: about a packet to whom, its type, code and information, and the time."""


class RelaySockets:
    """Those that are open, by descriptor. All of it runs in the data path's thread."""

    def __init__(self, forwarder: Forwarder[Endpoint], send: Callable[[list[Output[Endpoint]]], None]) -> None:
        """`send` takes what goes on: all of it to clients."""
        self._forwarder = forwarder
        self._send = send
        self._open: dict[int, tuple[socket.socket, _OnIcmp]] = {}
        self._shared: dict[tuple[bool, int], socket.socket] = {}
        """By family (whether it is IPv6) and port: a host may have become another one."""
        # Kernel and interpreter push each other out of the CPU's caches, so many are received before one is decided on.
        self._received: list[tuple[_Decide[Any], Any, bytes, SockAddr]] = []
        self._batches: dict[int, ReceiveBatch] = {}
        self.last_turn = -1.0
        """The time that the previous turn's handlers were called with."""

    def add(self, flow: Flow[Endpoint], relay: socket.socket) -> Callable[[float], None]:
        """`relay` is the flow's. Returns what is to be called with the time when it can be read."""
        self._open[relay.fileno()] = relay, partial(self._forwarder.from_icmp, flow)
        return self._drain(relay, self._forwarder.from_peer, flow)

    def open_shared(self, address: SocketAddress, relay: socket.socket) -> Callable[[float], None]:
        """`relay` is for all flows that have this relayed address, and stays. Returns the same."""
        sockaddr = sockaddr_of(address)
        self._forwarder.open_shared(address)
        self._shared[_family_and_port(address)] = relay
        self._open[relay.fileno()] = relay, partial(self._forwarder.from_shared_icmp, sockaddr)
        return self._drain(relay, self._forwarder.from_shared, sockaddr)

    @property
    def shared(self) -> Collection[socket.socket]:
        """The sockets that no flow takes along."""
        return self._shared.values()

    def shared_at(self, address: SocketAddress) -> socket.socket:
        """The one that carries this relayed address."""
        return self._shared[_family_and_port(address)]

    def _drain(self, relay: socket.socket, decide: _Decide[_T], whose: _T) -> Callable[[float], None]:
        receive = relay.recvfrom
        received = self._received
        drained_at = 0.0

        def drain(now: float) -> None:
            nonlocal drained_at
            # Most have one packet when they are ready, and to find nothing behind it costs as much as a packet. Which
            # has more is ready in the next turn again.
            has_more = drained_at == self.last_turn
            drained_at = now
            if has_more:
                received.extend([(decide, whose, data, peer) for data, peer in self._receive_all(relay)])
            else:
                try:
                    data, peer = receive(MAX_DATAGRAM)
                except OSError:
                    return  # an ICMP error, after which epoll tells of the rest
                received.append((decide, whose, data, peer))
            if len(received) >= _MOST_RECEIVED:
                self.decide(now)

        return drain

    def _receive_all(self, relay: socket.socket) -> list[tuple[bytes, SockAddr]]:
        """What waits there, up to _RELAY_DRAIN packets; or up to an ICMP error, after which epoll tells of the rest."""
        if batch_calls() is not None:
            if relay.family not in self._batches:
                self._batches[relay.family] = ReceiveBatch(relay.family, _RELAY_DRAIN)
            packets = self._batches[relay.family].receive(relay.fileno(), _RELAY_DRAIN)
            return [(data, _peer(name)) for name, data in packets]
        received = []
        with suppress(OSError):
            for _ in range(_RELAY_DRAIN):
                received.append(relay.recvfrom(MAX_DATAGRAM))  # noqa: PERF401 - what came before the error counts
        return received

    def decide(self, now: float) -> None:
        """What was received goes on."""
        outputs = [decide(whose, data, peer, now) for decide, whose, data, peer in self._received]
        self._received.clear()
        self._send([output for output in outputs if output is not None])

    def forget(self, relay: socket.socket) -> None:
        """`relay` is about to be closed."""
        del self._open[relay.fileno()]

    def report_errors(self, fd: int, now: float) -> None:
        """What ICMP said of packets to peers goes to whose they were. Nothing to do for other descriptors."""
        if fd not in self._open:
            return
        relay, decide = self._open[fd]
        for error in read_icmp_errors(relay):
            output = decide(error.peer, error.icmp_type, error.code, error.info, now)
            if output is not None:
                self._send([output])

    def send_unfragmented(self, output: Unfragmented[Endpoint]) -> None:
        """Sends it so, or drops and counts it."""
        send = partial(send_unfragmented, output.flow.handle.relay_towards(output.peer))
        try:
            send(output.data, output.peer)
        except OSError as error:
            self.send_again(send, output.data, output.peer, error)

    def send_again(
        self, send: Callable[[bytes, SockAddr], object], data: bytes, peer: SockAddr, error: OSError
    ) -> None:
        """After `error`, which may be what ICMP said of an earlier packet to somebody else: the kernel says it once."""
        for _ in range(_TRIES_AFTER_ERRORS):
            if isinstance(error, BlockingIOError):
                break
            try:
                send(data, peer)
            except OSError as next_error:
                error = next_error
            else:
                return
        self.count_unsent(error.errno)

    def count_unsent(self, error: int | None) -> None:
        """A packet was dropped because of this errno."""
        self._forwarder.drops[_UNSENT.get(error, Drop.SEND_FAILED)] += 1


_peer = lru_cache(maxsize=4096)(unpack_sockaddr)
"""Of those that send much: half a megabyte. Forged sources make others be unpacked again, as without it."""


def _family_and_port(address: SocketAddress) -> tuple[bool, int]:
    host, port = address
    return ":" in host, port

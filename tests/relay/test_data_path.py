"""The data path's thread by itself: turns, commands, ends. Socket buffers are filled before it starts."""

from __future__ import annotations

import gc
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tavern.relay import relay_sockets
from tavern.relay.control_queue import ControlPacket, ControlQueue
from tavern.relay.sockets import open_listeners
from tavern.relay.thread import PythonDataPath
from tavern.stun.message import MessageClass, Method, encode
from tavern.turn.commands import AddFlow, RemoveFlow, UnbindChannel
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow
from tavern.turn.forwarding import Forwarder

if TYPE_CHECKING:
    from tavern.relay.sockets import Listener
    from tavern.turn.indications import SockAddr

MANY = 200  # more than a socket may have served in one turn, less than any buffer holds


def local_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@contextmanager
def sender() -> Iterator[socket.socket]:
    with local_socket() as sock:
        sock.setblocking(True)
        yield sock


def flow(number: int, listener: Listener, relay: socket.socket) -> AddFlow:
    client = FiveTuple(Transport.UDP, (listener.address[0], number), listener.address)
    return AddFlow(number, client, relay.getsockname()[:2], user="bob", circles=None)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.lowlevel.checkpoint()


def record_peers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The flows whose packets from peers are decided on, one by one."""
    order: list[int] = []
    real = Forwarder.from_peer

    def from_peer(self: Forwarder[Any], flow: Flow[Any], *packet: Any) -> Any:
        order.append(flow.id)
        return real(self, flow, *packet)

    monkeypatch.setattr(Forwarder, "from_peer", from_peer)
    return order


async def test_a_full_listener_does_not_make_another_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[bytes] = []

    def from_client(_: object, data: bytes, *__: object) -> None:
        order.append(data)

    monkeypatch.setattr(Forwarder, "from_client", from_client)
    loud, quiet = open_listeners(("127.0.0.1", "127.0.0.2"), 0)
    path = PythonDataPath([loud, quiet], frozenset())
    with sender() as client:
        for _ in range(MANY):
            client.sendto(b"loud", loud.address)
        client.sendto(b"quiet", quiet.address)
        path.start()
        await until(lambda: len(order) == MANY + 1)
    await path.stop()
    assert order.index(b"quiet") <= 128


async def test_a_full_relay_socket_does_not_make_another_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    order = record_peers(monkeypatch)
    listeners = open_listeners(("127.0.0.1",), 0)
    path = PythonDataPath(listeners, frozenset())
    loud, quiet = local_socket(), local_socket()
    with sender() as peer:
        for _ in range(MANY):
            peer.sendto(b"loud", loud.getsockname())
        peer.sendto(b"quiet", quiet.getsockname())
        path.watch(loud)
        path.add_relay(flow(1, listeners[0], loud), loud)
        path.watch(quiet)
        path.add_relay(flow(2, listeners[0], quiet), quiet)
        path.start()
        await until(lambda: len(order) == MANY + 1)
    await path.stop()
    assert order.index(2) <= 32


@pytest.mark.parametrize("has_batches", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_packets_at_a_relay_socket_keep_their_order(
    monkeypatch: pytest.MonkeyPatch, host: str, has_batches: bool
) -> None:
    if not has_batches:
        monkeypatch.setattr(relay_sockets, "batch_calls", lambda: None)
    heard: list[tuple[bytes, SockAddr]] = []

    def from_peer(_: object, __: object, data: bytes, peer: SockAddr, now: float) -> None:
        heard.append((data, peer))

    monkeypatch.setattr(Forwarder, "from_peer", from_peer)
    listeners = open_listeners((host,), 0)
    path = PythonDataPath(listeners, frozenset())
    relay = socket.socket(listeners[0].family, socket.SOCK_DGRAM)
    relay.bind((host, 0))
    relay.setblocking(False)
    with ExitStack() as stack:
        peers = [stack.enter_context(socket.socket(relay.family, socket.SOCK_DGRAM)) for _ in range(2)]
        for peer in peers:
            peer.connect(relay.getsockname())
        for number in range(MANY):
            peers[number % 2].send(b"%d" % number)
        path.watch(relay)
        path.add_relay(flow(1, listeners[0], relay), relay)
        path.start()
        await until(lambda: len(heard) == MANY)
        assert heard == [(b"%d" % number, peers[number % 2].getsockname()) for number in range(MANY)]
    await path.stop()
    await path.wait_ended()


async def test_a_removed_flow_hears_nothing_more_with_a_packet_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = record_peers(monkeypatch)
    listeners = open_listeners(("127.0.0.1",), 0)
    relay = local_socket()
    address = relay.getsockname()
    with sender() as client, sender() as peer:

        def from_client(*_: object) -> None:
            # In the thread: the next poll reports the command first, then the packet.
            path.submit(RemoveFlow(1))
            peer.sendto(b"late", address)

        monkeypatch.setattr(Forwarder, "from_client", from_client)
        path = PythonDataPath(listeners, frozenset())
        path.watch(relay)
        path.add_relay(flow(1, listeners[0], relay), relay)
        path.start()
        await until(lambda: len(path._forwarder) == 1)
        client.sendto(b"anything", listeners[0].address)
        await until(lambda: relay.fileno() == -1)
    await path.stop()
    await path.wait_ended()
    assert order == []


async def test_more_commands_than_one_turn_takes_are_all_executed() -> None:
    listeners = open_listeners(("127.0.0.1",), 0)
    path = PythonDataPath(listeners, frozenset())
    relay = local_socket()
    path.watch(relay)
    path.add_relay(flow(1, listeners[0], relay), relay)
    for number in range(10_000):
        path.submit(UnbindChannel(1, number))
    path.submit(RemoveFlow(1))
    path.start()
    await until(lambda: relay.fileno() == -1)
    await path.stop()


async def test_requests_of_clients_with_a_flow_wait_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[tuple[int, bool]] = []

    def record(_: ControlQueue, packet: ControlPacket, *, has_flow: bool) -> bool:
        put.append((packet.five_tuple.client[1], has_flow))
        return False

    monkeypatch.setattr(ControlQueue, "put", record)
    listeners = open_listeners(("127.0.0.1",), 0)
    path = PythonDataPath(listeners, frozenset())
    with sender() as stranger, sender() as client:
        ports = stranger.getsockname()[1], client.getsockname()[1]
        relay = local_socket()
        path.watch(relay)
        path.add_relay(flow(ports[1], listeners[0], relay), relay)
        path.start()
        await until(lambda: len(path._forwarder) == 1)
        for sock in (stranger, client):
            sock.sendto(encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12)), listeners[0].address)
        await until(lambda: len(put) == 2)
    await path.stop()
    assert put == [(ports[0], False), (ports[1], True)]


async def test_nothing_of_a_removed_flow_stays() -> None:
    listeners = open_listeners(("127.0.0.1",), 0)
    path = PythonDataPath(listeners, frozenset())

    def add_and_remove() -> weakref.ref[socket.socket]:
        relay = local_socket()
        path.watch(relay)
        path.add_relay(flow(1, listeners[0], relay), relay)
        path.submit(RemoveFlow(1))
        return weakref.ref(relay)

    relay = add_and_remove()
    path.start()

    def is_gone() -> bool:
        gc.collect()
        return relay() is None

    await until(is_gone)
    await path.stop()


async def test_sockets_of_flows_that_were_never_added_are_closed() -> None:
    listeners = open_listeners(("127.0.0.1",), 0)
    path = PythonDataPath(listeners, frozenset())
    relay = local_socket()
    path.watch(relay)
    path.add_relay(flow(1, listeners[0], relay), relay)
    await path.stop()
    assert relay.fileno() == listeners[0].sock.fileno() == -1


async def test_what_the_kernel_dropped_counts_when_the_socket_is_gone() -> None:
    listeners = open_listeners(("127.0.0.1",), 0)
    path = PythonDataPath(listeners, frozenset())
    relay = local_socket()
    relay.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the kernel's least
    with sender() as peer:
        for _ in range(100):
            peer.sendto(bytes(1000), relay.getsockname())
    path.watch(relay)
    path.add_relay(flow(1, listeners[0], relay), relay)
    path.submit(RemoveFlow(1))
    path.start()
    await until(lambda: relay.fileno() == -1)
    assert path.statistics().drops[Drop.RECEIVE_BUFFER_FULL] > 50
    await path.stop()


@pytest.mark.parametrize("stopped", [True, False])
def test_the_thread_ends_when_trio_has(stopped: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, not paths
    listeners = open_listeners(("127.0.0.1",), 0)

    async def start() -> PythonDataPath:
        path = PythonDataPath(listeners, frozenset())
        path.start()
        return path

    path = trio.run(start)
    [thread] = [one for one in threading.enumerate() if one.name == "relay data path"]
    with sender() as client:
        if stopped:
            path._stopping = True
            path._wake()
        else:
            client.sendto(encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12)), listeners[0].address)
        thread.join(5)
    assert not thread.is_alive()
    assert path._error is None
    path._close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above

"""Who asks for too much, sockets that fail, clocks that jump: answered or dropped, and others notice nothing."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tavern.addresses import SocketAddress, source_key
from tavern.relay import control_queue
from tavern.relay.thread import PythonDataPath
from tavern.stun.attributes import decode_error_code
from tavern.stun.integrity import long_term_key
from tavern.stun.message import AttributeType, Message, MessageClass, Method, encode, parse
from tavern.turn.auth import Credentials
from tavern.turn.drops import Drop
from tavern.turn.limiter import BURST_S
from tests.relay.conftest import LOOPBACK, UDP

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Running, Start, TurnClient

ASKED = 10_000
LOUD_SOCKETS = 100
LOUD = "127.0.0.1"
DELETE = (AttributeType.LIFETIME, bytes(4))
DECADE_S = 10 * 365 * 86400


def error_of(answer: Message) -> int:
    value = answer.get(AttributeType.ERROR_CODE)
    return 0 if value is None else decode_error_code(value)[0]


def share_of(host: str) -> int:
    return hash(source_key(host)) % control_queue._SHARES


@contextmanager
def peer_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        yield peer


async def up_and_down(client: TurnClient, peer: socket.socket, relayed: SocketAddress, number: int) -> None:
    """One packet each way, sent once; TimeoutError or TooSlowError if one is lost."""
    await client.send_indication(b"up %d" % number, peer.getsockname())
    received, sender = await trio.to_thread.run_sync(peer.recvfrom, 100)
    assert (received, sender) == (b"up %d" % number, relayed)
    peer.sendto(b"down %d" % number, relayed)
    assert parse(await client.receive()).get(AttributeType.DATA) == b"down %d" % number


async def test_ten_thousand_allocations_asked_by_one_source(start_relay: Start, connect_client: Connect) -> None:
    """They get their quota, whatever users they make up, and nobody else loses a packet."""
    quota = 40
    quiet_host = next(host for host in ("127.0.0.2", "127.0.0.3", "127.0.0.4") if share_of(host) != share_of(LOUD))
    async with start_relay(address_quota=quota) as running, AsyncExitStack() as stack:
        peer = stack.enter_context(peer_socket())
        quiet = await stack.enter_async_context(connect_client(running, source=quiet_host))
        relayed = await quiet.allocate()
        await quiet.permit(peer.getsockname())
        loud = [
            await stack.enter_async_context(connect_client(running, source=LOUD, user=f"user{number}"))
            for number in range(LOUD_SOCKETS)
        ]
        codes = [error_of(await client.request(Method.ALLOCATE, UDP)) for client in loud]
        assert codes == [0] * quota + [486] * (LOUD_SOCKETS - quota)
        answers: set[int] = set()
        all_asked = trio.Event()

        async def hear(client: TurnClient) -> None:
            while True:
                data, _ = await client.sock.recvfrom(2000)
                answers.add(error_of(parse(data)))

        async def ask() -> None:
            for number in range(ASKED):
                client = loud[number % LOUD_SOCKETS]
                await client.send(allocate_request(client))
                if number % 20 == 0:
                    await trio.lowlevel.checkpoint()
            all_asked.set()

        async with trio.open_nursery() as nursery:
            for client in loud:
                nursery.start_soon(hear, client)
            nursery.start_soon(ask)
            number = 0
            while not all_asked.is_set() or number < 20:
                await up_and_down(quiet, peer, relayed, number)
                if number % 10 == 0:
                    assert error_of(await quiet.request(Method.REFRESH)) == 0
                number += 1
            nursery.cancel_scope.cancel()
        assert answers == {437, 486}
        assert running.relay.statistics().allocations == quota + 1


def allocate_request(client: TurnClient) -> bytes:
    username, password = client.credential.username.encode(), client.credential.password.encode()
    attributes = [
        UDP,
        (AttributeType.USERNAME, username),
        (AttributeType.REALM, b"localhost"),
        (AttributeType.NONCE, client.nonce),
    ]
    key = long_term_key(username, b"localhost", password)
    return encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12), attributes, integrity_key=key)


def free_ports(size: int) -> tuple[int, int]:
    """So many ports in a row that were all free a moment ago."""
    for first in range(30000, 60000, size):
        with ExitStack() as stack:
            try:
                for port in range(first, first + size):
                    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first, first + size - 1
    raise AssertionError("no ports are free")


@pytest.mark.clause("8656 §7.2: no port left -> 508")
async def test_ports_that_are_used_up_are_508_until_one_is_freed(start_relay: Start, connect_client: Connect) -> None:
    first, last = free_ports(4)
    async with start_relay(min_relay_port=first, max_relay_port=last) as running, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect_client(running)) for _ in range(6)]
        given = {(await client.allocate())[1] for client in clients[:4]}
        assert given == set(range(first, last + 1))
        for client in clients[4:]:
            assert error_of(await client.request(Method.ALLOCATE, UDP)) == 508
        for gone, new in ((0, 4), (4, 0), (1, 5)):
            assert error_of(await clients[gone].request(Method.REFRESH, DELETE)) == 0
            assert (await clients[new].allocate())[1] in given
        assert running.relay.statistics().allocations == 4


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """As in a process that has as many files open as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))  # noqa: PTH208
        while True:
            try:
                opened.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_relay_sockets_that_cannot_be_opened(start_relay: Start, connect_client: Connect) -> None:
    async with (
        start_relay() as running,
        connect_client(running) as client,
        connect_client(running) as late,
    ):
        with peer_socket() as peer:
            relayed = await client.allocate()
            await client.permit(peer.getsockname())
            await late.binding()
            before = running.relay.statistics().allocations
            with no_descriptors_left():
                assert error_of(await late.request(Method.ALLOCATE, UDP)) == 508
                assert error_of(await client.request(Method.REFRESH)) == 0
                await up_and_down(client, peer, relayed, 1)
            assert running.relay.statistics().allocations == before
            await late.allocate()
            await up_and_down(client, peer, relayed, 2)


async def test_packets_that_cannot_be_sent_are_counted(start_relay: Start, connect_client: Connect) -> None:
    """To port 0 and to the broadcast address: the kernel refuses them, and the socket goes on."""
    broadcast = "255.255.255.255"
    allow = (*LOOPBACK, ip_network(f"{broadcast}/32"))
    async with start_relay(allow_peers=allow) as running, connect_client(running) as client:
        with peer_socket() as peer:
            relayed = await client.allocate()
            for host in ("127.0.0.1", broadcast):
                assert error_of(await client.permit((host, 0))) == 0
            for number, address in enumerate((("127.0.0.1", 0), (broadcast, 9))):
                await client.send_indication(b"lost", address)
                await up_and_down(client, peer, relayed, number)
                assert running.relay.statistics().drops[Drop.SEND_FAILED] == number + 1


@pytest.mark.parametrize("jump_s", [DECADE_S, -DECADE_S, -time.time()], ids=["ahead", "back", "to 1970"])
async def test_the_wall_clock_jumps(start_relay: Start, connect_client: Connect, jump_s: float) -> None:
    """Credentials are judged by it, and nothing else: what lives goes on."""
    unix_time_s = time.time()
    async with (
        start_relay(wall_clock=lambda: unix_time_s) as running,
        connect_client(running) as client,
        connect_client(running) as late,
    ):
        with peer_socket() as peer:
            relayed = await client.allocate()
            await client.permit(peer.getsockname())
            unix_time_s += jump_s
            await up_and_down(client, peer, relayed, 1)
            assert error_of(await client.request(Method.REFRESH)) == 0
            assert error_of(await client.permit(peer.getsockname())) == 0
            await up_and_down(client, peer, relayed, 2)
            assert running.relay.statistics().allocations == 1
            code = error_of(await late.request(Method.ALLOCATE, UDP))
            assert code == (401 if jump_s > 0 else 0)
            running.relay.session_opened("ada", "127.0.0.1")
            late.credential = running.relay.session_credential("ada", 600)
            assert late.credential.expires_at == int(unix_time_s) + 600
            if code:
                await late.allocate()
            unix_time_s -= jump_s
            assert error_of(await client.request(Method.REFRESH)) == 0
            running.relay.session_lost("ada")


async def test_a_suspended_machine(start_relay: Start, connect_client: Connect) -> None:
    """The wall clock goes on while the monotonic one stands still; a credential that was good is not any more."""
    unix_time_s = time.time()
    async with start_relay(wall_clock=lambda: unix_time_s) as running, connect_client(running) as client:
        await client.allocate()
        unix_time_s += 86400
        assert error_of(await client.request(Method.REFRESH)) == 0
        assert error_of(await client.request(Method.REFRESH, DELETE)) == 0
        assert error_of(await client.request(Method.ALLOCATE, UDP)) == 401
        client.credential = Credentials("localhost", ("north",)).mint("bob", 600, unix_time_s)
        await client.allocate()


class NoMoreToWatch:
    """An epoll whose kernel has `fs.epoll.max_user_watches` of them already."""

    def __init__(self, real: select.epoll) -> None:
        self._real = real

    def register(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        self._real.close()


async def test_relay_sockets_that_cannot_be_watched(
    start_python: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_python() as running, connect_client(running) as client, connect_client(running) as late:
        with peer_socket() as peer:
            relayed = await client.allocate()
            await client.permit(peer.getsockname())
            with monkeypatch.context() as patched:
                data_path = running.relay._data_path
                assert isinstance(data_path, PythonDataPath)
                patched.setattr(data_path, "_epoll", NoMoreToWatch(data_path._epoll))
                assert error_of(await late.request(Method.ALLOCATE, UDP)) == 508
                await up_and_down(client, peer, relayed, 1)
            await late.allocate()
            await up_and_down(client, peer, relayed, 2)


async def test_answers_to_who_proves_nothing_are_as_many_as_are_set(start_relay: Start) -> None:
    """Whoever gives them: the compiled data path gives half, and the control side the other."""
    rate, asked = 8, 100

    def told(running: Running) -> tuple[int, int]:
        statistics = running.relay.statistics()
        return statistics.unauthenticated_answers, statistics.unauthenticated_suppressed

    async with start_relay(unauthenticated_rate=rate) as running:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.connect(("127.0.0.1", running.port))
            started = trio.current_time()
            for number in range(asked):
                flood.send(encode(Method.ALLOCATE, MessageClass.REQUEST, number.to_bytes(12, "big"), [UDP]))
            with trio.fail_after(5):
                while sum(told(running)) < asked:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            answered, _ = told(running)
            flood.settimeout(5)
            for _ in range(answered):
                assert flood.recv(2048)
        assert rate * BURST_S <= answered <= rate * (BURST_S + trio.current_time() - started)

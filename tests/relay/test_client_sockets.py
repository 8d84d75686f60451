"""What the listeners receive and send, with many packets in one system call and where there is no such call."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import attrs
import pytest

from tavern.relay import batches, client_sockets
from tavern.relay.client_sockets import AT_ONCE, ClientSocket
from tavern.relay.sockaddrs import pack_sockaddr, unpack_sockaddr
from tavern.relay.sockets import open_listeners
from tavern.turn.indications import SockAddr

LARGEST = 65_507  # of IPv4
HOSTS = ("127.0.0.1", "::1", "0.0.0.0", "::")


@attrs.define
class Pair:
    """A listener with one client's socket, which is connected to it."""

    server: ClientSocket
    client: socket.socket
    unsent: list[int | None]

    @property
    def local(self) -> bytes:
        """Where the client sends to, if the listener is bound to all addresses."""
        host = self.client.getpeername()[0]
        return socket.inet_pton(self.client.family, host) if self.server.listener.has_local else b""

    @property
    def address(self) -> SockAddr:
        address: SockAddr = self.client.getsockname()
        return address


@pytest.fixture(params=["batches", "calls"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "calls":
        monkeypatch.setattr(client_sockets, "batch_calls", lambda: None)


@pytest.fixture(params=HOSTS)
def pair(request: pytest.FixtureRequest, calls: None) -> Iterator[Pair]:
    [listener] = open_listeners((request.param,), 0)
    unsent: list[int | None] = []
    with listener.sock, socket.socket(listener.family, socket.SOCK_DGRAM) as client:
        client.connect(("::1" if ":" in request.param else "127.0.0.1", listener.port))
        client.settimeout(5)
        yield Pair(ClientSocket(listener, 7, unsent.append), client, unsent)


def test_packets_come_in_their_order_with_their_clients_key(pair: Pair) -> None:
    sent = [b"", b"x", bytes(1200), b"y" * LARGEST, b"after"]
    for data in sent:
        pair.client.send(data)
    key = pair.server.key(pair.address, pair.local)
    assert pair.server.receive() == [(key, data) for data in sent]
    assert pair.server.receive() == []
    assert pair.server.read_key(key) == (pair.address, pair.local)


def test_many_packets_come_in_parts(pair: Pair) -> None:
    for number in range(AT_ONCE + 1):
        pair.client.send(b"%d" % number)
    first, second = pair.server.receive(), pair.server.receive()
    assert [len(first), len(second)] == [AT_ONCE, 1]
    assert [data for _, data in first + second] == [b"%d" % number for number in range(AT_ONCE + 1)]


def test_clients_have_keys_of_their_own(pair: Pair) -> None:
    family = pair.client.family
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(3)]
        for client in clients:
            client.connect(pair.client.getpeername())
        for client in clients + clients:
            client.send(b"")
        keys = [pair.server.key(client.getsockname(), pair.local) for client in clients]
        assert [key for key, _ in pair.server.receive()] == keys + keys
        assert len(set(keys)) == 3


def test_a_client_of_two_listeners_has_two_keys() -> None:
    listeners = open_listeners(("127.0.0.1", "127.0.0.2"), 0)
    keys = {ClientSocket(one, number, print).key(("127.0.0.1", 9), b"") for number, one in enumerate(listeners)}
    for listener in listeners:
        listener.sock.close()
    assert len(keys) == 2


@pytest.mark.parametrize("count", [1, 2, AT_ONCE - 1, AT_ONCE, AT_ONCE + 3])
def test_what_was_put_is_sent_in_its_order(pair: Pair, count: int) -> None:
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    client = pair.server.client(pair.address, pair.local)
    sent = [bytes([number]) * (number * 7 % 1200) for number in range(count)]
    for data in sent:
        pair.server.put(client, data)
    pair.server.flush()
    assert [pair.client.recv(2000) for _ in sent] == sent
    assert not pair.unsent
    assert not pair.server.waiting


def test_one_that_cannot_be_sent_does_not_stop_the_others(pair: Pair) -> None:
    client = pair.server.client(pair.address, pair.local)
    huge = bytes(65_535)
    for data in (huge, b"one", huge, huge, b"two", huge):
        pair.server.put(client, data)
    pair.server.flush()
    assert [pair.client.recv(2000) for _ in range(2)] == [b"one", b"two"]
    assert pair.unsent == [errno.EMSGSIZE] * 4


def test_packets_to_several_clients_go_to_them(pair: Pair) -> None:
    with socket.socket(pair.client.family, socket.SOCK_DGRAM) as other:
        other.connect(pair.client.getpeername())
        other.settimeout(5)
        known = [(pair.server.client(one.getsockname(), pair.local), one) for one in (pair.client, other)]
        for number in range(4):
            pair.server.put(known[number % 2][0], b"%d" % number)
        pair.server.flush()
        assert [one.recv(9) for _, one in known + known] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("local", ["127.0.0.2", "127.0.0.3"])
@pytest.mark.parametrize("count", [1, 2])
def test_answers_leave_from_where_they_were_asked(calls: None, local: str, count: int) -> None:
    [listener] = open_listeners(("0.0.0.0",), 0)
    with listener.sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(b"", (local, listener.port))
        server = ClientSocket(listener, 0, print)
        [(key, _)] = server.receive()
        client = server.client(*server.read_key(key))
        for _ in range(count):
            server.put(client, b"media")
        server.flush()
        server.send(b"answer", *server.read_key(key))
        assert [sock.recvfrom(9) for _ in range(count)] == [(b"media", (local, listener.port))] * count
        assert sock.recvfrom(9) == (b"answer", (local, listener.port))


@pytest.mark.parametrize(
    "address", [("192.0.2.1", 65_535), ("2001:db8::1", 1, 0, 0), ("fe80::1", 256, 0, 3), ("::ffff:192.0.2.1", 9, 0, 0)]
)
def test_addresses_are_the_same_after_packing(address: SockAddr) -> None:
    assert unpack_sockaddr(pack_sockaddr(address) + b"more") == address


def test_this_machine_has_the_calls() -> None:
    """All else here tests one of two ways only where it has."""
    assert batches.batch_calls() is not None


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_a_libc_without_the_calls_is_no_error(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def lack() -> None:
        raise error

    monkeypatch.setattr(batches, "_Calls", lack)
    batches.batch_calls.cache_clear()
    assert batches.batch_calls() is None
    batches.batch_calls.cache_clear()


def test_calls_that_do_not_work_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self) -> None:
            self.receive = self.send = lambda *_: -1

    monkeypatch.setattr(batches, "_Calls", Refused)
    batches.batch_calls.cache_clear()
    assert batches.batch_calls() is None
    batches.batch_calls.cache_clear()

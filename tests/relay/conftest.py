"""A running relay on loopback with free ports, and a client that speaks to it over a real socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from ipaddress import ip_address, ip_network

import attrs
import pytest
import trio

from tavern.addresses import SocketAddress
from tavern.relay.config import RelayConfig
from tavern.relay.data_paths import DataPathName
from tavern.relay.service import Relay
from tavern.store.base import Store
from tavern.stun.attributes import decode_xor_address, encode_xor_address
from tavern.stun.integrity import long_term_key
from tavern.stun.message import Attribute, AttributeType, Message, MessageClass, Method, encode, parse
from tavern.turn.auth import Credential, Credentials
from tests.prerequisites import native_or_skip

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def free_range(size: int) -> tuple[int, int]:
    """A range of ports that were free a moment ago; a port that is not free any more is skipped by the relay."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        first = min(sock.getsockname()[1], 65535 - size)
    return first, first + size - 1


def config(**changes: object) -> RelayConfig:
    first, last = free_range(100)
    plain = RelayConfig(
        hosts=("127.0.0.1",),
        port=0,
        min_relay_port=first,
        max_relay_port=last,
        realm="localhost",
        secrets=("north",),
        advertised_addresses=(ip_address("127.0.0.1"), ip_address("::1")),
        allow_peers=LOOPBACK,
        user_quota=50,
        address_quota=1000,
        max_allocations=1000,
        max_permissions=512,
        max_channels=512,
        unauthenticated_rate=64,
    )
    return attrs.evolve(plain, **changes)  # type: ignore[arg-type]


def static_credential(user: str) -> Credential:
    """As a program computes it that has the operator's secret."""
    return Credentials("localhost", ("north",)).mint(user, 600, time.time())


@attrs.define(eq=False)
class Running:
    relay: Relay
    addresses: tuple[SocketAddress, ...]
    nursery: trio.Nursery

    @property
    def port(self) -> int:
        return self.addresses[0][1]


Start = Callable[..., AbstractAsyncContextManager[Running]]


@asynccontextmanager
async def start(
    *, store: Store | None = None, wall_clock: Callable[[], float] = time.time, **changes: object
) -> AsyncIterator[Running]:
    relay = Relay(config(**changes), store=store, wall_clock=wall_clock)
    async with trio.open_nursery() as nursery:
        addresses: tuple[SocketAddress, ...] = await nursery.start(relay.run)
        yield Running(relay, addresses, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["native", "python"])
def data_path(request: pytest.FixtureRequest) -> DataPathName:
    """Which implementation runs: what a test says holds for both."""
    name: DataPathName = request.param
    if name == "native":
        native_or_skip()
    return name


@pytest.fixture
def start_python() -> Start:
    """For tests that hold the thread of the data path in Python, or look into it."""
    return partial(start, data_path="python")


@pytest.fixture
def start_native() -> Start:
    """The same for the compiled one."""
    native_or_skip()
    return partial(start, data_path="native")


@pytest.fixture
def start_relay(data_path: DataPathName) -> Start:
    return partial(start, data_path=data_path)


class Conversation:
    """What a client says and hears, over whatever transport."""

    credential: Credential
    nonce: bytes

    async def send(self, data: bytes) -> None:
        raise NotImplementedError

    async def receive(self) -> bytes:
        raise NotImplementedError

    async def binding(self) -> Message:
        await self.send(encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12)))
        return parse(await self.receive())

    async def request(self, method: int, *attributes: Attribute, peer: SocketAddress | None = None) -> Message:
        """Sends it again with the nonce that the first answer brings, as clients do."""
        for attempt in (1, 2, 3):
            transaction_id = os.urandom(12)
            own = list(attributes)
            if peer is not None:
                value = encode_xor_address(ip_address(peer[0]), peer[1], transaction_id)
                own.append((AttributeType.XOR_PEER_ADDRESS, value))
            username, password = self.credential.username.encode(), self.credential.password.encode()
            own += [
                (AttributeType.USERNAME, username),
                (AttributeType.REALM, b"localhost"),
                (AttributeType.NONCE, self.nonce),
            ]
            key = long_term_key(username, b"localhost", password)
            await self.send(encode(method, MessageClass.REQUEST, transaction_id, own, integrity_key=key))
            answer = parse(await self.receive())
            if attempt == 3 or answer.get(AttributeType.ERROR_CODE) is None or answer.get(AttributeType.NONCE) is None:
                break
            self.nonce = answer.get(AttributeType.NONCE) or b""
        return answer

    async def allocate(self, *attributes: Attribute) -> SocketAddress:
        answer = await self.request(Method.ALLOCATE, UDP, *attributes)
        value = answer.get(AttributeType.XOR_RELAYED_ADDRESS)
        assert value is not None, answer
        address, port = decode_xor_address(value, answer.transaction_id)
        return str(address), port

    async def permit(self, peer: SocketAddress) -> Message:
        return await self.request(Method.CREATE_PERMISSION, peer=peer)

    async def bind(self, number: int, peer: SocketAddress) -> Message:
        channel = (AttributeType.CHANNEL_NUMBER, number.to_bytes(2, "big") + b"\0\0")
        return await self.request(Method.CHANNEL_BIND, channel, peer=peer)

    async def send_indication(self, payload: bytes, peer: SocketAddress, *more: Attribute) -> None:
        transaction_id = os.urandom(12)
        value = encode_xor_address(ip_address(peer[0]), peer[1], transaction_id)
        attributes = [(AttributeType.XOR_PEER_ADDRESS, value), (AttributeType.DATA, payload), *more]
        await self.send(encode(Method.SEND, MessageClass.INDICATION, transaction_id, attributes))


@attrs.define(eq=False)
class TurnClient(Conversation):
    """One client socket; every wait ends after five seconds."""

    sock: trio.socket.SocketType
    server: tuple[object, ...]
    credential: Credential
    nonce: bytes = b""

    @classmethod
    async def connect(
        cls, running: Running, host: str = "127.0.0.1", user: str = "bob", source: str | None = None
    ) -> TurnClient:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = trio.socket.socket(family, socket.SOCK_DGRAM)
        await sock.bind((source or ("::1" if ":" in host else "127.0.0.1"), 0))
        return cls(sock, (host, running.port), static_credential(user))

    def close(self) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        await self.sock.sendto(data, self.server)

    async def receive(self) -> bytes:
        with trio.fail_after(5):
            data, sender = await self.sock.recvfrom(65535)
        assert sender[:2] == self.server[:2], "a reply from another address"
        return bytes(data)


Connect = Callable[..., AbstractAsyncContextManager[TurnClient]]


@asynccontextmanager
async def connect(
    running: Running, host: str = "127.0.0.1", user: str = "bob", source: str | None = None
) -> AsyncIterator[TurnClient]:
    client = await TurnClient.connect(running, host, user, source)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def connect_client() -> Connect:
    return connect

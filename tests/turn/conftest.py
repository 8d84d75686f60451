"""A TURN server with a driver that opens relay sockets in memory, and clients that speak to it."""

from __future__ import annotations

import os
from ipaddress import ip_address
from random import Random

import attrs
import pytest

from tavern.addresses import IPAddress
from tavern.stun.attributes import AddressFamily, decode_error_code, decode_xor_address, encode_xor_address
from tavern.stun.integrity import long_term_key
from tavern.stun.message import Attribute, AttributeType, Message, MessageClass, Method, encode, parse
from tavern.turn.auth import Credential
from tavern.turn.commands import (
    AddFlow,
    AddOwnHost,
    AddRelayedAddress,
    BindChannel,
    Command,
    Effect,
    LearnPeer,
    OpenRelaySocket,
    RemoveFlow,
    RemoveOwnHost,
    RemoveRelayedAddress,
    RevokePermission,
    SendToClient,
    SetCircles,
    SetPermission,
    SetTransfer,
    UnbindChannel,
)
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.forwarding import Forwarder
from tavern.turn.server import TurnConfig, TurnServer
from tests.twin import make_forwarder

SERVER = ("198.51.100.1", 3478)
RELAY_HOST = "198.51.100.1"
UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")


class World:
    """`now` and `unix_time_s` are moved by the test."""

    def __init__(self, **changes: object) -> None:
        config = TurnConfig(
            realm="example.org",
            secrets=("north",),
            advertised_addresses=(ip_address(RELAY_HOST), ip_address("2001:db8::1")),
            min_relay_port=50000,
            max_relay_port=50009,
            user_quota=5,
            address_quota=1000,
            max_allocations=1000,
            max_permissions=512,
            max_channels=512,
            unauthenticated_rate=64,
        )
        config = attrs.evolve(config, **changes)  # type: ignore[arg-type]
        self.now = 1000.0
        self.unix_time_s = 1_700_000_000.0
        self.kernels_own: set[IPAddress] = set()
        """What is this machine's own although no interface lists it."""
        self.server = TurnServer(
            config,
            random=Random(1),  # noqa: S311 - the same in every run
            nonce_key=b"k" * 32,
            is_local=self.kernels_own.__contains__,
        )
        self.server.set_listeners(frozenset({("0.0.0.0", SERVER[1]), ("::", SERVER[1])}))
        self.forwarder: Forwarder[str] = make_forwarder(
            frozenset(map(str, config.advertised_addresses)),
            lambda: 0x0102030405060708090A0B0C,
            frozenset({SERVER[1]}),
        )
        for address in self.server.shared_addresses:
            self.forwarder.open_shared(address)
        self.unbindable: set[int] = set()
        self.unbindable_families: set[AddressFamily] = set()
        self.opened: list[int] = []
        self.commands: list[Command] = []

    def client(self, port: int = 4000, host: str = "203.0.113.7", user: str = "bob") -> Client:
        return Client(self, FiveTuple(Transport.UDP, (host, port), SERVER), self.credential(user))

    def credential(self, user: str = "bob", lifetime_s: int = 600) -> Credential:
        return self.server.credentials.mint(user, lifetime_s, self.unix_time_s)

    def receive(self, data: bytes, five_tuple: FiveTuple) -> bytes | None:
        """The answer, if any. Commands go to the forwarder, as the data path would execute them."""
        return self.execute(self.server.receive(data, five_tuple, self.now, self.unix_time_s))

    def execute(self, effects: list[Effect]) -> bytes | None:
        answer = None
        queue = list(effects)
        while queue:
            effect = queue.pop(0)
            if isinstance(effect, OpenRelaySocket):
                self.opened.append(effect.port)
                if effect.port in self.unbindable or effect.family in self.unbindable_families:
                    queue = self.server.relay_failed(effect.flow_id, self.now) + queue
                else:
                    queue = self.server.relay_opened(effect.flow_id, self.now) + queue
                continue
            self.commands.append(effect)
            if isinstance(effect, SendToClient):
                assert answer is None, "two answers"
                answer = effect.data
            elif isinstance(effect, AddFlow):
                self.forwarder.add_flow(effect, effect.five_tuple, str(effect.five_tuple.client[1]))
            elif isinstance(effect, AddRelayedAddress):
                assert self.forwarder.add_relayed_address(effect) is not None
            elif isinstance(effect, RemoveRelayedAddress):
                assert self.forwarder.remove_relayed_address(effect) is not None
            elif isinstance(effect, RemoveFlow):
                assert self.forwarder.remove_flow(effect) is not None
            elif isinstance(effect, SetCircles):
                self.forwarder.set_circles(effect)
            elif isinstance(effect, SetPermission):
                self.forwarder.set_permission(effect)
            elif isinstance(effect, RevokePermission):
                self.forwarder.revoke_permission(effect)
            elif isinstance(effect, BindChannel):
                self.forwarder.bind_channel(effect)
            elif isinstance(effect, UnbindChannel):
                self.forwarder.unbind_channel(effect)
            elif isinstance(effect, LearnPeer):
                self.forwarder.learn_peer(effect)
            elif isinstance(effect, AddOwnHost):
                self.forwarder.add_own_host(effect)
            elif isinstance(effect, RemoveOwnHost):
                self.forwarder.remove_own_host(effect)
            elif isinstance(effect, SetTransfer):
                self.forwarder.set_transfer(effect)
        return answer

    def tick(self, seconds: float) -> None:
        """Time passes, and the timer fires where its deadline has come."""
        self.now += seconds
        self.unix_time_s += seconds
        deadline = self.server.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.execute(self.server.handle_timer(self.now))


@attrs.define(eq=False)
class Client:
    world: World
    five_tuple: FiveTuple
    credential: Credential
    nonce: bytes | None = None
    realm: bytes = b"example.org"

    @property
    def key(self) -> bytes:
        return long_term_key(self.credential.username.encode(), self.realm, self.credential.password.encode())

    def encode(self, method: int, *attributes: Attribute, fingerprint: bool = False) -> bytes:
        """A request as a client that knows the nonce sends it."""
        if self.nonce is None:
            answer = self.exchange(encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12)))
            assert answer is not None
            self.nonce = answer.get(AttributeType.NONCE)
            assert self.nonce is not None
        login = (
            (AttributeType.USERNAME, self.credential.username.encode()),
            (AttributeType.REALM, self.realm),
            (AttributeType.NONCE, self.nonce),
        )
        return encode(
            method,
            MessageClass.REQUEST,
            os.urandom(12),
            (*attributes, *login),
            integrity_key=self.key,
            fingerprint=fingerprint,
        )

    def exchange(self, data: bytes) -> Message | None:
        answer = self.world.receive(data, self.five_tuple)
        return None if answer is None else parse(answer)

    def request(self, method: int, *attributes: Attribute) -> Message:
        answer = self.exchange(self.encode(method, *attributes))
        assert answer is not None
        return answer

    def error(self, method: int, *attributes: Attribute) -> int:
        """The error code of the answer; 0 for success."""
        return error_of(self.request(method, *attributes))

    def allocate(self, *attributes: Attribute) -> tuple[str, int]:
        """Allocates; the relayed address."""
        answer = self.request(Method.ALLOCATE, UDP, *attributes)
        assert answer.message_class is MessageClass.SUCCESS, error_of(answer)
        value = answer.get(AttributeType.XOR_RELAYED_ADDRESS)
        assert value is not None
        address, port = decode_xor_address(value, answer.transaction_id)
        return str(address), port

    def permit(self, *hosts: str) -> int:
        return self.with_peers(Method.CREATE_PERMISSION, [(host, 0) for host in hosts])

    def bind(self, number: int, host: str, port: int) -> int:
        channel = (AttributeType.CHANNEL_NUMBER, number.to_bytes(2, "big") + b"\0\0")
        return self.with_peers(Method.CHANNEL_BIND, [(host, port)], channel)

    def with_peers(self, method: int, peers: list[tuple[str, int]], *attributes: Attribute) -> int:
        if self.nonce is None:
            self.encode(method)
        assert self.nonce is not None
        transaction_id = os.urandom(12)
        values = [
            (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction_id))
            for host, port in peers
        ]
        login = (
            (AttributeType.USERNAME, self.credential.username.encode()),
            (AttributeType.REALM, self.realm),
            (AttributeType.NONCE, self.nonce),
        )
        data = encode(
            method, MessageClass.REQUEST, transaction_id, (*attributes, *values, *login), integrity_key=self.key
        )
        answer = self.exchange(data)
        assert answer is not None
        return error_of(answer)


def error_of(answer: Message) -> int:
    value = answer.get(AttributeType.ERROR_CODE)
    assert (value is None) == (answer.message_class is MessageClass.SUCCESS)
    return 0 if value is None else decode_error_code(value)[0]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    return World

"""The 401 that the compiled data path answers by itself: byte for byte what the control side would, and no more often.

RFC 8489 §9.2.4: a request that proves nothing gets a realm and a nonce, which the control side takes later.
"""

from __future__ import annotations

import os
import random
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tavern.addresses import IPAddress, SocketAddress
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.auth import Nonces
from tavern.turn.commands import AddFlow
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.indications import SockAddr
from tavern.turn.limiter import BURST_S
from tests.prerequisites import native_or_skip
from tests.turn.conftest import SERVER, UDP, World
from tests.twin import NativeCore

REALM = b"example.org"
KEY = b"k" * 32  # the one of World's server
PLENTY = 1e6
CLIENT: SockAddr = ("203.0.113.7", 4000)
LIFETIME: Attribute = (AttributeType.LIFETIME, b"\0\0\x02\x58")
SOFTWARE: Attribute = (AttributeType.SOFTWARE, b"a browser")


@pytest.fixture(autouse=True, scope="module")
def _native() -> None:
    native_or_skip()


def core(rate_per_s: float = PLENTY, realm: bytes = REALM, key: bytes = KEY) -> NativeCore:
    one = NativeCore(frozenset(), bytes(12), frozenset({SERVER[1]}), 0, 0)
    assert one.set_challenge(key, realm, rate_per_s, rate_per_s * BURST_S)
    return one


def allocate(*attributes: Attribute) -> bytes:
    return encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12), attributes)


def client_of(address: SockAddr) -> SocketAddress:
    scope = address[3] if len(address) == 4 else 0
    return (f"{address[0]}%{scope}" if scope else address[0]), address[1]


@pytest.mark.parametrize("attributes", [(), (UDP,), (UDP, LIFETIME, SOFTWARE), (SOFTWARE, (0x7F00, b"odd"))])
@pytest.mark.parametrize(
    "client", [CLIENT, ("9.9.9.9", 65535), ("2001:4860::9", 1024, 0, 0), ("fe80::1:2", 5000, 0, 3)], ids=str
)
def test_the_answer_is_the_control_sides(client: SockAddr, attributes: tuple[Attribute, ...]) -> None:
    world = World()
    request = allocate(*attributes)
    answer = world.receive(request, FiveTuple(Transport.UDP, client_of(client), SERVER))
    assert answer is not None
    assert core().from_stranger(request, client, world.now) == ("reply", answer)


@given(
    address=st.ip_addresses(),
    port=st.integers(0, 65535),
    now=st.floats(0, 2**32 - 1),
    key=st.binary(min_size=16, max_size=64),
    realm=st.binary(min_size=1, max_size=128),
)
@settings(deadline=None, max_examples=200)
def test_its_nonce_is_one_that_the_control_side_takes(
    address: IPAddress, port: int, now: float, key: bytes, realm: bytes
) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    host = socket.inet_ntop(family, address.packed)  # as recvmsg writes it
    client: SockAddr = (host, port) if address.version == 4 else (host, port, 0, 0)
    kind, answer = core(realm=realm, key=key).from_stranger(allocate(UDP), client, now)
    assert kind == "reply"
    assert isinstance(answer, bytes)
    assert Nonces(key).accepts(answer[-24:], client[:2], now)


UNUSUAL = {
    "signed": encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), [UDP], integrity_key=b"k"),
    "with SHA-256": allocate(UDP, (AttributeType.MESSAGE_INTEGRITY_SHA256, bytes(32))),
    "with FINGERPRINT": encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), [UDP], fingerprint=True),
    "another request": encode(Method.REFRESH, MessageClass.REQUEST, bytes(12), [UDP]),
    "a response": encode(Method.ALLOCATE, MessageClass.SUCCESS, bytes(12), [UDP]),
    "more than it says": allocate(UDP) + bytes(4),
    "less than it says": allocate(UDP, SOFTWARE)[:-4],
    "an attribute that is cut off": allocate(UDP)[:-8] + b"\0\x19\0\x14" + bytes(4),
    "very many attributes": allocate(*[SOFTWARE] * 17),
}


@pytest.mark.parametrize("data", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_the_control_sides(data: bytes) -> None:
    assert core().from_stranger(data, CLIENT, 0.0) == ("control",)


def test_who_has_an_allocation_asks_the_control_side() -> None:
    one = core()
    command = AddFlow(1, FiveTuple(Transport.UDP, CLIENT[:2], SERVER), ("198.51.100.1", 50000), user=b"", circles=None)
    one.add_stranger(command, CLIENT)
    assert one.from_stranger(allocate(UDP), CLIENT, 0.0) == ("control",)
    assert one.from_stranger(allocate(UDP), ("203.0.113.7", 4001), 0.0)[0] == "reply"


def test_a_realm_or_a_key_of_a_size_that_it_cannot_hold_is_the_control_sides() -> None:
    one = NativeCore(frozenset(), bytes(12), frozenset(), 0, 0)
    assert not one.set_challenge(KEY, b"r" * 129, PLENTY, PLENTY)
    assert not one.set_challenge(b"short", REALM, PLENTY, PLENTY)
    assert one.from_stranger(allocate(UDP), CLIENT, 0.0) == ("control",)


def test_a_source_has_its_share_and_others_theirs() -> None:
    one = core(rate_per_s=8)

    def answered(host: str, now: float, count: int = 100) -> int:
        ports = random.Random(1).sample(range(1024, 65536), count)  # noqa: S311 - ports
        address = [(host, port, 0, 0) if ":" in host else (host, port) for port in ports]
        return sum(one.from_stranger(allocate(UDP), client, now)[0] == "reply" for client in address)

    assert answered("203.0.113.7", 0.0) == 8 * BURST_S
    assert answered("203.0.113.8", 0.0) == 8 * BURST_S
    assert answered("203.0.113.7", 1.0) == 8
    assert answered("2001:4860:1:2::1", 0.0) == 8 * BURST_S
    assert answered("2001:4860:1:2:ffff::9", 0.0) == 0, "all of a /64 is one source"
    assert answered("2001:4860:1:3::1", 0.0) == 8 * BURST_S

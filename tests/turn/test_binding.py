"""Binding and answers to who proved nothing: as small as can be (RFC 8489 §2, §6.3)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import decode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode, parse
from tavern.turn.five_tuple import FiveTuple, Transport

if TYPE_CHECKING:
    from tests.turn.conftest import World

TRANSACTION = b"0123456789ab"
IPV4 = FiveTuple(Transport.UDP, ("203.0.113.7", 4000), ("198.51.100.1", 3478))
IPV6 = FiveTuple(Transport.UDP, ("2001:db8::7", 4000), ("2001:db8::1", 3478))


@pytest.mark.clause("8489 §2: Binding answers XOR-MAPPED-ADDRESS alone: 32 bytes (IPv6 44), 8 more with FINGERPRINT")
@pytest.mark.parametrize(
    ("five_tuple", "fingerprint", "size"), [(IPV4, False, 32), (IPV4, True, 40), (IPV6, False, 44), (IPV6, True, 52)]
)
def test_binding_answers_the_mapped_address_alone(
    world: World, five_tuple: FiveTuple, fingerprint: bool, size: int
) -> None:
    request = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, fingerprint=fingerprint)
    answer = world.receive(request, five_tuple)
    assert answer is not None
    assert len(answer) == size
    message = parse(answer)
    assert message.message_class is MessageClass.SUCCESS
    value = message.get(AttributeType.XOR_MAPPED_ADDRESS)
    assert value is not None
    host, port = five_tuple.client
    assert decode_xor_address(value, TRANSACTION) == (ip_address(host), port)


@pytest.mark.clause("8489 §14.2: Binding's answer, byte for byte")
def test_golden_binding_answer(world: World) -> None:
    answer = world.receive(bytes.fromhex("00010000 2112a442") + TRANSACTION, IPV4)
    assert answer is not None
    assert answer.hex() == "0101000c2112a442" + TRANSACTION.hex() + "0020000800012eb2ea12d545"


@pytest.mark.clause("8489 §2: Binding answers a link-local client")
def test_a_link_local_client_gets_its_address_without_the_zone(world: World) -> None:
    five_tuple = FiveTuple(Transport.UDP, ("fe80::7%eth0", 4000), ("fe80::1", 3478))
    answer = world.receive(encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION), five_tuple)
    assert answer is not None
    value = parse(answer).get(AttributeType.XOR_MAPPED_ADDRESS)
    assert value is not None
    assert decode_xor_address(value, TRANSACTION) == (ip_address("fe80::7"), 4000)


@pytest.mark.clause("8489 §6.3.1: Binding with an unknown required attribute -> 420, no phrase, no SOFTWARE")
def test_binding_with_unknown_required_attribute_gets_420_without_a_phrase(world: World) -> None:
    answer = world.receive(encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0x7F00, b"")]), IPV4)
    assert answer is not None
    message = parse(answer)
    assert message.get(AttributeType.ERROR_CODE) == b"\x00\x00\x04\x14"
    assert message.get(AttributeType.UNKNOWN_ATTRIBUTES) == b"\x7f\x00"
    assert len(answer) == 20 + 8 + 8


@pytest.mark.clause("8489 §14: unknown comprehension-optional attributes are ignored")
def test_binding_ignores_unknown_optional_attributes(world: World) -> None:
    answer = world.receive(encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0xFF00, b"x")]), IPV4)
    assert answer is not None
    assert len(answer) == 32


@pytest.mark.clause("8489 §6.3: indications with unknown attributes, responses and unknown methods are dropped")
@pytest.mark.parametrize(
    "data",
    [
        encode(Method.BINDING, MessageClass.INDICATION, TRANSACTION),
        encode(Method.BINDING, MessageClass.INDICATION, TRANSACTION, [(0x7F00, b"")]),
        encode(Method.BINDING, MessageClass.SUCCESS, TRANSACTION),
        encode(0x00A, MessageClass.REQUEST, TRANSACTION),  # Connect of RFC 6062
        encode(Method.DATA, MessageClass.REQUEST, TRANSACTION),
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_request_of_ours_is_dropped(world: World, data: bytes) -> None:
    assert world.receive(data, IPV4) is None


@pytest.mark.clause("8489 §9.2.4: a 401 is at most 60 bytes plus the padded realm, its nonce at most 24")
@pytest.mark.parametrize("method", [Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
def test_401_is_at_most_60_bytes_and_the_realm(world: World, method: Method) -> None:
    request = encode(method, MessageClass.REQUEST, TRANSACTION, [(AttributeType.LIFETIME, b"abc")], fingerprint=True)
    answer = world.receive(request, IPV4)
    assert answer is not None
    assert len(answer) <= 60 + 12  # "example.org", padded
    message = parse(answer)
    assert message.get(AttributeType.ERROR_CODE) == b"\x00\x00\x04\x01"
    assert message.get(AttributeType.REALM) == b"example.org"
    assert message.get(AttributeType.SOFTWARE) is None
    assert len(message.get(AttributeType.NONCE) or b"") == 24
    assert len(world.server.allocations) == 0


@pytest.mark.clause("8489 §9.2.4: 401s are limited, an owner's 438 is not")
def test_a_flood_of_forged_requests_does_not_end_an_allocation(world: World) -> None:
    """Its owner's 438 is not limited, though the flood came from the owner's very address."""
    client = world.client()
    client.credential = world.credential(lifetime_s=100_000)
    hour: Attribute = (AttributeType.LIFETIME, (3600).to_bytes(4, "big"))
    client.allocate(hour)
    world.tick(1800)
    assert client.error(Method.REFRESH, hour) == 0
    world.tick(1801)
    forged = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION)
    answered = [world.receive(forged, client.five_tuple) is not None for _ in range(257)]
    assert not answered[-1]
    for _ in range(300):
        assert client.error(Method.REFRESH) == 438


@pytest.mark.clause("8489 §9.2.4: 438s are limited per user")
def test_438_of_a_proven_user_is_limited_apart_from_401_and_from_other_users(world: World) -> None:
    bob, eve = world.client(4001, user="bob"), world.client(4002, user="eve")
    for client in (bob, eve):
        client.nonce = b"stale"
    forged = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION)
    assert [world.receive(forged, bob.five_tuple) is not None for _ in range(257)] == [True] * 256 + [False]
    answers = [bob.exchange(bob.encode(Method.ALLOCATE)) for _ in range(300)]
    assert [answer is not None for answer in answers] == [True] * 256 + [False] * 44
    assert eve.error(Method.ALLOCATE) == 438
    assert world.server.counters.suppressed == 45


@pytest.mark.clause("8489 §9.2.4: 401s are limited per source address (IPv6: per /64), 64 a second, burst 256")
def test_401s_are_limited_and_counted_per_source(world: World) -> None:
    def answered(host: str) -> int:
        five_tuple = FiveTuple(Transport.UDP, (host, 4000), IPV4.server)
        request = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION)
        return sum(world.receive(request, five_tuple) is not None for _ in range(300))

    assert answered("203.0.113.7") == 256
    assert world.server.counters.unauthenticated == 256
    assert world.server.counters.suppressed == 44
    assert answered("203.0.113.8") == 256
    world.tick(1)
    assert answered("203.0.113.7") == 64

"""Clauses that no one module holds: the order of Allocate's checks, what is ignored, what is not built on purpose."""

from __future__ import annotations

import os
import struct
from ipaddress import ip_address
from itertools import combinations
from typing import TYPE_CHECKING

import attrs
import pytest

from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode, parse
from tavern.turn.commands import BindChannel, SetPermission
from tavern.turn.five_tuple import Transport
from tests.turn.conftest import error_of

if TYPE_CHECKING:
    from tests.turn.conftest import World

PEER = "9.9.2.1"
UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
END: Attribute = (AttributeType.LIFETIME, bytes(4))
UNKNOWN: Attribute = (0x7F00, b"")
MOBILITY_TICKET = 0x8030
TURN_METHODS = [Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND]


def family(number: int) -> Attribute:
    return AttributeType.REQUESTED_ADDRESS_FAMILY, bytes([number, 0, 0, 0])


def additional(number: int) -> Attribute:
    return AttributeType.ADDITIONAL_ADDRESS_FAMILY, bytes([number, 0, 0, 0])


EVEN_AND_NEXT: Attribute = (AttributeType.EVEN_PORT, b"\x80")
TOKEN: Attribute = (AttributeType.RESERVATION_TOKEN, b"unknown?")

# What is wrong with an Allocate, in the order in which §7.2 looks at it. Some cannot come together: a transport that is
# missing and a wrong one; a token, which settles the family and the port, with what is asked of these beside it.
WRONG: list[tuple[str, tuple[Attribute, ...], int]] = [
    ("an unknown attribute", (UNKNOWN,), 420),
    ("the five-tuple is in use", (), 437),
    ("no transport", (), 400),
    ("TCP", ((AttributeType.REQUESTED_TRANSPORT, b"\x06\0\0\0"),), 442),
    ("a token and a port", (TOKEN, (AttributeType.EVEN_PORT, b"\0")), 400),
    ("an unknown token", (TOKEN,), 508),
    ("two ways to ask for a family", (family(2), additional(2)), 400),
    ("a family that nobody serves", (family(9),), 440),
    ("a pair for two families", (EVEN_AND_NEXT, additional(2)), 400),
    ("IPv4 twice", (additional(1),), 400),
    ("over quota", (), 486),
    ("no port left", (), 508),
]
NOT_TOGETHER = [
    {"no transport", "TCP"},
    {"a family that nobody serves", "a pair for two families"},
    {"a family that nobody serves", "IPv4 twice"},
    {"an unknown token", "a token and a port"},
    *({"an unknown token", name} for name, _, _ in WRONG[6:10]),
]


@pytest.mark.clause("8656 §7.2: Allocate's checks are in this order")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(first, second, id=f"{first[0]} before {second[0]}")
        for first, second in combinations(WRONG, 2)
        if {first[0], second[0]} not in NOT_TOGETHER
    ],
)
def test_of_two_things_wrong_the_first_decides(
    make_world: type[World],
    first: tuple[str, tuple[Attribute, ...], int],
    second: tuple[str, tuple[Attribute, ...], int],
) -> None:
    names = {first[0], second[0]}
    world = make_world(user_quota=1 if "over quota" in names else 100)
    client = world.client()
    if "the five-tuple is in use" in names:
        client.allocate()
    elif "over quota" in names:
        world.client(4100).allocate()
    if "no port left" in names:
        world.unbindable = set(range(50000, 50010))
    wrong = dict([*second[1], *first[1]])
    if not names & {"no transport", "TCP"}:
        wrong[UDP[0]] = UDP[1]
    assert client.error(Method.ALLOCATE, *wrong.items()) == first[2]


@pytest.mark.clause("8489 §6.3.1: unknown comprehension-required attribute -> 420 and UNKNOWN-ATTRIBUTES, no phrase")
@pytest.mark.parametrize("method", TURN_METHODS)
def test_420_names_what_is_unknown_without_a_phrase(world: World, method: Method) -> None:
    answer = world.client().request(method, UNKNOWN, (0x7F01, b"x"), UNKNOWN)
    assert answer.get(AttributeType.ERROR_CODE) == b"\x00\x00\x04\x14"
    assert answer.get(AttributeType.UNKNOWN_ATTRIBUTES) == b"\x7f\x00\x7f\x01"
    assert answer.get(AttributeType.SOFTWARE) is None


@pytest.mark.clause("8489 §9.2.4: who is not authenticated gets 401 and no 420")
def test_authentication_comes_before_unknown_attributes(world: World) -> None:
    data = encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12), [UNKNOWN])
    answer = world.client().exchange(data)
    assert answer is not None
    assert error_of(answer) == 401


@pytest.mark.clause("8489 §14: unknown comprehension-optional attributes are ignored")
@pytest.mark.parametrize("method", TURN_METHODS)
def test_unknown_optional_attributes_change_nothing(world: World, method: Method) -> None:
    plain, more = world.client(4000), world.client(4001)
    for client in (plain, more):
        if method != Method.ALLOCATE:
            client.allocate()
    assert plain.error(method, UDP) == more.error(method, UDP, (0xFF00, b"what?"), (0x8099, b""))


@pytest.mark.clause("8489 §14.5: attributes after MESSAGE-INTEGRITY are ignored, but -SHA256 and FINGERPRINT")
def test_what_follows_the_integrity_is_not_looked_at(world: World) -> None:
    """Who adds to a signed request on its way changes nothing: neither LIFETIME 0 nor an unknown attribute counts."""
    client = world.client()
    signed = client.encode(Method.ALLOCATE, UDP)
    tail = struct.pack(">HH4sHH", AttributeType.LIFETIME, 4, bytes(4), UNKNOWN[0], 0)
    data = signed[:2] + struct.pack(">H", len(signed) - 20 + len(tail)) + signed[4:] + tail
    answer = client.exchange(data)
    assert answer is not None
    assert answer.get(AttributeType.LIFETIME) == (600).to_bytes(4, "big")


@pytest.mark.clause("8489 §6.3.1: a retransmission (same 5-tuple and transaction id, within 40 s) gets the same answer")
@pytest.mark.parametrize("method", [Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
def test_a_retransmitted_permission_or_channel_is_not_refreshed(world: World, method: Method) -> None:
    client = world.client()
    client.allocate()
    number = (AttributeType.CHANNEL_NUMBER, b"\x40\0\0\0")
    peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(PEER), 5000, bytes(12)))
    request = client.encode(method, number, peer)
    first = world.receive(request, client.five_tuple)
    assert first is not None
    assert error_of(parse(first)) == 0
    commands = [one for one in world.commands if isinstance(one, SetPermission | BindChannel)]
    world.tick(39)
    assert world.receive(request, client.five_tuple) == first
    assert [one for one in world.commands if isinstance(one, SetPermission | BindChannel)] == commands


@pytest.mark.clause("8656 §11, §12: zero-length data passes both ways, in indications and over channels")
def test_zero_length_channel_data_passes_both_ways(world: World) -> None:
    client = world.client()
    client.allocate()
    assert client.bind(0x4000, PEER, 5000) == 0
    [flow] = world.forwarder
    up = world.forwarder.from_client(b"\x40\x00\x00\x00", client.five_tuple, world.now)
    assert up == (flow, b"", (PEER, 5000))
    assert world.forwarder.from_peer(flow, b"", (PEER, 5000), world.now) == (flow, b"\x40\x00\x00\x00", None)


@pytest.mark.clause("8656 §11, §12: zero-length data passes both ways, in indications and over channels")
def test_zero_length_indications_pass_both_ways(world: World) -> None:
    client = world.client()
    client.allocate()
    assert client.permit(PEER) == 0
    [flow] = world.forwarder
    down = world.forwarder.from_peer(flow, b"", (PEER, 5000), world.now)
    assert down is not None
    message = parse(down[1])
    assert message.get(AttributeType.DATA) == b""
    peer = message.get(AttributeType.XOR_PEER_ADDRESS)
    assert peer is not None
    attributes = [(AttributeType.XOR_PEER_ADDRESS, peer), (AttributeType.DATA, b"")]
    sent = encode(Method.SEND, MessageClass.INDICATION, message.transaction_id, attributes)
    assert world.forwarder.from_client(sent, client.five_tuple, world.now) == (flow, b"", (PEER, 5000))


# Not built on purpose


@pytest.mark.clause("6062: REQUESTED-TRANSPORT TCP -> 442 (no TCP allocations)")
def test_no_tcp_allocations(world: World) -> None:
    assert world.client().error(Method.ALLOCATE, (AttributeType.REQUESTED_TRANSPORT, b"\x06\0\0\0")) == 442


@pytest.mark.clause("6062: Connect and ConnectionBind are unknown methods (8489 §6.3: dropped)")
@pytest.mark.parametrize("method", [0x00A, 0x00B, 0x00C, 0x123])
def test_unknown_methods_are_dropped(world: World, method: int) -> None:
    client = world.client()
    client.allocate()
    assert client.exchange(client.encode(method)) is None
    assert world.server.counters.malformed == 1


@pytest.mark.clause("8016: MOBILITY-TICKET is ignored (405 is for servers that support and forbid it)")
def test_a_mobility_ticket_is_ignored(world: World) -> None:
    """§3.1 of RFC 8016: it is comprehension-optional, and a client sees from the answer without one that it has to
    allocate anew when its address changes."""
    client = world.client(4000)
    answer = client.request(Method.ALLOCATE, UDP, (MOBILITY_TICKET, b""))
    assert error_of(answer) == 0
    assert answer.get(MOBILITY_TICKET) is None
    assert client.error(Method.REFRESH, (MOBILITY_TICKET, b"")) == 0
    moved = world.client(4001)
    assert moved.error(Method.REFRESH, (MOBILITY_TICKET, b"whatever")) == 437
    assert len(world.server.allocations) == 1


@pytest.mark.clause("5780: CHANGE-REQUEST, PADDING and RESPONSE-PORT -> 420")
@pytest.mark.parametrize("kind", [0x0003, 0x0026, 0x0027])
def test_behaviour_discovery_is_unknown(world: World, kind: int) -> None:
    """A server that answered to where it is told would attack whoever is named."""
    data = encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12), [(kind, b"\0\0\0\6")])
    answer = world.client().exchange(data)
    assert answer is not None
    assert error_of(answer) == 420
    assert answer.get(AttributeType.UNKNOWN_ATTRIBUTES) == kind.to_bytes(2, "big")


@pytest.mark.clause("7635: ACCESS-TOKEN -> 420")
def test_access_tokens_are_unknown(world: World) -> None:
    assert world.client().error(Method.ALLOCATE, UDP, (0x001B, b"token")) == 420


@pytest.mark.clause("8489 §9.2.4: without MESSAGE-INTEGRITY -> 401, also with MESSAGE-INTEGRITY-SHA256")
def test_sha256_alone_is_no_integrity(world: World) -> None:
    """It is offered by a nonce that begins with obMatJos2 only, which ours do not."""
    client = world.client()
    client.encode(Method.ALLOCATE)
    assert client.nonce is not None
    assert not client.nonce.startswith(b"obMatJos2")
    attributes = [
        UDP,
        (AttributeType.USERNAME, client.credential.username.encode()),
        (AttributeType.REALM, b"example.org"),
        (AttributeType.NONCE, client.nonce),
        (AttributeType.MESSAGE_INTEGRITY_SHA256, bytes(32)),
    ]
    answer = client.exchange(encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12), attributes))
    assert answer is not None
    assert error_of(answer) == 401


@pytest.mark.clause("8656 §7.2: 5-tuples differ by transport; when a TCP client goes, its allocation goes")
def test_a_stream_that_ends_takes_its_dual_allocation_along(world: World) -> None:
    client = world.client()
    stream = attrs.evolve(client, five_tuple=attrs.evolve(client.five_tuple, transport=Transport.TCP))
    client.allocate()
    stream.allocate(additional(2))
    world.execute(world.server.client_gone(stream.five_tuple))
    [left] = world.server.allocations
    assert left.five_tuple == client.five_tuple
    assert sum(len(ports.taken) for ports in world.server.allocations.ports.values()) == 1

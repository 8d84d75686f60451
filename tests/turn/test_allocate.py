"""RFC 8656 §7, §8: Allocate's checks in their order, lifetimes, ports, retransmissions, Refresh."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import attrs
import pytest

from tavern.stun.attributes import AddressFamily, decode_lifetime, decode_xor_address
from tavern.stun.message import Attribute, AttributeType, Message, MessageClass, Method, encode
from tavern.turn.commands import AddFlow, RemoveFlow, SendToClient
from tavern.turn.five_tuple import Transport

if TYPE_CHECKING:
    from tests.turn.conftest import World

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
TCP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x06\x00\x00\x00")
DONT_FRAGMENT: Attribute = (AttributeType.DONT_FRAGMENT, b"")
RESERVED: Attribute = (AttributeType.RESERVATION_TOKEN, b"12345678")
EVEN: Attribute = (AttributeType.EVEN_PORT, b"\x00")
EVEN_AND_NEXT: Attribute = (AttributeType.EVEN_PORT, b"\x80")


def family(number: int) -> Attribute:
    return AttributeType.REQUESTED_ADDRESS_FAMILY, bytes([number, 0, 0, 0])


def lifetime(seconds: int) -> Attribute:
    return AttributeType.LIFETIME, seconds.to_bytes(4, "big")


def granted(answer: Message) -> int:
    value = answer.get(AttributeType.LIFETIME)
    assert value is not None
    return decode_lifetime(value)


@pytest.mark.clause("8656 §7.2: REQUESTED-TRANSPORT missing -> 400, not UDP -> 442; malformed -> 400")
@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ((), 400),
        (((AttributeType.REQUESTED_TRANSPORT, b"\x11"),), 400),
        ((TCP,), 442),
        ((TCP, DONT_FRAGMENT), 442),
        ((UDP, DONT_FRAGMENT), 0),
        ((UDP, RESERVED, family(9)), 400),
        ((UDP, RESERVED), 508),
        ((UDP, (0x7F00, b"")), 420),
        ((TCP, (0x7F00, b"")), 420),  # what is not known at all is judged first
        ((UDP, family(9)), 440),
        ((UDP, (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x01")), 400),
        ((UDP, (AttributeType.LIFETIME, b"")), 400),
        ((UDP, (AttributeType.EVEN_PORT, b"")), 400),
        ((UDP, (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02\0\0\0")), 0),
        ((UDP, (0xFF00, b"whatever")), 0),
    ],
)
def test_7_2_checks_in_their_order(world: World, attributes: tuple[Attribute, ...], code: int) -> None:
    client = world.client()
    assert client.error(Method.ALLOCATE, *attributes) == code
    assert len(world.server.allocations) == (code == 0)
    assert len(world.server.allocations.ports[AddressFamily.IPV4].taken) == (code == 0)


@pytest.mark.clause("8656 §7.2: 5-tuple in use -> 437")
def test_7_2_the_five_tuple_in_use_is_judged_first(world: World) -> None:
    client = world.client()
    client.allocate()
    assert client.error(Method.ALLOCATE, TCP) == 437


@pytest.mark.clause("8656 §7.2: 5-tuples differ by transport and local address")
def test_7_2_five_tuples_differ_by_transport_and_by_local_address(world: World) -> None:
    client = world.client()
    client.allocate()
    attrs.evolve(client, five_tuple=attrs.evolve(client.five_tuple, transport=Transport.TCP)).allocate()
    attrs.evolve(client, five_tuple=attrs.evolve(client.five_tuple, server=("198.51.100.2", 3478))).allocate()
    assert len(world.server.allocations) == 3


@pytest.mark.clause("8489 §6.3.1: 420 names the attributes and is signed")
def test_7_2_420_names_the_attributes_and_is_signed(world: World) -> None:
    client = world.client()
    answer = client.request(Method.ALLOCATE, UDP, DONT_FRAGMENT, (0x7F00, b""))
    assert answer.get(AttributeType.UNKNOWN_ATTRIBUTES) == b"\x7f\x00"
    assert answer.is_signed_with(client.key)


@pytest.mark.clause("8656 §7.2: the answer has XOR-RELAYED-ADDRESS, LIFETIME, XOR-MAPPED-ADDRESS")
def test_7_2_success_carries_relayed_and_mapped_address_and_lifetime(world: World) -> None:
    answer = world.client().request(Method.ALLOCATE, UDP)
    kinds = [kind for kind, _ in answer.attributes]
    assert kinds == [
        AttributeType.XOR_RELAYED_ADDRESS,
        AttributeType.LIFETIME,
        AttributeType.XOR_MAPPED_ADDRESS,
        AttributeType.MESSAGE_INTEGRITY,
    ]
    relayed = decode_xor_address(answer.attributes[0][1], answer.transaction_id)
    mapped = decode_xor_address(answer.attributes[2][1], answer.transaction_id)
    assert relayed == (ip_address("198.51.100.1"), world.opened[0])
    assert mapped == (ip_address("203.0.113.7"), 4000)


@pytest.mark.clause("8656 §7.2: the allocation works before its success is told")
def test_7_2_the_flow_is_added_before_the_client_hears_of_it(world: World) -> None:
    world.client().allocate()
    assert [type(command) for command in world.commands[-2:]] == [AddFlow, SendToClient]


@pytest.mark.clause("8656 §7.2: LIFETIME = max(600, min(asked, 3600))")
@pytest.mark.parametrize(
    ("asked", "given_s"), [(None, 600), (0, 600), (1, 600), (777, 777), (3600, 3600), (2**32 - 1, 3600)]
)
def test_7_2_lifetime_is_clamped(world: World, asked: int | None, given_s: int) -> None:
    attributes = () if asked is None else (lifetime(asked),)
    assert granted(world.client().request(Method.ALLOCATE, UDP, *attributes)) == given_s
    world.tick(given_s - 0.5)
    assert len(world.server.allocations) == 1
    world.tick(0.5)
    assert len(world.server.allocations) == 0
    assert isinstance(world.commands[-1], RemoveFlow)


@pytest.mark.clause("8656 §7.2: family not served -> 440 (absent means IPv4)")
def test_7_2_families_that_are_served(world: World, make_world: type[World]) -> None:
    assert world.client(4001).allocate()[0] == "198.51.100.1"
    assert world.client(4002).allocate(family(1))[0] == "198.51.100.1"
    assert world.client(4003).allocate(family(2))[0] == "2001:db8::1"
    only_4 = make_world(advertised_addresses=(ip_address("198.51.100.1"),))
    assert only_4.client().error(Method.ALLOCATE, UDP, family(2)) == 440
    only_6 = make_world(advertised_addresses=(ip_address("2001:db8::1"),))
    assert only_6.client().error(Method.ALLOCATE, UDP) == 440


@pytest.mark.clause("8656 §7.2: EVEN-PORT without R -> an even port, nothing reserved")
def test_7_2_even_ports_are_even(world: World) -> None:
    ports = [world.client(4000 + n).allocate(EVEN)[1] for n in range(5)]
    assert sorted(ports) == [50000, 50002, 50004, 50006, 50008]
    world.client(4100, user="eve").allocate()
    assert world.client(4101, user="eve").error(Method.ALLOCATE, UDP, EVEN) == 508


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_7_2_quota_486_and_it_comes_back(world: World) -> None:
    clients = [world.client(4000 + n) for n in range(5)]
    for client in clients:
        client.allocate()
    assert world.client(4100).error(Method.ALLOCATE, UDP) == 486
    world.client(4101, user="eve").allocate()
    assert clients[0].error(Method.REFRESH, lifetime(0)) == 0
    world.client(4102).allocate()


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_7_2_a_new_credential_is_no_new_quota(world: World) -> None:
    for n in range(5):
        world.tick(1)
        world.client(4000 + n).allocate()
    world.tick(1)
    assert world.client(4100).error(Method.ALLOCATE, UDP) == 486
    world.client(4101, "203.0.113.8").allocate()
    usernames = {allocation.username for allocation in world.server.allocations}
    assert len(usernames) == 6


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_7_2_a_username_without_an_id_has_a_quota_too(world: World) -> None:
    for n in range(5):
        world.client(4000 + n, user="").allocate()
    assert world.client(4100, user="").error(Method.ALLOCATE, UDP) == 486
    world.tick(1)
    world.client(4101, user="").allocate()  # by nothing but the username can they be told apart


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_7_2_a_quota_is_counted_by_ipv6_network(world: World) -> None:
    for n in range(5):
        world.client(4000, f"2a00::{n}").allocate()
    assert world.client(4000, "2a00::9").error(Method.ALLOCATE, UDP) == 486
    world.client(4000, "2a00:0:0:1::9").allocate()


@pytest.mark.clause("8656 §7.2: quota per address (IPv6: per /64) -> 486")
def test_7_2_an_address_has_a_quota_whatever_the_credentials_486(make_world: type[World]) -> None:
    world = make_world(address_quota=3)
    clients = [world.client(4000 + n, user=str(n)) for n in range(3)]
    for client in clients:
        client.allocate()
    assert world.client(4100, user="eve").error(Method.ALLOCATE, UDP) == 486
    world.client(4100, "203.0.113.8", user="0").allocate()
    assert clients[0].error(Method.REFRESH, lifetime(0)) == 0
    world.client(4101, user="eve").allocate()
    assert world.client(4102, user="eve").error(Method.ALLOCATE, UDP) == 486


@pytest.mark.clause("8656 §7.2: quota per address (IPv6: per /64) -> 486")
def test_7_2_an_addresss_quota_is_counted_by_ipv6_network(make_world: type[World]) -> None:
    world = make_world(address_quota=1)
    world.client(4000, "2a00::1", user="a").allocate()
    assert world.client(4000, "2a00::9", user="b").error(Method.ALLOCATE, UDP) == 486
    world.client(4000, "2a00:0:0:1::9", user="b").allocate()


@pytest.mark.clause("8656 §7.2: the operator's budget is spent -> 486")
def test_7_2_no_allocation_while_the_months_transfer_is_spent_486(world: World) -> None:
    client = world.client()
    client.allocate()
    world.execute(world.server.set_budget_spent(True))
    late = world.client(4001)
    assert late.error(Method.ALLOCATE, UDP) == 486
    assert client.error(Method.REFRESH) == 0
    assert client.permit("9.9.9.9") == 0
    world.execute(world.server.set_budget_spent(False))
    late.allocate()


def test_users_without_allocations_are_forgotten(world: World) -> None:
    for n in range(5):
        world.client(4000 + n, user=str(n)).allocate()
    world.tick(600)
    assert len(world.server.allocations._held) == len(world.server.allocations._held_at) == 0


@pytest.mark.clause("8656 §7.2: no port left -> 508")
def test_7_2_no_port_left_508_and_every_port_was_used(world: World) -> None:
    ports = {world.client(4000 + n, user=str(n)).allocate()[1] for n in range(10)}
    assert ports == set(range(50000, 50010))
    assert world.client(4100).error(Method.ALLOCATE, UDP) == 508


@pytest.mark.clause("8656 §7.2: no descriptor left -> 508")
def test_7_2_no_more_allocations_than_the_server_has_descriptors_for_508(make_world: type[World]) -> None:
    world = make_world(max_allocations=2)
    first = world.client(4000, user="a")
    first.allocate()
    world.client(4001, user="b").allocate()
    assert world.client(4002, user="c").error(Method.ALLOCATE, UDP) == 508
    assert first.error(Method.REFRESH, lifetime(0)) == 0
    world.client(4003, user="c").allocate()


@pytest.mark.clause("8656 §7.2: a port that cannot be bound is skipped")
def test_7_2_a_port_that_cannot_be_bound_is_skipped(world: World) -> None:
    world.unbindable = set(range(50000, 50007))
    assert world.client().allocate()[1] in {50007, 50008, 50009}
    assert len(set(world.opened)) == len(world.opened)
    assert len(world.server.allocations.ports[AddressFamily.IPV4].taken) == 1


@pytest.mark.clause("8656 §7.2: no port left -> 508")
def test_7_2_no_port_that_can_be_bound_508_after_bounded_tries(world: World) -> None:
    world.unbindable = set(range(50000, 50010))
    assert world.client().error(Method.ALLOCATE, UDP) == 508
    assert len(world.opened) == 8
    assert not world.server.allocations.ports[AddressFamily.IPV4].taken


@pytest.mark.clause("8656 §7.2: a retransmitted Allocate gets the same answer and never 437")
def test_a_retransmitted_allocate_gets_the_same_answer_and_never_437(world: World) -> None:
    client = world.client()
    request = client.encode(Method.ALLOCATE, UDP)
    first = world.receive(request, client.five_tuple)
    for seconds in (1, 38, 100):
        world.tick(seconds)
        assert world.receive(request, client.five_tuple) == first
    assert len(world.server.allocations) == 1


@pytest.mark.clause("8656 §7.2: a retransmission is the owner's only if it is signed")
def test_only_the_owner_gets_the_answer_to_a_retransmitted_allocate(world: World) -> None:
    """Who saw the transaction id is not told the rest."""
    client = world.client()
    request = client.encode(Method.ALLOCATE, UDP)
    world.receive(request, client.five_tuple)
    transaction_id = request[8:20]
    answer = client.exchange(encode(Method.ALLOCATE, MessageClass.REQUEST, transaction_id, [UDP]))
    assert answer is not None
    assert answer.get(AttributeType.ERROR_CODE) == b"\x00\x00\x04\x01"


@pytest.mark.clause("8489 §6.3.1: a retransmission (same 5-tuple and transaction id, within 40 s) gets the same answer")
@pytest.mark.parametrize("more", [(), ((AttributeType.SOFTWARE, bytes(1900)),)], ids=["usual", "largest"])
def test_a_retransmitted_request_gets_the_same_answer_for_40_s(world: World, more: tuple[Attribute, ...]) -> None:
    client = world.client()
    client.allocate()
    request = client.encode(Method.REFRESH, lifetime(0), *more)
    assert len(request) <= 2048
    first = world.receive(request, client.five_tuple)
    assert first is not None
    world.tick(39)
    assert world.receive(request, client.five_tuple) == first
    world.tick(2)
    late = world.receive(request, client.five_tuple)
    assert late is not None
    assert late[:2] == b"\x01\x14"  # Refresh error: 437


@pytest.mark.clause("8489 §6.3.1: a retransmission (same 5-tuple and transaction id, within 40 s) gets the same answer")
def test_a_retransmitted_refused_allocate_gets_the_same_answer(world: World) -> None:
    world.unbindable = set(range(50000, 50010))
    client = world.client()
    request = client.encode(Method.ALLOCATE, UDP)
    first = world.receive(request, client.five_tuple)
    world.unbindable = set()
    assert world.receive(request, client.five_tuple) == first
    assert len(world.server.allocations) == 0


@pytest.mark.clause("8489 §6.3.1: a retransmission (same 5-tuple and transaction id, within 40 s) gets the same answer")
def test_the_same_transaction_id_from_elsewhere_is_another_request(world: World) -> None:
    client = world.client()
    request = client.encode(Method.ALLOCATE, UDP)
    world.receive(request, client.five_tuple)
    other = attrs.evolve(client.five_tuple, client=("203.0.113.7", 4001))
    answer = world.receive(request, other)
    assert answer is not None
    assert answer[:2] == b"\x01\x13"  # its nonce is another address's
    assert len(world.server.allocations) == 1


@pytest.mark.clause("8656 §8: Refresh sets the time to expiry from now")
def test_8_refresh_extends_from_now(world: World) -> None:
    client = world.client()
    client.allocate()
    world.tick(500)
    assert granted(client.request(Method.REFRESH, lifetime(1000))) == 1000
    world.tick(999)
    assert len(world.server.allocations) == 1
    world.tick(1)
    assert len(world.server.allocations) == 0


@pytest.mark.clause("8656 §8: Refresh can shorten")
def test_8_refresh_can_shorten(world: World) -> None:
    client = world.client()
    client.allocate(lifetime(3600))
    assert granted(client.request(Method.REFRESH, lifetime(1))) == 600
    world.tick(600)
    assert len(world.server.allocations) == 0


@pytest.mark.clause("8656 §8: LIFETIME 0 deletes")
def test_8_lifetime_0_deletes_and_frees_the_port(world: World) -> None:
    client = world.client()
    client.allocate()
    assert granted(client.request(Method.REFRESH, lifetime(0))) == 0
    assert [type(command) for command in world.commands[-2:]] == [RemoveFlow, SendToClient]
    assert not world.server.allocations.ports[AddressFamily.IPV4].taken
    assert client.error(Method.REFRESH, lifetime(0)) == 437
    client.allocate()


@pytest.mark.clause("8656 §8: family that differs -> 443")
@pytest.mark.parametrize(("attribute", "code"), [(family(1), 0), (family(2), 443), (family(7), 443)])
def test_8_refresh_with_a_family(world: World, attribute: Attribute, code: int) -> None:
    client = world.client()
    client.allocate()
    assert client.error(Method.REFRESH, attribute) == code


@pytest.mark.clause("8656 §8, §9, §12: no allocation -> 437, other user -> 441")
@pytest.mark.parametrize("method", [Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
def test_no_allocation_437_and_another_user_441(world: World, method: Method) -> None:
    client = world.client()
    assert client.error(method) == 437
    client.allocate()
    assert attrs.evolve(client, credential=world.credential("eve")).error(method) == 441


@pytest.mark.clause("8656 §8: an expired allocation is gone -> 437")
def test_an_expired_allocation_is_gone_before_the_timer_fires(world: World) -> None:
    client = world.client()
    client.allocate()
    world.now += 600
    world.unix_time_s += 10
    assert client.error(Method.REFRESH) == 437
    assert any(isinstance(command, RemoveFlow) for command in world.commands)


@pytest.mark.clause("8489 §14.7: FINGERPRINT in the answer if it came in the request")
def test_answers_are_success_or_error_with_fingerprint_when_asked(world: World) -> None:
    client = world.client()
    answer = client.exchange(client.encode(Method.ALLOCATE, UDP, fingerprint=True))
    assert answer is not None
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.get(AttributeType.FINGERPRINT) is not None


def test_nothing_is_kept_of_an_allocate_that_is_answered(world: World) -> None:
    world.unbindable = set(range(50000, 50005))
    client = world.client()
    client.allocate()
    world.unbindable = set(range(50000, 50010))
    assert world.client(4001).error(Method.ALLOCATE, UDP) == 508
    assert not world.server._handler.allocate._pending

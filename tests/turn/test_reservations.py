"""RFC 8656 §7.2: EVEN-PORT with R reserves the next port, RESERVATION-TOKEN uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tavern.stun.attributes import AddressFamily, decode_xor_address
from tavern.stun.message import Attribute, AttributeType, Message, Method
from tests.turn.conftest import error_of

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
EVEN: Attribute = (AttributeType.EVEN_PORT, b"\x00")
EVEN_AND_NEXT: Attribute = (AttributeType.EVEN_PORT, b"\x80")
IPV6: Attribute = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x02\x00\x00\x00")
BOTH: Attribute = (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02\x00\x00\x00")
END: Attribute = (AttributeType.LIFETIME, bytes(4))


def token(value: bytes) -> Attribute:
    return AttributeType.RESERVATION_TOKEN, value


def reserve(client: Client, *attributes: Attribute) -> tuple[int, Attribute]:
    """The port that the client got, and the token of the next one."""
    answer = client.request(Method.ALLOCATE, UDP, EVEN_AND_NEXT, *attributes)
    assert error_of(answer) == 0
    value = answer.get(AttributeType.RESERVATION_TOKEN)
    assert value is not None
    assert len(value) == 8
    return port_in(answer), token(value)


def port_in(answer: Message) -> int:
    value = answer.get(AttributeType.XOR_RELAYED_ADDRESS)
    assert value is not None
    return decode_xor_address(value, answer.transaction_id)[1]


def taken(world: World, family: AddressFamily = AddressFamily.IPV4) -> frozenset[int]:
    return world.server.allocations.ports[family].taken


@pytest.mark.clause("8656 §7.2: EVEN-PORT with R -> an even port, the next one reserved, and RESERVATION-TOKEN")
@pytest.mark.parametrize("attributes", [(), (IPV6,)], ids=["IPv4", "IPv6"])
def test_a_pair_is_an_even_port_and_the_next_one(world: World, attributes: tuple[Attribute, ...]) -> None:
    port, reserved = reserve(world.client(4000), *attributes)
    assert port % 2 == 0
    answer = world.client(4001).request(Method.ALLOCATE, UDP, reserved)
    assert port_in(answer) == port + 1
    relayed = [host for one in world.server.allocations for host in one.relayed]
    assert relayed == [AddressFamily.IPV6 if attributes else AddressFamily.IPV4] * 2
    assert answer.get(AttributeType.RESERVATION_TOKEN) is None


@pytest.mark.clause("8656 §7.2: EVEN-PORT without R -> an even port, nothing reserved")
def test_without_r_nothing_is_reserved(world: World) -> None:
    answer = world.client().request(Method.ALLOCATE, UDP, EVEN)
    assert answer.get(AttributeType.RESERVATION_TOKEN) is None
    assert taken(world) == {port_in(answer)}


@pytest.mark.clause("8656 §7.2: RESERVATION-TOKEN with EVEN-PORT or a family attribute -> 400")
@pytest.mark.parametrize("other", [EVEN, EVEN_AND_NEXT, IPV6, BOTH])
def test_a_token_beside_what_it_decides_already_is_400(world: World, other: Attribute) -> None:
    port, reserved = reserve(world.client(4000))
    assert world.client(4001).error(Method.ALLOCATE, UDP, reserved, other) == 400
    assert world.client(4001).error(Method.ALLOCATE, UDP, token(b"unknown?"), other) == 400
    assert port_in(world.client(4001).request(Method.ALLOCATE, UDP, reserved)) == port + 1


@pytest.mark.clause("8656 §7.2: unknown RESERVATION-TOKEN -> 508")
def test_unknown_used_and_foreign_tokens_are_508(world: World) -> None:
    assert world.client().error(Method.ALLOCATE, UDP, token(b"12345678")) == 508
    _, reserved = reserve(world.client(4000))
    assert world.client(4001, user="eve").error(Method.ALLOCATE, UDP, reserved) == 508
    assert world.client(4001, "203.0.113.8").error(Method.ALLOCATE, UDP, reserved) == 508
    assert world.client(4001).error(Method.ALLOCATE, UDP, reserved) == 0
    assert world.client(4002).error(Method.ALLOCATE, UDP, reserved) == 508


@pytest.mark.clause("8656 §7.2: a malformed RESERVATION-TOKEN -> 400")
def test_a_token_that_is_not_8_bytes_is_400(world: World) -> None:
    assert world.client().error(Method.ALLOCATE, UDP, token(b"1234567")) == 400


def test_a_reservation_counts_for_its_addresss_quota_whoever_asks_486(make_world: type[World]) -> None:
    world = make_world(address_quota=3)
    _, reserved = reserve(world.client(4000, user="a"))
    assert world.client(4001, user="b").error(Method.ALLOCATE, UDP, EVEN_AND_NEXT) == 486
    assert world.client(4001, user="b").error(Method.ALLOCATE, UDP) == 0
    assert world.client(4002, user="c").error(Method.ALLOCATE, UDP) == 486
    assert world.client(4003, user="a").error(Method.ALLOCATE, UDP, reserved) == 0
    assert world.client(4002, user="c").error(Method.ALLOCATE, UDP) == 486
    world.tick(600)
    assert not world.server.allocations.reservations._held_at
    assert world.client(4002, user="c").error(Method.ALLOCATE, UDP) == 0


@pytest.mark.clause("8656 §7.2: a reservation is kept 30 s")
def test_a_reservation_is_kept_30_s_and_its_port_is_free_then(world: World) -> None:
    client = world.client(4000)
    port, reserved = reserve(client)
    assert client.error(Method.REFRESH, END) == 0
    world.tick(29.5)
    assert taken(world) == {port + 1}
    assert world.server.next_deadline() == world.now + 0.5
    world.tick(0.5)
    assert taken(world) == frozenset()
    assert world.server.next_deadline() is None
    assert world.client(4001).error(Method.ALLOCATE, UDP, reserved) == 508


def test_a_reservation_expires_before_the_timer_fires(world: World) -> None:
    _, reserved = reserve(world.client(4000))
    late = world.client(4001)
    world.now += 30
    assert late.error(Method.ALLOCATE, UDP, reserved) == 508


@pytest.mark.clause("8656 §7.2: a retransmitted Allocate gets the same token, or the same port for it")
def test_retransmissions_reserve_once_and_use_once(world: World) -> None:
    first, second = world.client(4000), world.client(4001)
    request = first.encode(Method.ALLOCATE, UDP, EVEN_AND_NEXT)
    answer = first.exchange(request)
    assert answer is not None
    assert world.receive(request, first.five_tuple) == answer.raw
    assert len(taken(world)) == 2
    value = answer.get(AttributeType.RESERVATION_TOKEN)
    assert value is not None
    request = second.encode(Method.ALLOCATE, UDP, token(value))
    used = world.receive(request, second.five_tuple)
    assert used is not None
    assert world.receive(request, second.five_tuple) == used
    assert len(taken(world)) == 2


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_reserving_and_leaving_again_and_again_does_not_take_every_port(world: World) -> None:
    """The attack: Allocate with R and Refresh 0 in a loop would reserve the whole range."""
    greedy = world.client(4000)
    for _ in range(4):
        reserve(greedy)
        assert greedy.error(Method.REFRESH, END) == 0
    assert greedy.error(Method.ALLOCATE, UDP, EVEN_AND_NEXT) == 486, "of 5, four are reserved and two are needed"
    assert len(taken(world)) == 4
    greedy.allocate()
    assert world.client(4001).error(Method.ALLOCATE, UDP) == 486
    world.client(4002, user="eve").allocate()
    world.tick(30)
    assert world.client(4001).error(Method.ALLOCATE, UDP) == 0


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_a_reservation_is_used_at_the_limit_of_the_quota(world: World) -> None:
    """Its port was counted when it was reserved."""
    _, reserved = reserve(world.client(4000))
    for n in range(3):
        world.client(4001 + n).allocate()
    assert world.client(4010).error(Method.ALLOCATE, UDP) == 486
    assert world.client(4010).error(Method.ALLOCATE, UDP, reserved) == 0
    assert world.server.allocations.held_by((b"bob", "203.0.113.7")) == 5


@pytest.mark.clause("8656 §7.2: no port left -> 508")
def test_reserved_ports_count_for_the_limit_of_all(make_world: type[World]) -> None:
    world = make_world(max_allocations=3)
    _, reserved = reserve(world.client(4000, user="a"))
    assert world.client(4001, user="b").error(Method.ALLOCATE, UDP, EVEN_AND_NEXT) == 508
    world.client(4001, user="b").allocate()
    assert world.client(4002, user="c").error(Method.ALLOCATE, UDP) == 508
    assert world.client(4003, user="a").error(Method.ALLOCATE, UDP, reserved) == 0


@pytest.mark.clause("8656 §7.2: EVEN-PORT with R and no two free ports -> 508")
def test_no_two_ports_are_left(world: World) -> None:
    for n in range(5):
        world.client(4000 + n).allocate(EVEN)
    assert world.client(4100, user="eve").error(Method.ALLOCATE, UDP, EVEN_AND_NEXT) == 508
    assert len(taken(world)) == 5


@pytest.mark.clause("8656 §7.2: a port that cannot be bound is skipped")
def test_pairs_whose_even_port_cannot_be_bound_are_skipped_and_free_again(world: World) -> None:
    world.unbindable = {50000, 50002, 50004}
    port, _ = reserve(world.client(4000))
    assert taken(world) == {port, port + 1}
    assert port in {50006, 50008}
    world.unbindable = set(range(50000, 50010))
    assert world.client(4001).error(Method.ALLOCATE, UDP, EVEN_AND_NEXT) == 508
    assert taken(world) == {port, port + 1}


@pytest.mark.clause("8656 §7.2: a reserved port that is not available any more -> 508")
def test_a_reserved_port_that_cannot_be_bound_any_more_is_508_and_free(world: World) -> None:
    port, reserved = reserve(world.client(4000))
    world.unbindable = {port + 1}
    assert world.client(4001).error(Method.ALLOCATE, UDP, reserved) == 508
    assert taken(world) == {port}


def test_tokens_are_random_and_each_has_its_port(world: World) -> None:
    pairs = [reserve(world.client(4000 + n, user=str(n))) for n in range(5)]
    assert len({value for _, (_, value) in pairs}) == 5
    for n, (port, reserved) in enumerate(pairs):
        assert port_in(world.client(5000 + n, user=str(n)).request(Method.ALLOCATE, UDP, reserved)) == port + 1
    assert len(world.server.allocations.reservations) == 0


def test_a_session_that_ends_frees_its_reserved_ports(world: World) -> None:
    session = world.server.closed.open_session("9.9.1.1")
    reserve(world.client(4000, "9.9.1.1", user=session))
    assert len(taken(world)) == 2
    world.execute(world.server.closed.revoke_session(session))
    assert taken(world) == frozenset()
    assert len(world.server.allocations.reservations) == 0


def test_a_reservation_is_not_used_by_a_client_that_is_its_own_relay_port(make_world: type[World]) -> None:
    """A client on this machine at the reserved port would be the relay's own socket."""
    world = make_world()
    port, reserved = reserve(world.client(4000, "198.51.100.1"))
    client = attrs.evolve(world.client(port + 1, "198.51.100.1"))
    assert client.error(Method.ALLOCATE, UDP, reserved) == 508


def test_a_reservation_counts_for_the_address_that_uses_it(make_world: type[World]) -> None:
    """A session may use its token from another address, whose quota holds for it as for all."""
    world = make_world(address_quota=2, user_quota=10)
    session = world.server.closed.open_session("9.9.1.1")
    _, reserved = reserve(world.client(4000, "9.9.1.1", user=session))
    for n in range(2):
        world.client(5000 + n, "9.9.2.2", user=str(n)).allocate()
    elsewhere = world.client(5002, "9.9.2.2", user=session)
    assert elsewhere.error(Method.ALLOCATE, UDP, reserved) == 486
    assert world.client(4001, "9.9.1.1", user=session).error(Method.ALLOCATE, UDP, reserved) == 0


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_of_two_reservations_one_ends_and_the_other_counts_on(make_world: type[World]) -> None:
    world = make_world(user_quota=4)
    for number in range(2):
        reserve(world.client(4000 + number))
        world.tick(20)
    assert world.client(4003).error(Method.ALLOCATE, UDP, EVEN_AND_NEXT) == 486
    assert world.client(4004).error(Method.ALLOCATE, UDP) == 0
    assert world.client(4005).error(Method.ALLOCATE, UDP) == 486


def test_nothing_is_kept_of_reservations_that_are_gone(world: World) -> None:
    reserve(world.client())
    world.tick(30)
    reservations = world.server.allocations.reservations
    assert not reservations._by_token
    assert not reservations._held
    assert not reservations._held_at
    assert not reservations._by_owner

"""Shared relay ports: who gets which, whose an exact peer is, and how far the closed relay reaches there."""

from __future__ import annotations

import os
import struct
from collections import Counter
from ipaddress import ip_address, ip_network
from random import Random
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import decode_xor_address, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.commands import BindChannel, LearnPeer, OpenRelaySocket, RevokePermission, SetPermission
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.shared_ports import SharedPorts, SharedPortsMode, shared_range
from tests.turn.shared import check

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

RELAY, RELAY_6 = "198.51.100.1", "2001:db8::1"
PEER = "9.9.2.1"
ONE, OTHER = (PEER, 5000), (PEER, 5001)
NEVER, ALWAYS, AUTO = SharedPortsMode.NEVER, SharedPortsMode.ALWAYS, SharedPortsMode.AUTO
UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
EVEN = (AttributeType.EVEN_PORT, b"\x00")
PAIR = (AttributeType.EVEN_PORT, b"\x80")
BOTH = (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\2\0\0\0")


@pytest.fixture
def two_ports(make_world: type[World]) -> World:
    """All share 50000 and 50001."""
    return make_world(shared_ports=ALWAYS, max_relay_port=50001, user_quota=100)


@pytest.fixture
def one_port(make_world: type[World]) -> World:
    return make_world(shared_ports=ALWAYS, max_relay_port=50000, user_quota=100)


def clients(world: World, *users: str) -> list[Client]:
    return [world.client(4000 + index, user=user) for index, user in enumerate(users)]


def send(world: World, client: Client, payload: bytes, host: str, port: int) -> object:
    """Sends it in an indication; what becomes of it."""
    transaction_id = os.urandom(12)
    peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction_id))
    data = encode(Method.SEND, MessageClass.INDICATION, transaction_id, [peer, (AttributeType.DATA, payload)])
    return world.forwarder.from_client(data, client.five_tuple, world.now)


def arrives(world: World, peer: tuple[str, int], at: int = 50000, payload: bytes = b"media") -> int | None:
    """The client's port to whom it goes."""
    output = world.forwarder.from_shared((RELAY, at), payload, peer, world.now)
    return None if output is None else int(output[0].handle)


# Which ports


@pytest.mark.clause("Shared ports: where ports of their own are the rule, the last quarter of the range is shared")
@pytest.mark.parametrize(
    ("mode", "first", "last", "shared"),
    [
        (NEVER, 50000, 50009, []),
        (ALWAYS, 50000, 50009, list(range(50000, 50010))),
        (ALWAYS, 49152, 65535, list(range(65472, 65536))),
        (AUTO, 50000, 50009, [50008, 50009]),
        (AUTO, 49152, 49252, list(range(49228, 49253))),
        (AUTO, 49152, 65535, list(range(65472, 65536))),
        (AUTO, 50000, 50002, [50002]),
        (AUTO, 50000, 50000, [50000]),
    ],
)
def test_which_ports_are_shared(mode: SharedPortsMode, first: int, last: int, shared: list[int]) -> None:
    assert list(shared_range(mode, first, last)) == shared


@pytest.mark.clause("Shared ports: an allocation has a port of its own (8656 §5) while there is one")
def test_auto_uses_ports_of_their_own_first(make_world: type[World]) -> None:
    world = make_world(shared_ports=AUTO, max_relay_port=50003, user_quota=100)
    relayed = [client.allocate()[1] for client in clients(world, *["bob"] * 8)]
    assert sorted(relayed[:3]) == [50000, 50001, 50002]
    assert relayed[3:] == [50003] * 5
    assert sorted(world.opened) == [50000, 50001, 50002]


def test_a_port_of_its_own_that_is_free_again_comes_first_again(make_world: type[World]) -> None:
    world = make_world(shared_ports=AUTO, max_relay_port=50003)
    one, two, three, four, five = clients(world, *["bob"] * 5)
    for client in (one, two, three, four):
        client.allocate()
    one.error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4)))
    assert five.allocate()[1] != 50003


@pytest.mark.clause("Shared ports: no 508 while a shared port has room")
def test_auto_shares_when_other_programs_hold_the_ports_or_descriptors_end(make_world: type[World]) -> None:
    world = make_world(shared_ports=AUTO, max_relay_port=50003)
    world.unbindable = {50000, 50001, 50002}
    one, two, three = clients(world, "bob", "bob", "bob")
    assert one.allocate() == (RELAY, 50003)
    world.unbindable = set()
    world = make_world(shared_ports=AUTO, max_relay_port=50003, max_allocations=1)
    one, two, three = clients(world, "bob", "bob", "bob")
    assert one.allocate()[1] != 50003
    assert two.allocate() == three.allocate() == (RELAY, 50003)


def test_a_single_port_is_shared_and_there_are_no_others(make_world: type[World]) -> None:
    world = make_world(shared_ports=AUTO, max_relay_port=50000)
    for client in clients(world, "bob", "eve", "bob"):
        assert client.allocate() == (RELAY, 50000)
    assert world.opened == []


def test_always_needs_no_socket_and_is_answered_at_once(two_ports: World) -> None:
    [client] = clients(two_ports, "bob")
    assert client.allocate()[1] in (50000, 50001)
    assert two_ports.opened == []
    assert not any(isinstance(one, OpenRelaySocket) for one in two_ports.commands)


def test_shared_allocations_have_a_limit_of_their_own(make_world: type[World]) -> None:
    world = make_world(shared_ports=ALWAYS, max_allocations=0, max_shared_allocations=3)
    people = clients(world, *["bob"] * 4)
    for client in people[:3]:
        client.allocate()
    assert people[3].error(Method.ALLOCATE, UDP) == 508
    people[0].error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4)))
    people[3].allocate()


def test_shared_allocations_count_for_quotas(make_world: type[World]) -> None:
    world = make_world(shared_ports=ALWAYS, user_quota=2)
    people = clients(world, *["bob"] * 3)
    people[0].allocate()
    people[1].allocate()
    assert people[2].error(Method.ALLOCATE, UDP) == 486


@pytest.mark.clause("Shared ports: EVEN-PORT -> 508, unless a port of one's own is free")
@pytest.mark.parametrize("asked", [EVEN, PAIR])
def test_even_ports_are_not_shared(make_world: type[World], asked: Attribute) -> None:
    world = make_world(shared_ports=ALWAYS)
    assert clients(world, "bob")[0].error(Method.ALLOCATE, UDP, asked) == 508
    world = make_world(shared_ports=AUTO, max_relay_port=50003)
    one, two, three = clients(world, "bob", "bob", "bob")
    assert one.allocate(asked)[1] in (50000, 50002)
    two.allocate(EVEN)
    assert three.error(Method.ALLOCATE, UDP, asked) == 508


def test_a_reserved_port_is_its_own(make_world: type[World]) -> None:
    world = make_world(shared_ports=AUTO, max_relay_port=50003)
    one, two = clients(world, "bob", "bob")
    answer = one.request(Method.ALLOCATE, UDP, PAIR)
    token = answer.get(AttributeType.RESERVATION_TOKEN)
    assert token is not None
    assert two.allocate((AttributeType.RESERVATION_TOKEN, token)) == (RELAY, 50001)


def test_a_port_that_cannot_be_bound_is_nobodys(make_world: type[World]) -> None:
    world = make_world(shared_ports=ALWAYS, max_relay_port=50001)
    world.server.shared_failed((RELAY, 50000))
    assert (RELAY, 50000) not in world.server.shared_addresses
    assert {client.allocate()[1] for client in clients(world, *["bob"] * 5)} == {50001}
    world.server.shared_failed((RELAY_6, 50000))
    world.server.shared_failed((RELAY_6, 50001))
    six = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")
    assert world.client(4100, user="eve").error(Method.ALLOCATE, UDP, six) == 508


def test_dual_allocations_share_in_both_families(two_ports: World) -> None:
    client = two_ports.client()
    answer = client.request(Method.ALLOCATE, UDP, BOTH)
    values = answer.get_all(AttributeType.XOR_RELAYED_ADDRESS)
    relayed = [decode_xor_address(value, answer.transaction_id) for value in values]
    assert [str(host) for host, _ in relayed] == [RELAY, RELAY_6]
    assert two_ports.server.allocations.shared_count == 2
    client.error(Method.REFRESH, (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\1\0\0\0"), lifetime(0))
    assert two_ports.server.allocations.shared_count == 1
    client.error(Method.REFRESH, lifetime(0))
    assert two_ports.server.allocations.shared_count == 0


def test_half_of_a_dual_allocation_may_be_shared(make_world: type[World]) -> None:
    world = make_world(shared_ports=AUTO, max_relay_port=50003, max_allocations=1)
    client = world.client()
    answer = client.request(Method.ALLOCATE, UDP, BOTH)
    values = answer.get_all(AttributeType.XOR_RELAYED_ADDRESS)
    (_, four), (_, six) = (decode_xor_address(value, answer.transaction_id) for value in values)
    assert four != 50003
    assert six == 50003


def lifetime(seconds: int) -> Attribute:
    return AttributeType.LIFETIME, seconds.to_bytes(4, "big")


# Who gets which


@pytest.mark.clause("Shared ports: never two allocations of one session on a port while another one has none of it")
def test_one_session_has_as_many_ports_as_there_are(make_world: type[World]) -> None:
    world = make_world(shared_ports=ALWAYS, max_relay_port=50003, user_quota=100)
    for index in range(40):
        world.client(5000 + index, user=f"other {index}").allocate()
    people = clients(world, *["bob"] * 9)
    relayed = [client.allocate()[1] for client in people]
    assert sorted(relayed[:4]) == sorted(relayed[4:8]) == [50000, 50001, 50002, 50003]
    client = people[relayed.index(50002)]
    for again in people[8:]:
        again.error(Method.REFRESH, lifetime(0))
    client.error(Method.REFRESH, lifetime(0))
    assert world.server.allocations.shared_count == 47


def test_sessions_are_told_apart_by_their_credentials(make_world: type[World]) -> None:
    world = make_world(shared_ports=ALWAYS, max_relay_port=50002)
    session = world.server.closed.open_session("203.0.113.7")
    relayed = []
    for port in range(3):
        client = world.client(4000 + port, user=session)
        client.credential = world.credential(session, 600 + port)
        relayed.append(client.allocate()[1])
    assert len(set(relayed)) == 3


def test_ports_fill_evenly_and_at_random() -> None:
    ports = SharedPorts(RELAY, range(50000, 50010), Random(1))  # noqa: S311
    taken = [ports.take(f"session {n}", owned=True, avoid=lambda _: False) for n in range(100)]
    numbers = [port.number for port in taken if port is not None]
    assert set(Counter(numbers).values()) == {10}
    assert numbers[:10] != sorted(numbers[:10])
    for n, port in enumerate(taken):
        assert port is not None
        ports.leave(port, f"session {n}", owned=True)
        assert f"session {n}" not in port.held
    assert ports.count == 0


def test_the_port_that_a_client_on_this_machine_has_itself_is_avoided(two_ports: World) -> None:
    two_ports.server.set_local_addresses(frozenset({ip_address("203.0.113.7")}))
    for _ in range(10):
        client = two_ports.client(50001)
        # From a shared port of ours no request is taken at all; TCP clients may have the number.
        client.five_tuple = FiveTuple(Transport.TCP, ("203.0.113.7", 50001), client.five_tuple.server)
        assert client.allocate() == (RELAY, 50000)
        client.error(Method.REFRESH, lifetime(0))


@pytest.mark.clause("Shared ports: a relay socket of ours is nobody's client, in use or not")
def test_every_shared_port_is_a_relay_socket_of_ours(two_ports: World) -> None:
    client = two_ports.client(50001, RELAY)
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12), [UDP])
    assert two_ports.receive(request, client.five_tuple) is None
    assert two_ports.receive(request, two_ports.client(50002, RELAY).five_tuple) is not None


# Whose an exact peer is


@pytest.mark.clause("Shared ports: an exact peer that another allocation on the port owns -> 403, and nothing changes")
@pytest.mark.parametrize("first", ["permission", "channel"])
@pytest.mark.parametrize("then", ["permission", "channel"])
def test_an_exact_peer_is_one_allocations(one_port: World, first: str, then: str) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    for client in (ada, ben):
        client.allocate()
    assert name(ada, first, ONE) == 0
    commands = len(one_port.commands)
    assert name(ben, then, ONE) == 403
    assert len(one_port.commands) == commands + 1, "the answer alone"
    assert arrives(one_port, ONE) == 4000
    assert name(ada, then, ONE) == 0
    assert name(ben, then, OTHER) == 0
    assert arrives(one_port, OTHER) == 4001


def name(client: Client, how: str, peer: tuple[str, int]) -> int:
    if how == "channel":
        return client.bind(0x4000, *peer)
    return client.with_peers(Method.CREATE_PERMISSION, [peer])


def test_of_several_peers_all_are_permitted_or_none(one_port: World) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    ada.allocate()
    ben.allocate()
    assert name(ada, "permission", ONE) == 0
    assert ben.with_peers(Method.CREATE_PERMISSION, [("9.9.3.3", 1), ONE]) == 403
    assert name(ada, "permission", ("9.9.3.3", 1)) == 0


def test_on_another_port_or_a_port_of_its_own_a_peer_is_anybodys(make_world: type[World]) -> None:
    world = make_world(shared_ports=AUTO, max_relay_port=50003)
    people = clients(world, "ada", "ben", "carl", "dora")
    for client in people:
        client.allocate()
        assert name(client, "permission", ONE) == 0
    assert sum(isinstance(one, LearnPeer) for one in world.commands) == 1
    assert name(people[3], "channel", ONE) == 0


def test_a_permission_without_a_port_names_nobody(one_port: World) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    for client in (ada, ben):
        client.allocate()
        assert client.permit(PEER) == 0
    assert not any(isinstance(one, LearnPeer) for one in one_port.commands)


@pytest.mark.clause("Shared ports: what CreatePermission names with a port, the data path learns")
def test_the_data_path_learns_exact_peers_after_their_permission(one_port: World) -> None:
    ada = one_port.client()
    ada.allocate()
    one_port.commands.clear()
    assert ada.with_peers(Method.CREATE_PERMISSION, [ONE, ("9.9.3.3", 0), OTHER, ("2001:4860::1", 9)][:3]) == 0
    kinds = [one for one in one_port.commands if isinstance(one, SetPermission | LearnPeer)]
    assert [type(one) for one in kinds] == [SetPermission, LearnPeer, LearnPeer, SetPermission]
    assert [one.peer for one in kinds if isinstance(one, LearnPeer)] == [ONE, OTHER]
    assert (arrives(one_port, ONE), arrives(one_port, OTHER), arrives(one_port, ("9.9.3.3", 1))) == (4000, 4000, None)


def test_sixty_four_exact_ports_of_an_address_are_learned(one_port: World) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    ada.allocate()
    ben.allocate()
    for first in (1, 33, 65):
        assert ada.with_peers(Method.CREATE_PERMISSION, [(PEER, first + n) for n in range(32)]) == 0
    assert sum(isinstance(one, LearnPeer) for one in one_port.commands) == 64
    assert name(ben, "permission", (PEER, 64)) == 403
    assert name(ben, "permission", (PEER, 65)) == 0
    assert name(ada, "channel", (PEER, 66)) == 0
    assert name(ben, "channel", (PEER, 66)) == 403


@pytest.mark.clause("Shared ports: an exact peer is free once permission and channel are gone")
@pytest.mark.parametrize("end", ["expiry", "sweep", "refresh 0", "stream ends"])
def test_an_exact_peer_is_free_again(one_port: World, end: str) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    ada.allocate()
    ben.allocate()
    assert ada.bind(0x4000, *ONE) == 0
    if end in ("expiry", "sweep"):
        one_port.now += 299
        assert name(ben, "channel", ONE) == 403
        one_port.now += 1
        assert name(ben, "channel", ONE) == 403, "the channel lives on"
        one_port.now += 299
        for client in (ada, ben):
            client.error(Method.REFRESH, lifetime(600))
        assert name(ben, "channel", ONE) == 403
        one_port.now += 1
        if end == "sweep":
            one_port.execute(one_port.server.handle_timer(one_port.now))
    elif end == "refresh 0":
        ada.error(Method.REFRESH, lifetime(0))
    else:
        one_port.execute(one_port.server.client_gone(ada.five_tuple))
    assert name(ben, "channel", ONE) == 0
    assert arrives(one_port, ONE) == 4001


@pytest.mark.parametrize(("refreshed_at", "code"), [(299, 403), (400, 0)])
def test_a_permission_that_outlives_the_channel_holds_the_peer(one_port: World, refreshed_at: int, code: int) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    for client in (ada, ben):
        client.allocate(lifetime(3600))
    assert ada.bind(0x4000, *ONE) == 0
    for at in (299, 500) if refreshed_at == 299 else (400,):
        one_port.now = 1000.0 + at
        assert ada.permit(PEER) == 0  # of an expired one it is a new one, which does not name the port
    one_port.now = 1600.0
    assert name(ben, "permission", ONE) == code


def test_a_refreshed_permission_goes_on_to_name_what_it_named(one_port: World) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    ada.allocate()
    ben.allocate()
    assert name(ada, "permission", ONE) == 0
    one_port.now += 200
    assert ada.permit(PEER) == 0
    one_port.now += 200
    assert name(ben, "permission", ONE) == 403


def test_a_revoked_permission_frees_its_peers(one_port: World) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    ada.allocate()
    ben.allocate()
    assert name(ada, "permission", ONE) == 0
    one_port.execute(one_port.server.set_local_addresses(frozenset({ip_address(PEER)})))
    assert any(isinstance(one, RevokePermission) for one in one_port.commands)
    one_port.server.set_local_addresses(frozenset())
    assert name(ben, "permission", ONE) == 0
    assert arrives(one_port, ONE) == 4001


def test_a_family_that_goes_frees_its_peers(one_port: World) -> None:
    ada, ben = clients(one_port, "ada", "ben")
    ada.request(Method.ALLOCATE, UDP, BOTH)
    ben.allocate()
    assert name(ada, "permission", ONE) == 0
    ada.error(Method.REFRESH, (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\1\0\0\0"), lifetime(0))
    assert name(ben, "permission", ONE) == 0
    assert arrives(one_port, ONE) == 4001


def test_relayed_addresses_of_ours_are_nobodys_exact_peers(make_world: type[World]) -> None:
    """Firefox remembers a 403 for all ports of an address: two that look for the same one must both get it."""
    world = make_world(shared_ports=AUTO, max_relay_port=50003)
    own, *shared = clients(world, "one", "two", "three", "ada", "ben")
    relayed = own.allocate()
    for client in shared:
        client.allocate()
    for client in shared[-2:]:
        assert client.with_peers(Method.CREATE_PERMISSION, [relayed, (RELAY, 50003), (RELAY, 50009)]) == 0
        assert client.bind(0x4000, *relayed) == 0
        assert client.bind(0x4001, RELAY, 50003) == 0
    assert not any(isinstance(one, LearnPeer) for one in world.commands)


def test_what_a_send_taught_the_data_path_stays_the_senders(one_port: World) -> None:
    """The control side does not hear of Send indications: it grants the channel, and nothing is misdelivered."""
    ada, ben = clients(one_port, "ada", "ben")
    for client in (ada, ben):
        client.allocate()
        client.permit(PEER)
    assert send(one_port, ada, b"x", *ONE) is not None
    assert name(ben, "channel", ONE) == 0
    assert arrives(one_port, ONE) == 4000
    assert send(one_port, ben, b"x", *ONE) is None
    assert one_port.forwarder.drops[Drop.PEER_OF_ANOTHER] == 1


# The closed relay


class Member:
    """Somebody with a signaling connection."""

    def __init__(self, world: World, host: str, port: int) -> None:
        self.world = world
        self.session = world.server.closed.open_session(host)
        self.client = world.client(port, host, user=self.session)

    def joins(self, group: str | None) -> None:
        self.world.execute(self.world.server.closed.move_session(self.session, group))

    def another(self, port: int) -> Client:
        return self.world.client(port, self.client.five_tuple.client[0], user=self.session)


@pytest.fixture
def household(one_port: World) -> list[Member]:
    """Two behind one NAT, two behind another one, and a stranger in another room."""
    hosts = ("9.9.1.1", "9.9.1.1", "9.9.2.2", "9.9.2.2", "9.9.3.3")
    members = [Member(one_port, host, 4000 + index) for index, host in enumerate(hosts)]
    for member in members:
        member.joins("room" if member is not members[-1] else "another room")
    return members


@pytest.mark.clause("Shared ports: a channel to a shared address is granted if somebody of the call is there")
def test_a_channel_to_a_shared_address_needs_somebody_of_the_call(one_port: World, household: list[Member]) -> None:
    ada, _, ben, _, stranger = household
    ada.client.allocate()
    assert ada.client.permit(RELAY) == 403, "no other allocation lives"
    stranger.client.allocate()
    assert ada.client.permit(RELAY) == 0
    assert ada.client.bind(0x4000, RELAY, 50000) == 403
    ben.client.allocate()
    assert ada.client.bind(0x4000, RELAY, 50000) == 0
    assert stranger.client.bind(0x4000, RELAY, 50000) == 403
    second = stranger.another(4100)
    second.allocate()
    assert second.bind(0x4000, RELAY, 50000) == 0, "its own other one"


def test_without_sessions_any_other_without_will_do(one_port: World, household: list[Member]) -> None:
    household[0].client.allocate()
    bob, eve = clients(one_port, "bob", "eve")
    bob.five_tuple, eve.five_tuple = one_port.client(4200).five_tuple, one_port.client(4201).five_tuple
    bob.allocate()
    assert bob.bind(0x4000, RELAY, 50000) == 403
    eve.allocate()
    assert bob.bind(0x4000, RELAY, 50000) == 0


def test_two_households_talk_in_one_channel(one_port: World, household: list[Member]) -> None:
    """Everybody has one allocation for each of the others: twelve on one port."""
    members = household[:4]
    legs: dict[tuple[int, int], Client] = {}
    for one in range(4):
        for other in range(4):
            if one != other:
                legs[one, other] = members[one].another(5000 + 10 * one + other)
                legs[one, other].allocate()
    for client in legs.values():
        assert client.permit(RELAY) == 0
    for _ in range(2):
        for (one, other), client in legs.items():
            send(one_port, client, check(f"{other}-{one}", f"{one}-{other}"), RELAY, 50000)
    for (one, other), client in legs.items():
        output = send(one_port, client, b"media", RELAY, 50000)
        assert isinstance(output, tuple)
        assert output[0].handle == str(5000 + 10 * other + one)


@pytest.mark.clause("Shared ports: who leaves takes along channels to his address, unless others of the call are there")
def test_channels_to_a_shared_address_go_with_the_last_one(one_port: World, household: list[Member]) -> None:
    ada, _, ben, carl, stranger = household
    for member in (ada, ben, carl, stranger):
        member.client.allocate()
    assert ada.client.bind(0x4000, RELAY, 50000) == 0
    allocation = one_port.server.allocations.find(ada.client.five_tuple)
    assert allocation is not None
    ben.joins(None)
    assert 0x4000 in allocation.channels
    carl.joins(None)
    assert allocation.channels == {}
    assert one_port.forwarder.from_client(b"\x40\x00\x00\x00", ada.client.five_tuple, one_port.now) is None
    assert one_port.forwarder.drops[Drop.NO_CHANNEL] == 1


def test_where_the_operator_allows_our_own_address_a_shared_channel_stays_for_the_others(
    make_world: type[World],
) -> None:
    world = make_world(shared_ports=ALWAYS, max_relay_port=50000, allow_peers=(ip_network(RELAY),))
    ada, ben, carl = (Member(world, f"9.9.1.{n}", 4000 + n) for n in (1, 2, 3))
    for member in (ada, ben, carl):
        member.joins("room")
        member.client.allocate()
    world.server.closed.announce(ben.session, [ada.session], frozenset({ip_address(RELAY)}))
    assert ada.client.bind(0x4000, RELAY, 50000) == 0
    ben.joins(None)
    assert [one.relayed_only for one in world.commands if isinstance(one, BindChannel)] == [False, True]
    carl.joins(None)
    allocation = world.server.allocations.find(ada.client.five_tuple)
    assert allocation is not None
    assert allocation.channels == {}


def test_leaving_frees_exact_peers(one_port: World, household: list[Member]) -> None:
    ada, _, ben, carl, _ = household
    for member in (ada, ben, carl):
        member.client.allocate()
    announce = one_port.server.closed.announce
    announce(carl.session, [ada.session, ben.session], frozenset({ip_address(PEER)}))
    assert name(ada.client, "permission", ONE) == 0
    assert name(ben.client, "channel", ONE) == 403
    ada.joins(None)
    assert name(ben.client, "channel", ONE) == 0
    dora = Member(one_port, "9.9.4.4", 4300)
    dora.joins("room")
    dora.client.allocate()
    announce(carl.session, [dora.session], frozenset({ip_address(PEER)}))
    assert name(dora.client, "channel", ONE) == 403
    carl.joins(None)  # and his claim with him
    one_port.execute(one_port.server.closed.move_session(carl.session, "room"))
    announce(carl.session, [dora.session], frozenset({ip_address(PEER)}))
    assert name(dora.client, "channel", ONE) == 0


def test_a_channel_is_a_pairs_own(two_ports: World) -> None:
    ada, ben = clients(two_ports, "ada", "ben")
    adas, bens = ada.allocate(), ben.allocate()
    assert ada.bind(0x4000, *bens) == ben.bind(0x4001, *adas) == 0
    for client, number, asked, own in ((ada, 0x4000, "b", "a"), (ben, 0x4001, "a", "b"), (ada, 0x4000, "b", "a")):
        payload = check(asked, own)
        data = struct.pack(">HH", number, len(payload)) + payload
        output = two_ports.forwarder.from_client(data, client.five_tuple, two_ports.now)
    assert isinstance(output, tuple)
    assert output[1][:2] == b"\x40\x01"

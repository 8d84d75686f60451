"""The relay's address becomes another one: new allocations carry it, and those of before go on with theirs."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import AddressFamily, decode_xor_address, encode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode, parse
from tavern.turn.advertised import MAX_ADDRESSES
from tavern.turn.commands import AddOwnHost, RemoveOwnHost
from tavern.turn.shared_ports import SharedPortsMode
from tests.turn.shared import check

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

OLD, NEW, OLD_6 = "9.8.7.5", "9.8.7.6", "2001:4860::1"
ADDRESSES = (ip_address(OLD), ip_address(OLD_6))
PEER = "9.9.2.1"
BOTH = frozenset(AddressFamily)
LIFETIME_0 = (AttributeType.LIFETIME, bytes(4))


@pytest.fixture
def world(make_world: type[World]) -> World:
    return make_world(advertised_addresses=ADDRESSES, user_quota=100, max_relay_port=50100)


def move(world: World, *hosts: str, movable: frozenset[AddressFamily] = BOTH) -> None:
    world.execute(world.server.advertise(map(ip_address, hosts), movable))


def send(world: World, client: Client, peer: tuple[str, int], payload: bytes = b"hello") -> tuple[str, str, int] | None:
    """Sends it in an indication; which client gets it, and from where it seems to come. None if nobody does."""
    transaction_id = os.urandom(12)
    address = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(peer[0]), peer[1], transaction_id))
    data = encode(Method.SEND, MessageClass.INDICATION, transaction_id, [address, (AttributeType.DATA, payload)])
    output = world.forwarder.from_client(data, client.five_tuple, world.now)
    if output is None:
        return None
    assert isinstance(output, tuple)
    flow, data, to = output
    if to is not None:
        return ("outside", *to[:2])
    message = parse(data)
    value = message.get(AttributeType.XOR_PEER_ADDRESS)
    assert value is not None
    source, port = decode_xor_address(value, message.transaction_id)
    return flow.handle, str(source), port


def end(client: Client) -> None:
    assert client.request(Method.REFRESH, LIFETIME_0).message_class is MessageClass.SUCCESS


def test_new_allocations_carry_the_new_address_and_both_reach_each_other(world: World) -> None:
    old, new = world.client(4000), world.client(4001)
    first = old.allocate()
    move(world, NEW, OLD_6)
    second = new.allocate()
    assert (first[0], second[0]) == (OLD, NEW)
    assert old.permit(NEW) == new.permit(OLD) == 0
    assert send(world, old, second) == ("4001", *first)
    assert send(world, new, first) == ("4000", *second)
    assert old.bind(0x4000, *second) == 0
    assert world.forwarder.from_client(b"\x40\x00\x00\x02hi", old.five_tuple, world.now) is not None


def test_nothing_else_at_the_new_address_is_a_peer(world: World) -> None:
    """What was allowed of it while it was somebody else's is not any more: the relay's own services may be there."""
    old = world.client()
    old.allocate()
    assert old.permit(NEW) == 0
    assert old.bind(0x4000, NEW, 5000) == 0
    assert send(world, old, (NEW, 5000)) == ("outside", NEW, 5000)
    move(world, NEW)
    assert send(world, old, (NEW, 5000)) is None
    assert world.forwarder.from_client(b"\x40\x00\x00\x02hi", old.five_tuple, world.now) is None
    assert old.permit(NEW) == 403
    assert world.client(4001).allocate()[0] == NEW
    assert old.permit(NEW) == 0
    assert send(world, old, (NEW, 5000)) is None
    assert old.bind(0x4000, NEW, 5000) == 403
    assert old.bind(0x4000, PEER, 5000) == 0


def test_a_former_address_is_somebody_else_s_once_nothing_carries_it(world: World) -> None:
    old, new = world.client(4000), world.client(4001)
    first = old.allocate()
    move(world, NEW)
    new.allocate()
    assert new.permit(OLD) == old.permit(NEW) == 0
    assert new.bind(0x4000, *first) == 0
    move(world, NEW)
    assert send(world, new, first) == ("4000", NEW, new_port(world))
    end(old)
    move(world, NEW)
    assert world.commands[-1] == RemoveOwnHost(OLD)
    assert send(world, new, first) is None  # what it was permitted was the relay's address
    assert new.permit(OLD) == 0
    assert send(world, new, first) == ("outside", *first)
    count = len(world.commands)
    move(world, NEW)
    assert len(world.commands) == count


def new_port(world: World) -> int:
    [port] = [relayed.address[1] for one in world.server.allocations for relayed in one.relayed.values()][1:]
    return port


def test_it_may_come_back_before_or_after_it_was_forgotten(world: World) -> None:
    clients = [world.client(4000 + number) for number in range(4)]
    relayed = [clients[0].allocate()]
    for number, host in enumerate([NEW, OLD, NEW], start=1):
        move(world, host)
        relayed.append(clients[number].allocate())
    assert [host for host, _ in relayed] == [OLD, NEW, OLD, NEW]
    for client in clients:
        assert client.permit(OLD, NEW) == 0
    for number, client in enumerate(clients):
        for other, address in enumerate(relayed):
            if other != number:
                assert send(world, client, address) == (str(4000 + other), *relayed[number])
    for client in clients:
        end(client)
    move(world, OLD)
    move(world, OLD)
    assert world.server.allocations.is_relayed(ip_address(NEW), 50000) is False
    assert clients[0].allocate()[0] == OLD


@pytest.mark.parametrize("hosts", [[OLD], [OLD_6], [OLD, OLD_6], []])
def test_what_stays_changes_nothing(world: World, hosts: list[str]) -> None:
    client = world.client()
    client.allocate()
    client.permit(PEER)
    count = len(world.commands)
    move(world, *hosts)
    assert len(world.commands) == count
    assert send(world, client, (PEER, 5000)) == ("outside", PEER, 5000)


def test_a_family_that_was_not_served_is_not(make_world: type[World]) -> None:
    world = make_world(advertised_addresses=(ip_address(OLD),))
    move(world, OLD_6)
    family_6 = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")
    udp = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
    assert world.client().error(Method.ALLOCATE, udp, family_6) == 440


def test_no_more_than_a_few_addresses_are_kept(world: World) -> None:
    """Each is looked at for exact peers; whoever answers for the domain must not make that dear."""
    world.server.limiter.connected("203.0.113.7")
    hosts = [f"9.8.7.{number}" for number in range(11, 22)]
    carried = []
    for number, host in enumerate(hosts):
        carried.append(world.client(4000 + number).allocate()[0])
        move(world, host)
    kept = MAX_ADDRESSES - 1  # with the IPv6 one
    assert carried[:kept] == [OLD, *hosts[: kept - 1]]
    assert set(carried[kept:]) == {hosts[kept - 2]}
    assert len([command for command in world.commands if isinstance(command, AddOwnHost)]) == kept - 1


def test_its_own_relay_is_no_client_at_any_of_them(world: World) -> None:
    first = world.client().allocate()
    move(world, NEW)
    second = world.client(4001).allocate()
    for host, port in (first, second):
        intruder = world.client(port, host)
        request = encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12))
        assert world.receive(request, intruder.five_tuple) is None


# Shared ports


@pytest.fixture
def shared(make_world: type[World]) -> World:
    return make_world(
        advertised_addresses=ADDRESSES, shared_ports=SharedPortsMode.ALWAYS, max_relay_port=50000, user_quota=100
    )


def test_a_shared_port_has_both_addresses_for_as_long_as_somebody_has_the_former(shared: World) -> None:
    old, new = shared.client(4000), shared.client(4001)
    assert old.allocate() == (OLD, 50000)
    move(shared, NEW)
    assert new.allocate() == (NEW, 50000)
    for client, port in ((old, 5000), (new, 5001)):
        assert client.with_peers(Method.CREATE_PERMISSION, [(PEER, port)]) == 0
        output = shared.forwarder.from_shared((OLD, 50000), b"media", (PEER, port), shared.now)
        assert output is not None
        assert output[0].handle == str(client.five_tuple.client[1])
    assert old.permit(NEW) == new.permit(OLD) == 0
    # Checks make them known to each other, each by the address that it was told of.
    assert send(shared, new, (PEER, 5001), check("far", "new")) == ("outside", PEER, 5001)
    assert send(shared, old, (NEW, 50000), check("new", "old")) == ("4001", OLD, 50000)
    assert send(shared, new, (OLD, 50000)) == ("4000", NEW, 50000)
    end(old)
    move(shared, NEW)
    assert shared.commands[-1] == RemoveOwnHost(OLD)
    output = shared.forwarder.from_shared((OLD, 50000), b"media", (PEER, 5001), shared.now)
    assert output is not None
    assert output[0].handle == "4001"
    assert new.permit(OLD) == 0
    assert send(shared, new, (OLD, 50000)) == ("outside", OLD, 50000)


def test_a_shared_port_whose_socket_has_the_former_address_stays_there(shared: World) -> None:
    """What is sent to the new one does not reach it."""
    move(shared, NEW, movable=frozenset())
    client = shared.client()
    assert client.allocate() == (OLD, 50000)
    end(client)
    move(shared, NEW, movable=frozenset())
    assert client.allocate() == (OLD, 50000)
    assert not any(isinstance(command, RemoveOwnHost) for command in shared.commands)

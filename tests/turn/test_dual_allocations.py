"""RFC 8656 §7, §8 and §9: two relayed addresses, IPv4 and IPv6, on one five-tuple."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import AddressFamily, decode_xor_address, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, Message, MessageClass, Method, encode
from tavern.turn.commands import AddFlow, AddRelayedAddress, RemoveFlow, RemoveRelayedAddress, SendToClient
from tavern.turn.flows import sockaddr_of
from tests.turn.conftest import error_of

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
BOTH: Attribute = (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02\x00\x00\x00")
EVEN: Attribute = (AttributeType.EVEN_PORT, b"\x00")
EVEN_AND_NEXT: Attribute = (AttributeType.EVEN_PORT, b"\x80")
END: Attribute = (AttributeType.LIFETIME, bytes(4))
IPV4, IPV6 = AddressFamily.IPV4, AddressFamily.IPV6
PEER_4, PEER_6 = "9.9.2.1", "2001:4860::9"


def family(number: int) -> Attribute:
    return AttributeType.REQUESTED_ADDRESS_FAMILY, bytes([number, 0, 0, 0])


def additional(number: int) -> Attribute:
    return AttributeType.ADDITIONAL_ADDRESS_FAMILY, bytes([number, 0, 0, 0])


def relayed_in(answer: Message) -> list[tuple[str, int]]:
    values = answer.get_all(AttributeType.XOR_RELAYED_ADDRESS)
    decoded = (decode_xor_address(value, answer.transaction_id) for value in values)
    return [(str(address), port) for address, port in decoded]


def allocate_both(client: Client) -> list[tuple[str, int]]:
    answer = client.request(Method.ALLOCATE, UDP, BOTH)
    assert error_of(answer) == 0
    return relayed_in(answer)


def taken(world: World) -> tuple[int, int]:
    ports = world.server.allocations.ports
    return len(ports[IPV4].taken), len(ports[IPV6].taken)


def reaches(client: Client, host: str, port: int = 5000) -> bool:
    """Whether a Send indication of the client leaves to that peer, from the relayed address of its family."""
    transaction_id = bytes(12)
    peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction_id))
    sent = encode(Method.SEND, MessageClass.INDICATION, transaction_id, [peer, (AttributeType.DATA, b"x")])
    output = client.world.forwarder.from_client(sent, client.five_tuple, client.world.now)
    if output is None:
        return False
    assert isinstance(output, tuple)
    assert output[2] == sockaddr_of((host, port))
    return True


@pytest.mark.clause("8656 §7.2: ADDITIONAL-ADDRESS-FAMILY IPv6 -> a relayed address of each family")
def test_both_families_on_one_five_tuple(world: World) -> None:
    answer = world.client().request(Method.ALLOCATE, UDP, BOTH)
    (host_4, port_4), (host_6, port_6) = relayed_in(answer)
    assert (host_4, host_6) == ("198.51.100.1", "2001:db8::1")
    assert world.opened == [port_4, port_6]
    assert [kind for kind, _ in answer.attributes] == [
        AttributeType.XOR_RELAYED_ADDRESS,
        AttributeType.XOR_RELAYED_ADDRESS,
        AttributeType.LIFETIME,
        AttributeType.XOR_MAPPED_ADDRESS,
        AttributeType.MESSAGE_INTEGRITY,
    ]
    assert [type(command) for command in world.commands[-3:]] == [AddFlow, AddRelayedAddress, SendToClient]
    assert len(world.server.allocations) == 1


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        pytest.param(
            (additional(2), family(1)),
            400,
            marks=pytest.mark.clause("8656 §7.2: REQUESTED- and ADDITIONAL-ADDRESS-FAMILY together -> 400"),
        ),
        pytest.param(
            (additional(2), family(9)),
            400,
            marks=pytest.mark.clause("8656 §7.2: REQUESTED- and ADDITIONAL-ADDRESS-FAMILY together -> 400"),
        ),
        pytest.param(
            (additional(2), EVEN_AND_NEXT),
            400,
            marks=pytest.mark.clause("8656 §7.2: EVEN-PORT with R and ADDITIONAL-ADDRESS-FAMILY -> 400"),
        ),
        pytest.param(
            (additional(1),), 400, marks=pytest.mark.clause("8656 §7.2: ADDITIONAL-ADDRESS-FAMILY = IPv4 -> 400")
        ),
        ((additional(9),), 400),
        (((AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02"),), 400),
        ((additional(2), EVEN), 0),
    ],
)
def test_checks_of_dual_allocations(world: World, attributes: tuple[Attribute, ...], code: int) -> None:
    assert world.client().error(Method.ALLOCATE, UDP, *attributes) == code
    assert taken(world) == ((0, 0) if code else (1, 1))


@pytest.mark.clause("8656 §7.2: family not served -> 440 (absent means IPv4)")
def test_a_server_without_ipv4_answers_440(make_world: type[World]) -> None:
    world = make_world(advertised_addresses=(ip_address("2001:db8::1"),))
    for attributes in ((BOTH,), (BOTH, EVEN_AND_NEXT), (additional(1),)):
        assert world.client().error(Method.ALLOCATE, UDP, *attributes) == 440


@pytest.mark.clause("8656 §7.2: half of a dual allocation impossible -> success + ADDRESS-ERROR-CODE")
def test_a_server_without_ipv6_grants_the_other_half(make_world: type[World]) -> None:
    world = make_world(advertised_addresses=(ip_address("198.51.100.1"),))
    answer = world.client().request(Method.ALLOCATE, UDP, BOTH)
    assert len(relayed_in(answer)) == 1
    assert answer.get(AttributeType.ADDRESS_ERROR_CODE) == b"\x02\x00\x04\x28"


@pytest.mark.clause("8656 §7.2: half of a dual allocation impossible -> success + ADDRESS-ERROR-CODE")
@pytest.mark.parametrize(("impossible", "left"), [(IPV4, "2001:db8::1"), (IPV6, "198.51.100.1")])
def test_no_port_of_one_family_grants_the_other_half(world: World, impossible: AddressFamily, left: str) -> None:
    world.unbindable_families = {impossible}
    client = world.client()
    request = client.encode(Method.ALLOCATE, UDP, BOTH)
    answer = client.exchange(request)
    assert answer is not None
    assert [host for host, _ in relayed_in(answer)] == [left]
    assert answer.get(AttributeType.ADDRESS_ERROR_CODE) == bytes([impossible, 0, 5, 8])
    assert sum(taken(world)) == 1
    assert client.permit(PEER_4 if impossible is IPV4 else PEER_6) == 443
    world.unbindable_families = set()
    again = client.exchange(request)
    assert again is not None
    assert again.raw == answer.raw


@pytest.mark.clause("8656 §7.2: no port left -> 508")
def test_no_port_of_either_family_is_508(world: World) -> None:
    world.unbindable_families = {IPV4, IPV6}
    assert world.client().error(Method.ALLOCATE, UDP, BOTH) == 508
    assert taken(world) == (0, 0)
    assert len(world.server.allocations) == 0


@pytest.mark.clause("8656 §7.2: quota per user -> 486")
def test_a_dual_allocation_counts_twice(world: World) -> None:
    allocate_both(world.client(4000))
    allocate_both(world.client(4001))
    answer = world.client(4002).request(Method.ALLOCATE, UDP, BOTH)
    assert len(relayed_in(answer)) == 1
    assert answer.get(AttributeType.ADDRESS_ERROR_CODE) == b"\x02\x00\x04\x56"
    assert world.client(4003).error(Method.ALLOCATE, UDP, BOTH) == 486
    assert world.client(4000).error(Method.REFRESH, family(2), END) == 0
    world.client(4003).allocate()


def test_no_more_relayed_addresses_than_the_server_has_descriptors(make_world: type[World]) -> None:
    world = make_world(max_allocations=3)
    allocate_both(world.client(4000, user="a"))
    answer = world.client(4001, user="b").request(Method.ALLOCATE, UDP, BOTH)
    assert len(relayed_in(answer)) == 1
    assert answer.get(AttributeType.ADDRESS_ERROR_CODE) == b"\x02\x00\x05\x08"
    assert world.client(4002, user="c").error(Method.ALLOCATE, UDP) == 508


@pytest.mark.clause("8656 §7.2: 5-tuple in use -> 437")
def test_the_five_tuple_stays_in_use_until_both_halves_are_gone(world: World) -> None:
    client = world.client()
    allocate_both(client)
    assert client.error(Method.REFRESH, family(1), END) == 0
    assert client.error(Method.ALLOCATE, UDP) == 437
    assert client.error(Method.REFRESH, family(2), END) == 0
    client.allocate()


@pytest.mark.clause("8656 §8.1: Refresh without a family applies to both halves")
def test_refresh_without_a_family_keeps_or_ends_both(world: World) -> None:
    client = world.client()
    allocate_both(client)
    assert client.error(Method.REFRESH, (AttributeType.LIFETIME, (900).to_bytes(4, "big"))) == 0
    world.tick(899)
    assert taken(world) == (1, 1)
    assert client.error(Method.REFRESH, END) == 0
    assert taken(world) == (0, 0)
    assert len(world.server.allocations) == len(world.forwarder) == 0


@pytest.mark.clause("8656 §8.1: Refresh with a family keeps that half only")
def test_refresh_of_one_family_keeps_that_half_only(world: World) -> None:
    client = world.client()
    relayed_4, relayed_6 = allocate_both(client)
    world.tick(300)
    assert client.error(Method.REFRESH, family(2)) == 0
    world.tick(300)
    assert world.commands[-1:] == [RemoveRelayedAddress(1, relayed_4)]
    assert taken(world) == (0, 1)
    assert client.error(Method.REFRESH, family(1)) == 443
    world.tick(300)
    assert world.commands[-1:] == [RemoveFlow(1)]
    assert taken(world) == (0, 0)
    assert relayed_6[0] == "2001:db8::1"


@pytest.mark.clause("8656 §8.1: ending one half ends its permissions and channels, and none of the other's")
@pytest.mark.parametrize(("ended", "kept", "number"), [(PEER_4, PEER_6, 2), (PEER_6, PEER_4, 1)])
def test_ending_one_half_ends_its_permissions_and_channels(world: World, ended: str, kept: str, number: int) -> None:
    client = world.client()
    allocate_both(client)
    assert client.permit(PEER_4, PEER_6) == 0
    assert client.bind(0x4000, ended, 6000) == 0
    assert client.bind(0x4001, kept, 6000) == 0
    assert reaches(client, ended)
    assert client.error(Method.REFRESH, family(3 - number), END) == 0
    assert not reaches(client, ended)
    assert reaches(client, kept)
    now, key = world.now, client.five_tuple
    assert world.forwarder.from_client(b"\x40\x00\x00\x01x", key, now) is None
    assert world.forwarder.from_client(b"\x40\x01\x00\x01x", key, now) is not None
    [flow] = world.forwarder
    assert world.forwarder.from_peer(flow, b"x", sockaddr_of((ended, 6000)), now) is None
    assert all(one.address == sockaddr_of((kept, one.address[1])) for one in flow.peers.values())
    assert client.permit(ended) == 443
    assert client.bind(0x4000, kept, 7000) == 0, "the number is free again"


@pytest.mark.clause("8656 §9.2, §12.2: a peer of a family that the allocation lacks -> 443")
def test_peers_of_a_family_that_the_allocation_lacks_443(world: World) -> None:
    only_4, only_6, both = world.client(4000), world.client(4001), world.client(4002)
    only_4.allocate()
    only_6.allocate(family(2))
    allocate_both(both)
    assert (only_4.permit(PEER_6), only_6.permit(PEER_4)) == (443, 443)
    assert (only_4.bind(0x4000, PEER_6, 1), only_6.bind(0x4000, PEER_4, 1)) == (443, 443)
    assert only_4.permit(PEER_4, PEER_6) == 443
    assert not reaches(only_4, PEER_4), "all of the peers or none"
    assert both.permit(PEER_4, PEER_6) == 0


@pytest.mark.parametrize("index", [0, 1])
def test_hand_over_comes_from_the_relayed_address_of_the_peers_family(world: World, index: int) -> None:
    """Two dual allocations reach each other over either family, each seen at the address that it was told."""
    one, two = world.client(4000), world.client(4001)
    relayed_one, relayed_two = allocate_both(one), allocate_both(two)
    assert one.permit(relayed_two[index][0]) == 0
    assert two.bind(0x4000, *relayed_one[index]) == 0
    transaction_id = bytes(12)
    host, port = relayed_two[index]
    peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction_id))
    sent = encode(Method.SEND, MessageClass.INDICATION, transaction_id, [peer, (AttributeType.DATA, b"x")])
    output = world.forwarder.from_client(sent, one.five_tuple, world.now)
    assert isinstance(output, tuple)
    assert (output[0].client_key, output[1], output[2]) == (two.five_tuple, b"\x40\x00\x00\x01x", None)
    assert two.error(Method.REFRESH, family(index + 1), END) == 0
    assert world.forwarder.from_client(sent, one.five_tuple, world.now) is None


def test_leaving_ends_both_halves_and_what_leads_to_them(world: World) -> None:
    """The closed relay: a peer's channels to either relayed address are withdrawn, the ports are free."""
    closed = world.server.closed
    sessions = [closed.open_session(host) for host in ("9.9.1.1", "9.9.2.2")]
    clients = [world.client(4000 + n, f"9.9.{n + 1}.{n + 1}", user=name) for n, name in enumerate(sessions)]
    for name in sessions:
        world.execute(closed.move_session(name, "room"))
    relayed = [allocate_both(client) for client in clients]
    for number, address in enumerate(relayed[1], 0x4000):
        assert clients[0].bind(number, *address) == 0
    world.execute(closed.move_session(sessions[1], None))
    assert taken(world) == (1, 1)
    [allocation] = world.server.allocations
    assert not allocation.channels
    [flow] = world.forwarder
    assert not flow.channels

"""The relay never becomes its own client: its listeners are no peers, its relay sockets no clients."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.commands import AddFlow, BindChannel, RevokePermission, SetPermission, UnbindChannel
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow
from tavern.turn.forwarding import Forwarder
from tests.twin import make_forwarder

if TYPE_CHECKING:
    from tavern.addresses import IPAddress
    from tests.turn.conftest import World

RELAY = "198.51.100.1"
LISTENER = 3478
HOME = "192.168.0.2"  # this machine's, in a range that operators of home servers allow
UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
TRANSACTION = b"0123456789ab"


def send_indication(host: str, port: int) -> bytes:
    peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, TRANSACTION))
    return encode(Method.SEND, MessageClass.INDICATION, TRANSACTION, [peer, (AttributeType.DATA, b"x")])


@pytest.fixture
def open_world(make_world: type[World]) -> World:
    """Where the operator allows all of IPv4."""
    world = make_world(allow_peers=(ip_network("0.0.0.0/0"),))
    world.execute(world.server.set_local_addresses(frozenset({ip_address(HOME)})))
    world.kernels_own.add(ip_address("127.0.0.3"))
    return world


@pytest.mark.clause("Policy: never to the relay's own listeners")
@pytest.mark.parametrize("host", [RELAY, HOME, "127.0.0.3"])
def test_12_2_a_listener_is_no_channels_peer_whatever_the_operator_allows(open_world: World, host: str) -> None:
    client = open_world.client()
    client.allocate()
    assert client.bind(0x4000, host, LISTENER) == 403
    assert client.bind(0x4000, host, LISTENER + 1) == 0
    assert client.bind(0x4001, "9.9.9.9", LISTENER) == 0


@pytest.mark.clause("Policy: never to the relay's own listeners")
@pytest.mark.parametrize("host", [RELAY, HOME, "127.0.0.3"])
def test_9_a_permission_for_an_own_address_leaves_the_listener_out(open_world: World, host: str) -> None:
    client = open_world.client()
    client.allocate()
    assert client.permit(host) == 0
    forwarder, key = open_world.forwarder, client.five_tuple
    flow = next(iter(forwarder))
    assert forwarder.from_client(send_indication(host, LISTENER), key, open_world.now) is None
    assert forwarder.from_peer(flow, b"x", (host, LISTENER), open_world.now) is None
    assert forwarder.drops[Drop.NO_PERMISSION] == 2
    assert forwarder.from_client(send_indication(host, 8080), key, open_world.now) == (flow, b"x", (host, 8080))


@pytest.mark.clause("Policy: every address of this machine is denied")
def test_an_address_that_becomes_our_own_keeps_its_other_ports_only(open_world: World) -> None:
    client = open_world.client()
    client.allocate()
    new = "192.168.0.9"
    assert client.bind(0x4000, new, LISTENER) == 0
    assert client.bind(0x4001, new, 8080) == 0
    forwarder, now = open_world.forwarder, open_world.now
    flow = next(iter(forwarder))
    assert forwarder.from_client(send_indication(new, LISTENER), client.five_tuple, now) is not None
    open_world.execute(open_world.server.set_local_addresses(frozenset({ip_address(new)})))
    assert UnbindChannel(flow.id, 0x4000) in open_world.commands
    assert forwarder.from_client(send_indication(new, LISTENER), client.five_tuple, now) is None
    assert forwarder.from_client(b"\x40\x00\x00\x01x", client.five_tuple, now) is None
    assert forwarder.from_client(b"\x40\x01\x00\x01x", client.five_tuple, now) == (flow, b"x", (new, 8080))
    assert client.bind(0x4000, new, LISTENER) == 403


def forwarder_and_flow() -> tuple[Forwarder[str], Flow[str]]:
    forwarder: Forwarder[str] = make_forwarder(frozenset({RELAY}), lambda: 0, frozenset({LISTENER}))
    five_tuple = FiveTuple(Transport.UDP, ("9.9.9.9", 4000), (RELAY, LISTENER))
    return forwarder, forwarder.add_flow(
        AddFlow(1, five_tuple, (RELAY, 50001), user="bob", circles=None), "client", "sockets"
    )


@pytest.mark.clause("Policy: never to the relay's own listeners")
@pytest.mark.parametrize(("host", "own"), [(RELAY, False), (HOME, True)])
def test_the_data_path_binds_no_channel_to_a_listener(host: str, own: bool) -> None:
    forwarder, flow = forwarder_and_flow()
    forwarder.set_permission(SetPermission(1, host, 300.0, relayed_only=False, own=own, claimed=False))
    forwarder.bind_channel(BindChannel(1, 0x4000, (host, LISTENER), 600.0, relayed_only=False))
    assert forwarder.from_client(b"\x40\x00\x00\x01x", "client", 0.0) is None
    forwarder.bind_channel(BindChannel(1, 0x4000, (host, 8080), 600.0, relayed_only=False))
    assert forwarder.from_client(b"\x40\x00\x00\x01x", "client", 0.0) == (flow, b"x", (host, 8080))


def test_a_channel_that_became_one_to_a_listener_can_be_unbound_whatever_went_before() -> None:
    forwarder, flow = forwarder_and_flow()
    for own in (False, True):
        forwarder.set_permission(SetPermission(1, HOME, 300.0, relayed_only=False, own=own, claimed=False))
        forwarder.bind_channel(BindChannel(1, 0x4000, (HOME, LISTENER), 600.0, relayed_only=False))
        forwarder.from_peer(flow, b"x", (HOME, LISTENER), 0.0)
    forwarder.revoke_permission(RevokePermission(1, HOME))
    forwarder.unbind_channel(UnbindChannel(1, 0x4000))
    assert not flow.channels
    assert not flow.peers


@pytest.mark.clause("Policy: a listener's port elsewhere is any port")
def test_a_listeners_port_elsewhere_is_a_port_as_any() -> None:
    forwarder, flow = forwarder_and_flow()
    forwarder.set_permission(SetPermission(1, "9.9.9.9", 300.0, relayed_only=False, own=False, claimed=False))
    peer = ("9.9.9.9", LISTENER)
    assert forwarder.from_client(send_indication(*peer), "client", 0.0) == (flow, b"x", peer)


@pytest.mark.clause("Policy: an allocation is not its own peer")
@pytest.mark.parametrize("own", [True, False])
def test_11_a_flow_is_not_its_own_peer_either_way(own: bool) -> None:
    """Through Send as through ChannelBind, whatever the operator allows."""
    forwarder, flow = forwarder_and_flow()
    forwarder.set_permission(SetPermission(1, RELAY, 300.0, relayed_only=True, own=own, claimed=False))
    assert forwarder.from_client(send_indication(RELAY, 50001), "client", 0.0) is None
    assert forwarder.from_peer(flow, b"x", (RELAY, 50001), 0.0) is None
    assert forwarder.drops[Drop.NO_RELAYED_PEER] == 2
    forwarder.set_permission(SetPermission(1, RELAY, 300.0, relayed_only=False, own=own, claimed=False))
    assert forwarder.from_client(send_indication(RELAY, 50001), "client", 0.0) is None
    assert forwarder.drops[Drop.NO_RELAYED_PEER] == 3


@pytest.mark.clause("Policy: an allocation is not its own peer")
def test_12_2_an_allocation_is_not_its_own_channels_peer(world: World, open_world: World) -> None:
    for one in (world, open_world):
        client, other = one.client(4000), one.client(4001)
        own, others = client.allocate(), other.allocate()
        assert client.bind(0x4000, *own) == 403
        assert client.bind(0x4000, *others) == 0


@pytest.mark.clause("Policy: a relay socket is no client")
@pytest.mark.parametrize("host", [RELAY, HOME, "127.0.0.3"])
def test_a_relay_socket_is_no_client(open_world: World, host: str) -> None:
    _, port = open_world.client().allocate()
    from_us = open_world.client(port, host)
    assert from_us.exchange(encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION)) is None
    assert open_world.server.counters.malformed == 1
    open_world.client(port, "9.9.9.9", user="eve").allocate()
    next_port = port + 1 if port < 50009 else port - 1
    open_world.client(next_port, host, user="eve").allocate()


@pytest.mark.clause("Policy: a relay socket is no client")
def test_a_client_on_this_machine_does_not_get_its_own_port(make_world: type[World]) -> None:
    world = make_world(min_relay_port=50000, max_relay_port=50001)
    world.execute(world.server.set_local_addresses(frozenset({ip_address(HOME)})))
    for _ in range(8):
        client = world.client(50000, HOME)
        assert client.allocate()[1] == 50001
        assert client.error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4))) == 0
    one_port = make_world(min_relay_port=50000, max_relay_port=50000)
    one_port.client(50000, "9.9.9.9").allocate()


@pytest.mark.clause("Policy: a relay socket is no client")
def test_no_relay_socket_takes_the_port_of_a_client_on_this_machine(open_world: World) -> None:
    ours = open_world.client(50003, HOME)
    ours.allocate()
    strangers = open_world.client(50004, "9.9.9.9")
    strangers.allocate()
    ports: set[int] = set()
    for n in range(30):
        again = open_world.client(6000 + n, user="eve")
        ports.add(again.allocate()[1])
        assert again.error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4))) == 0
    assert 50003 not in ports
    taken = {
        relayed.address[1] for allocation in open_world.server.allocations for relayed in allocation.relayed.values()
    }
    for n in range(9 - len(taken)):
        taken.add(open_world.client(7000 + n, user=str(n)).allocate()[1])
    assert 50004 in taken
    assert open_world.client(7100, user="x").error(Method.ALLOCATE, UDP) == 508
    assert ours.error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4))) == 0
    ports = {open_world.client(8000 + n, user=f"y{n}").allocate()[1] for n in range(2)}
    assert 50003 in ports


def test_the_kernel_is_asked_once_a_second_whether_a_client_is_this_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = world.server._handler.allocate
    asked: list[str] = []

    def is_own(address: IPAddress) -> bool:
        asked.append(str(address))
        return False

    monkeypatch.setattr(handler, "_is_own", is_own)
    monkeypatch.setattr("tavern.turn.allocate._MAX_OWN_CLIENTS", 2)
    world.client(4000, "9.9.9.1").allocate()
    world.now += 0.9
    world.client(4001, "9.9.9.1").allocate()
    assert asked == ["9.9.9.1"]
    world.now += 0.1
    world.client(4002, "9.9.9.1").allocate()
    assert asked == ["9.9.9.1", "9.9.9.1"]
    for last in range(2, 6):
        world.client(4000, f"9.9.9.{last}").allocate()
        assert len(handler._own_clients) <= 2
    assert asked[2:] == ["9.9.9.2", "9.9.9.3", "9.9.9.4", "9.9.9.5"]

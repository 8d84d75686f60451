"""RFC 8656 §9 and §12: CreatePermission and ChannelBind."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tavern.stun.message import AttributeType, Method
from tavern.turn.commands import BindChannel, RevokePermission, SendToClient, SetPermission, UnbindChannel

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

PEER = "9.9.2.1"
IPV6_FAMILY = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x02\0\0\0")


@pytest.fixture
def client(world: World) -> Client:
    client = world.client()
    client.allocate()
    world.commands.clear()
    return client


@pytest.mark.clause("8656 §9.2: CreatePermission installs for 300 s, per IP address")
def test_9_a_permission_is_announced_after_it_holds(world: World, client: Client) -> None:
    assert client.permit(PEER, "9.9.2.2") == 0
    kinds = [type(command) for command in world.commands]
    assert kinds == [SetPermission, SetPermission, SendToClient]
    assert world.commands[0] == SetPermission(1, PEER, world.now + 300, relayed_only=False, own=False, claimed=False)


@pytest.mark.clause("8656 §9.2: one or more XOR-PEER-ADDRESS, all or none: 400 / 403 / 443")
@pytest.mark.parametrize(
    ("hosts", "code"),
    [
        ((), 400),
        ((PEER, "10.0.0.1"), 403),
        ((PEER, "2001:db8:1::1"), 443),
        ((PEER, "::ffff:9.9.2.1"), 443),
        (tuple(f"9.9.2.{n}" for n in range(60)), 0),
    ],
)
def test_9_2_all_or_none(world: World, client: Client, hosts: tuple[str, ...], code: int) -> None:
    assert client.permit(*hosts) == code
    installed = [command for command in world.commands if isinstance(command, SetPermission)]
    assert len(installed) == (len(hosts) if code == 0 else 0)


@pytest.mark.clause("8656 §9.2: a malformed XOR-PEER-ADDRESS -> 400")
def test_9_2_a_malformed_peer_400(client: Client) -> None:
    assert client.error(Method.CREATE_PERMISSION, (AttributeType.XOR_PEER_ADDRESS, b"\x00\x01\x00\x00")) == 400


@pytest.mark.clause("8656 §9.2, §12.2: a peer of a family that the allocation lacks -> 443")
def test_9_2_an_ipv6_allocation_takes_ipv6_peers(world: World) -> None:
    client = world.client(port=4001)
    client.allocate(IPV6_FAMILY)
    assert client.permit("2001:db9::1") == 0
    assert client.permit(PEER) == 443
    assert client.permit("::1") == 403


def permit_all(client: Client) -> list[str]:
    """Permits as many peers as one allocation may."""
    hosts = [f"9.9.{n >> 8}.{n & 255}" for n in range(0x200, 0x400)]
    for first in range(0, len(hosts), 32):
        assert client.permit(*hosts[first : first + 32]) == 0
    return hosts


def test_9_2_a_request_of_more_peers_than_a_message_has_attributes_is_dropped(world: World, client: Client) -> None:
    hosts = [f"9.9.2.{n}" for n in range(61)]
    with pytest.raises(AssertionError):
        client.permit(*hosts)
    assert world.server.counters.malformed == 1


@pytest.mark.clause("8656 §9.2, §12.2: too many permissions or channels -> 508")
def test_9_expired_permissions_make_room_again_also_in_the_data_path(world: World, client: Client) -> None:
    hosts = permit_all(client)
    assert client.permit("9.9.9.1") == 508
    assert client.permit(hosts[0], "9.9.9.1") == 508
    assert client.permit(*hosts[:60]) == 0
    assert client.bind(0x4000, "9.9.9.1", 5000) == 508
    assert client.bind(0x4000, hosts[0], 5000) == 0
    world.tick(300)
    assert client.permit("9.9.9.1") == 0
    revoked = {command.host for command in world.commands if isinstance(command, RevokePermission)}
    assert revoked == set(hosts)


@pytest.mark.clause("8656 §9, §12: permissions expire after 300 s, channels after 600 s")
def test_an_idle_clients_expired_permissions_and_channels_leave_the_data_path(world: World, client: Client) -> None:
    assert client.error(Method.REFRESH, (AttributeType.LIFETIME, (3600).to_bytes(4, "big"))) == 0
    flow = next(iter(world.forwarder))
    for number in range(100):
        assert client.bind(0x4000 + number, PEER, 5000 + number) == 0
    assert client.permit(PEER, "9.9.2.2") == 0
    for port in range(1, 100):
        assert world.forwarder.from_peer(flow, b"x", ("9.9.2.2", port), world.now) is not None
        assert world.forwarder.from_peer(flow, b"x", (PEER, 4990 + port), world.now) is not None
    assert world.server.next_deadline() == world.now + 300
    world.tick(300)
    assert not flow.permissions
    assert {address[0] for address in flow.peers} == {PEER}
    assert len(flow.peers) == len(flow.channels) == 100
    assert world.server.next_deadline() == world.now + 300
    world.tick(300)
    assert not flow.channels
    assert not flow.peers
    assert not next(iter(world.server.allocations)).channels
    assert world.server.next_deadline() == world.now + 3000


def test_a_sweep_comes_at_most_every_30_s_for_each_allocation(world: World, client: Client) -> None:
    for _ in range(20):
        for n in range(3):
            world.tick(1)
            assert client.permit(f"9.9.{n}.{world.now % 256:.0f}") == 0
    world.tick(300 - 60 + 1)
    sweeps = 1
    while (deadline := world.server.next_deadline()) is not None and len(world.server.allocations):
        assert deadline >= world.now + 30
        world.tick(deadline - world.now)
        sweeps += 1
    assert sweeps == 4  # the last one ends the allocation
    revoked = [command for command in world.commands if isinstance(command, RevokePermission)]
    assert len(revoked) == 60


def test_an_allocation_that_was_ended_is_swept_no_more(world: World, client: Client) -> None:
    assert client.permit(PEER) == 0
    assert client.error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4))) == 0
    assert world.server.next_deadline() is None
    assert world.server.handle_timer(world.now + 1000) == []


def test_a_refreshed_permission_is_swept_when_it_has_expired_and_not_before(world: World, client: Client) -> None:
    assert client.permit(PEER) == 0
    world.tick(200)
    assert client.permit(PEER) == 0
    flow = next(iter(world.forwarder))
    world.tick(100)
    assert PEER in flow.permissions
    assert world.server.next_deadline() == world.now + 200
    world.tick(200)
    assert not flow.permissions


@pytest.mark.clause("8656 §12.2: ChannelBind binds for 600 s and installs the permission")
def test_12_a_channel_binds_and_permits(world: World, client: Client) -> None:
    assert client.bind(0x4000, PEER, 5000) == 0
    assert world.commands[:2] == [
        SetPermission(1, PEER, world.now + 300, relayed_only=False, own=False, claimed=False),
        BindChannel(1, 0x4000, (PEER, 5000), world.now + 600, relayed_only=False),
    ]


@pytest.mark.clause(
    "8656 §12.2: numbers 0x4000-0x7FFF (to 0x4FFF in 8656, all in 5766); number or peer bound elsewhere -> 400; "
    "403, 443"
)
@pytest.mark.parametrize(
    ("number", "host", "port", "code"),
    [
        (0x3FFF, PEER, 5001, 400),
        (0x8000, PEER, 5001, 400),
        (0xFFFF, PEER, 5001, 400),
        (0x4FFF, PEER, 5001, 0),
        (0x4000, PEER, 5000, 0),  # the same again: a refresh
        (0x4000, PEER, 5001, 400),  # the number stands for another
        (0x4001, PEER, 5000, 400),  # the peer has another
        (0x4001, "10.0.0.1", 5000, 403),
        (0x4001, "2001:db9::1", 5000, 443),
        (0x4001, PEER, 0, 403),
    ],
)
def test_12_2_checks(client: Client, number: int, host: str, port: int, code: int) -> None:
    assert client.bind(0x4000, PEER, 5000) == 0
    assert client.bind(number, host, port) == code


@pytest.mark.clause("8656 §12.2: without CHANNEL-NUMBER or XOR-PEER-ADDRESS -> 400")
@pytest.mark.parametrize("missing", [AttributeType.CHANNEL_NUMBER, AttributeType.XOR_PEER_ADDRESS])
def test_12_2_a_missing_attribute_400(client: Client, missing: AttributeType) -> None:
    both = [(AttributeType.CHANNEL_NUMBER, b"\x40\0\0\0"), (AttributeType.XOR_PEER_ADDRESS, b"\x00\x01\x12\x34abcd")]
    assert client.error(Method.CHANNEL_BIND, *(one for one in both if one[0] != missing)) == 400


@pytest.mark.clause("8656 §9, §12: permissions expire after 300 s, channels after 600 s")
def test_12_a_channel_lives_600_s_and_then_number_and_peer_are_free(world: World, client: Client) -> None:
    assert client.error(Method.REFRESH, (AttributeType.LIFETIME, (3600).to_bytes(4, "big"))) == 0
    assert client.bind(0x4000, PEER, 5000) == 0
    world.tick(599)
    assert client.bind(0x4000, PEER, 5001) == 400
    world.tick(1)
    assert client.bind(0x4000, PEER, 5001) == 0
    assert client.bind(0x4001, PEER, 5000) == 0
    assert UnbindChannel(1, 0x4000) in world.commands


@pytest.mark.clause("8656 §9.2, §12.2: too many permissions or channels -> 508")
def test_how_many_permissions_and_channels_an_allocation_has_is_a_setting_508(make_world: type[World]) -> None:
    client = make_world(max_permissions=3, max_channels=2).client()
    client.allocate()
    assert client.permit("9.9.2.1", "9.9.2.2", "9.9.2.3", "9.9.2.4") == 508
    assert client.permit("9.9.2.1", "9.9.2.2", "9.9.2.3") == 0
    assert client.bind(0x4000, "9.9.2.4", 5000) == 508
    assert [client.bind(0x4000 + n, "9.9.2.1", 5000 + n) for n in range(3)] == [0, 0, 508]


@pytest.mark.clause("8656 §9.2, §12.2: too many permissions or channels -> 508")
def test_12_channels_are_bounded_508(client: Client) -> None:
    assert all(client.bind(0x4000 + n, PEER, 1 + n) == 0 for n in range(512))
    assert client.bind(0x4FFF, PEER, 9999) == 508
    assert client.bind(0x4000, PEER, 1) == 0


@pytest.mark.clause("Policy: our own relayed addresses are allowed while they live")
def test_our_relayed_address_is_permitted_while_another_allocation_lives(world: World, client: Client) -> None:
    assert client.permit("198.51.100.1") == 403
    other = world.client(port=4001)
    _, port = other.allocate()
    assert client.permit("198.51.100.1") == 0
    assert (
        SetPermission(1, "198.51.100.1", world.now + 300, relayed_only=True, own=True, claimed=False) in world.commands
    )
    assert client.bind(0x4000, "198.51.100.1", port) == 0
    assert client.bind(0x4001, "198.51.100.1", 3478) == 403
    assert client.bind(0x4001, "198.51.100.1", 8080) == 403
    assert other.error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4))) == 0
    assert client.permit("198.51.100.1") == 403


@pytest.mark.clause("Policy: our own relayed addresses are allowed while they live")
def test_an_allocation_of_the_other_family_is_nobodys_peer(world: World, client: Client) -> None:
    world.client(port=4001).allocate(IPV6_FAMILY)
    assert client.permit("198.51.100.1") == 403
    world.client(port=4002).allocate()
    assert client.permit("198.51.100.1") == 0


def test_an_interfaces_new_address_leaves_permissions_for_relayed_addresses(world: World, client: Client) -> None:
    other = world.client(port=4001)
    _, port = other.allocate()
    assert client.bind(0x4000, "198.51.100.1", port) == 0
    assert other.error(Method.REFRESH, (AttributeType.LIFETIME, bytes(4))) == 0
    assert world.server.set_local_addresses(frozenset({ip_address("9.9.2.8")})) == []


def test_permissions_are_judged_again_only_when_the_interfaces_have_new_addresses(world: World, client: Client) -> None:
    """The kernel's word is asked for then, too: an interface brings addresses that it does not list."""
    first, second = frozenset({ip_address("9.9.2.8")}), frozenset({ip_address("9.9.2.9")})
    assert client.permit(PEER) == 0
    assert world.server.set_local_addresses(first) == []
    world.kernels_own.add(ip_address(PEER))
    assert world.server.set_local_addresses(first) == []
    assert world.server.set_local_addresses(frozenset()) == []
    assert world.server.set_local_addresses(second) == [RevokePermission(1, PEER)]


@pytest.mark.clause("Policy: every address of this machine is denied")
def test_what_the_kernel_calls_its_own_403(world: World, client: Client) -> None:
    world.kernels_own.add(ip_address(PEER))
    assert client.permit(PEER) == 403
    assert client.bind(0x4000, PEER, 5000) == 403
    assert client.permit("9.9.2.2") == 0


@pytest.mark.clause("Policy: every address of this machine is denied")
def test_an_interfaces_new_address_withdraws_permissions_and_channels_for_it(world: World, client: Client) -> None:
    assert client.permit("9.9.2.9") == 0
    assert client.bind(0x4000, "9.9.2.8", 5000) == 0
    world.commands.clear()
    world.execute(world.server.set_local_addresses(frozenset({ip_address("9.9.2.8"), ip_address("9.9.2.9")})))
    assert set(world.commands) == {
        RevokePermission(1, "9.9.2.9"),
        RevokePermission(1, "9.9.2.8"),
        UnbindChannel(1, 0x4000),
    }
    assert client.permit("9.9.2.9") == 403

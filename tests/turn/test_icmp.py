"""RFC 8656 §11.5, §18.13: what ICMP says of a packet to a peer reaches the client as a Data indication."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import decode_xor_address
from tavern.stun.message import AttributeType, Message, MessageClass, Method, parse
from tavern.turn.commands import SetPermission
from tavern.turn.drops import Drop
from tavern.turn.flows import sockaddr_of

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

PEER_4, PEER_6 = "9.9.2.1", "2001:4860::9"
BOTH = (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02\x00\x00\x00")


@pytest.fixture
def client(world: World) -> Client:
    client = world.client()
    client.allocate(BOTH)
    assert client.permit(PEER_4, PEER_6) == 0
    return client


def indication(world: World, host: str, icmp_type: int, code: int, mtu: int = 0, port: int = 5000) -> Message | None:
    """What the client hears of an ICMP error about a packet to that peer."""
    [flow] = world.forwarder
    output = world.forwarder.from_icmp(flow, sockaddr_of((host, port)), icmp_type, code, mtu, world.now)
    if output is None:
        return None
    assert (output[0], output[2]) == (flow, None)
    message = parse(output[1])
    assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
    return message


@pytest.mark.clause("8656 §11.5: ICMP from a peer -> Data indication with XOR-PEER-ADDRESS and ICMP, without DATA")
@pytest.mark.parametrize(
    ("host", "icmp_type", "code", "mtu", "value"),
    [
        (PEER_4, 3, 3, 0, b"\0\0\x06\x03\0\0\0\0"),
        (PEER_4, 11, 0, 0, b"\0\0\x16\x00\0\0\0\0"),
        (PEER_4, 3, 4, 1400, b"\0\0\x06\x04\0\0\x05\x78"),
        (PEER_4, 3, 3, 1400, b"\0\0\x06\x03\0\0\0\0"),
        (PEER_6, 1, 4, 0, b"\0\0\x02\x04\0\0\0\0"),
        (PEER_6, 2, 0, 1280, b"\0\0\x04\x00\0\0\x05\x00"),
        (PEER_6, 3, 0, 1280, b"\0\0\x06\x00\0\0\0\0"),
    ],
)
def test_the_error_reaches_the_client(
    world: World, client: Client, host: str, icmp_type: int, code: int, mtu: int, value: bytes
) -> None:
    message = indication(world, host, icmp_type, code, mtu)
    assert message is not None
    assert [kind for kind, _ in message.attributes] == [AttributeType.XOR_PEER_ADDRESS, AttributeType.ICMP]
    peer = decode_xor_address(message.attributes[0][1], message.transaction_id)
    assert peer == (ip_address(host), 5000)
    assert message.get(AttributeType.ICMP) == value


@pytest.mark.clause("8656 §11.5: ICMP 3 and 11, ICMPv6 1, 2 and 3, with the MTU where a packet was too big")
@pytest.mark.parametrize(("host", "types"), [(PEER_4, {3, 11}), (PEER_6, {1, 2, 3})])
def test_other_types_are_dropped(world: World, client: Client, host: str, types: set[int]) -> None:
    assert {kind for kind in range(256) if indication(world, host, kind, 0) is not None} == types


@pytest.mark.clause("8656 §11.5: only with a permission for the peer that the packet was for")
def test_without_a_permission_it_is_dropped(world: World, client: Client) -> None:
    assert indication(world, "9.9.2.2", 3, 3) is None
    assert indication(world, PEER_4, 3, 3) is not None
    world.now += 300
    assert indication(world, PEER_4, 3, 3) is None
    assert world.forwarder.drops[Drop.NO_PERMISSION] == 2


def test_it_is_a_data_indication_where_a_channel_is_bound_too(world: World, client: Client) -> None:
    assert client.bind(0x4000, PEER_4, 5000) == 0
    assert indication(world, PEER_4, 3, 3) is not None


def test_nothing_that_icmp_could_answer_left_to_our_relayed_addresses(world: World, client: Client) -> None:
    """Such an error is forged: what goes there is handed over inside the process."""
    [flow] = world.forwarder
    own = SetPermission(flow.id, "198.51.100.1", 10**9, relayed_only=True, own=True, claimed=False)
    world.forwarder.set_permission(own)
    assert indication(world, "198.51.100.1", 3, 3) is None

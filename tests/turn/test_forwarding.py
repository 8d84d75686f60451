"""RFC 8656 §10 to §12 in the data path: what passes, what is dropped, how it is framed, hand-over between flows."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.stun.attributes import decode_xor_address, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode, parse
from tavern.turn.commands import AddFlow, BindChannel, RemoveFlow, RevokePermission, SetPermission, UnbindChannel
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow
from tavern.turn.forwarding import CONTROL, Forwarder, Reply, Unfragmented
from tests.twin import make_forwarder

if TYPE_CHECKING:
    from tavern.turn.indications import SockAddr
    from tests.turn.conftest import World

TRANSACTION = b"0123456789ab"
RELAY = "198.51.100.1"
PEER = "192.0.2.1"
CLIENT = "client"
CONNECT = FiveTuple(Transport.UDP, ("203.0.113.7", 4000), (RELAY, 3478))


def make() -> tuple[Forwarder[str], Flow[str]]:
    forwarder: Forwarder[str] = make_forwarder(
        frozenset({RELAY, "2001:db8::1"}), lambda: int.from_bytes(TRANSACTION, "big")
    )
    return forwarder, forwarder.add_flow(
        AddFlow(1, CONNECT, (RELAY, 50001), user="bob", circles=None), CLIENT, "sockets"
    )


def send_indication(
    payload: bytes, host: str = PEER, port: int = 5000, *extra: Attribute, data_first: bool = False
) -> bytes:
    peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, TRANSACTION))
    attributes = [peer, (AttributeType.DATA, payload)]
    if data_first:
        attributes.reverse()
    return encode(Method.SEND, MessageClass.INDICATION, TRANSACTION, [*attributes, *extra])


def channel_data(number: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack(">HH", number, len(payload) if length is None else length) + payload


def permit(
    forwarder: Forwarder[str], host: str = PEER, flow_id: int = 1, until: float = 300.0, ours: bool = False
) -> None:
    forwarder.set_permission(SetPermission(flow_id, host, until, relayed_only=ours, own=ours, claimed=False))


def bind(forwarder: Forwarder[str], number: int = 0x4000, port: int = 5000, until: float = 600.0) -> None:
    forwarder.bind_channel(BindChannel(1, number, (PEER, port), until, relayed_only=False))


@pytest.mark.clause("8656 §11.2: Send with peer, DATA and a permission leaves; zero-length too")
@pytest.mark.parametrize("payload", [b"", b"x", b"xyz", b"four", b"y" * 1200])
@pytest.mark.parametrize("extra", [(), ((AttributeType.SOFTWARE, b"x"),), ((AttributeType.FINGERPRINT, b"abcd"),)])
@pytest.mark.parametrize("data_first", [False, True])
def test_11_2_send_passes_with_a_permission(payload: bytes, extra: tuple[Attribute, ...], data_first: bool) -> None:
    forwarder, flow = make()
    permit(forwarder)
    data = send_indication(payload, PEER, 5000, *extra, data_first=data_first)
    assert forwarder.from_client(data, CLIENT, 0.0) == (flow, payload, (PEER, 5000))
    assert forwarder.from_client(data, CLIENT, 299.9) == (flow, payload, (PEER, 5000))
    assert forwarder.from_client(data, CLIENT, 300.0) is None
    assert forwarder.drops[Drop.NO_PERMISSION] == 1
    assert (flow.packets_from_client, flow.bytes_from_client) == (2, 2 * len(payload))


@pytest.mark.clause("8489 §14: other attributes of a Send indication are ignored or drop it")
@pytest.mark.parametrize(
    "extra",
    [
        [(0xFF00, b"")] * 14,
        [(AttributeType.DATA, b"later")],
        [(AttributeType.MESSAGE_INTEGRITY, bytes(20)), (0x7F00, b"")],
    ],
    ids=["16 attributes", "the first DATA counts", "what follows MESSAGE-INTEGRITY is ignored"],
)
def test_rfc8489_14_attributes_beside_the_two(extra: list[Attribute]) -> None:
    forwarder, flow = make()
    permit(forwarder)
    data = send_indication(b"first", PEER, 5000, *extra)
    assert forwarder.from_client(data, CLIENT, 0.0) == (flow, b"first", (PEER, 5000))


PEER_ONLY = [(AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(PEER), 5000, TRANSACTION))]


@pytest.mark.clause("8656 §11.2: Send without peer, DATA or permission is dropped; what does not parse, too")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (send_indication(b"x", "192.0.2.2"), Drop.NO_PERMISSION),
        (send_indication(b"x", PEER, 5000, (0x7F00, b"")), Drop.MALFORMED),
        (send_indication(b"x", PEER, 5000, *[(0xFF00, b"")] * 15), Drop.MALFORMED),
        (encode(Method.SEND, MessageClass.INDICATION, TRANSACTION, PEER_ONLY), Drop.MALFORMED),
        (encode(Method.SEND, MessageClass.INDICATION, TRANSACTION, [(AttributeType.DATA, b"x")]), Drop.MALFORMED),
        (encode(Method.SEND, MessageClass.INDICATION, TRANSACTION), Drop.MALFORMED),
        (send_indication(b"x") + b"more", Drop.MALFORMED),
        (send_indication(b"x" * 8)[:-4], Drop.MALFORMED),
        # Attributes that are whole, under a length that says more, or less, than there is:
        (send_indication(b"x")[:2] + b"\x00\x18" + send_indication(b"x")[4:], Drop.MALFORMED),
        (send_indication(b"x", data_first=True)[:2] + b"\x00\x10" + send_indication(b"x")[4:], Drop.MALFORMED),
        (channel_data(0x4000, b"x"), Drop.NO_CHANNEL),
        (b"\x80\x00" + bytes(30), Drop.MALFORMED),
        (b"\x00\x01\x00\x00" + bytes(16), Drop.MALFORMED),
        (b"", Drop.MALFORMED),
    ],
)
def test_what_does_not_pass_is_counted(data: bytes, reason: Drop) -> None:
    forwarder, flow = make()
    permit(forwarder)
    assert forwarder.from_client(data, CLIENT, 0.0) is None
    assert {name: count for name, count in forwarder.drops.items() if count} == {reason: 1}
    assert flow.packets_from_client == 0


@pytest.mark.clause("8656 §11.2: without an allocation data is dropped")
@pytest.mark.parametrize("data", [send_indication(b"x"), channel_data(0x4000, b"x")])
def test_without_a_flow_data_is_dropped(data: bytes) -> None:
    forwarder, _ = make()
    assert forwarder.from_client(data, "stranger", 0.0) is None
    assert forwarder.drops[Drop.NO_FLOW] == 1


@pytest.mark.parametrize("method", [Method.BINDING, Method.ALLOCATE, Method.REFRESH, Method.CHANNEL_BIND])
def test_requests_are_the_control_sides(method: Method) -> None:
    forwarder, _ = make()
    request = encode(method, MessageClass.REQUEST, TRANSACTION)
    assert forwarder.from_client(request, CLIENT, 0.0) is CONTROL
    assert forwarder.from_client(request, "stranger", 0.0) is CONTROL


@pytest.mark.clause("8656 §11.3: from a peer without a channel -> Data indication")
@pytest.mark.parametrize("payload", [b"", b"x", b"xyz", b"y" * 1200])
def test_11_3_a_peer_without_channel_gets_a_data_indication(payload: bytes) -> None:
    forwarder, flow = make()
    permit(forwarder)
    output = forwarder.from_peer(flow, payload, (PEER, 5000), 0.0)
    assert output is not None
    assert (output[0], output[2]) == (flow, None)
    message = parse(output[1])
    assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
    assert message.get(AttributeType.DATA) == payload
    value = message.get(AttributeType.XOR_PEER_ADDRESS)
    assert value is not None
    assert decode_xor_address(value, message.transaction_id) == (ip_address(PEER), 5000)
    assert (flow.packets_to_client, flow.bytes_to_client) == (1, len(payload))


@pytest.mark.clause("8656 §11.3: a Data indication, byte for byte")
def test_11_3_golden_data_indication() -> None:
    forwarder, flow = make()
    permit(forwarder)
    output = forwarder.from_peer(flow, b"hello", (PEER, 5000), 0.0)
    assert output is not None
    expected = "001700182112a442" + TRANSACTION.hex() + "001200080001329ae112a643" + "0013000568656c6c6f000000"
    assert output[1].hex() == expected


@pytest.mark.clause("8656 §11.3: from a peer without a permission: dropped")
def test_11_3_a_peer_without_permission_is_dropped() -> None:
    forwarder, flow = make()
    permit(forwarder)
    assert forwarder.from_peer(flow, b"x", ("192.0.2.2", 5000), 0.0) is None
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 300.0) is None
    assert forwarder.drops[Drop.NO_PERMISSION] == 2


@pytest.mark.clause("8656 §9: permissions live 300 s; data never refreshes them")
def test_9_data_does_not_refresh_a_permission_but_the_command_does() -> None:
    forwarder, flow = make()
    permit(forwarder)
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 299.0) is not None
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 300.0) is None
    permit(forwarder, until=600.0)
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 599.0) is not None


@pytest.mark.clause("8656 §9: without its permission nothing passes")
def test_a_revoked_permission_is_gone_at_once_and_can_come_back() -> None:
    forwarder, flow = make()
    permit(forwarder)
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 1.0) is not None
    forwarder.revoke_permission(RevokePermission(1, PEER))
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 1.0) is None
    assert forwarder.from_client(send_indication(b"x"), CLIENT, 1.0) is None
    permit(forwarder)
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 1.0) is not None


@pytest.mark.clause("8656 §12.5: ChannelData reaches its peer; padding over UDP is optional")
@pytest.mark.parametrize("padding", [b"", b"\0", b"\0\0\0"])
def test_12_5_channel_data_reaches_its_peer(padding: bytes) -> None:
    forwarder, flow = make()
    permit(forwarder)
    bind(forwarder)
    assert forwarder.from_client(channel_data(0x4000, b"hello") + padding, CLIENT, 599.0) == (
        flow,
        b"hello",
        (PEER, 5000),
    )
    assert forwarder.from_client(channel_data(0x4000, b""), CLIENT, 599.0) == (flow, b"", (PEER, 5000))
    assert forwarder.from_client(channel_data(0x4000, b"hello"), CLIENT, 600.0) is None


@pytest.mark.clause("8656 §12.6: length beyond the datagram, an unbound or a reserved number -> dropped")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (channel_data(0x4000, b"abc", length=4), Drop.MALFORMED),
        (channel_data(0x4001, b"abc"), Drop.NO_CHANNEL),
        (channel_data(0x8000, b"a" * 30), Drop.MALFORMED),
        (b"\x40\x00\x00", Drop.MALFORMED),
    ],
)
def test_12_4_channel_data_that_does_not_pass(data: bytes, reason: Drop) -> None:
    forwarder, _ = make()
    bind(forwarder)
    assert forwarder.from_client(data, CLIENT, 0.0) is None
    assert forwarder.drops[reason] == 1


@pytest.mark.clause("8656 §12.7: a bound channel is always used towards the client")
def test_12_a_bound_channel_is_always_used_towards_the_client() -> None:
    forwarder, flow = make()
    permit(forwarder, until=1000.0)
    bind(forwarder)
    assert forwarder.from_peer(flow, b"hello", (PEER, 5000), 599.0) == (flow, b"\x40\x00\x00\x05hello", None)
    other_port = forwarder.from_peer(flow, b"hello", (PEER, 5001), 599.0)
    expired = forwarder.from_peer(flow, b"hello", (PEER, 5000), 600.0)
    assert other_port is not None
    assert expired is not None
    assert other_port[1][:2] == expired[1][:2] == b"\x00\x17"


@pytest.mark.clause("8656 §12: a number is free again after its time")
def test_12_a_rebound_number_or_peer_leaves_nothing_behind() -> None:
    forwarder, flow = make()
    permit(forwarder, until=9000.0)
    bind(forwarder, 0x4000, 5000)
    bind(forwarder, 0x4000, 5001, until=9000.0)
    assert forwarder.from_client(channel_data(0x4000, b"x"), CLIENT, 1.0) == (flow, b"x", (PEER, 5001))
    first = forwarder.from_peer(flow, b"x", (PEER, 5000), 1.0)
    assert first is not None
    assert first[1][:2] == b"\x00\x17"
    bind(forwarder, 0x4007, 5001, until=9000.0)
    assert forwarder.from_client(channel_data(0x4000, b"x"), CLIENT, 1.0) is None
    forwarder.unbind_channel(UnbindChannel(1, 0x4007))
    assert forwarder.from_client(channel_data(0x4007, b"x"), CLIENT, 1.0) is None


def test_12_a_peer_that_got_another_number_before_its_permission_has_that_one() -> None:
    forwarder, flow = make()
    bind(forwarder, 0x4000)
    bind(forwarder, 0x4007)
    permit(forwarder)
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 0.0) == (flow, b"\x40\x07\x00\x01x", None)


def test_a_revoked_permission_leaves_its_hosts_channels_until_they_are_unbound() -> None:
    forwarder, flow = make()
    permit(forwarder)
    bind(forwarder)
    for port in (5000, 5001):
        assert forwarder.from_peer(flow, b"x", (PEER, port), 0.0) is not None
    forwarder.revoke_permission(RevokePermission(1, PEER))
    assert set(flow.peers) == {(PEER, 5000)}
    permit(forwarder)
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 0.0) == (flow, b"\x40\x00\x00\x01x", None)
    forwarder.revoke_permission(RevokePermission(1, PEER))
    forwarder.unbind_channel(UnbindChannel(1, 0x4000))
    assert not flow.peers


def test_a_peer_with_many_ports_does_not_grow_the_table_and_keeps_channels() -> None:
    forwarder, flow = make()
    permit(forwarder)
    bind(forwarder)
    for port in range(1, 10_000):
        assert forwarder.from_peer(flow, b"x", (PEER, port), 0.0) is not None
    assert len(flow.peers) <= 2048
    assert len(flow.permissions[PEER].known) <= 2048
    assert forwarder.from_peer(flow, b"x", (PEER, 5000), 0.0) == (flow, b"\x40\x00\x00\x01x", None)


@pytest.mark.clause("8656 §11.2: with DONT-FRAGMENT the DF bit is set and what does not fit is dropped, else not")
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_dont_fragment_is_for_this_packet(order: slice) -> None:
    forwarder, flow = make()
    permit(forwarder)
    peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(PEER), 5000, TRANSACTION))
    attributes = [peer, (AttributeType.DATA, b"x"), (AttributeType.DONT_FRAGMENT, b"")][order]
    data = encode(Method.SEND, MessageClass.INDICATION, TRANSACTION, attributes)
    assert forwarder.from_client(data, CLIENT, 0.0) == Unfragmented(flow, b"x", (PEER, 5000))
    assert forwarder.from_client(send_indication(b"x"), CLIENT, 0.0) == (flow, b"x", (PEER, 5000))
    assert (flow.packets_from_client, flow.bytes_from_client) == (2, 2)


def test_dont_fragment_changes_nothing_where_a_packet_is_handed_over() -> None:
    forwarder, _, two = two_flows()
    permit(forwarder, RELAY, 1, ours=True)
    permit(forwarder, RELAY, 2, ours=True)
    data = send_indication(b"hello", RELAY, 50002, (AttributeType.DONT_FRAGMENT, b""))
    output = forwarder.from_client(data, CLIENT, 0.0)
    assert isinstance(output, tuple)
    assert (output[0], output[2]) == (two, None)


@pytest.mark.clause("8656 §11: IPv6 peers, both ways")
def test_ipv6_both_ways() -> None:
    forwarder, _ = make()
    flow = forwarder.add_flow(
        AddFlow(2, CONNECT, ("2001:db8::1", 50001), user="bob", circles=None), "client6", "sockets6"
    )
    permit(forwarder, "2001:db9::9", flow_id=2)
    data = send_indication(b"hello", "2001:db9::9")
    assert forwarder.from_client(data, "client6", 0.0) == (flow, b"hello", ("2001:db9::9", 5000, 0, 0))
    output = forwarder.from_peer(flow, b"hello", ("2001:db9::9", 5000, 0, 0), 0.0)
    assert output is not None
    message = parse(output[1])
    value = message.get(AttributeType.XOR_PEER_ADDRESS)
    assert value is not None
    assert decode_xor_address(value, message.transaction_id) == (ip_address("2001:db9::9"), 5000)
    assert message.get(AttributeType.DATA) == b"hello"


def two_flows() -> tuple[Forwarder[str], Flow[str], Flow[str]]:
    forwarder, one = make()
    two = forwarder.add_flow(
        AddFlow(2, CONNECT, (RELAY, 50002), user="bob", circles=None), "other client", "other sockets"
    )
    return forwarder, one, two


@pytest.mark.clause("8656 §11, §12: two peers on one relay, each seen at its relayed address")
def test_hand_over_reaches_the_other_client_from_our_relayed_address() -> None:
    forwarder, one, two = two_flows()
    permit(forwarder, RELAY, 1, ours=True)
    permit(forwarder, RELAY, 2, ours=True)
    output = forwarder.from_client(send_indication(b"hello", RELAY, 50002), CLIENT, 0.0)
    assert isinstance(output, tuple)
    assert (output[0], output[2]) == (two, None)
    message = parse(output[1])
    value = message.get(AttributeType.XOR_PEER_ADDRESS)
    assert value is not None
    assert decode_xor_address(value, message.transaction_id) == (ip_address(RELAY), 50001)
    forwarder.bind_channel(BindChannel(2, 0x4123, (RELAY, 50001), 600.0, relayed_only=True))
    forwarder.bind_channel(BindChannel(1, 0x4000, (RELAY, 50002), 600.0, relayed_only=True))
    assert forwarder.from_client(channel_data(0x4000, b"hi"), CLIENT, 0.0) == (two, b"\x41\x23\x00\x02hi", None)
    assert (one.packets_from_client, two.packets_to_client) == (2, 2)


@pytest.mark.clause("8656 §9: both sides' permissions decide between two peers on one relay")
def test_hand_over_needs_the_receivers_permission_too() -> None:
    forwarder, _, _ = two_flows()
    permit(forwarder, RELAY, 1, ours=True)
    assert forwarder.from_client(send_indication(b"x", RELAY, 50002), CLIENT, 0.0) is None
    assert forwarder.drops[Drop.NO_PERMISSION] == 1


@pytest.mark.clause("Policy: every address of this machine is denied")
def test_our_own_services_are_no_peers_either_way() -> None:
    forwarder, one, _ = two_flows()
    permit(forwarder, RELAY, 1, ours=True)
    assert forwarder.from_client(send_indication(b"x", RELAY, 3478), CLIENT, 0.0) is None
    assert forwarder.from_peer(one, b"x", (RELAY, 3478), 0.0) is None
    assert forwarder.drops[Drop.NO_RELAYED_PEER] == 2
    forwarder.remove_flow(RemoveFlow(2))
    assert forwarder.from_client(send_indication(b"x", RELAY, 50002), CLIENT, 0.0) is None
    assert forwarder.drops[Drop.NO_RELAYED_PEER] == 3


@pytest.mark.clause("Policy: our own relayed addresses are allowed while they live")
def test_a_channel_to_a_relayed_address_that_is_gone_reaches_no_service_in_its_place() -> None:
    forwarder, _, _ = two_flows()
    permit(forwarder, RELAY, 1, ours=True)
    forwarder.bind_channel(BindChannel(1, 0x4000, (RELAY, 50002), 600.0, relayed_only=True))
    forwarder.remove_flow(RemoveFlow(2))
    assert forwarder.from_client(channel_data(0x4000, b"x"), CLIENT, 0.0) is None
    assert forwarder.drops[Drop.NO_RELAYED_PEER] == 1


def test_a_refreshed_permission_is_what_it_was_refreshed_to() -> None:
    forwarder, one, _ = two_flows()
    data = send_indication(b"x", RELAY, 8080)
    for ours in (True, False, True):
        permit(forwarder, RELAY, 1, ours=ours)
        assert forwarder.from_client(data, CLIENT, 0.0) == (None if ours else (one, b"x", (RELAY, 8080)))
        assert (forwarder.from_peer(one, b"x", (RELAY, 8080), 0.0) is None) == ours


@pytest.mark.clause("Policy: the operator's allow list wins over every denial above")
def test_where_the_operator_allows_our_address_its_services_are_peers() -> None:
    forwarder, one, _ = two_flows()
    permit(forwarder, RELAY, 1, ours=False)
    assert forwarder.from_client(send_indication(b"x", RELAY, 3478), CLIENT, 0.0) == (one, b"x", (RELAY, 3478))


def test_commands_for_a_flow_that_is_gone_do_nothing() -> None:
    forwarder, flow = make()
    assert forwarder.remove_flow(RemoveFlow(1)) is flow
    assert forwarder.remove_flow(RemoveFlow(1)) is None
    permit(forwarder)
    bind(forwarder)
    forwarder.revoke_permission(RevokePermission(1, PEER))
    forwarder.unbind_channel(UnbindChannel(1, 0x4000))
    assert len(forwarder) == 0


starts = st.sampled_from([b"", b"\x00\x16", b"\x40\x00", send_indication(b"")[:20], send_indication(b"x" * 9)[:34]])


@pytest.mark.clause("8656 §9: of any packets only those to permitted peers leave")
@given(starts, st.binary(max_size=120), st.booleans())
def test_arbitrary_packets_never_raise_and_only_permitted_peers_are_sent_to(
    start: bytes, rest: bytes, fix_length: bool
) -> None:
    forwarder, flow = make()
    permit(forwarder)
    bind(forwarder)
    data = start + rest
    if fix_length and len(data) >= 20 and data[:1] == b"\0":
        data = data[:2] + struct.pack(">H", len(data) - 20) + data[4:]
    output = forwarder.from_client(data, CLIENT, 0.0)
    if isinstance(output, tuple):
        assert output[0] is flow
        assert output[2] is not None
        assert output[2][0] == PEER
    assert forwarder.from_peer(flow, data, (PEER, 5000), 0.0) is not None


@pytest.mark.clause("8656 §11, §12: the largest datagrams pass or are dropped")
@given(st.integers(65_390, 65_507))
def test_payloads_of_the_largest_datagrams_never_raise(size: int) -> None:
    forwarder, flow = make()
    permit(forwarder)
    output = forwarder.from_peer(flow, bytes(size), (PEER, 5000), 0.0)
    assert (output is None) == (size > 65_400)


@pytest.mark.clause("8489 §2: a plain Binding is answered as any")
@pytest.mark.parametrize(
    "client", [("9.9.9.9", 4000), ("2620:fe::fe", 4000, 0, 0), ("fe80::7%eth0", 4000, 0, 3)], ids=["v4", "v6", "zone"]
)
def test_rfc8489_2_a_plain_binding_request_is_answered_as_the_control_side_would(
    make_world: type[World], client: SockAddr
) -> None:
    forwarder, _ = make()
    request = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION)
    five_tuple = FiveTuple(Transport.UDP, (client[0], client[1]), CONNECT.server)
    expected = make_world().receive(request, five_tuple)
    assert expected is not None
    assert forwarder.from_client(request, "anyone", 0.0, client) == Reply(expected)


@pytest.mark.parametrize(
    "data",
    [
        encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, fingerprint=True),
        encode(Method.BINDING, MessageClass.INDICATION, TRANSACTION),
        encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION),
        b"\x00\x01\x00\x04\x21\x12\xa4\x42" + TRANSACTION,
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + TRANSACTION + b"more",
    ],
)
def test_what_is_no_plain_binding_request_is_the_control_sides(data: bytes) -> None:
    assert make()[0].from_client(data, "anyone", 0.0, ("9.9.9.9", 4000)) is CONTROL


@pytest.mark.parametrize(("client_key", "limit"), [(CLIENT, 2048), ("stranger", 1024)])
def test_control_packets_are_as_small_as_requests_are(client_key: str, limit: int) -> None:
    forwarder, _ = make()
    assert forwarder.has_flow(client_key) == (client_key == CLIENT)
    largest = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION, [(0xFF00, bytes(limit - 24))])
    assert len(largest) == limit
    assert forwarder.from_client(largest, client_key, 0.0) is CONTROL
    assert forwarder.from_client(largest + b"x", client_key, 0.0) is None
    assert forwarder.drops[Drop.TOO_LARGE] == 1

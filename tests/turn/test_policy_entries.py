"""One policy in front of every entry: what CreatePermission refuses ChannelBind refuses, and Send does not pass."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tavern.addresses import IPAddress
from tavern.stun.attributes import AddressFamily, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.five_tuple import FiveTuple, Transport
from tests.turn.conftest import SERVER
from tests.turn.test_closed import ROOM, Person
from tests.turn.test_policy import DENIED_IPV4, disguises

if TYPE_CHECKING:
    from tests.turn.conftest import World

IPV6: Attribute = (AttributeType.REQUESTED_ADDRESS_FAMILY, bytes([AddressFamily.IPV6, 0, 0, 0]))
plain: st.SearchStrategy[IPv4Address] = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.sampled_from([*map(IPv4Address, DENIED_IPV4), IPv4Address("198.51.100.1")]),
)
addresses = st.one_of(plain, st.ip_addresses(v=6), plain.flatmap(lambda inner: st.sampled_from(disguises(inner))))


@given(addresses, st.booleans(), st.booleans(), st.sampled_from(list(Transport)))
def test_every_entry_refuses_the_same(
    make_world: type[World], peer: IPAddress, is_session: bool, announced: bool, transport: Transport
) -> None:
    world = make_world(allow_peers=(ip_network("10.1.0.0/16"),), deny_peers=(ip_network("9.8.0.0/16"),))
    ada, ben = Person(world, "9.9.1.1", 4001, transport), Person(world, "9.9.2.2", 4002)
    if is_session:
        ada.joins(ROOM)
        ben.joins(ROOM)
    else:
        ada.client = world.client(4001, "9.9.1.1", user="a program")
        ada.client.five_tuple = FiveTuple(transport, ("9.9.1.1", 4001), SERVER)
    family = [IPV6] if isinstance(peer, IPv6Address) else []
    ada.client.allocate(*family)
    if announced:
        ben.tells(ada, hosts=(str(peer),))
    code = ada.client.permit(str(peer))
    assert code in {0, 403}
    check = encode(
        Method.BINDING, MessageClass.REQUEST, os.urandom(12), [(AttributeType.USERNAME, b"a:b")], integrity_key=b"pwd"
    )
    transaction = os.urandom(12)
    to_peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(peer, 5000, transaction))
    sent = encode(Method.SEND, MessageClass.INDICATION, transaction, [to_peer, (AttributeType.DATA, check)])
    output = world.forwarder.from_client(sent, ada.client.five_tuple, world.now)
    assert (output is not None) == (code == 0)
    assert ada.client.bind(0x4000, str(peer), 5000) == code
    assert ada.sends_on(0x4000, check) == (code == 0)
    if is_session and not announced:
        assert (code == 0) == (peer == IPv4Address("9.9.2.2"))
    if code == 0 and isinstance(peer, IPv4Address):
        assert peer not in IPv4Network("9.8.0.0/16")
        assert peer.is_global or peer in IPv4Network("10.1.0.0/16")

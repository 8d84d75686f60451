"""Flows that share a relayed address, in the data path: each packet reaches the one flow that it is for, or none."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode, parse
from tavern.turn.commands import (
    AddRelayedAddress,
    RemoveRelayedAddress,
    RevokePermission,
    SetCircles,
    UnbindChannel,
)
from tavern.turn.drops import Drop
from tavern.turn.flows import sockaddr_of
from tavern.turn.forwarding import Unfragmented
from tavern.turn.indications import SockAddr
from tests.turn.shared import P1, P1_6, P2, RELAY, RELAY_6, TRANSACTION, UNIQUE, Person, Shared, agree, check

PEER = "9.9.2.1"
ONE, OTHER = (PEER, 5000), (PEER, 5001)


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.mark.clause("Shared ports: what comes from an exact peer reaches the allocation that owns it")
def test_two_people_behind_one_nat_each_have_their_own_peer(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    for one, peer in ((ada, ONE), (ben, OTHER)):
        one.permit(PEER)
        assert one.indicate(peer, b"x") == f"{one.name} -> {PEER}:{peer[1]}"
    assert shared.arrives(ONE) == "ada"
    assert shared.arrives(OTHER) == "ben"
    assert shared.arrives(ONE, at=P2) is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1}


@pytest.mark.parametrize("how", ["learn", "bind", "send"])
def test_an_exact_peer_is_owned_by_who_names_it_first(shared: Shared, how: str) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    ada.permit(PEER)
    ben.permit(PEER)
    if how == "learn":
        ada.learn(ONE)
    elif how == "bind":
        ada.bind(ONE)
    else:
        ada.indicate(ONE, b"x")
    ben.learn(ONE)
    ben.bind(ONE)
    assert ben.channel(b"x") is None
    assert shared.drops == {Drop.NO_CHANNEL: 1}
    assert ben.indicate(ONE, b"x") is None
    assert shared.drops == {Drop.NO_CHANNEL: 1, Drop.PEER_OF_ANOTHER: 1}
    assert shared.arrives(ONE) == "ada"


def test_a_peer_is_learned_only_with_a_permission_for_its_host(shared: Shared) -> None:
    ada = shared.add("ada")
    ada.learn(ONE)
    ada.permit(PEER)
    assert shared.arrives(ONE) is None
    ada.learn((PEER, 3478))
    assert shared.arrives((PEER, 3478)) == "ada", "the listeners' port of another host is anybody's"


def test_a_refused_channel_leaves_the_one_before(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    ada.permit(PEER)
    ben.permit(PEER)
    ada.learn(ONE)
    ben.bind(OTHER)
    ben.bind(ONE)
    assert ben.channel(b"x") == f"ben -> {PEER}:5001"


@pytest.mark.parametrize("end", ["revoked", "flow removed", "peers forgotten"])
def test_an_exact_peer_is_free_once_it_is_not_known_any_more(shared: Shared, end: str) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    ada.permit(PEER, "9.9.2.2")
    ben.permit(PEER)
    ada.learn(ONE)
    assert ben.indicate(ONE, b"x") is None
    if end == "revoked":
        shared.forwarder.revoke_permission(RevokePermission(ada.flow.id, PEER))
    elif end == "flow removed":
        shared.remove(ada)
    else:
        for port in range(1, 2050):
            ada.indicate(("9.9.2.2", port), b"x")
        assert len(ada.flow.peers) <= 2048
    assert ben.indicate(ONE, b"x") is not None
    assert shared.arrives(ONE) == "ben"
    agree(shared)


def test_a_channel_outlives_its_permission_and_holds_the_peer(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    ada.permit(PEER)
    ben.permit(PEER)
    ada.bind(ONE)
    shared.forwarder.revoke_permission(RevokePermission(ada.flow.id, PEER))
    assert ben.indicate(ONE, b"x") is None
    shared.forwarder.unbind_channel(UnbindChannel(ada.flow.id, 0x4000))
    assert ben.indicate(ONE, b"x") is not None
    agree(shared)


def test_a_peer_that_moves_to_another_number_stays_owned(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    ada.bind(ONE, 0x4000)
    ada.bind(ONE, 0x4001)
    ada.permit(PEER)
    ben.permit(PEER)
    assert ben.indicate(ONE, b"x") is None
    assert shared.arrives(ONE) == "ada"
    agree(shared)


def test_a_family_that_goes_takes_along_what_it_owned(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    shared.forwarder.add_relayed_address(AddRelayedAddress(ada.flow.id, (RELAY_6, 50008), shared=True))
    six = ("2001:4860::9", 5000, 0, 0)
    ada.permit(PEER, six[0])
    ben.permit(PEER)
    ada.learn(ONE)
    ada.learn((six[0], 5000))
    assert shared.arrives(six, at=P1_6) == "ada"
    assert shared.forwarder.remove_relayed_address(RemoveRelayedAddress(ada.flow.id, P1)) is ada.flow
    assert ben.indicate(ONE, b"x") is not None
    assert shared.arrives(ONE) == "ben"
    assert shared.arrives(six, at=P1_6) == "ada"
    agree(shared)


# Unknown sources


@pytest.mark.clause("Shared ports: a check from an unknown source reaches who sent the fragment that it asks for")
@pytest.mark.parametrize("by_channel", [False, True])
def test_a_symmetric_nat_is_found_by_the_fragment(shared: Shared, by_channel: bool) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    mapped = (PEER, 61234)
    for one in (ada, ben):
        one.permit(PEER)
        known = (PEER, 5000 + one.flow.id)
        if by_channel:
            one.bind(known)
            one.channel(check("peer", one.name))
        else:
            one.indicate(known, check("peer", one.name))
    assert shared.arrives(mapped, b"media first") is None
    assert shared.arrives(mapped, check("ben", "peer")) == "ben"
    assert shared.arrives(mapped, b"media") == "ben"
    assert shared.arrives((PEER, 61235), check("ada", "peer")) == "ada"
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1}
    agree(shared)


def test_a_fragment_finds_nobody_without_a_permission(shared: Shared) -> None:
    ada = shared.add("ada")
    ada.permit(PEER)
    ada.indicate(ONE, check("peer", "ada"))
    assert shared.arrives(("9.9.2.2", 5000), check("ada", "peer")) is None
    shared.now = 300.0
    assert shared.arrives((PEER, 61234), check("ada", "peer")) is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 2}


@pytest.mark.clause("Shared ports: a check that asks for several, or for nobody, is dropped and counted")
def test_a_fragment_of_two_finds_neither(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    for one, port in ((ada, 5000), (ben, 5001)):
        one.permit(PEER)
        one.indicate((PEER, port), check("peer", "same"))
    assert shared.arrives((PEER, 61234), check("same", "peer")) is None
    shared.remove(ada)
    assert shared.arrives((PEER, 61234), check("same", "peer")) == "ben"


def test_only_who_is_permitted_counts_among_several(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    for one, host in ((ada, PEER), (ben, "9.9.2.2")):
        one.permit(host)
        one.indicate((host, 5000), check("peer", "same"))
    assert shared.arrives((PEER, 61234), check("same", "peer")) == "ada"


def test_more_namesakes_than_a_browser_has_are_nobody(shared: Shared) -> None:
    people = [shared.add(f"one {n}") for n in range(65)]
    for one in people:
        one.permit("9.9.2.2")
        one.indicate(("9.9.2.2", 1000 + one.flow.id), check("peer", "same"))
    people[0].permit(PEER)
    assert shared.arrives(ONE, check("same", "peer")) is None
    shared.remove(people[-1])
    assert shared.arrives(ONE, check("same", "peer")) == people[0].name


@pytest.mark.parametrize(
    "payload",
    [
        check(username=b"no colon"),
        check(username=b":"),
        check(username=b"peer:"),
        check(username=b"peer:" + b"x" * 257),
        check("peer", "ada")[:-4],
        b"\x01\x01" + check("peer", "ada")[2:],
        check("peer", "ada")[:4] + bytes(4) + check("peer", "ada")[8:],
        encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0x8000, b"")] * 16 + [(6, b"peer:ada")]),
        encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0x8000, b"")]),
        check("peer", "ada")[:22] + b"\x00\xff" + check("peer", "ada")[24:],
        b"",
        b"\x00\x01",
    ],
)
def test_what_is_no_check_with_two_fragments_names_nobody(shared: Shared, payload: bytes) -> None:
    ada = shared.add("ada")
    ada.permit(PEER)
    ada.indicate(ONE, payload)
    assert ada.flow.fragments == []
    assert shared.arrives((PEER, 61234), payload) is None


def test_fragments_may_hold_colons_and_be_long(shared: Shared) -> None:
    ada = shared.add("ada")
    ada.permit(PEER)
    ada.indicate(ONE, check("peer", "a:b"))
    ada.indicate(ONE, check("peer", "x" * 256))
    assert ada.flow.fragments == [b"a:b", b"x" * 256]


def test_the_last_four_fragments_of_a_flow_count(shared: Shared) -> None:
    ada = shared.add("ada")
    ada.permit(PEER)
    for fragment in ("1", "2", "3", "4", "1", "5", "5"):
        ada.indicate(ONE, check("peer", fragment))
    assert ada.flow.fragments == [b"3", b"4", b"1", b"5"]
    assert shared.arrives((PEER, 1), check("2", "peer")) is None
    assert shared.arrives((PEER, 2), check("1", "peer")) == "ada"


def test_a_check_to_whom_it_may_not_send_names_nobody(shared: Shared) -> None:
    ada = shared.add("ada")
    ada.indicate(ONE, check("peer", "ada"))
    ada.permit(PEER)
    shared.now = 300.0
    ada.indicate(ONE, check("peer", "ada"))
    assert ada.flow.fragments == []


def test_a_check_names_its_sender_also_where_another_owns_the_peer_or_it_is_unproven(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    ada.permit(PEER)
    ben.permit(PEER, claimed=True)
    ada.learn(ONE)
    assert ben.indicate(ONE, check("peer", "ben")) is None
    for _ in range(20):
        ben.indicate(OTHER, check("peer", "again"))
    assert Drop.UNPROVEN_PEER in shared.drops
    assert ben.flow.fragments == [b"ben", b"again"]


def test_an_unknown_source_proves_a_claim_with_its_check(shared: Shared) -> None:
    ada = shared.add("ada")
    ada.permit(PEER, claimed=True)
    ada.indicate(ONE, check("peer", "ada"))
    assert ada.indicate(ONE, b"media") is None
    assert shared.arrives((PEER, 61234), check("ada", "peer")) == "ada"
    assert ada.indicate((PEER, 61234), b"media") is not None


def test_what_says_it_comes_from_our_own_relayed_addresses_is_dropped(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben", UNIQUE)
    together(shared, ada, ben)
    ada.indicate(UNIQUE, check("ben", "ada"))
    for source in (P1, P2, UNIQUE):
        assert shared.arrives(source, check("ada", "ben")) is None
    assert shared.drops == {Drop.NO_RELAYED_PEER: 3}


def test_a_flow_of_its_own_hears_nothing_from_a_shared_address_by_the_wire() -> None:
    shared = Shared(own_hosts_allowed=True)
    ben = shared.add("ben", UNIQUE)
    ben.permit(RELAY)
    assert shared.forwarder.from_peer(ben.flow, b"x", P1, 0.0) is None
    assert shared.drops == {Drop.NO_RELAYED_PEER: 1}


@pytest.mark.clause("Shared ports: what ICMP says of a peer reaches who owns it")
def test_icmp_reaches_the_owner(shared: Shared) -> None:
    ada, ben = shared.add("ada"), shared.add("ben")
    ada.permit(PEER)
    ben.permit(PEER)
    ben.learn(OTHER)
    assert shared.said(shared.forwarder.from_shared_icmp(P1, OTHER, 3, 3, 0, 0.0)) == "ben"
    assert shared.said(shared.forwarder.from_shared_icmp(P1, ONE, 3, 3, 0, 0.0)) is None
    assert shared.drops == {}


# Between allocations of one server


def together(shared: Shared, *people: Person) -> None:
    for one in people:
        one.permit(RELAY)


@pytest.mark.clause("Shared ports: between allocations of one server a flow is keyed by allocation, not by address")
@pytest.mark.parametrize("addresses", [(P1, P2), (P1, P1), (P1, UNIQUE), (UNIQUE, P1)])
def test_a_check_pairs_two_flows(shared: Shared, addresses: tuple[SockAddr, SockAddr]) -> None:
    ada, ben = shared.add("ada", addresses[0]), shared.add("ben", addresses[1])
    third = shared.add("third", P1)
    together(shared, ada, ben, third)
    third.indicate(P1, check("nobody", "third"))
    ada.indicate(addresses[1], check("ben", "ada"))
    # Whichever came first found nobody who was known by that name; it is sent again, as agents do.
    assert ben.indicate(addresses[0], check("ada", "ben")) == "ada"
    assert ada.indicate(addresses[1], check("ben", "ada")) == "ben"
    assert ada.indicate(addresses[1], b"media") == "ben"
    assert ben.indicate(addresses[0], b"media") == "ada"
    agree(shared)


def test_a_pair_goes_by_channels_too(shared: Shared) -> None:
    ada, ben = shared.add("ada", P1), shared.add("ben", P2)
    together(shared, ada, ben)
    ada.bind(P2)
    ben.bind(P1)
    assert ada.channel(check("ben", "ada")) is None
    assert ben.channel(check("ada", "ben")) == "ada"
    assert ada.channel(b"media") == "ben"


def test_media_alone_finds_nobody_on_a_shared_port(shared: Shared) -> None:
    ada, ben = shared.add("ada", P1), shared.add("ben", P2)
    together(shared, ada, ben)
    assert ada.indicate(P2, b"media") is None
    assert ada.indicate(P1, b"to itself") is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 2}


def test_nobody_is_paired_with_himself(shared: Shared) -> None:
    ada = shared.add("ada", P1)
    ada.permit(RELAY)
    assert ada.indicate(P1, check("ada", "ada")) is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1}


@pytest.mark.parametrize("lacks", ["fragment", "permission", "circle"])
def test_nobody_is_paired_with_who_does_not_want_it(shared: Shared, lacks: str) -> None:
    ada = shared.add("ada", P1, {"call"})
    ben = shared.add("ben", P2, {"call"} if lacks != "circle" else {"another call"})
    ada.permit(RELAY)
    ben.permit(PEER)
    if lacks != "fragment":
        ben.indicate(ONE, check("peer", "ben"))
    if lacks != "permission":
        ben.permit(RELAY)
    assert ada.indicate(P2, check("ben", "ada")) is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1}
    assert ada.flow.pairs == ben.flow.pairs == {}


def test_two_with_the_same_fragment_are_paired_with_nobody(shared: Shared) -> None:
    ada, ben, eve = shared.add("ada", P1), shared.add("ben", P2), shared.add("eve", P2)
    together(shared, ada, ben, eve)
    for one in (ben, eve):
        one.indicate(P1, check("ada", "same"))
    assert ada.indicate(P2, check("same", "ada")) is None


@pytest.mark.clause("Shared ports: a third allocation takes neither a pair nor an exact peer that is another's")
def test_a_third_one_cannot_steal_a_pair(shared: Shared) -> None:
    ada, ben, eve = shared.add("ada", P1), shared.add("ben", P2), shared.add("eve", P2)
    together(shared, ada, ben, eve)
    ada.indicate(P2, check("ben", "ada"))
    assert ben.indicate(P1, check("ada", "ben")) == "ada"
    assert eve.indicate(P1, check("ada", "eve")) is None
    eve.indicate(P1, check("ada", "ben"))  # calls itself as the other
    assert ada.indicate(P2, check("ben", "ada")) == "ben"
    assert ada.indicate(P2, b"media") == "ben"
    assert eve.indicate(P1, b"media") is None


def test_the_second_on_a_shared_port_is_not_heard_by_a_flow_of_its_own(shared: Shared) -> None:
    ada, eve, ben = shared.add("ada", P1), shared.add("eve", P1), shared.add("ben", UNIQUE)
    together(shared, ada, eve, ben)
    assert ada.indicate(UNIQUE, check("ben", "ada")) == "ben"
    assert ben.indicate(P1, b"answer") == "ada"
    assert eve.indicate(UNIQUE, check("ben", "eve")) is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1}
    shared.remove(ada)
    assert ben.indicate(P1, b"media") is None
    assert eve.indicate(UNIQUE, b"media") == "ben"
    assert ben.indicate(P1, b"media") == "eve"


def test_a_flow_of_its_own_is_held_by_nobody_whom_it_does_not_permit(shared: Shared) -> None:
    ada, eve, ben = shared.add("ada", P1), shared.add("eve", P1), shared.add("ben", UNIQUE)
    together(shared, ada, eve)
    assert eve.indicate(UNIQUE, b"first") is None
    assert shared.drops == {Drop.NO_PERMISSION: 1}
    ben.permit(RELAY)
    assert ada.indicate(UNIQUE, b"first") == "ben"


def test_who_is_gone_is_nobodys_pair(shared: Shared) -> None:
    ada, ben = shared.add("ada", P1), shared.add("ben", P2)
    together(shared, ada, ben)
    ada.indicate(P2, check("ben", "ada"))
    ben.indicate(P1, check("ada", "ben"))
    shared.remove(ben)
    assert ada.indicate(P2, b"media") is None
    carl = shared.add("carl", P2)
    carl.permit(RELAY)
    assert carl.indicate(P1, check("ada", "carl")) == "ada"
    assert ada.indicate(P2, b"media") == "carl"
    assert len(ada.flow.pairs) == 1


def test_a_pair_that_is_not_together_any_more_is_silent(shared: Shared) -> None:
    ada, ben = shared.add("ada", P1, {"call"}), shared.add("ben", P2, {"call"})
    together(shared, ada, ben)
    ada.indicate(P2, check("ben", "ada"))
    assert ben.indicate(P1, check("ada", "ben")) == "ada"
    shared.forwarder.set_circles(SetCircles(ben.flow.id, frozenset({"another"})))
    assert ben.indicate(P1, b"media") is None
    assert ada.indicate(P2, b"media") is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1, Drop.NO_RELAYED_PEER: 2}


def test_two_households_in_one_call(shared: Shared) -> None:
    """Two browsers behind one NAT each, every one with a flow for each of the three others, on two ports."""
    names = ["a1", "a2", "b1", "b2"]
    flows = {
        (one, other): shared.add(f"{one} to {other}", (P1, P2)[(index + place) % 2])
        for index, one in enumerate(names)
        for place, other in enumerate(names)
        if one != other
    }
    together(shared, *flows.values())
    for _ in range(2):
        for (one, other), person in flows.items():
            there = flows[other, one].flow.relayed[0]
            person.indicate(there, check(f"{other}-{one}", f"{one}-{other}"))
    for (one, other), person in flows.items():
        assert person.indicate(flows[other, one].flow.relayed[0], b"media") == f"{other} to {one}"
    agree(shared)


def test_what_is_handed_over_proves_no_claim() -> None:
    shared = Shared(own_hosts_allowed=True)
    ada, ben = shared.add("ada", P1), shared.add("ben", P2)
    ada.permit(RELAY, claimed=True)
    ben.permit(RELAY)
    ada.indicate(P2, check("ben", "ada"))
    assert ben.indicate(P1, check("ada", "ben")) == "ada"
    assert ada.indicate((RELAY, 9999), b"media") is None
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1, Drop.UNPROVEN_PEER: 1}


# The operator allows programs on the relay's own address


def test_a_program_beside_the_relay_is_an_outside_peer() -> None:
    shared = Shared(own_hosts_allowed=True)
    ada, ben = shared.add("ada"), shared.add("ben")
    for one in (ada, ben):
        one.permit(RELAY)
    program = (RELAY, 9999)
    assert ada.indicate(program, b"x") == f"ada -> {RELAY}:9999"
    assert shared.arrives(program) == "ada"
    assert ben.indicate(program, b"x") is None
    assert shared.drops == {Drop.PEER_OF_ANOTHER: 1}


def test_an_address_that_was_a_flows_is_owned_by_who_sends_to_it_next() -> None:
    shared = Shared(own_hosts_allowed=True)
    ada, ben, carl = shared.add("ada"), shared.add("ben"), shared.add("carl", UNIQUE)
    for one in (ada, ben, carl):
        one.permit(RELAY)
    ada.bind(UNIQUE)
    assert ada.channel(b"x") == "carl"
    assert ben.indicate(UNIQUE, b"x") is None, "carl hears one of the port"
    shared.remove(carl)
    assert ben.indicate(UNIQUE, b"x") == f"ben -> {RELAY}:50001"
    assert ada.channel(b"x") is None
    assert shared.arrives(UNIQUE) == "ben"
    assert shared.drops == {Drop.UNKNOWN_SOURCE: 1, Drop.PEER_OF_ANOTHER: 1}
    agree(shared)


def test_nobody_owns_a_flows_address(shared: Shared) -> None:
    ada, ben, carl = shared.add("ada"), shared.add("ben"), shared.add("carl", UNIQUE)
    together(shared, ada, ben, carl)
    ada.bind(UNIQUE)
    ben.bind(UNIQUE)
    assert ben.channel(b"x") == "carl"
    assert shared.forwarder._shared[P1].owners == {}


def test_dont_fragment_goes_through_a_shared_port(shared: Shared) -> None:
    ada = shared.add("ada")
    ada.permit(PEER)
    address = encode_xor_address(ip_address(PEER), 5000, TRANSACTION)
    attributes = [
        (AttributeType.XOR_PEER_ADDRESS, address),
        (AttributeType.DONT_FRAGMENT, b""),
        (AttributeType.DATA, b"x"),
    ]
    data = encode(Method.SEND, MessageClass.INDICATION, TRANSACTION, attributes)
    assert shared.forwarder.from_client(data, "ada", 0.0) == Unfragmented(ada.flow, b"x", ONE)


def test_a_packet_is_framed_with_its_exact_source(shared: Shared) -> None:
    ada = shared.add("ada", P1_6)
    six = ("2001:4860::9", 5000)
    ada.permit(six[0])
    ada.learn(six)
    output = shared.forwarder.from_shared(P1_6, b"media", sockaddr_of(six), 0.0)
    assert output is not None
    assert parse(output[1]).get(AttributeType.DATA) == b"media"
    ada.bind(six)
    output = shared.forwarder.from_shared(P1_6, b"media", sockaddr_of(six), 0.0)
    assert output == (ada.flow, b"\x40\x00\x00\x05media", None)

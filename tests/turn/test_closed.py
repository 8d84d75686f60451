"""The closed relay: it reaches nobody but the people in the call."""

from __future__ import annotations

import os
import struct
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import AddressFamily, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.auth import Credentials
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.sessions import LOST_SESSION_S, MAX_ANNOUNCED, MAX_LOST_SESSIONS

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
RELAY = "198.51.100.1"
ROOM = ("tavern", "t1", "general")
OTHER_ROOM = ("tavern", "t1", "games")
ADA_HOST, BEN_HOST = "9.9.1.1", "9.9.2.2"
ANNOUNCED = "9.8.7.6"


class Person:
    """Somebody with a signaling connection, and the credential that came over it."""

    def __init__(
        self, world: World, host: str, port: int, transport: Transport = Transport.UDP, *, session: str | None = None
    ) -> None:
        self.world = world
        self.session = session or world.server.closed.open_session(host)
        self.client = world.client(port, host, user=self.session)
        known = self.client.five_tuple
        self.client.five_tuple = FiveTuple(transport, known.client, known.server)

    def joins(self, group: object) -> None:
        self.world.execute(self.world.server.closed.move_session(self.session, group))

    def leaves(self) -> None:
        self.joins(None)

    def tells(self, *others: Person, hosts: tuple[str, ...] = (ANNOUNCED,)) -> None:
        addresses = frozenset(map(ip_address, hosts))
        self.world.server.closed.announce(self.session, [other.session for other in others], addresses)

    def sends(self, payload: bytes, host: str, port: int = 5000) -> bool:
        """Whether it left, or was handed over."""
        transaction_id = os.urandom(12)
        peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction_id))
        data = encode(Method.SEND, MessageClass.INDICATION, transaction_id, [peer, (AttributeType.DATA, payload)])
        return isinstance(self.world.forwarder.from_client(data, self.client.five_tuple, self.world.now), tuple)

    def sends_on(self, number: int, payload: bytes) -> bool:
        data = struct.pack(">HH", number, len(payload)) + payload
        return isinstance(self.world.forwarder.from_client(data, self.client.five_tuple, self.world.now), tuple)

    def hears(self, payload: bytes, host: str, port: int = 5000) -> bool:
        flow = next(flow for flow in self.world.forwarder if flow.client_key == self.client.five_tuple)
        return self.world.forwarder.from_peer(flow, payload, (host, port), self.world.now) is not None


def binding(message_class: MessageClass = MessageClass.REQUEST, transaction_id: bytes = b"") -> bytes:
    """A connectivity check, or an answer to one, as ICE agents send it."""
    username = [(AttributeType.USERNAME, b"theirs:ours")] if message_class is MessageClass.REQUEST else []
    return encode(
        Method.BINDING, message_class, transaction_id or os.urandom(12), username, integrity_key=b"their ice-pwd"
    )


@pytest.fixture(params=list(Transport))
def ada(world: World, request: pytest.FixtureRequest) -> Person:
    return Person(world, ADA_HOST, 4001, request.param)


@pytest.fixture
def ben(world: World) -> Person:
    return Person(world, BEN_HOST, 4002)


def in_a_call(ada: Person, ben: Person) -> tuple[tuple[str, int], tuple[str, int]]:
    """Their relayed addresses."""
    ada.joins(ROOM)
    ben.joins(ROOM)
    return ada.client.allocate(), ben.client.allocate()


# Whom a session reaches


@pytest.mark.clause("Closed relay: before its owner joins, a session reaches only its own relayed addresses")
def test_before_its_owner_joins_a_session_reaches_only_its_own_allocations(world: World, ada: Person) -> None:
    host, port = ada.client.allocate()
    second = Person(world, ADA_HOST, 4999, session=ada.session)
    own = second.client.allocate()
    stranger = Person(world, "9.9.3.3", 4003)
    strangers = stranger.client.allocate()
    assert ada.client.permit(RELAY) == 0  # Firefox asks once for an address, and remembers a 403 for all its ports
    assert ada.client.bind(0x4000, *own) == 0
    assert ada.client.bind(0x4001, *strangers) == 403
    assert ada.client.permit("9.9.9.9") == 403
    second.client.permit(RELAY)
    stranger.client.permit(RELAY)
    assert ada.sends(b"self-test", *own)
    assert ada.sends_on(0x4000, b"self-test")
    assert not ada.sends(b"hello", *strangers)
    assert not stranger.sends(b"hello", host, port)


@pytest.mark.clause("Closed relay: in a channel or legacy room it reaches the members' relayed addresses")
def test_in_a_channel_it_reaches_the_relayed_addresses_of_the_members(ada: Person, ben: Person) -> None:
    adas, bens = in_a_call(ada, ben)
    assert ada.client.bind(0x4000, *bens) == 0
    assert ben.client.permit(adas[0]) == 0
    assert ada.sends_on(0x4000, b"media")
    assert ben.sends(b"media", *adas)


@pytest.mark.clause("Closed relay: it reaches no other channel's relayed addresses")
def test_other_channels_are_out_of_reach(world: World, ada: Person, ben: Person) -> None:
    ada.joins(ROOM)
    ben.joins(OTHER_ROOM)
    adas, bens = ada.client.allocate(), ben.client.allocate()
    assert ada.client.permit(RELAY) == 0
    assert ben.client.permit(RELAY) == 0
    assert ada.client.bind(0x4000, *bens) == 403
    assert not ada.sends(b"media", *bens)
    assert not ben.sends(b"media", *adas)
    assert world.forwarder.drops[Drop.NO_RELAYED_PEER] == 2


def test_allocations_made_before_joining_are_in_the_call_afterwards(ada: Person, ben: Person) -> None:
    adas, bens = ada.client.allocate(), ben.client.allocate()
    ada.joins(ROOM)
    ben.joins(ROOM)
    assert ada.client.bind(0x4000, *bens) == 0
    assert ben.client.permit(adas[0]) == 0
    assert ada.sends_on(0x4000, b"media")


@pytest.mark.clause("Closed relay: it reaches what members announced to it, and where their WebSockets come from")
def test_it_reaches_what_members_announced_to_it_and_where_they_come_from(ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    assert ada.client.permit(ANNOUNCED) == 403
    ben.tells(ada)
    assert ada.client.permit(ANNOUNCED) == 0
    assert ben.client.permit(ANNOUNCED) == 403, "announced to Ada, not by her"
    assert ada.client.permit(BEN_HOST) == 0
    assert ada.client.permit(ADA_HOST) == 403
    assert ada.client.bind(0x4000, ANNOUNCED, 5000) == 0


@pytest.mark.clause("Closed relay: it reaches what members announced to it, and where their WebSockets come from")
def test_who_is_in_no_call_with_it_announces_nothing(ada: Person, ben: Person) -> None:
    ada.joins(ROOM)
    ben.joins(OTHER_ROOM)
    ada.client.allocate()
    ben.tells(ada)
    assert ada.client.permit(ANNOUNCED) == 403
    ada.leaves()
    ben.tells(ada)
    ada.tells(ada)
    ada.client.allocate()
    assert ada.client.permit(ANNOUNCED) == 403


@pytest.mark.clause("Closed relay: announcing never lifts the deny list")
def test_announcing_never_lifts_the_deny_list(ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    denied = ("10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0")
    ben.tells(ada, hosts=denied)
    for host in denied:
        assert ada.client.permit(host) == 403


@pytest.mark.clause("Closed relay: the operator's allow list widens minted credentials only for what was announced")
def test_the_operators_allow_list_widens_only_for_what_was_announced(make_world: type[World]) -> None:
    world = make_world(allow_peers=(ip_network("10.0.0.0/8"),))
    ada, ben = Person(world, ADA_HOST, 4001), Person(world, BEN_HOST, 4002)
    in_a_call(ada, ben)
    assert ada.client.permit("10.0.0.1") == 403
    ben.tells(ada, hosts=("10.0.0.1",))
    assert ada.client.permit("10.0.0.1") == 0
    assert ada.client.permit("10.0.0.2") == 403
    static = world.client(4009, user="somebody else's program")
    static.allocate()
    assert static.permit("10.0.0.2") == 0


@pytest.mark.clause("Policy: the operator's deny list wins over everything, also for embedded addresses")
def test_the_operators_deny_list_wins_over_everything(make_world: type[World]) -> None:
    world = make_world(
        allow_peers=(ip_network("10.0.0.0/8"),), deny_peers=(ip_network("10.0.0.0/24"), ip_network("9.8.0.0/16"))
    )
    ada, ben = Person(world, ADA_HOST, 4001), Person(world, BEN_HOST, 4002)
    in_a_call(ada, ben)
    ben.tells(ada, hosts=("10.0.0.1", "10.0.1.1", ANNOUNCED))
    assert [ada.client.permit(host) for host in ("10.0.0.1", "10.0.1.1", ANNOUNCED)] == [403, 0, 403]
    static = world.client(4009)
    static.allocate()
    assert [static.permit(host) for host in ("10.0.0.1", "10.0.1.1", "9.8.1.1", "9.7.1.1")] == [403, 0, 403, 0]


@pytest.mark.clause("Policy: the operator's deny list wins over everything, also for embedded addresses")
def test_the_deny_list_holds_for_embedded_addresses_too(make_world: type[World]) -> None:
    world = make_world(deny_peers=(ip_network("9.8.0.0/16"),))
    client = world.client(host="2600::9")
    client.allocate((AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x02\0\0\0"))
    assert client.permit("64:ff9b::908:706") == 403
    assert client.permit("64:ff9b::907:706") == 0


def test_only_so_many_addresses_are_announced(ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    many = [f"9.8.{n // 250}.{n % 250 + 1}" for n in range(MAX_ANNOUNCED + 10)]
    for host in many:
        ben.tells(ada, hosts=(host,))
    assert sum(ada.client.permit(host) == 0 for host in many) == MAX_ANNOUNCED


def test_an_unclosed_allocation_and_a_session_do_not_reach_each_other(world: World, ada: Person) -> None:
    ada.joins(ROOM)
    adas = ada.client.allocate()
    static = world.client(4009, user="a program with the operator's secret")
    relayed = static.allocate()
    assert static.permit(RELAY) == 0
    assert ada.client.permit(RELAY) == 0
    assert static.bind(0x4000, *adas) == 403
    assert ada.client.bind(0x4000, *relayed) == 403
    assert not ada.sends(b"media", *relayed)
    data = encode(
        Method.SEND,
        MessageClass.INDICATION,
        bytes(12),
        [
            (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(RELAY), adas[1], bytes(12))),
            (AttributeType.DATA, b"media"),
        ],
    )
    assert world.forwarder.from_client(data, static.five_tuple, world.now) is None


# Claims


@pytest.mark.clause("Closed relay: to an announced address only Binding requests leave until it speaks")
def test_to_an_address_that_has_not_spoken_only_checks_leave(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ben.tells(ada)
    assert ada.client.permit(ANNOUNCED) == 0
    assert ada.client.bind(0x4000, ANNOUNCED, 5000) == 0
    for payload in (b"", b"media", binding(MessageClass.SUCCESS), binding(MessageClass.INDICATION), binding()[:-1]):
        assert not ada.sends(payload, ANNOUNCED), payload
        assert not ada.sends_on(0x4000, payload), payload
    too_large = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), [(AttributeType.SOFTWARE, b"x" * 600)])
    assert not ada.sends(too_large, ANNOUNCED)
    assert ada.sends(binding(), ANNOUNCED)
    assert ada.sends_on(0x4000, binding())
    assert world.forwarder.drops[Drop.UNPROVEN_PEER] == 11


@pytest.mark.clause("Closed relay: a Binding request from the address proves it")
@pytest.mark.parametrize("on_channel", [False, True])
def test_once_it_checks_itself_it_is_proven(ada: Person, ben: Person, on_channel: bool) -> None:
    in_a_call(ada, ben)
    ben.tells(ada)
    ada.client.permit(ANNOUNCED)
    if on_channel:
        ada.client.bind(0x4000, ANNOUNCED, 5000)
    assert ada.hears(b"noise", ANNOUNCED, 6000)  # reaches her, and proves nothing: it can be forged
    assert not ada.sends(b"media", ANNOUNCED)
    assert ada.hears(binding(), ANNOUNCED, 6001)
    assert ada.sends(b"media", ANNOUNCED)
    assert ada.client.permit(ANNOUNCED) == 0
    assert ada.sends(b"media", ANNOUNCED), "a refresh does not ask for the proof again"
    if on_channel:
        assert ada.sends_on(0x4000, b"media")


@pytest.mark.clause("Closed relay: a Binding success proves it only as the answer to this allocation's own check")
def test_an_answer_to_this_allocations_own_check_proves_it(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ben.tells(ada)
    ada.tells(ben)
    check = binding()
    ada.client.permit(ANNOUNCED)
    ben.client.permit(ANNOUNCED)
    assert ada.sends(check, ANNOUNCED)
    answer = binding(MessageClass.SUCCESS, check[8:20])
    assert ada.hears(binding(MessageClass.SUCCESS), ANNOUNCED)
    assert not ada.sends(b"media", ANNOUNCED), "an answer to nothing"
    assert ben.hears(answer, ANNOUNCED)
    assert not ben.sends(b"media", ANNOUNCED), "an answer to somebody else's check"
    assert ada.hears(answer, ANNOUNCED)
    assert ada.sends(b"media", ANNOUNCED)


@pytest.mark.clause("Closed relay: at most 50 Binding requests a second leave to a claimed address")
def test_at_most_fifty_checks_a_second_leave_to_a_claimed_address(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    second = Person(world, ADA_HOST, 4999, session=ada.session)
    second.client.allocate()
    ben.tells(ada)
    ada.client.permit(ANNOUNCED)
    second.client.permit(ANNOUNCED)
    sent = []
    for _ in range(1000):
        world.now += 0.004
        sent += [world.now] * (ada.sends(binding(), ANNOUNCED, 5000) + second.sends(binding(), ANNOUNCED, 6000))
    assert all(sum(start <= at < start + 1 for at in sent) <= 50 for start in sent)
    assert len(sent) >= 160


def test_relayed_members_need_no_proof(ada: Person, ben: Person) -> None:
    _, bens = in_a_call(ada, ben)
    ada.client.permit(RELAY)
    ben.client.permit(RELAY)
    assert ada.sends(b"media", *bens)


# Leaving


@pytest.mark.clause("Closed relay: leaving or moving ends the session's allocations, not its credential")
def test_leaving_ends_the_sessions_allocations_and_not_its_credential(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ada.leaves()
    assert len(world.server.allocations) == 1
    assert ada.client.error(Method.REFRESH) == 437
    assert not ada.sends(binding(), RELAY)
    ada.client.allocate()


@pytest.mark.clause("Closed relay: leaving or moving ends the session's allocations, not its credential")
def test_moving_ends_them_as_well(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ada.joins(OTHER_ROOM)
    assert len(world.server.allocations) == 1
    _, bens = ada.client.allocate(), ben.client.five_tuple
    assert bens in {allocation.five_tuple for allocation in world.server.allocations}


def test_joining_where_it_is_changes_nothing(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ben.tells(ada)
    ada.joins(ROOM)
    assert len(world.server.allocations) == 2
    assert ada.client.permit(ANNOUNCED) == 0


@pytest.mark.clause("Closed relay: a member's leaving withdraws the permissions and channels that only it justified")
def test_a_members_leaving_withdraws_what_only_it_justified(world: World, ada: Person, ben: Person) -> None:
    _, bens = in_a_call(ada, ben)
    cleo = Person(world, "9.9.3.3", 4003)
    cleo.joins(ROOM)
    cleos = cleo.client.allocate()
    both, bens_own, cleos_own = "9.8.0.1", "9.8.0.2", "9.8.0.3"
    ben.tells(ada, hosts=(both, bens_own))
    cleo.tells(ada, hosts=(both, cleos_own))
    assert ada.client.permit(both, bens_own, cleos_own, BEN_HOST, "9.9.3.3", RELAY) == 0
    peers = [(bens_own, 5000), (both, 5000), (BEN_HOST, 5000), bens, cleos]
    for number, peer in enumerate(peers, 0x4000):
        assert ada.client.bind(number, *peer) == 0
    for host in (both, bens_own, cleos_own, BEN_HOST, "9.9.3.3"):
        assert ada.hears(binding(), host)
    ben.leaves()
    allocation = world.server.allocations.find(ada.client.five_tuple)
    assert allocation is not None
    assert {str(host) for host in allocation.permissions} == {both, cleos_own, "9.9.3.3", RELAY}
    assert [channel.peer for channel in allocation.channels.values()] == [(both, 5000), cleos]
    assert [ada.sends(b"media", host) for host in (both, bens_own, cleos_own, BEN_HOST)] == [True, False, True, False]
    assert [ada.sends_on(0x4000 + n, binding()) for n in range(5)] == [False, True, False, False, False]
    assert not ada.hears(b"media", bens_own)
    assert ada.client.permit(bens_own) == 403


@pytest.mark.clause("Closed relay: a member's leaving withdraws the permissions and channels that only it justified")
def test_what_was_withdrawn_must_be_proven_again(ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ben.tells(ada)
    ada.client.permit(ANNOUNCED)
    ada.hears(binding(), ANNOUNCED)
    assert ada.sends(b"media", ANNOUNCED)
    ben.leaves()
    ben.joins(ROOM)
    assert ada.client.permit(ANNOUNCED) == 403, "it was announced in another stay"
    ben.tells(ada)
    assert ada.client.permit(ANNOUNCED) == 0
    assert not ada.sends(b"media", ANNOUNCED)


def test_what_was_told_before_leaving_is_forgotten(ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ben.tells(ada)
    ada.leaves()
    ada.client.allocate()
    assert ada.client.permit(ANNOUNCED) == 403
    ada.joins(ROOM)
    assert ada.client.permit(ANNOUNCED) == 403


# Revocation


@pytest.mark.clause("Closed relay: replacement, or 15 s without the socket, revokes the credential")
def test_a_lost_session_is_revoked_when_it_stays_away(world: World, ada: Person) -> None:
    ada.client.allocate()
    world.execute(world.server.closed.lose_session(ada.session, world.now))
    world.tick(LOST_SESSION_S - 1)
    assert ada.client.error(Method.REFRESH) == 0
    world.tick(1)
    assert len(world.server.allocations) == 0
    assert not world.server.allocations.ports[AddressFamily.IPV4].taken
    assert ada.client.error(Method.ALLOCATE, UDP) == 401
    assert world.server.next_deadline() is None


def test_who_loses_its_socket_in_a_call_is_out_of_it_at_once(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    world.execute(world.server.closed.lose_session(ada.session, world.now))
    assert len(world.server.allocations) == 1


@pytest.mark.clause("Closed relay: replacement, or 15 s without the socket, revokes the credential")
def test_a_revoked_session_is_gone_at_once(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    world.execute(world.server.closed.revoke_session(ada.session))
    assert len(world.server.allocations) == 1
    assert ada.client.error(Method.ALLOCATE, UDP) == 401
    assert ada.client.error(Method.REFRESH) == 401
    assert world.server.closed.revoke_session(ada.session) == []
    assert world.server.closed.move_session(ada.session, ROOM) == []
    world.server.closed.announce(ada.session, [ben.session], frozenset({ip_address(ANNOUNCED)}))
    assert ben.client.permit(ANNOUNCED) == 403


def test_lost_sessions_do_not_fill_the_memory(world: World) -> None:
    closed = world.server.closed
    first = closed.open_session(ADA_HOST)
    closed.lose_session(first, world.now)
    for _ in range(MAX_LOST_SESSIONS):
        closed.lose_session(closed.open_session(ADA_HOST), world.now)
    assert len(closed.sessions) == MAX_LOST_SESSIONS
    assert closed.sessions.find(first) is None


def test_nothing_is_kept_of_sessions_that_are_gone(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    ben.tells(ada)
    for person in (ada, ben):
        world.execute(world.server.closed.revoke_session(person.session))
    sessions = world.server.closed.sessions
    assert len(sessions) == 0
    assert not sessions._by_source
    assert not sessions._groups
    assert not world.server.allocations._by_owner


# Whose credentials are accepted


def test_a_session_that_never_was_is_nobody(world: World) -> None:
    client = world.client(user="session." + "0" * 32)
    assert client.error(Method.ALLOCATE, UDP) == 401


@pytest.mark.clause(
    "Closed relay: credentials computed from the operator's secret are under the general policy, or off"
)
def test_hand_computed_credentials_can_be_turned_off(make_world: type[World]) -> None:
    world = make_world(static_credentials=False)
    assert world.client(user="bob").error(Method.ALLOCATE, UDP) == 401
    assert Person(world, ADA_HOST, 4001).client.error(Method.ALLOCATE, UDP) == 0


LEGACY = "tavern-dev-secret"


def old_client(world: World, host: str, port: int = 4001) -> Client:
    client = world.client(port, host)
    client.credential = Credentials("example.org", (LEGACY,)).mint("tavern", 86400, world.unix_time_s)
    return client


@pytest.mark.clause("Closed relay: the secret of old clients is accepted only beside a live signaling connection")
def test_old_clients_are_accepted_only_from_where_somebody_signals(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    client = old_client(world, ADA_HOST)
    assert client.error(Method.ALLOCATE, UDP) == 401
    session = world.server.closed.open_session(ADA_HOST)
    assert client.error(Method.ALLOCATE, UDP) == 0
    assert old_client(world, BEN_HOST).error(Method.ALLOCATE, UDP) == 401
    world.execute(world.server.closed.lose_session(session, world.now))
    assert old_client(world, ADA_HOST, 4002).error(Method.ALLOCATE, UDP) == 401
    world.tick(LOST_SESSION_S)
    assert len(world.server.allocations) == 0


@pytest.mark.clause("Closed relay: the secret of old clients is accepted only beside a live signaling connection")
def test_without_the_switch_old_clients_are_refused(world: World) -> None:
    world.server.closed.open_session(ADA_HOST)
    assert old_client(world, ADA_HOST).error(Method.ALLOCATE, UDP) == 401


@pytest.mark.clause("Closed relay: old clients reach what the sessions at their address reach")
def test_old_clients_reach_what_the_sessions_at_their_address_reach(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    ada, ben = Person(world, ADA_HOST, 4001), Person(world, BEN_HOST, 4002)
    ada.client, ben.client = old_client(world, ADA_HOST), old_client(world, BEN_HOST, 4002)
    adas, bens = in_a_call(ada, ben)
    ben.tells(ada)
    assert ada.client.permit(ANNOUNCED, RELAY, BEN_HOST) == 0
    assert ada.client.permit("9.9.9.9") == 403
    assert ben.client.permit(ANNOUNCED) == 403
    assert ben.client.permit(RELAY) == 0
    assert ada.sends(b"media", *bens)
    assert ben.sends(b"media", *adas)
    ben.leaves()
    assert {str(host) for one in world.server.allocations for host in one.permissions} == {RELAY}
    assert len(world.server.allocations) == len(world.forwarder) == 1


def test_an_old_client_that_goes_takes_the_channels_that_led_to_it(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    old, new = Person(world, ADA_HOST, 4001), Person(world, ADA_HOST, 4002)
    old.client = old_client(world, ADA_HOST)
    old.joins(ROOM)
    olds = old.client.allocate()
    new.client.allocate()
    assert new.client.bind(0x4000, *olds) == 0, "both are of one address, whoever asks there"
    old.leaves()
    allocation = world.server.allocations.find(new.client.five_tuple)
    assert allocation is not None
    assert not allocation.channels


@pytest.mark.clause("Closed relay: old clients reach what the sessions at their address reach")
def test_of_two_old_clients_at_one_address_one_leaves(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    ada, ben = Person(world, ADA_HOST, 4001), Person(world, BEN_HOST, 4002)
    housemate, cleo = Person(world, ADA_HOST, 4003), Person(world, "9.9.3.3", 4004)
    for person, room in ((ada, ROOM), (ben, ROOM), (housemate, OTHER_ROOM), (cleo, OTHER_ROOM)):
        person.joins(room)
    ada.client, housemate.client = old_client(world, ADA_HOST), old_client(world, ADA_HOST, 4003)
    ada.client.allocate()
    housemate.client.allocate()
    bens = ben.client.allocate()
    assert ada.client.permit(BEN_HOST, "9.9.3.3", RELAY) == 0
    assert ben.client.permit(RELAY) == 0
    assert ada.sends(b"media", *bens)
    ada.leaves()
    assert len(world.server.allocations) == 3, "whose they are is not known"
    assert not ada.sends(b"media", *bens)
    allocation = world.server.allocations.find(ada.client.five_tuple)
    assert allocation is not None
    assert {str(host) for host in allocation.permissions} == {"9.9.3.3", RELAY}
    housemate.leaves()
    assert len(world.server.allocations) == 1


def test_of_two_sessions_at_one_address_one_ends(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    ada, housemate = Person(world, ADA_HOST, 4001), Person(world, ADA_HOST, 4002)
    old = old_client(world, ADA_HOST)
    old.allocate()
    world.execute(world.server.closed.revoke_session(ada.session))
    assert len(world.server.allocations) == 1, "it may be the other's"
    assert old_client(world, ADA_HOST, 4003).error(Method.ALLOCATE, UDP) == 0
    world.execute(world.server.closed.revoke_session(housemate.session))
    assert len(world.server.allocations) == len(world.forwarder) == 0


def test_old_and_new_clients_are_in_one_call(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    ada, ben = Person(world, ADA_HOST, 4001), Person(world, BEN_HOST, 4002)
    ada.client = old_client(world, ADA_HOST)
    adas, bens = in_a_call(ada, ben)
    ada.client.permit(RELAY)
    ben.client.permit(RELAY)
    assert ada.sends(b"media", *bens)
    assert ben.sends(b"media", *adas)


# Quotas


@pytest.mark.clause("Quota: counted per session, per address for old clients, else per user and address")
def test_a_quota_is_a_sessions_own(make_world: type[World]) -> None:
    world = make_world(user_quota=1)
    ada, housemate = Person(world, ADA_HOST, 4001), Person(world, ADA_HOST, 4002)
    ada.client.allocate()
    again = world.client(4003, ADA_HOST, user=ada.session)
    again.credential = world.credential(ada.session, 1200)
    assert again.error(Method.ALLOCATE, UDP) == 486
    elsewhere = world.client(4004, "9.9.4.4", user=ada.session)
    assert elsewhere.error(Method.ALLOCATE, UDP) == 486
    assert housemate.client.error(Method.ALLOCATE, UDP) == 0


@pytest.mark.clause("Quota: counted per session, per address for old clients, else per user and address")
def test_old_clients_share_their_addresss_quota(make_world: type[World]) -> None:
    world = make_world(user_quota=1, legacy_secret=LEGACY)
    world.server.closed.open_session(ADA_HOST)
    assert old_client(world, ADA_HOST, 4001).error(Method.ALLOCATE, UDP) == 0
    assert old_client(world, ADA_HOST, 4002).error(Method.ALLOCATE, UDP) == 486


# Coming back from another address


def test_a_session_that_returns_keeps_its_allocations_and_is_reached_where_it_is(
    world: World, ada: Person, ben: Person
) -> None:
    adas, bens = in_a_call(ada, ben)
    ben.tells(ada)
    assert ada.client.permit(RELAY, BEN_HOST, ANNOUNCED) == 0
    assert ben.client.permit(RELAY) == 0
    world.execute(world.server.closed.rehost_session(ben.session, "9.9.3.3"))
    assert ada.sends(b"media", *bens)
    assert ben.sends(b"media", *adas)
    allocation = world.server.allocations.find(ada.client.five_tuple)
    assert allocation is not None
    assert {str(host) for host in allocation.permissions} == {RELAY, ANNOUNCED}
    assert ada.client.permit(BEN_HOST) == 403
    assert ada.client.permit("9.9.3.3") == 0
    assert len(world.server.allocations) == 2


def test_old_clients_at_the_address_that_a_session_left_are_nobody(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    ada = Person(world, ADA_HOST, 4001)
    left_behind = old_client(world, ADA_HOST)
    assert left_behind.error(Method.ALLOCATE, UDP) == 0
    world.execute(world.server.closed.rehost_session(ada.session, BEN_HOST))
    assert len(world.server.allocations) == 0
    assert old_client(world, ADA_HOST, 4002).error(Method.ALLOCATE, UDP) == 401
    assert old_client(world, BEN_HOST, 4003).error(Method.ALLOCATE, UDP) == 0


def test_what_another_session_at_the_address_left_is_for_stays(make_world: type[World]) -> None:
    world = make_world(legacy_secret=LEGACY)
    ada, neighbour, ben = Person(world, ADA_HOST, 4001), Person(world, ADA_HOST, 4005), Person(world, BEN_HOST, 4002)
    old = old_client(world, ADA_HOST, 4003)
    ada.joins(ROOM)
    ben.joins(ROOM)
    ben.tells(ada)
    old.allocate()
    assert old.permit(ANNOUNCED) == 0
    world.execute(world.server.closed.rehost_session(ada.session, "9.9.3.3"))
    allocation = world.server.allocations.find(old.five_tuple)
    assert allocation is not None, "the neighbour is there still"
    assert not allocation.permissions, "and in no call"
    neighbour.joins(ROOM)
    ben.tells(neighbour)
    assert old.permit(ANNOUNCED) == 0


def test_returning_to_the_same_address_changes_nothing(world: World, ada: Person, ben: Person) -> None:
    in_a_call(ada, ben)
    assert world.server.closed.rehost_session(ada.session, ADA_HOST) == []
    assert world.server.closed.rehost_session("session.nobody", ADA_HOST) == []

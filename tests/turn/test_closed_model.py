"""A stateful model of the closed relay: whatever sessions, allocations and packets come, nothing leaves but to whom the
model allows, and no port is leaked. The model knows the promise, and none of the server's data structures.
"""

from __future__ import annotations

import os
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tavern.stun.attributes import AddressFamily, decode_xor_address, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.auth import Credential, Credentials
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.sessions import LOST_SESSION_S
from tests.turn.conftest import SERVER, error_of

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
LEGACY = "tavern-dev-secret"
RELAY = "198.51.100.1"
HOMES = ["9.9.1.1", "9.9.2.2", "9.9.3.3"]
ELSEWHERE = ["9.8.7.6", "9.8.7.7"]
DENIED = "10.0.0.1"
PEERS = [*HOMES, *ELSEWHERE, DENIED, RELAY]
GROUPS = ["general", "games"]
NUMBERS = [0x4000, 0x4001]
PEER_PORT = 5000
SLOTS = [
    (transport, HOMES[n % len(HOMES)], 4000 + n) for n, transport in enumerate([*Transport, *Transport, Transport.UDP])
]
MAX_SESSIONS = 7

Kind = Literal["session", "legacy", "static"]

slots = st.integers(0, len(SLOTS) - 1)
peers = st.sampled_from(PEERS)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["session", "session", "session", "legacy", "static"])


@attrs.define(eq=False)
class Member:
    """A signaling connection. `stay` counts how often it left a group."""

    id: str
    home: str
    group: str | None = None
    stay: int = 0
    revoked_at: float | None = None


@attrs.frozen
class Announcement:
    """Holds while both are in the stay that it was made in."""

    sender: Member
    sender_stay: int
    receiver: Member
    receiver_stay: int
    host: str


@attrs.define(eq=False)
class Holding:
    """An allocation: whose it is, and what it was granted."""

    kind: Kind
    member: Member | None
    home: str
    port: int
    expires_at: float
    permissions: dict[str, float] = attrs.field(factory=dict)
    channels: dict[int, tuple[tuple[str, int], float]] = attrs.field(factory=dict)
    proven: set[str] = attrs.field(factory=set)
    was_proven: set[str] = attrs.field(factory=set)
    """Since the permission was last withdrawn; a channel outlives its permission."""


def check(message_class: MessageClass = MessageClass.REQUEST) -> bytes:
    return encode(
        Method.BINDING, message_class, os.urandom(12), [(AttributeType.USERNAME, b"a:b")], integrity_key=b"ice-pwd"
    )


class ClosedMachine(RuleBasedStateMachine):
    make_world: type[World]

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.world = self.make_world(legacy_secret=LEGACY, user_quota=100)
        self.members: list[Member] = []
        self.announced: set[Announcement] = set()
        self.held: dict[int, Holding] = {}
        self.clients: dict[int, Client] = {}
        self.kinds: dict[int, tuple[Kind, Member | None]] = {}
        self.checks: list[tuple[float, str]] = []
        # Most of what can go wrong does in a call: they are in one when it begins.
        for home in (*HOMES, *HOMES[:2]):
            self.open_session(home)
        for member in self.members:
            self.move_to(member, data.draw(st.sampled_from([GROUPS[0], GROUPS[0], GROUPS[1]])))
        for sender in self.members:
            self.announce_to(sender, self.members, {data.draw(st.sampled_from(ELSEWHERE))})
        for slot, kind in enumerate(data.draw(st.lists(kinds, min_size=len(SLOTS) - 2, max_size=len(SLOTS) - 2))):
            at_home = [one for one in self.members if one.home == SLOTS[slot][1]]
            self.allocate_for(slot, kind, at_home[slot % len(at_home)])

    # The promise

    def sessions_of(self, holding: Holding) -> list[Member]:
        if holding.kind == "session":
            return [one for one in self.members if one is holding.member]
        return [one for one in self.members if one.home == holding.home]

    def holds(self, one: Announcement) -> bool:
        together = one.sender.group is not None and one.sender.group == one.receiver.group
        same_stay = (one.sender.stay, one.receiver.stay) == (one.sender_stay, one.receiver_stay)
        return together and same_stay and one.sender in self.members and one.receiver in self.members

    def is_claimable(self, holding: Holding, host: str) -> bool:
        """Whether somebody in the call with the holder announced `host` to him, or comes from there."""
        for session in self.sessions_of(holding):
            if any(one.receiver is session and one.host == host and self.holds(one) for one in self.announced):
                return True
            others = [one for one in self.members if one is not session and one.group == session.group]
            if session.group is not None and any(one.home == host for one in others):
                return True
        return False

    def are_together(self, one: Holding, other: Holding) -> bool:
        if "static" in (one.kind, other.kind):
            return one.kind == other.kind
        mine, theirs = self.sessions_of(one), self.sessions_of(other)
        if any(session in theirs for session in mine):
            return True
        return not {s.group for s in mine if s.group}.isdisjoint({s.group for s in theirs})

    def may_permit(self, holding: Holding, host: str) -> bool:
        if host == DENIED:
            return False
        if host == RELAY:
            return len(self.held) > 1
        return holding.kind == "static" or self.is_claimable(holding, host)

    def at_port(self, port: int) -> Holding | None:
        return next((one for one in self.held.values() if one.port == port), None)

    def leads_nowhere(self, peer: tuple[str, int]) -> bool:
        return peer[0] == RELAY and self.at_port(peer[1]) is None

    def is_accepted(self, slot: int) -> bool:
        """Whether the credential that this slot uses makes a new allocation."""
        kind, member = self.kinds[slot]
        if kind == "static":
            return True
        if kind == "session":
            return member in self.members
        return any(one.home == SLOTS[slot][1] and one.revoked_at is None for one in self.members)

    # What follows from a change

    def settle(self) -> None:
        """Withdraws what nothing justifies any more."""
        for holding in self.held.values():
            if holding.kind == "static":
                continue
            for host in [host for host in (*HOMES, *ELSEWHERE) if not self.is_claimable(holding, host)]:
                holding.permissions.pop(host, None)
                holding.proven.discard(host)
                holding.was_proven.discard(host)
                holding.channels = {n: entry for n, entry in holding.channels.items() if entry[0][0] != host}

    def leave(self, member: Member) -> None:
        if member.group is None:
            return
        member.group = None
        member.stay += 1
        stay_at_home = [one for one in self.members if one.home == member.home and one.group is not None]
        gone_ports = set()
        for slot, holding in list(self.held.items()):
            is_own = holding.kind == "session" and holding.member is member
            is_homes = holding.kind == "legacy" and holding.home == member.home and not stay_at_home
            if is_own or is_homes:
                gone_ports.add(holding.port)
                del self.held[slot]
        for holding in self.held.values():
            holding.channels = {
                number: (peer, at)
                for number, (peer, at) in holding.channels.items()
                if peer[0] != RELAY or peer[1] not in gone_ports
            }

    def revoke(self, member: Member) -> None:
        self.leave(member)
        self.members.remove(member)
        at_home = any(one.home == member.home for one in self.members)
        for slot, holding in list(self.held.items()):
            is_homes = holding.kind == "legacy" and holding.home == member.home and not at_home
            if (holding.kind == "session" and holding.member is member) or is_homes:
                del self.held[slot]

    def pass_to(self, now: float) -> None:
        for member in [one for one in self.members if one.revoked_at is not None and one.revoked_at <= now]:
            self.revoke(member)
        self.held = {slot: one for slot, one in self.held.items() if one.expires_at > now}
        for one in self.held.values():
            one.permissions = {host: at for host, at in one.permissions.items() if at > now}
            one.proven &= one.permissions.keys()
            one.channels = {number: entry for number, entry in one.channels.items() if entry[1] > now}

    # What people do

    def live(self, data: st.DataObject) -> Member:
        return data.draw(st.sampled_from([one for one in self.members if one.revoked_at is None]))

    def anybody_is_live(self) -> bool:
        return any(one.revoked_at is None for one in self.members)

    @precondition(lambda self: len(self.members) < MAX_SESSIONS)
    @rule(home=st.sampled_from(HOMES))
    def open_session(self, home: str) -> None:
        self.members.append(Member(self.world.server.closed.open_session(home), home))

    @precondition(anybody_is_live)
    @rule(data=st.data(), group=st.sampled_from([None, *GROUPS, *GROUPS]))
    def move(self, data: st.DataObject, group: str | None) -> None:
        self.move_to(self.live(data), group)

    def move_to(self, member: Member, group: str | None) -> None:
        self.world.execute(self.world.server.closed.move_session(member.id, group))
        if member.group != group:
            self.leave(member)
            self.settle()  # between two groups it is in none
            member.group = group
            self.settle()

    @precondition(anybody_is_live)
    @rule(data=st.data(), hosts=st.sets(st.sampled_from([*ELSEWHERE, DENIED, RELAY, HOMES[0]]), min_size=1))
    def announce(self, data: st.DataObject, hosts: set[str]) -> None:
        self.announce_to(self.live(data), [self.live(data)], hosts)

    def announce_to(self, sender: Member, receivers: list[Member], hosts: set[str]) -> None:
        ids = [one.id for one in receivers]
        self.world.server.closed.announce(sender.id, ids, frozenset(map(ip_address, hosts)))
        for receiver in receivers:
            if sender is not receiver and sender.group is not None and sender.group == receiver.group:
                stays = sender.stay, receiver.stay
                self.announced |= {Announcement(sender, stays[0], receiver, stays[1], host) for host in hosts}

    @precondition(anybody_is_live)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        member = self.live(data)
        self.world.execute(self.world.server.closed.lose_session(member.id, self.world.now))
        self.leave(member)
        member.revoked_at = self.world.now + LOST_SESSION_S
        self.settle()

    @precondition(anybody_is_live)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        member = self.live(data)
        self.world.execute(self.world.server.closed.revoke_session(member.id))
        self.revoke(member)
        self.settle()

    @rule(seconds=st.sampled_from([1, 14, 15, 100, 299, 300, 599]))
    def pass_time(self, seconds: int) -> None:
        self.world.tick(seconds)
        self.pass_to(self.world.now)
        self.settle()
        for client in self.clients.values():
            client.nonce = None

    # What clients ask

    def credential(self, kind: Kind, member: Member | None) -> Credential:
        if kind == "legacy":
            return Credentials("example.org", (LEGACY,)).mint("tavern", 10**6, self.world.unix_time_s)
        return self.world.credential("a program" if member is None else member.id, 10**6)

    @precondition(lambda self: self.members)
    @rule(slot=slots, kind=kinds, data=st.data())
    def allocate(self, slot: int, kind: Kind, data: st.DataObject) -> None:
        self.allocate_for(slot, kind, data.draw(st.sampled_from(self.members)))

    def allocate_for(self, slot: int, kind: Kind, member: Member | None) -> None:
        if slot not in self.held:
            member = member if kind == "session" else None
            transport, home, port = SLOTS[slot]
            client = self.world.client(port, home)
            client.five_tuple = FiveTuple(transport, (home, port), SERVER)
            client.credential = self.credential(kind, member)
            self.clients[slot], self.kinds[slot] = client, (kind, member)
        answer = self.clients[slot].request(Method.ALLOCATE, UDP)
        code = error_of(answer)
        if slot in self.held:
            assert code == 437
            return
        if not self.is_accepted(slot):
            assert code == 401
            return
        assert code == 0
        value = answer.get(AttributeType.XOR_RELAYED_ADDRESS)
        assert value is not None
        _, port = decode_xor_address(value, answer.transaction_id)
        kind, member = self.kinds[slot]
        self.held[slot] = Holding(kind, member, SLOTS[slot][1], port, self.world.now + 600)

    def refused(self, slot: int) -> int | None:
        """What a request other than Allocate gets where there is no allocation."""
        if slot in self.held:
            return None
        return 437 if self.is_accepted(slot) else 401

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), asked=st.sampled_from([0, 3600, 3600]))
    def refresh(self, data: st.DataObject, asked: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.clients)))
        code = self.clients[slot].error(Method.REFRESH, (AttributeType.LIFETIME, asked.to_bytes(4, "big")))
        assert code == (self.refused(slot) or 0)
        if code == 0 and asked:
            self.held[slot].expires_at = self.world.now + asked
        elif code == 0:
            del self.held[slot]

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), hosts=st.lists(peers, min_size=1, max_size=3))
    def permit(self, data: st.DataObject, hosts: list[str]) -> None:
        self.permit_for(data.draw(st.sampled_from(sorted(self.clients))), hosts)

    def permit_for(self, slot: int, hosts: list[str]) -> None:
        code = self.clients[slot].permit(*hosts)
        if slot not in self.held:
            assert code == self.refused(slot)
            return
        holding = self.held[slot]
        assert code == (0 if all(self.may_permit(holding, host) for host in hosts) else 403)
        if code == 0:
            holding.permissions.update(dict.fromkeys(hosts, self.world.now + 300))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), number=st.sampled_from(NUMBERS))
    def use(self, data: st.DataObject, number: int) -> None:
        """As a client does that has a peer: a permission or channel, and packets both ways."""
        slot = data.draw(st.sampled_from(sorted(self.held)))
        wanted = [host for host in PEERS if self.may_permit(self.held[slot], host)]
        if not wanted:
            return
        host = data.draw(st.sampled_from(wanted))
        port = self.peer_port(data, host)
        if data.draw(st.booleans()):
            self.permit_for(slot, [host])
        else:
            self.bind_for(slot, number, host, port)
        if data.draw(st.booleans()):
            self.hear_at(slot, host, port, "check")
        self.send_from(slot, host, port, check())
        self.send_from(slot, host, port, b"media")
        self.send_on_number(slot, number, b"media")

    def peer_port(self, data: st.DataObject, host: str) -> int:
        """On the relay most often one of its relayed addresses, or what is a listener, or nothing."""
        if host != RELAY:
            return PEER_PORT
        return data.draw(st.sampled_from([*sorted(one.port for one in self.held.values()) * 3, SERVER[1], 50000, 9]))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), host=peers, number=st.sampled_from(NUMBERS))
    def bind(self, data: st.DataObject, host: str, number: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.clients)))
        self.bind_for(slot, number, host, self.peer_port(data, host))

    def bind_for(self, slot: int, number: int, host: str, port: int) -> None:
        code = self.clients[slot].bind(number, host, port)
        if slot not in self.held:
            assert code == self.refused(slot)
            return
        holding = self.held[slot]
        numbers = {peer: known for known, (peer, _) in holding.channels.items()}
        if (
            holding.channels.get(number, ((host, port), 0.0))[0] != (host, port)
            or numbers.get((host, port), number) != number
        ):
            assert code == 400
        else:
            target = self.at_port(port) if host == RELAY else None
            allowed = self.may_permit(holding, host)
            if host == RELAY:
                together = target is not None and target is not holding and self.are_together(holding, target)
                allowed = allowed and together
            assert code == (0 if allowed else 403)
            if allowed:
                holding.channels[number] = ((host, port), self.world.now + 600)
                holding.permissions[host] = self.world.now + 300

    # Packets

    def judge_leaving(self, slot: int, host: str, payload: bytes, passed: bool, *, by_channel: bool) -> None:
        holding = self.held[slot]
        if holding.kind == "static" or host in holding.proven:
            assert passed
            return
        if by_channel and host not in holding.permissions and host in holding.was_proven:
            return
        if by_channel and passed and host in holding.was_proven:
            return
        is_check = payload[:2] == b"\x00\x01"
        assert is_check or not passed, "nothing but checks to who has not spoken"
        if is_check:
            lately = [at for at, _ in self.checks if at > self.world.now - 1]
            assert passed or lately, "the first check passes"
            if passed:
                self.checks.append((self.world.now, host))

    def judge_handed_over(self, slot: int, port: int, output: object) -> None:
        source, target = self.held[slot], self.at_port(port)
        may = (
            target is not None
            and target is not source
            and self.are_together(source, target)
            and RELAY in target.permissions
        )
        if isinstance(output, tuple):
            assert may
            assert target is not None
            [key] = [SLOTS[other] for other, one in self.held.items() if one is target]
            assert (output[0].client_key.transport, *output[0].client_key.client) == key
            assert output[2] is None
        else:
            # Who of an address has a session is told to the data path when one of them moves.
            assert not may or "legacy" in (source.kind, target.kind if target else "")

    @precondition(lambda self: self.held)
    @rule(data=st.data(), host=peers, is_check=st.booleans(), times=st.sampled_from([1, 1, 30]))
    def send(self, data: st.DataObject, host: str, is_check: bool, times: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        port = self.peer_port(data, host)
        for _ in range(times):
            self.send_from(slot, host, port, check() if is_check else b"media")

    def send_from(self, slot: int, host: str, port: int, payload: bytes) -> None:
        transaction = os.urandom(12)
        peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction))
        sent = encode(Method.SEND, MessageClass.INDICATION, transaction, [peer, (AttributeType.DATA, payload)])
        output = self.world.forwarder.from_client(sent, self.clients[slot].five_tuple, self.world.now)
        if host not in self.held[slot].permissions:
            assert output is None
        elif host == RELAY:
            self.judge_handed_over(slot, port, output)
        else:
            assert output is None or (isinstance(output, tuple) and output[2] == (host, port))
            self.judge_leaving(slot, host, payload, output is not None, by_channel=False)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), number=st.sampled_from(NUMBERS), is_check=st.booleans())
    def send_on_channel(self, data: st.DataObject, number: int, is_check: bool) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        self.send_on_number(slot, number, check() if is_check else b"media")

    def send_on_number(self, slot: int, number: int, payload: bytes) -> None:
        framed = struct.pack(">HH", number, len(payload)) + payload
        output = self.world.forwarder.from_client(framed, self.clients[slot].five_tuple, self.world.now)
        if number not in self.held[slot].channels:
            assert output is None
            return
        host, port = self.held[slot].channels[number][0]
        if host == RELAY:
            self.judge_handed_over(slot, port, output)
        else:
            assert output is None or (isinstance(output, tuple) and output[2] == (host, port))
            self.judge_leaving(slot, host, payload, output is not None, by_channel=True)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), host=peers, kind=st.sampled_from(["media", "check", "answer to nothing", "bare"]))
    def hear(self, data: st.DataObject, host: str, kind: str) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        self.hear_at(slot, host, self.peer_port(data, host), kind)

    def hear_at(self, slot: int, host: str, port: int, kind: str) -> None:
        holding = self.held[slot]
        payload = {
            "media": b"media",
            "check": check(),
            "answer to nothing": check(MessageClass.SUCCESS),
            "bare": encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12)),
        }[kind]
        [flow] = [one for one in self.world.forwarder if one.client_key == self.clients[slot].five_tuple]
        output = self.world.forwarder.from_peer(flow, payload, (host, port), self.world.now)
        if host == RELAY:
            source = self.at_port(port)
            may = source is not None and source is not holding and self.are_together(holding, source)
            assert output is None or (may and RELAY in holding.permissions)
            return
        assert (output is not None) == (host in holding.permissions)
        if output is not None:
            assert output[0] is flow
            if kind in {"check", "bare"}:
                holding.proven.add(host)
                holding.was_proven.add(host)

    @invariant()
    def nobody_gets_more_than_fifty_checks_a_second(self) -> None:
        self.checks = [(at, host) for at, host in getattr(self, "checks", []) if at > self.world.now - 1]
        for host in PEERS:
            assert sum(to == host for _, to in self.checks) <= 50

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "world"):
            return
        server = self.world.server
        assert {one.five_tuple for one in server.allocations} == {
            FiveTuple(SLOTS[slot][0], SLOTS[slot][1:], SERVER) for slot in self.held
        }
        assert server.allocations.ports[AddressFamily.IPV4].taken == {one.port for one in self.held.values()}
        assert {flow.client_key for flow in self.world.forwarder} == {one.five_tuple for one in server.allocations}
        assert {one.id for one in server.closed.sessions} == {one.id for one in self.members}
        for slot, holding in self.held.items():
            allocation = server.allocations.find(self.clients[slot].five_tuple)
            assert allocation is not None
            live = {str(host) for host, one in allocation.permissions.items() if one.expires_at > self.world.now}
            assert live == holding.permissions.keys()
            # A channel to a relayed address that is gone leads nowhere: it may go before its time, or stay.
            holding.channels = {n: entry for n, entry in holding.channels.items() if not self.leads_nowhere(entry[0])}
            for number, one in allocation.channels.items():
                if self.leads_nowhere(one.peer) and one.expires_at > self.world.now:
                    holding.channels[number] = (one.peer, one.expires_at)
            channels = {n: one.peer for n, one in allocation.channels.items() if one.expires_at > self.world.now}
            assert channels == {n: peer for n, (peer, _) in holding.channels.items()}


def test_nothing_leaves_but_to_whom_the_model_allows(make_world: type[World]) -> None:
    ClosedMachine.make_world = make_world
    run_state_machine_as_test(ClosedMachine, settings=settings(max_examples=400, stateful_step_count=50, deadline=None))

"""Whatever happens on shared relay ports, no packet reaches somebody whom it is not for: stateful, by other books.

Not which packets pass is asked here, but that what passes is consistent: one exact peer is one flow's until that one
has lost it, a pair is a pair until one of the two is gone, and answers come to who asked.
"""

from __future__ import annotations

import pytest
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

from tavern.turn.commands import AddRelayedAddress, RemoveRelayedAddress, RevokePermission, SetCircles, UnbindChannel
from tavern.turn.indications import SockAddr
from tests.turn.shared import P1, P1_6, P2, RELAY, RELAY_6, UNIQUE, Person, Shared, agree, check

HOSTS = ["9.9.2.1", "9.9.2.2", "2001:4860::9"]
PORTS = [5000, 5001]
PROGRAM = (RELAY, 9999)
OTHER_UNIQUE = (RELAY, 50002)
OUTSIDE: list[SockAddr] = [(host, port, 0, 0) if ":" in host else (host, port) for host in HOSTS for port in PORTS]
OUTSIDE.append(PROGRAM)
SHARED = [P1, P2, P1_6]
PLACES = [P1, P1, P2, UNIQUE, OTHER_UNIQUE, P1_6]
NAMES = ["a", "b"]
NUMBERS = [0x4000, 0x4001]
CALLS = [None, None, {"one"}, {"other"}, {"one", "other"}]

people = st.integers(0, 7)
outside = st.sampled_from(OUTSIDE)
hosts = st.sampled_from([*HOSTS, RELAY, RELAY, RELAY_6])
numbers = st.sampled_from(NUMBERS)


class SharedMachine(RuleBasedStateMachine):
    @initialize(allowed=st.booleans())
    def start(self, allowed: bool) -> None:
        self.world = Shared(own_hosts_allowed=allowed)
        self.people: list[Person] = []
        self.born = 0
        self.holder: dict[tuple[SockAddr, SockAddr], tuple[str, int]] = {}
        """Who heard of an exact peer at a shared port, or sent to it from there, and in which step."""
        self.means: dict[tuple[str, SockAddr], str] = {}
        """Whom somebody reached or heard at a shared relayed address."""

        for place in (P1, P1, P2, UNIQUE, P1):
            self.arrive_at(place, None)
            for host in (RELAY, *HOSTS[:2]):
                self.people[-1].permit(host, until=1e6)

    def pick(self, index: int) -> Person:
        return self.people[index % len(self.people)]

    @rule(place=st.sampled_from(PLACES), call=st.sampled_from(CALLS))
    @precondition(lambda self: len(self.people) < 7)
    def arrive(self, place: SockAddr, call: set[str] | None) -> None:
        self.arrive_at(place, call)

    def arrive_at(self, place: SockAddr, call: set[str] | None) -> None:
        if place in (UNIQUE, OTHER_UNIQUE) and any(place in one.flow.relayed for one in self.people):
            place = P2
        self.born += 1
        self.people.append(self.world.add(f"person {self.born}", place, call))

    @rule(index=people)
    @precondition(lambda self: self.people)
    def get_second_family(self, index: int) -> None:
        one = self.pick(index)
        if len(one.flow.relayed) == 1 and one.flow.relayed_ipv6 is None:
            command = AddRelayedAddress(one.flow.id, (RELAY_6, P1_6[1]), shared=True)
            assert self.world.forwarder.add_relayed_address(command) is one.flow

    @rule(index=people, which=st.booleans())
    @precondition(lambda self: self.people)
    def lose_a_family(self, index: int, which: bool) -> None:
        one = self.pick(index)
        if len(one.flow.relayed) == 2:
            address = one.flow.relayed[which]
            self.world.forwarder.remove_relayed_address(RemoveRelayedAddress(one.flow.id, address[:2]))
            self.is_gone(one, address)

    @rule(index=people)
    @precondition(lambda self: self.people)
    def leave(self, index: int) -> None:
        one = self.pick(index)
        relayed = one.flow.relayed
        self.world.remove(one)
        self.people.remove(one)
        for address in relayed:
            self.is_gone(one, address)

    def is_gone(self, one: Person, address: SockAddr) -> None:
        self.holder = {key: held for key, held in self.holder.items() if held[0] != one.name or key[0] != address}
        self.means = {
            (who, where): whom
            for (who, where), whom in self.means.items()
            if not (whom == one.name and where == address) and not (who == one.name and len(where) == len(address))
        }

    @rule(index=people, host=hosts, until=st.sampled_from([10.0, 1e6]))
    @precondition(lambda self: self.people)
    def permit(self, index: int, host: str, until: float) -> None:
        one = self.pick(index)
        if self.serves(one, host):
            one.permit(host, until=self.world.now + until)

    @rule(index=people, peer=outside)
    @precondition(lambda self: self.people)
    def learn(self, index: int, peer: SockAddr) -> None:
        one = self.pick(index)
        if self.serves(one, peer[0]):
            one.learn((peer[0], peer[1]))

    @rule(index=people, peer=st.sampled_from([*OUTSIDE, *PLACES]), number=numbers)
    @precondition(lambda self: self.people)
    def bind(self, index: int, peer: SockAddr, number: int) -> None:
        one = self.pick(index)
        if self.serves(one, peer[0]):
            self.may_lose(one)
            one.bind((peer[0], peer[1]), number, self.world.now + 1e6)

    @rule(index=people, number=numbers)
    @precondition(lambda self: self.people)
    def unbind(self, index: int, number: int) -> None:
        self.may_lose(self.pick(index))
        self.world.forwarder.unbind_channel(UnbindChannel(self.pick(index).flow.id, number))

    @rule(index=people, host=hosts)
    @precondition(lambda self: self.people)
    def revoke(self, index: int, host: str) -> None:
        self.may_lose(self.pick(index))
        self.world.forwarder.revoke_permission(RevokePermission(self.pick(index).flow.id, host))

    def may_lose(self, one: Person) -> None:
        """From now on it may know less; what it still knows is asked of the flow, below."""
        for key, (name, _) in list(self.holder.items()):
            if name == one.name:
                self.holder[key] = (name, -1)

    @rule(index=people, call=st.sampled_from(CALLS))
    @precondition(lambda self: self.people)
    def join(self, index: int, call: set[str] | None) -> None:
        one = self.pick(index)
        if one.flow.circles is not None and call is not None:
            self.world.forwarder.set_circles(SetCircles(one.flow.id, frozenset(call)))

    @rule(seconds=st.sampled_from([1.0, 10.0]))
    def time(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(
        index=people,
        peer=st.sampled_from([*OUTSIDE, *PLACES]),
        by_channel=st.one_of(st.none(), numbers),
        asked=st.sampled_from([None, *NAMES]),
        own=st.sampled_from(NAMES),
    )
    @precondition(lambda self: self.people)
    def send(self, index: int, peer: SockAddr, by_channel: int | None, asked: str | None, own: str) -> None:
        one = self.pick(index)
        payload = b"media" if asked is None else check(asked, own)
        if by_channel is not None:
            bound = one.flow.channels.get(by_channel)
            if bound is None:
                return
            peer = bound.address
            self.came_out(one, peer, one.channel(payload, by_channel))
        else:
            self.send_one(one, peer, payload)

    def came_out(self, one: Person, peer: SockAddr, said: str | None) -> None:
        if said is None:
            return
        if "->" in said:
            assert said == f"{one.name} -> {peer[0]}:{peer[1]}"
            assert peer not in SHARED, "between relayed addresses of ours nothing goes by the wire"
            self.left(one, peer)
        else:
            self.handed_over(one, peer, said)

    @rule(index=people, other=people, names=st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)))
    @precondition(lambda self: self.people)
    def check_each_other(self, index: int, other: int, names: tuple[str, str]) -> None:
        """As two agents do."""
        one, two = self.pick(index), self.pick(other)
        ours, theirs = names
        for first, second, own, asked in ((one, two, ours, theirs), (two, one, theirs, ours), (one, two, ours, theirs)):
            self.send_one(first, second.flow.relayed[0], check(asked, own))

    @rule(index=people, peer=st.sampled_from(OUTSIDE[:4]), own=st.sampled_from(NAMES))
    @precondition(lambda self: self.people)
    def check_outside(self, index: int, peer: SockAddr, own: str) -> None:
        self.send_one(self.pick(index), peer, check("peer", own))

    def send_one(self, one: Person, peer: SockAddr, payload: bytes) -> None:
        self.came_out(one, peer, one.indicate(peer, payload))

    def left(self, one: Person, peer: SockAddr) -> None:
        source = self.source(one, peer)
        assert source is not None
        if source in SHARED:
            self.held_by(source, peer, one.name)
            if self.permits(one, peer):
                assert self.world.arrives(peer, b"answer", source) == one.name, "the answer goes to somebody else"

    def handed_over(self, one: Person, peer: SockAddr, name: str) -> None:
        target = next(person for person in self.people if person.name == name)
        assert target is not one
        assert peer in target.flow.relayed
        assert one.flow.reaches(target.flow), "handed over to a stranger"
        source = self.source(one, peer)
        assert source is not None
        assert target.flow.permits(source[0], self.world.now)
        for who, where, whom in ((one, peer, target), (target, source, one)):
            if where in SHARED:
                assert self.means.setdefault((who.name, where), whom.name) == whom.name, "a pair was torn apart"
        if one.flow.permits(peer[0], self.world.now):
            assert target.indicate(source, b"answer") in (one.name, None)

    @rule(at=st.sampled_from(SHARED), peer=outside, asked=st.sampled_from([None, *NAMES]))
    def receive(self, at: SockAddr, peer: SockAddr, asked: str | None) -> None:
        if len(at) != len(peer):
            return
        there = [one for one in self.people if at in one.flow.relayed]
        is_known = any(peer in one.flow.peers for one in there)
        named = [one.name for one in there if (asked or "").encode() in one.flow.fragments and self.permits(one, peer)]
        name = self.world.arrives(peer, b"media" if asked is None else check(asked, "peer"), at)
        if name is None:
            return
        assert is_known or named == [name], "an unknown source is somebody's who is not the only one asked for"
        one = next(person for person in self.people if person.name == name)
        assert at in one.flow.relayed
        assert self.permits(one, peer), "heard without a permission"
        self.held_by(at, peer, name)

    @rule(at=st.sampled_from(SHARED), source=st.sampled_from(PLACES), asked=st.sampled_from(NAMES))
    def forge(self, at: SockAddr, source: SockAddr, asked: str) -> None:
        if len(at) == len(source) and any(source in one.flow.relayed for one in self.people):
            assert self.world.arrives(source, check(asked, "peer"), at) is None, "a relayed address is forged"

    def held_by(self, at: SockAddr, peer: SockAddr, name: str) -> None:
        former, step = self.holder.get((at, peer), (name, -1))
        assert former == name or step == -1, "an exact peer changed hands"
        former_person = next((person for person in self.people if person.name == former), None)
        if former != name and former_person is not None:
            assert peer not in former_person.flow.peers, "an exact peer is two flows'"
        self.holder[at, peer] = (name, 0)

    def permits(self, one: Person, peer: SockAddr) -> bool:
        return one.flow.permits(peer[0], self.world.now)

    @staticmethod
    def serves(one: Person, host: str) -> bool:
        """Of another family the control side grants nothing (443)."""
        return any((":" in host) == (len(address) == 4) for address in one.flow.relayed)

    @staticmethod
    def source(one: Person, peer: SockAddr) -> SockAddr | None:
        return one.flow.relayed_ipv4 if len(peer) == 2 else one.flow.relayed_ipv6

    @invariant()
    def tables_agree(self) -> None:
        if hasattr(self, "world"):
            agree(self.world)
            assert len(self.world.forwarder) == len(self.people)
            for one in self.people:
                assert len(one.flow.pairs) <= len(SHARED)
                assert len(one.flow.fragments) <= 4


@pytest.mark.clause("Shared ports: no packet reaches an allocation whose peer does not send it")
def test_nothing_is_misdelivered() -> None:
    run_state_machine_as_test(SharedMachine, settings=settings(max_examples=150, stateful_step_count=80, deadline=None))

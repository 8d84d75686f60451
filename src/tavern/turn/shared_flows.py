"""One relay port that several flows share: whose packets from which peer are, and which flow a check asks for. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

from tavern.turn.indications import SockAddr

# Of one flow: one for each ICE restart of its call. A flow carries one connection of a browser.
_MAX_FRAGMENTS = 4
# Flows with the same fragment, of which one is looked for: a browser has one for each TURN URL and interface. Who has
# more means to make each packet to the port expensive, and is found by nobody.
_MAX_NAMESAKES = 64


class _Member(Protocol):
    """A flow, as far as a port knows it."""

    id: int
    fragments: list[bytes]


Member = TypeVar("Member", bound=_Member)


class SharedPort(Generic[Member]):
    """The flows whose relayed address is this one, and the tables by which packets find them."""

    def __init__(self, address: SockAddr) -> None:
        self.address = address
        """The first that it had; what it is known by here."""
        self.flows: dict[int, Member] = {}
        """By their ids."""
        self.owners: dict[SockAddr, Member] = {}
        """Each exact peer outside of this server whose packets have a flow; bounded by what the flows know."""
        self._by_fragment: dict[bytes, dict[int, Member]] = {}

    def join(self, flow: Member) -> None:
        """`flow` has this relayed address."""
        self.flows[flow.id] = flow
        for fragment in flow.fragments:
            self.add_fragment(flow, fragment)

    def leave(self, flow: Member) -> None:
        """`flow` has it no longer. What it owns here is to be released before."""
        del self.flows[flow.id]
        for fragment in flow.fragments:
            self.drop_fragment(flow, fragment)

    def release(self, address: SockAddr, flow: Member) -> None:
        """The peer at `address` is not this flow's any more, if it was."""
        if self.owners.get(address) is flow:
            del self.owners[address]

    def named(self, fragment: bytes) -> Collection[Member]:
        """The flows that this is an own fragment of; none where there are so many that nobody can be meant."""
        flows = self._by_fragment.get(fragment, {})
        return flows.values() if len(flows) <= _MAX_NAMESAKES else ()

    def add_fragment(self, flow: Member, fragment: bytes) -> None:
        """`fragment` names this flow, too."""
        self._by_fragment.setdefault(fragment, {})[flow.id] = flow

    def drop_fragment(self, flow: Member, fragment: bytes) -> None:
        """`fragment` does not name this flow."""
        flows = self._by_fragment[fragment]
        del flows[flow.id]
        if not flows:
            del self._by_fragment[fragment]


def remember(fragments: list[bytes], fragment: bytes) -> bytes | None:
    """`fragment` is the last of a flow's own ones, each of which is there once; returns the one that is forgotten."""
    if fragment in fragments:
        fragments.remove(fragment)
    fragments.append(fragment)
    return fragments.pop(0) if len(fragments) > _MAX_FRAGMENTS else None

"""Who is with whom, and what they announced: how far a closed relay reaches, by other books than the server's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


class Calls:
    """Sessions in groups."""

    def __init__(self, hosts: Mapping[str, str]) -> None:
        """`hosts`: where each session's WebSocket comes from."""
        self._hosts = hosts
        self._group: dict[str, str | None] = dict.fromkeys(hosts)
        self._announced: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def move(self, session: str, group: str | None) -> bool:
        """`session` is in this group; whether it left another one."""
        former = self._group[session]
        if former == group:
            return False
        for pair in [pair for pair in self._announced if session in pair]:
            del self._announced[pair]
        self._group[session] = group
        return former is not None

    def announce(self, session: str, host: str) -> None:
        """`session` tells all who are with it that it has this address."""
        for other in self._others(session):
            self._announced[session, other].add(host)

    def reachable(self, session: str | None) -> set[str]:
        """The hosts that an allocation of `session` may reach beside relayed addresses."""
        found: set[str] = set()
        for other in self._others(session):
            found |= {self._hosts[other], *self._announced.get((other, session or ""), ())}
        return found

    def together(self, one: str | None, other: str | None) -> bool:
        """Whether allocations of these reach each other's relayed addresses; None is nobody's."""
        return one == other or (one is not None and other in self._others(one))

    def _others(self, session: str | None) -> list[str]:
        group = None if session is None else self._group[session]
        return [one for one, its in self._group.items() if group is not None and its == group and one != session]

"""Who a minted credential belongs to, and whom that one is with: what a closed relay may reach follows from it. Pure.

A session is one signaling connection. It is in one group at most (a voice channel or a legacy room) with the sessions
that it talks to. What members of its group announce to it are IP addresses that they say they have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator

import attrs

from tavern.addresses import IPAddress, parse_address, source_key

LOST_SESSION_S = 15.0
"""So long a session outlives its socket: a client that lost it may come back, and nobody else has its credential."""

# Of one member to another. A client with a dozen interfaces has some 30 addresses, and makes new ones as networks
# change; what is beyond is reached through the relay.
MAX_ANNOUNCED = 64


MAX_LOST_SESSIONS = 4096
"""Who connects and leaves all the time does not fill the memory (a kilobyte each): the oldest go before their time."""


@attrs.frozen
class SessionOwner:
    """An allocation made with the credential that was minted for this session."""

    session_id: str


@attrs.frozen
class AddressOwner:
    """An allocation made with the secret that old clients carry: it belongs to all sessions from its address."""

    source: str
    """As `source_key` has it."""


Owner = SessionOwner | AddressOwner
"""Whose allocation it is, and so whom it reaches. One that has none is under the general policy."""

Circles = frozenset[Hashable]
"""Sessions and groups. Two allocations reach each other if they have one in common."""


@attrs.define(eq=False)
class Session:
    """One signaling connection, or what is left of it."""

    id: str
    address: IPAddress | None
    """Where its WebSocket comes from; None where that is not known."""
    source: str
    group: Hashable | None = None
    lost: bool = False
    """Its socket is gone."""
    announced: dict[str, set[IPAddress]] = attrs.field(factory=dict)
    """What members of its group announced to it, by their ids."""


class SessionTable:
    """The sessions that live. Bounded by the signaling connections, of which each has one."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._by_source: defaultdict[str, dict[str, Session]] = defaultdict(dict)
        self._groups: defaultdict[Hashable, dict[str, Session]] = defaultdict(dict)
        self._lost: dict[str, float] = {}
        """When the sessions without a socket are to be closed; the earliest first, since all have as long."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def find(self, session_id: str) -> Session | None:
        """The session of this id, if it lives."""
        return self._sessions.get(session_id)

    def open(self, session_id: str, host: str) -> None:
        """A session from `host` lives, in no group."""
        assert session_id not in self._sessions
        session = Session(session_id, _address(host), source_key(host))
        self._sessions[session_id] = session
        self._by_source[session.source][session_id] = session

    def rehost(self, session: Session, host: str) -> None:
        """The session's WebSocket comes from `host`."""
        self._forget_source(session)
        session.address, session.source = _address(host), source_key(host)
        self._by_source[session.source][session.id] = session

    def move(self, session: Session, group: Hashable | None) -> None:
        """`session` is in this group. What it and the former ones announced to each other is forgotten."""
        if session.group is not None:
            members = self._groups[session.group]
            del members[session.id]
            for member in members.values():
                member.announced.pop(session.id, None)
            if not members:
                del self._groups[session.group]
            session.announced.clear()
        session.group = group
        if group is not None:
            self._groups[group][session.id] = session

    def lose(self, session: Session, now: float) -> None:
        """The session's socket is gone: unless it is closed before, `to_revoke` names it in `LOST_SESSION_S`."""
        session.lost = True
        self._lost[session.id] = now + LOST_SESSION_S

    def close(self, session: Session) -> None:
        """The session is gone, and was moved to no group before."""
        assert session.group is None
        del self._sessions[session.id]
        self._forget_source(session)
        self._lost.pop(session.id, None)

    def next_deadline(self) -> float | None:
        """When the next lost session is to be closed."""
        return next(iter(self._lost.values()), None)

    def to_revoke(self, now: float) -> list[Session]:
        """The lost sessions whose time has come; the taker closes them."""
        beyond = len(self._lost) - MAX_LOST_SESSIONS
        due: list[Session] = []
        for session_id, revoked_at in self._lost.items():
            if revoked_at > now and len(due) >= beyond:
                break
            due.append(self._sessions[session_id])
        return due

    def announce(self, sender: Session, receiver: Session, addresses: Iterable[IPAddress]) -> None:
        """`sender` told `receiver` that it has these addresses; without effect where they are not together."""
        if sender.group is None or sender.group != receiver.group or sender is receiver:
            return
        known = receiver.announced.setdefault(sender.id, set())
        for address in addresses:
            if len(known) >= MAX_ANNOUNCED:
                return
            known.add(address)

    def is_live_source(self, host: str) -> bool:
        """Whether a session whose socket lives comes from this address (IPv6: from its /64)."""
        return any(not session.lost for session in self._by_source.get(source_key(host), {}).values())

    def owners(self, session: Session) -> tuple[Owner, ...]:
        """Whose allocations depend on this session."""
        return SessionOwner(session.id), AddressOwner(session.source)

    def of_group(self, group: Hashable) -> tuple[Session, ...]:
        """Its members."""
        return tuple(self._groups.get(group, {}).values())

    def of_owner(self, owner: Owner) -> tuple[Session, ...]:
        """The sessions whose allocations these are."""
        if isinstance(owner, AddressOwner):
            return tuple(self._by_source.get(owner.source, {}).values())
        session = self._sessions.get(owner.session_id)
        return () if session is None else (session,)

    def circles(self, owner: Owner) -> Circles:
        """What the owner's sessions are, and where."""
        sessions = self.of_owner(owner)
        return frozenset(
            [session.id for session in sessions] + [session.group for session in sessions if session.group is not None]
        )

    def owners_with(self, owner: Owner) -> set[Owner]:
        """Whose allocations those of `owner` reach, its own among them: they have a circle in common."""
        found: set[Owner] = set()
        for session in self.of_owner(owner):
            mates = () if session.group is None else self.of_group(session.group)
            for mate in (session, *mates):
                found.update(self.owners(mate))
        return found

    def known_of(self, sender: Session, receiver: Session) -> set[IPAddress]:
        """The addresses that `receiver` may reach for the sake of `sender`, which is with it."""
        known = set(receiver.announced.get(sender.id, ()))
        return known if sender.address is None else known | {sender.address}

    def may_reach(self, owner: Owner, peer: IPAddress) -> bool:
        """Whether `peer` is an address of somebody whom a session of the owner is with: announced to it, or the one
        that the other's WebSocket comes from.
        """
        for session in self.of_owner(owner):
            if any(peer in addresses for addresses in session.announced.values()):
                return True
            if session.group is None:
                continue
            others = self._groups[session.group].values()
            if any(other.address == peer for other in others if other is not session):
                return True
        return False

    def _forget_source(self, session: Session) -> None:
        here = self._by_source[session.source]
        del here[session.id]
        if not here:
            del self._by_source[session.source]


def _address(host: str) -> IPAddress | None:
    try:
        return parse_address(host)
    except ValueError:  # a unix socket
        return None

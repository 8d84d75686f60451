"""The closed relay: credentials belong to sessions, and reach who is with them now and nobody else. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from random import Random

import attrs

from tavern.addresses import IPAddress, SocketAddress, source_key
from tavern.turn.advertised import AdvertisedAddresses
from tavern.turn.allocations import AllocationTable
from tavern.turn.auth import Identity
from tavern.turn.commands import Effect, RemoveFlow, SetCircles
from tavern.turn.reach import withdraw
from tavern.turn.sessions import AddressOwner, Owner, Session, SessionOwner, SessionTable

SESSION_PREFIX = "session."
"""What the ids of minted credentials begin with; a hand-computed one that does is not accepted."""

_ID_BITS = 128  # a session's id is in its credential's username: to guess one is to use somebody else's quota


class ClosedRelay:
    """Who is with whom, and what follows from every change. Ids of sessions that are gone have no effect."""

    def __init__(
        self,
        allocations: AllocationTable,
        random: Random,
        *,
        advertised: AdvertisedAddresses,
        static_credentials: bool,
    ) -> None:
        """`static_credentials`: whether users that are no sessions are accepted, under the general policy."""
        self.sessions = SessionTable()
        self._allocations = allocations
        self._random = random
        self._advertised = advertised
        self._static_credentials = static_credentials

    def open_session(self, host: str) -> str:
        """The id of a new session, whose WebSocket comes from `host`; what it is called in credentials."""
        session_id = f"{SESSION_PREFIX}{self._random.getrandbits(_ID_BITS):032x}"
        self.sessions.open(session_id, host)
        return session_id

    def identified(self, identity: Identity, client: SocketAddress) -> Identity | None:
        """`identity` with its owner; None if it is not, or is no longer, to be accepted from `client`."""
        owner: Owner | None = None
        if identity.legacy:
            if not self.sessions.is_live_source(client[0]):
                return None
            owner = AddressOwner(source_key(client[0]))
        elif (user := identity.user.decode(errors="replace")).startswith(SESSION_PREFIX):
            if self.sessions.find(user) is None:
                return None
            owner = SessionOwner(user)
        elif not self._static_credentials:
            return None
        return identity if owner is None else attrs.evolve(identity, owner=owner)

    def move_session(self, session_id: str, group: Hashable | None) -> list[Effect]:
        """The session is in this group and in no other one. Where it left one, its allocations end."""
        session = self.sessions.find(session_id)
        if session is None or session.group == group:
            return []
        effects = [] if session.group is None else self._leave(session)
        if group is not None:
            self.sessions.move(session, group)
            effects += self._set_circles(session)
        return effects

    def announce(self, sender_id: str, receiver_ids: Iterable[str], addresses: frozenset[IPAddress]) -> None:
        """The sender told the receivers, who are with it, that it has these addresses."""
        sender = self.sessions.find(sender_id)
        for receiver_id in receiver_ids:
            receiver = self.sessions.find(receiver_id)
            if sender is not None and receiver is not None:
                self.sessions.announce(sender, receiver, addresses)

    def rehost_session(self, session_id: str, host: str) -> list[Effect]:
        """The session's client is back and comes from `host`: its group, credential and allocations are as before.

        Its former address is nobody's: others do not reach it for its sake, and old clients' allocations from there
        end unless another session is left there.
        """
        session = self.sessions.find(session_id)
        if session is None or str(session.address) == host:
            return []
        former_source, former_address = AddressOwner(session.source), session.address
        mates = [] if session.group is None else [m for m in self.sessions.of_group(session.group) if m is not session]
        known_here = set().union(*(self.sessions.known_of(mate, session) for mate in mates))
        self.sessions.rehost(session, host)
        effects = self._set_circles(session)
        left_there = self.sessions.of_owner(former_source)
        if left_there:
            effects += self._set_circles(left_there[0]) + self._withdraw(former_source, known_here, set())
        else:
            effects += self._end_all(former_source)[0]
        gone = set() if former_address is None else {former_address}
        for owner in {owner for mate in mates for owner in self.sessions.owners(mate)}:
            effects += self._withdraw(owner, gone, set())
        return effects

    def lose_session(self, session_id: str, now: float) -> list[Effect]:
        """The session's socket is gone: it left its group, and is revoked if it does not come back."""
        effects = self.move_session(session_id, None)
        session = self.sessions.find(session_id)
        if session is not None:
            self.sessions.lose(session, now)
        return effects + self.revoke_due(now)

    def revoke_session(self, session_id: str) -> list[Effect]:
        """The session is gone: its credentials are worth nothing and its allocations have ended."""
        effects = self.move_session(session_id, None)
        session = self.sessions.find(session_id)
        if session is None:
            return effects
        self.sessions.close(session)
        effects += self._end_all(SessionOwner(session.id))[0]
        if not self.sessions.of_owner(AddressOwner(session.source)):
            effects += self._end_all(AddressOwner(session.source))[0]
        return effects

    def revoke_due(self, now: float) -> list[Effect]:
        """Revokes the sessions that were lost and did not come back in time."""
        effects: list[Effect] = []
        for session in self.sessions.to_revoke(now):
            effects += self.revoke_session(session.id)
        return effects

    def _leave(self, session: Session) -> list[Effect]:
        assert session.group is not None
        others = [other for other in self.sessions.of_group(session.group) if other is not session]
        known_to = {other.id: self.sessions.known_of(session, other) for other in others}
        own_source = AddressOwner(session.source)
        known_here = set().union(*(self.sessions.known_of(other, session) for other in others))
        self.sessions.move(session, None)
        effects, relayed = self._end_all(SessionOwner(session.id))
        if all(other.group is None for other in self.sessions.of_owner(own_source)):
            # Which of its allocations this session's client made is not known: none is needed any more.
            ended, also_relayed = self._end_all(own_source)
            effects += ended
            relayed |= also_relayed
        else:
            effects += self._withdraw(own_source, known_here, relayed) + self._set_circles(session)
        for other in others:
            for owner in self.sessions.owners(other):
                effects += self._withdraw(owner, known_to[other.id], relayed)
        for mate in self.sessions.of_owner(own_source):  # whom its old clients' allocations were with, too
            effects += self._withdraw(SessionOwner(mate.id), set(), relayed)
        return effects

    def _withdraw(self, owner: Owner, hosts: set[IPAddress], relayed: set[SocketAddress]) -> list[Effect]:
        gone = {host: str(host) for host in hosts if not self.sessions.may_reach(owner, host)}
        effects: list[Effect] = []
        for allocation in self._allocations.of_owner(owner):
            effects += withdraw(allocation, gone, relayed, self._allocations, self.sessions, self._advertised.all)
        return effects

    def _set_circles(self, session: Session) -> list[Effect]:
        effects: list[Effect] = []
        for owner in self.sessions.owners(session):
            allocations = self._allocations.of_owner(owner)
            if allocations:
                circles = self.sessions.circles(owner)
                effects += [SetCircles(allocation.id, circles) for allocation in allocations]
        return effects

    def _end_all(self, owner: Owner) -> tuple[list[Effect], set[SocketAddress]]:
        """Ends the owner's allocations; the commands, and the relayed addresses that are gone."""
        self._allocations.drop_reservations(owner)
        allocations = self._allocations.of_owner(owner)
        relayed = {one.address for allocation in allocations for one in allocation.relayed.values()}
        for allocation in allocations:
            self._allocations.remove(allocation)
        return [RemoveFlow(allocation.id) for allocation in allocations], relayed

"""Whether an allocation may reach a peer: the one function before CreatePermission, ChannelBind and Send. Pure.

For every allocation the policy of addresses decides. Those of sessions reach beyond that only who is in the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

import attrs

from tavern.addresses import IPAddress, SocketAddress
from tavern.stun.attributes import family_of
from tavern.turn.allocation import Allocation
from tavern.turn.allocations import AllocationTable
from tavern.turn.commands import BindChannel, Effect, RevokePermission, SetPermission, UnbindChannel
from tavern.turn.policy import OWN, PeerPolicy, Verdict
from tavern.turn.sessions import SessionTable
from tavern.turn.shared_ports import SharedPort


@attrs.frozen
class Judgement:
    """How far a peer's IP address may be reached; the fields are those of `SetPermission`."""

    relayed_only: bool
    own: bool
    claimed: bool


class Reach:
    """The policy, the sessions, and the allocations that live: together they decide who may be reached."""

    def __init__(self, policy: PeerPolicy, sessions: SessionTable, allocations: AllocationTable) -> None:
        self.policy = policy
        """The one that holds now."""
        self._sessions = sessions
        self._allocations = allocations

    def is_own(self, address: IPAddress) -> bool:
        """Whether `address` is one of this machine's, or leads to it."""
        return self.policy.is_own(address)

    def judge(self, allocation: Allocation, peer: IPAddress) -> Judgement | None:
        """Whether the allocation may send to `peer` and hear from it; None if not."""
        return self._judge(allocation, peer, others_live=self._allocations.others_live(family_of(peer)))

    def _judge(self, allocation: Allocation, peer: IPAddress, *, others_live: bool) -> Judgement | None:
        verdict = self.policy.judge(peer, others_live=others_live)
        if verdict is Verdict.DENIED:
            return None
        if verdict is Verdict.RELAYED_ONLY:
            return _RELAYED_ONLY
        owner = allocation.owner
        if owner is None:
            return Judgement(relayed_only=False, own=verdict in OWN, claimed=False)
        if self._sessions.may_reach(owner, peer):
            return Judgement(relayed_only=False, own=verdict in OWN, claimed=True)
        if peer in self.policy.advertised_addresses and others_live:
            return _RELAYED_ONLY  # the operator allows its other ports, too, but nobody in the call is there
        return None

    def may_bind(self, allocation: Allocation, judgement: Judgement, peer: IPAddress, port: int) -> bool:
        """Whether a channel may stand for this port of `peer`, which is judged so."""
        other = self._allocations.relayed_at(peer, port)
        if port == 0 or other is allocation or self.is_listener(judgement, port):
            return False
        if (shared := self._allocations.shared_at(peer, port)) is not None:
            return meets_at(allocation, shared, self._sessions)
        if other is None:
            return not judgement.relayed_only
        return self._are_together(allocation, other)

    def judge_again(self, allocation: Allocation) -> list[Effect]:
        """Withdraws what is denied by now, and passes on what is this machine's own by now."""
        effects: list[Effect] = []
        for peer, permission in list(allocation.permissions.items()):
            judgement = self._judge(allocation, peer, others_live=True)
            if judgement is None:
                allocation.revoke(peer)
                effects.append(RevokePermission(allocation.id, str(peer)))
            elif judgement.own and not permission.own:
                permission.own = True
                effects.append(set_permission(allocation, peer, permission.expires_at, judgement))
        for number, channel in list(allocation.channels.items()):
            host, port = channel.peer
            judgement = self._judge(allocation, ip_address(host), others_live=True)
            if judgement is None or self.is_listener(judgement, port):
                effects.append(_unbind(allocation, number))
        return effects

    def is_listener(self, judgement: Judgement, port: int) -> bool:
        """Whether the relay itself listens on this port of an address that is judged so."""
        return judgement.own and port in self.policy.listener_ports

    def _are_together(self, allocation: Allocation, other: Allocation) -> bool:
        if allocation.owner is None or other.owner is None:
            return allocation.owner is other.owner
        return not self._sessions.circles(allocation.owner).isdisjoint(self._sessions.circles(other.owner))


def meets_at(allocation: Allocation, shared: SharedPort, sessions: SessionTable) -> bool:
    """Whether another allocation that this one is with has that shared relayed address."""
    own = any(relayed.shared is shared for relayed in allocation.relayed.values())
    if allocation.owner is None:
        return shared.ownerless > own
    return sum(shared.held[owner] for owner in sessions.owners_with(allocation.owner)) > own


_RELAYED_ONLY = Judgement(relayed_only=True, own=True, claimed=False)


def set_permission(allocation: Allocation, peer: IPAddress, expires_at: float, judgement: Judgement) -> SetPermission:
    """The command that passes the permission on to the data path."""
    return SetPermission(
        allocation.id,
        str(peer),
        expires_at,
        relayed_only=judgement.relayed_only,
        own=judgement.own,
        claimed=judgement.claimed,
    )


def withdraw(
    allocation: Allocation,
    hosts: Mapping[IPAddress, str],
    relayed: set[SocketAddress],
    relays: AllocationTable,
    sessions: SessionTable,
    advertised: frozenset[IPAddress],
) -> list[Effect]:
    """The claims on `hosts` (and how they are written) are nobody's any more, the relayed addresses `relayed` gone.

    In proportion to these, not to what the allocation holds: a member that holds much must not make leaving slow.
    """
    effects: list[Effect] = []
    for host, name in hosts.items():
        if host in advertised:
            effects += _withdraw_but_relayed(allocation, host, relays, sessions)
            continue
        permission = allocation.permissions.get(host)
        if permission is not None and permission.claimed:
            allocation.revoke(host)
            effects.append(RevokePermission(allocation.id, name))
        if numbers := allocation.channels_at.get(name):  # also of a permission that has expired
            effects += [_unbind(allocation, number) for number in sorted(numbers)]
    for peer in relayed & allocation.channel_of.keys():
        shared = relays.shared_at(ip_address(peer[0]), peer[1])
        if shared is None or not meets_at(allocation, shared, sessions):
            effects.append(_unbind(allocation, allocation.channel_of[peer]))
    return effects


def _withdraw_but_relayed(
    allocation: Allocation, host: IPAddress, relays: AllocationTable, sessions: SessionTable
) -> list[Effect]:
    """The address is the relay's own, and the operator allows it: others in the call are relayed there, too."""
    effects: list[Effect] = []
    permission = allocation.permissions.get(host)
    if permission is not None and permission.claimed:
        permission.claimed = False
        effects.append(set_permission(allocation, host, permission.expires_at, _RELAYED_ONLY))
    for number in sorted(allocation.channels_at.get(str(host), ())):
        channel = allocation.channels[number]
        shared = relays.shared_at(host, channel.peer[1])
        lives = relays.relayed_at(host, channel.peer[1]) is not None
        if not lives and (shared is None or not meets_at(allocation, shared, sessions)):
            effects.append(_unbind(allocation, number))
        else:
            effects.append(BindChannel(allocation.id, number, channel.peer, channel.expires_at, relayed_only=True))
    return effects


def _unbind(allocation: Allocation, number: int) -> UnbindChannel:
    allocation.unbind(number)
    return UnbindChannel(allocation.id, number)

"""Exact peers on shared relay ports: what requests name is one allocation's, and nobody else's there. Pure."""

from __future__ import annotations

from tavern.addresses import IPAddress, SocketAddress
from tavern.turn.allocation import Allocation
from tavern.turn.allocations import AllocationTable
from tavern.turn.answers import ErrorCode, Refusal
from tavern.turn.commands import Effect, LearnPeer
from tavern.turn.reach import Judgement, Reach


class ExactPeers:
    """Whose they are. Peers are outside of this server: between its allocations packets are not told apart so."""

    def __init__(self, allocations: AllocationTable, reach: Reach) -> None:
        self._allocations = allocations
        self._reach = reach

    def to_own(
        self, allocation: Allocation, peers: list[tuple[IPAddress, int]], judgements: dict[IPAddress, Judgement]
    ) -> list[tuple[IPAddress, int]]:
        """Those of `peers`, which are judged so, that the allocation would own: none unless its port is shared."""
        return [
            (host, port)
            for host, port in peers
            if port != 0 and allocation.shared_port(host) is not None and self._is_outside(host, port, judgements[host])
        ]

    def former_owners(
        self, allocation: Allocation, peers: list[tuple[IPAddress, int]], now: float
    ) -> dict[int, Allocation]:
        """Allocations that own some of `peers` by what has expired, and are to drop that first, by their ids.

        Refusal (403) if another one owns any of them still.
        """
        found: dict[int, Allocation] = {}
        for host, port in peers:
            shared = allocation.shared_port(host)
            assert shared is not None
            owner_id = shared.owners.get((str(host), port), allocation.id)
            if owner_id == allocation.id:
                continue
            owner = self._allocations.of_id(owner_id)
            if _holds(owner, host, port, now):
                raise Refusal(ErrorCode.FORBIDDEN)
            found[owner_id] = owner
        return found

    def _is_outside(self, host: IPAddress, port: int, judgement: Judgement) -> bool:
        """Whether packets may come from there by the wire. At a relayed address of ours nobody else ever is."""
        if judgement.relayed_only or self._reach.is_listener(judgement, port):
            return False
        return not self._allocations.is_relayed(host, port)


def own_all(allocation: Allocation, host: IPAddress, ports: list[int]) -> list[Effect]:
    """The permission for `host` names these; what tells the data path. What is too many is left out."""
    peers: list[SocketAddress] = [(str(host), port) for port in ports if allocation.name_exact(host, port)]
    return [LearnPeer(allocation.id, peer) for peer in peers]


def _holds(owner: Allocation, host: IPAddress, port: int, now: float) -> bool:
    permission = owner.permissions.get(host)
    if permission is not None and permission.expires_at > now and port in permission.exact_ports:
        return True
    number = owner.channel_of.get((str(host), port))
    return number is not None and owner.channels[number].expires_at > now

"""All allocations: by five-tuple, by relayed address and by user, with their ports and expiry. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from tavern.addresses import IPAddress, SocketAddress
from tavern.stun.attributes import AddressFamily
from tavern.turn.allocation import Allocation
from tavern.turn.expiry import ExpiryQueue
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.ports import PortRange


class AllocationTable:
    """The live allocations. Every one holds exactly one port of its family's range, until it is removed."""

    def __init__(self, ports: Mapping[AddressFamily, PortRange]) -> None:
        """`ports` has an entry for each family that is served."""
        self.ports = ports
        self._by_five_tuple: dict[FiveTuple, Allocation] = {}
        self._by_id: dict[int, Allocation] = {}
        self._by_relayed: dict[SocketAddress, Allocation] = {}
        self._by_family: Counter[AddressFamily] = Counter()
        self._by_username: Counter[bytes] = Counter()
        self._own_client_ports: Counter[int] = Counter()
        self._expiry = ExpiryQueue()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self._by_id.values())

    def find(self, five_tuple: FiveTuple) -> Allocation | None:
        """The allocation of this five-tuple."""
        return self._by_five_tuple.get(five_tuple)

    def held_by(self, username: bytes) -> int:
        """How many allocations this user has."""
        return self._by_username[username]

    def others_live(self, allocation: Allocation) -> bool:
        """Whether another allocation of the same family lives, which may be this one's peer."""
        return self._by_family[allocation.family] > 1

    def relayed_at(self, address: IPAddress, port: int) -> Allocation | None:
        """The allocation whose relayed address this is."""
        return self._by_relayed.get((str(address), port))

    def is_own_clients_port(self, port: int) -> bool:
        """Whether an allocation's client has this port on an address of this machine."""
        return self._own_client_ports[port] > 0

    def add(self, allocation: Allocation) -> None:
        """`allocation` lives; its port was taken before."""
        assert allocation.five_tuple not in self._by_five_tuple
        self._by_five_tuple[allocation.five_tuple] = allocation
        self._by_id[allocation.id] = allocation
        self._by_relayed[allocation.relayed_address] = allocation
        self._by_family[allocation.family] += 1
        self._by_username[allocation.username] += 1
        if allocation.client_is_own:
            self._own_client_ports[allocation.five_tuple.client[1]] += 1
        self._expiry.set(allocation.id, allocation.expires_at)

    def keep_until(self, allocation: Allocation, expires_at: float) -> None:
        """`allocation` expires then."""
        allocation.expires_at = expires_at
        self._expiry.set(allocation.id, expires_at)

    def remove(self, allocation: Allocation) -> None:
        """`allocation` is gone and its port is free."""
        del self._by_five_tuple[allocation.five_tuple]
        del self._by_id[allocation.id]
        del self._by_relayed[allocation.relayed_address]
        self._by_family[allocation.family] -= 1
        self._by_username[allocation.username] -= 1
        if not self._by_username[allocation.username]:
            del self._by_username[allocation.username]  # or every user ever seen would stay
        if allocation.client_is_own:
            self._own_client_ports[allocation.five_tuple.client[1]] -= 1  # stays at 0: there are 65535 at most
        self._expiry.discard(allocation.id)
        self.ports[allocation.family].release(allocation.relayed_address[1])

    def next_deadline(self) -> float | None:
        """When the next allocation expires."""
        return self._expiry.next_deadline()

    def remove_expired(self, now: float) -> list[Allocation]:
        """Removes every allocation whose time has come, and returns them."""
        expired = [self._by_id[key] for key in self._expiry.pop_expired(now)]
        for allocation in expired:
            self.remove(allocation)
        return expired

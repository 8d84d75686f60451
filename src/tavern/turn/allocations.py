"""All allocations: by five-tuple, by relayed address and by user, with their ports and expiry. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from random import Random

from tavern.addresses import IPAddress, SocketAddress, source_key
from tavern.stun.attributes import AddressFamily, family_of
from tavern.turn.allocation import NEVER, Allocation, QuotaKey
from tavern.turn.commands import Effect, RemoveFlow, RemoveRelayedAddress
from tavern.turn.expiry import ExpiryQueue, earliest
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.ports import PortRange
from tavern.turn.reservations import Reservation, Reservations
from tavern.turn.sessions import Owner
from tavern.turn.shared_ports import SharedPort, SharedPorts

# A sweep looks at all that an allocation holds, two thousand entries at most, so that it must not come for each of
# them. Nothing waits for it: what has expired has no effect, and the allocation's next request forgets it too.
_SWEEP_INTERVAL_S = 30


class AllocationTable:
    """The live allocations. Each relayed address holds exactly one port of its family's range, until it is released,
    or a place on one of the shared ports.
    """

    def __init__(
        self,
        ports: Mapping[AddressFamily, PortRange],
        shared: Mapping[AddressFamily, SharedPorts],
        random: Random,
    ) -> None:
        """`ports` and `shared` have an entry for each family that is served. `random` draws reservations' tokens."""
        self.ports = ports
        self.shared = shared
        self.reservations = Reservations(random)
        self._by_five_tuple: dict[FiveTuple, Allocation] = {}
        self._by_id: dict[int, Allocation] = {}
        self._by_relayed: dict[SocketAddress, Allocation] = {}
        self._by_family: Counter[AddressFamily] = Counter()
        self._held: Counter[QuotaKey] = Counter()
        self._by_owner: defaultdict[Owner, dict[int, Allocation]] = defaultdict(dict)
        self._held_at: Counter[str] = Counter()
        self._own_client_ports: Counter[int] = Counter()
        self._expiry = ExpiryQueue()
        self._sweeps = ExpiryQueue()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self._by_id.values())

    def find(self, five_tuple: FiveTuple) -> Allocation | None:
        """The allocation of this five-tuple."""
        return self._by_five_tuple.get(five_tuple)

    @property
    def relayed_count(self) -> int:
        """How many relayed addresses of their own live or are reserved: each has a socket, or will have one."""
        return len(self._by_relayed) + len(self.reservations)

    @property
    def shared_count(self) -> int:
        """How many relayed addresses are shared."""
        return sum(ports.count for ports in self.shared.values())

    def held_by(self, key: QuotaKey) -> int:
        """How many relayed addresses this user has from there, with those that are reserved for it."""
        return self._held.get(key, 0) + self.reservations.held_by(key)

    def held_at(self, source: str) -> int:
        """How many relayed addresses clients at this address (`source_key`) have, whoever they are; also reserved."""
        return self._held_at.get(source, 0) + self.reservations.held_at(source)

    def of_owner(self, owner: Owner) -> tuple[Allocation, ...]:
        """All that this owner has, by whatever five-tuples."""
        return tuple(self._by_owner.get(owner, {}).values())

    def others_live(self, family: AddressFamily) -> bool:
        """Whether a second relayed address of this family lives: an allocation that has one may have a peer there."""
        return self._by_family[family] > 1

    def relayed_at(self, address: IPAddress, port: int) -> Allocation | None:
        """The allocation whose relayed address this is, and nobody else's."""
        return self._by_relayed.get((str(address), port))

    def shared_at(self, address: IPAddress, port: int) -> SharedPort | None:
        """The shared port whose relayed address this is."""
        ports = self.shared.get(family_of(address))
        return None if ports is None else ports.find((str(address), port))

    def is_relayed(self, address: IPAddress, port: int) -> bool:
        """Whether this is a relayed address of ours: shared ones are, whoever has them."""
        return self.is_relayed_address(family_of(address), (str(address), port))

    def is_relayed_address(self, family: AddressFamily, address: SocketAddress) -> bool:
        """The same of an address whose host is printed already."""
        if address in self._by_relayed:
            return True
        ports = self.shared.get(family)
        return ports is not None and ports.find(address) is not None

    def of_id(self, allocation_id: int) -> Allocation:
        """The live allocation of this id."""
        return self._by_id[allocation_id]

    def is_own_clients_port(self, port: int) -> bool:
        """Whether an allocation's client has this port on an address of this machine."""
        return self._own_client_ports.get(port, 0) > 0

    def add(self, allocation: Allocation) -> None:
        """`allocation` lives; its ports were taken before."""
        assert allocation.five_tuple not in self._by_five_tuple
        self._by_five_tuple[allocation.five_tuple] = allocation
        self._by_id[allocation.id] = allocation
        source = source_key(allocation.five_tuple.client[0])
        for family, relayed in allocation.relayed.items():
            if relayed.shared is None:
                self._by_relayed[relayed.address] = allocation
            self._by_family[family] += 1
            self._held[allocation.quota_key] += 1
            self._held_at[source] += 1
        if allocation.owner is not None:
            self._by_owner[allocation.owner][allocation.id] = allocation
        if allocation.client_is_own:
            self._own_client_ports[allocation.five_tuple.client[1]] += 1
        self._expiry.set(allocation.id, allocation.expires_at)

    def keep_until(self, allocation: Allocation, family: AddressFamily, expires_at: float) -> None:
        """The relayed address of this family expires then."""
        allocation.relayed[family].expires_at = expires_at
        self._expiry.set(allocation.id, allocation.expires_at)

    def release(self, allocation: Allocation, family: AddressFamily) -> Effect:
        """The relayed address of this family is gone, its port free, and the allocation gone with the last one.

        Returns what tells the data path.
        """
        relayed = allocation.relayed[family]
        if len(allocation.relayed) == 1:
            self.remove(allocation)
            return RemoveFlow(allocation.id)
        allocation.drop_family(family)
        self._release_port(allocation, family)
        self._expiry.set(allocation.id, allocation.expires_at)
        return RemoveRelayedAddress(allocation.id, relayed.address)

    def remove(self, allocation: Allocation) -> None:
        """`allocation` is gone and its ports are free, as are the exact peers that it owned on shared ones."""
        for family in list(allocation.relayed):
            if allocation.relayed[family].shared is not None:
                allocation.drop_family(family)
            self._release_port(allocation, family)
        del self._by_five_tuple[allocation.five_tuple]
        del self._by_id[allocation.id]
        if allocation.owner is not None:
            del self._by_owner[allocation.owner][allocation.id]
            if not self._by_owner[allocation.owner]:
                del self._by_owner[allocation.owner]
        if allocation.client_is_own:
            self._own_client_ports[allocation.five_tuple.client[1]] -= 1  # stays at 0: there are 65535 at most
        self._expiry.discard(allocation.id)
        self._sweeps.discard(allocation.id)

    def _release_port(self, allocation: Allocation, family: AddressFamily) -> None:
        relayed = allocation.relayed.pop(family)
        if relayed.shared is None:
            del self._by_relayed[relayed.address]
            self.ports[family].release(relayed.address[1])
        else:
            self.shared[family].leave(relayed.shared, allocation.quota_key, owned=allocation.owner is not None)
        self._by_family[family] -= 1
        self._held[allocation.quota_key] -= 1
        if not self._held[allocation.quota_key]:
            del self._held[allocation.quota_key]  # or every user ever seen would stay
        source = source_key(allocation.five_tuple.client[0])
        self._held_at[source] -= 1
        if not self._held_at[source]:
            del self._held_at[source]

    def holds_until(self, allocation: Allocation, expires_at: float) -> None:
        """A permission or channel of `allocation` expires then."""
        if expires_at < allocation.none_expires_before:
            allocation.none_expires_before = expires_at
            self._sweeps.set(allocation.id, expires_at)

    def drop_reservations(self, owner: Owner) -> None:
        """The ports that are reserved for this owner are free."""
        for reservation in self.reservations.of_owner(owner):
            self._drop_reservation(reservation)

    def _drop_reservation(self, reservation: Reservation) -> None:
        self.reservations.remove(reservation)
        self.ports[reservation.family].release(reservation.port)

    def next_deadline(self) -> float | None:
        """When the next allocation or reservation expires or is due for `to_sweep`."""
        deadline = earliest(self._expiry.next_deadline(), self._sweeps.next_deadline())
        return earliest(deadline, self.reservations.next_deadline())

    def to_sweep(self, now: float) -> Iterator[Allocation]:
        """The allocations that may hold what has expired; the taker drops it before it asks for the next one.

        An idle one appears at most 30 s after something of its expired, and not more often than that.
        """
        for key in self._sweeps.pop_expired(now):
            allocation = self._by_id[key]
            yield allocation
            if allocation.none_expires_before != NEVER:
                self._sweeps.set(key, max(allocation.none_expires_before, now + _SWEEP_INTERVAL_S))

    def release_expired(self, now: float) -> list[Effect]:
        """Releases every relayed address and reserved port whose time has come; what tells the data path."""
        for reservation in self.reservations.expired(now):
            self._drop_reservation(reservation)
        effects: list[Effect] = []
        for key in self._expiry.pop_expired(now):
            allocation = self._by_id[key]
            expired = [family for family, relayed in allocation.relayed.items() if relayed.expires_at <= now]
            if len(expired) == len(allocation.relayed):
                self.remove(allocation)
                effects.append(RemoveFlow(allocation.id))
            else:
                effects += [self.release(allocation, family) for family in expired]
        return effects

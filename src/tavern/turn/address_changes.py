"""The relay's address becomes another one: new allocations carry it, those of before keep theirs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import attrs

from tavern.addresses import IPAddress
from tavern.stun.attributes import AddressFamily, family_of
from tavern.turn.advertised import MAX_ADDRESSES, AdvertisedAddresses
from tavern.turn.allocations import AllocationTable
from tavern.turn.commands import AddOwnHost, Effect, RemoveOwnHost
from tavern.turn.reach import Reach


class AddressChanges:
    """Keeps what the control side and the data path know of the relay's addresses the same."""

    def __init__(self, advertised: AdvertisedAddresses, allocations: AllocationTable, reach: Reach) -> None:
        self._advertised = advertised
        self._allocations = allocations
        self._reach = reach

    def advertise(self, addresses: Iterable[IPAddress], movable: frozenset[AddressFamily]) -> list[Effect]:
        """New relayed addresses carry these, as far as their families are served; what nothing carries is retired.

        `movable`: of which families the shared ports take what is sent to any address of this machine. Those of
        others stay where they are. Where MAX_ADDRESSES are in use, the address stays as it is.
        """
        effects = self._retire_unused()
        for address in addresses:
            current = self._advertised.current.get(family_of(address))
            has_room = address in self._advertised.all or len(self._advertised.all) < MAX_ADDRESSES
            if current is not None and current != address and has_room:
                effects.append(self._change(address, moves=family_of(address) in movable))
        return effects + self._retire_unused()

    def _change(self, address: IPAddress, *, moves: bool) -> Effect:
        if address not in self._advertised.all:
            self._forget(address)
        self._advertised.change(address)
        if moves:
            self._allocations.shared[family_of(address)].move(str(address))
        self._judge_by_now()
        return AddOwnHost(str(address), moves)

    def _retire_unused(self) -> list[Effect]:
        """A former address may be anybody's by now, and then is a peer as others are."""
        if not self._advertised.former:
            return []
        carried = {ip_address(ports.host) for ports in self._allocations.shared.values()}
        for allocation in self._allocations:
            carried.update(ip_address(relayed.address[0]) for relayed in allocation.relayed.values())
        unused = sorted(self._advertised.former - carried, key=str)
        for address in unused:
            self._forget(address)
            self._advertised.retire(address)
            self._allocations.shared[family_of(address)].retire(str(address))
        self._judge_by_now()
        return [RemoveOwnHost(str(address)) for address in unused]

    def _forget(self, address: IPAddress) -> None:
        """What the data path does by itself: it was judged as what it is not any more."""
        for allocation in self._allocations:
            for number in tuple(allocation.channels_at.get(str(address), ())):
                allocation.unbind(number)
            if address in allocation.permissions:
                allocation.revoke(address)

    def _judge_by_now(self) -> None:
        self._reach.policy = attrs.evolve(self._reach.policy, advertised_addresses=self._advertised.all)

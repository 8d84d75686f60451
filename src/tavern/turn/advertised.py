"""The addresses that relayed addresses carry: one of each family for new ones, and those that older ones keep. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tavern.addresses import IPAddress
from tavern.stun.attributes import AddressFamily, family_of

MAX_ADDRESSES = 8
"""Of both families together: each is looked at for exact peers that become known, and an address changes daily."""


class AdvertisedAddresses:
    """All of them are the relay's own: what is sent there is for one of its allocations."""

    def __init__(self, addresses: Iterable[IPAddress]) -> None:
        """At most one of each family."""
        self._current: dict[AddressFamily, IPAddress] = {}
        for address in addresses:
            assert family_of(address) not in self._current, "at most one advertised address of each family"
            self._current[family_of(address)] = address
        self.all = frozenset(self._current.values())
        """With those that only older relayed addresses carry."""

    @property
    def current(self) -> Mapping[AddressFamily, IPAddress]:
        """What new relayed addresses carry; only these families are served."""
        return self._current

    @property
    def former(self) -> frozenset[IPAddress]:
        """What no new relayed address carries."""
        return self.all - frozenset(self._current.values())

    def change(self, address: IPAddress) -> None:
        """New relayed addresses of its family carry this one. There must be room for one more."""
        assert family_of(address) in self._current
        assert address in self.all or len(self.all) < MAX_ADDRESSES
        self._current[family_of(address)] = address
        self.all |= {address}

    def retire(self, address: IPAddress) -> None:
        """It was a former one, and nothing carries it any more: it may be anybody's."""
        assert address in self.former
        self.all -= {address}

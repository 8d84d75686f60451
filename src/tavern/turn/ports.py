"""The range of relay ports: random, constant time, nothing leaked. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

LOWEST_PORT = 1024  # RFC 8656 §7.2: not a well-known port


class PortRange:
    """The free ports from `first` to `last`, both included. One object per address family."""

    def __init__(self, first: int, last: int, random: Random) -> None:
        """There are none where `last` is one less than `first`.

        ValueError for a range that leaves 1024 to 65535, or goes downwards.
        """
        if not LOWEST_PORT <= first <= last + 1 <= 65536:
            raise ValueError(f"relay ports {first} to {last}: must be within {LOWEST_PORT} to 65535, lowest first")
        self._free_even = _Ports(range(first + first % 2, last + 1, 2))
        self._free_odd = _Ports(range(first + 1 - first % 2, last + 1, 2))
        self._free_pairs = _Ports(range(first + first % 2, last, 2))
        """The even one of each two that are free."""
        self._taken: set[int] = set()
        self._random = random

    @property
    def taken(self) -> frozenset[int]:
        """The ports in use now."""
        return frozenset(self._taken)

    def take(self, *, even: bool = False) -> int | None:
        """A random free port, which is then taken; None if there is none. `even`: only an even one will do.

        Random since ports that can be guessed help who forges packets from peers (RFC 6056).
        """
        evens = len(self._free_even)
        count = evens if even else evens + len(self._free_odd)
        if count == 0:
            return None
        index = self._random.randrange(count)
        port = self._free_even[index] if index < evens else self._free_odd[index - evens]
        self._take(port)
        return port

    def take_pair(self) -> int | None:
        """A random even port that is free as the next one is; both are then taken. None if there are no such two."""
        if not len(self._free_pairs):
            return None
        port = self._free_pairs[self._random.randrange(len(self._free_pairs))]
        self._take(port)
        self._take(port + 1)
        return port

    def release(self, port: int) -> None:
        """`port` can be taken again. KeyError if it is not taken: that is our bug, not to be hidden."""
        self._taken.remove(port)
        free, others = (self._free_odd, self._free_even) if port % 2 else (self._free_even, self._free_odd)
        free.add(port)
        if port ^ 1 in others:
            self._free_pairs.add(port & ~1)

    def _take(self, port: int) -> None:
        (self._free_odd if port % 2 else self._free_even).discard(port)
        self._free_pairs.discard(port & ~1)
        self._taken.add(port)


class _Ports:
    """A set whose members have numbers, so that one can be drawn; all in constant time."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = list(ports)
        self._index_of = {port: index for index, port in enumerate(self._ports)}

    def __len__(self) -> int:
        return len(self._ports)

    def __contains__(self, port: int) -> bool:
        return port in self._index_of

    def __getitem__(self, index: int) -> int:
        return self._ports[index]

    def add(self, port: int) -> None:
        self._index_of[port] = len(self._ports)
        self._ports.append(port)

    def discard(self, port: int) -> None:
        index = self._index_of.pop(port, None)
        if index is None:
            return
        last = self._ports.pop()
        if last != port:
            self._ports[index] = last
            self._index_of[last] = index

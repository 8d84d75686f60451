"""The range of relay ports: random, constant time, nothing leaked. Pure."""

from __future__ import annotations

from random import Random

LOWEST_PORT = 1024  # RFC 8656 §7.2: not a well-known port


class PortRange:
    """The free ports from `first` to `last`, both included. One object per address family."""

    def __init__(self, first: int, last: int, random: Random) -> None:
        """ValueError for an empty range or one that leaves 1024 to 65535."""
        if not LOWEST_PORT <= first <= last <= 65535:
            raise ValueError(f"relay ports {first} to {last}: must be within {LOWEST_PORT} to 65535, lowest first")
        self._free_even = list(range(first + first % 2, last + 1, 2))
        self._free_odd = list(range(first + 1 - first % 2, last + 1, 2))
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
        count = len(self._free_even) if even else len(self._free_even) + len(self._free_odd)
        if count == 0:
            return None
        free, index = self._free_even, self._random.randrange(count)
        if index >= len(self._free_even):
            free, index = self._free_odd, index - len(self._free_even)
        port = free[index]
        free[index] = free[-1]
        free.pop()
        self._taken.add(port)
        return port

    def release(self, port: int) -> None:
        """`port` can be taken again. KeyError if it is not taken: that is our bug, not to be hidden."""
        self._taken.remove(port)
        (self._free_odd if port % 2 else self._free_even).append(port)

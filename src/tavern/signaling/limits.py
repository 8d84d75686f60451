"""Rate limits of signaling: so many events in any window of time, per connection and per client address. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Protocol

import attrs

MAX_VIOLATIONS = 3
"""The third time that a connection runs into a limit closes it (1008)."""

VIOLATION_MEMORY_S = 60.0
"""Violations older than this are forgiven: a long call on a bad network is not a flood."""


class Limit(Protocol):
    """So many events."""

    def allow(self, now: float) -> bool:
        """Whether one more event fits now; it is counted if so."""


@attrs.define(eq=False)
class WindowLimit:
    """At most `limit` events in any `window_s` seconds. Holds the times of at most that many events."""

    limit: int
    window_s: float
    _times: list[float] = attrs.field(factory=list, init=False)
    _forget_at: int = attrs.field(default=1, init=False)
    """With so many events those that are too old are looked for: never more often than for every second event."""

    def allow(self, now: float) -> bool:
        """Whether one more event fits now; it is counted if so."""
        times = self._times
        if len(times) >= self._forget_at:
            del times[: bisect_right(times, now - self.window_s)]
            if len(times) >= self.limit:
                return False
            self._forget_at = min(self.limit, 2 * len(times) + 8)
        times.append(now)
        return True


@attrs.define(eq=False)
class Violations:
    """How often one connection ran into its limits lately."""

    _window: WindowLimit = attrs.field(factory=lambda: WindowLimit(MAX_VIOLATIONS - 1, VIOLATION_MEMORY_S), init=False)

    def too_many(self, now: float) -> bool:
        """Counts one more; whether it is the one that closes the connection."""
        return not self._window.allow(now)


@attrs.define(eq=False)
class AddressLimit:
    """A window limit for each client address, in a table of bounded size.

    When the table is full the address unused for longest loses its count: an attacker with that many addresses has
    that many allowances anyway.
    """

    limit: int
    window_s: float
    max_addresses: int = 10_000  # some 5 MB at ten events each
    _by_address: OrderedDict[str, WindowLimit] = attrs.field(factory=OrderedDict, init=False)

    def allow(self, address: str, now: float) -> bool:
        table = self._by_address
        window = table.pop(address, None) or WindowLimit(self.limit, self.window_s)
        table[address] = window
        if len(table) > self.max_addresses:
            table.popitem(last=False)
        return window.allow(now)

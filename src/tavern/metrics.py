"""What the running server counts: of signaling, of its own event loop and of the store's commits. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

import attrs

_WINDOW_S = 60


@attrs.define(eq=False)
class MessageRate:
    """Messages per second, as a mean over the last 60 s, from one counter per second."""

    _counts: list[int] = attrs.field(factory=lambda: [0] * _WINDOW_S, init=False)
    _second: int = attrs.field(default=0, init=False)
    total: int = attrs.field(default=0, init=False)
    """Since the start."""

    def count(self, now: float, events: int = 1) -> None:
        second = int(now)
        if second != self._second:
            self._advance(second)
        self._counts[second % _WINDOW_S] += events
        self.total += events

    def per_second(self, now: float) -> float:
        self._advance(int(now))
        return sum(self._counts) / _WINDOW_S

    def _advance(self, second: int) -> None:
        for passed in range(max(self._second + 1, second - _WINDOW_S + 1), second + 1):
            self._counts[passed % _WINDOW_S] = 0
        self._second = max(self._second, second)


@attrs.define(eq=False)
class Distribution:
    """How many values lay below each bound. One thread observes; any may read."""

    bounds: tuple[float, ...]
    """Ascending."""
    counts: list[int] = attrs.field(init=False)
    """Values up to each bound and above the one before; at the end those above all."""
    sum: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """Values up to each bound; at the end all of them."""
        total, found = 0, []
        for count in self.counts:
            total += count
            found.append(total)
        return found


_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@attrs.define(eq=False)
class Metrics:
    """What the process has seen since it started; `started_at` on the monotonic clock."""

    started_at: float
    connected_peers: int = 0
    messages: MessageRate = attrs.field(factory=MessageRate)
    errors: Counter[str] = attrs.field(factory=Counter)
    """Errors that clients were answered, by their code, of which there are as many as the protocol has."""
    refused_connections: int = 0
    """Closed or answered at once, since there was no place for them."""
    loop_lag_s: Distribution = attrs.field(factory=lambda: Distribution(_LATENCIES_S))
    """How much later than asked the event loop came back to a task that waited: what everybody waits behind."""
    commits_s: Distribution = attrs.field(factory=lambda: Distribution(_LATENCIES_S))
    """How long the store's transactions took, their checkpoints not counted."""
    failures: Counter[str] = attrs.field(factory=Counter)
    """How often a wall caught one of our own bugs, by the wall's name."""

"""Counters of the running server, and the mean rate of messages over the last minute."""

from __future__ import annotations

from collections import Counter

import attrs

_WINDOW_S = 60


@attrs.define(eq=False)
class MessageRate:
    """Messages per second, as a mean over the last 60 s, from one counter per second."""

    _counts: list[int] = attrs.field(factory=lambda: [0] * _WINDOW_S, init=False)
    _second: int = attrs.field(default=0, init=False)

    def count(self, now: float, events: int = 1) -> None:
        second = int(now)
        if second != self._second:
            self._advance(second)
        self._counts[second % _WINDOW_S] += events

    def per_second(self, now: float) -> float:
        self._advance(int(now))
        return sum(self._counts) / _WINDOW_S

    def _advance(self, second: int) -> None:
        for passed in range(max(self._second + 1, second - _WINDOW_S + 1), second + 1):
            self._counts[passed % _WINDOW_S] = 0
        self._second = max(self._second, second)


@attrs.define(eq=False)
class Metrics:
    """What the process has seen since it started; `started_at` on the monotonic clock."""

    started_at: float
    connected_peers: int = 0
    messages: MessageRate = attrs.field(factory=MessageRate)
    failures: Counter[str] = attrs.field(factory=Counter)
    """How often a wall caught one of our own bugs, by the wall's name."""

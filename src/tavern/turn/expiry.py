"""Which of many entities expires next, where each one's time may move (a heap with lazy entries). Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

_SLACK = 64  # stale entries tolerated beside as many as there are live ones, before the heap is rebuilt


def earliest(first: float | None, second: float | None) -> float | None:
    """The earlier of two times of which each may be never."""
    if first is None or (second is not None and second < first):
        return second
    return first


class ExpiryQueue:
    """Expiry times by id. Memory is proportional to the ids that are set, however often their times move."""

    def __init__(self) -> None:
        self._expires_at: dict[int, float] = {}
        self._scheduled_at: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def set(self, key: int, expires_at: float) -> None:
        """`key` expires at this time, whatever was set before."""
        self._expires_at[key] = expires_at
        scheduled_at = self._scheduled_at.get(key)
        if scheduled_at is None or expires_at < scheduled_at:
            self._schedule(key, expires_at)

    def discard(self, key: int) -> None:
        """`key` does not expire any more."""
        self._expires_at.pop(key, None)
        self._scheduled_at.pop(key, None)

    def next_deadline(self) -> float | None:
        """When the first key expires; None if there is none."""
        while self._heap:
            scheduled_at, key = self._heap[0]
            if self._scheduled_at.get(key) != scheduled_at:
                heapq.heappop(self._heap)
            elif self._expires_at[key] > scheduled_at:
                heapq.heappop(self._heap)
                self._schedule(key, self._expires_at[key])
            else:
                return scheduled_at
        return None

    def pop_expired(self, now: float) -> Iterator[int]:
        """Every key whose time has come, earliest first; each is gone from the queue when it is yielded."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            key = self._heap[0][1]
            self.discard(key)
            yield key

    def _schedule(self, key: int, at: float) -> None:
        self._scheduled_at[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._scheduled_at) + _SLACK:
            self._heap = [(at, key) for key, at in self._scheduled_at.items()]
            heapq.heapify(self._heap)

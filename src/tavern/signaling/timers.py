"""What is to happen later, for all sessions in one task: a sleeping task for each would cost some kilobytes each."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Callable

import attrs
import trio

from tavern.metrics import Metrics

_MIN_COMPACTED = 1024
"""With fewer entries nothing is gained by removing the cancelled ones before their time."""

_log = logging.getLogger("tavern.signaling")


@attrs.define(eq=False)
class Timer:
    """One thing to be done; cancelled, it is not done. Cancelling late or twice does nothing."""

    when: float
    _timers: Timers
    callback: Callable[[], None] | None

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._timers.note_cancelled()


@attrs.define(eq=False)
class Timers:
    """Calls what it was given at its time, on trio's clock, one after the other."""

    metrics: Metrics
    _heap: list[tuple[float, int, Timer]] = attrs.field(factory=list, init=False)
    _order: itertools.count[int] = attrs.field(factory=itertools.count, init=False)
    _cancelled: int = attrs.field(default=0, init=False)
    _earlier: trio.Event = attrs.field(factory=trio.Event, init=False)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """`callback` is called at `when` while `run` runs. What it raises is logged, and ends nothing else."""
        timer = Timer(when, self, callback)
        if not self._heap or when < self._heap[0][0]:
            self._earlier.set()
        heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def note_cancelled(self) -> None:
        """Who connects and leaves all the time does not fill the memory with timers of minutes."""
        self._cancelled += 1
        if self._cancelled > max(_MIN_COMPACTED, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        task_status.started()
        while True:
            self._earlier = trio.Event()
            self._call_due(trio.current_time())
            with trio.move_on_at(self._heap[0][0] if self._heap else math.inf):
                await self._earlier.wait()

    def _call_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            _, _, timer = heapq.heappop(self._heap)
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
                continue
            try:
                callback()
            except Exception:  # noqa: BLE001  the wall of what nobody waits for
                _log.exception("a timer failed")
                self.metrics.failures["timer"] += 1

"""Counts what the relay sends against the month's budget, says when it nears its end, and keeps the figure."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from tavern.errors import RemoteError
from tavern.logs import log_event
from tavern.store.base import Store
from tavern.turn.budget import GB, Level, MonthlyUsage, TransferBudget

_log = logging.getLogger(__name__)

COUNT_INTERVAL_S = 1.0
"""How far a budget can be overdrawn: by what the link carries in this time."""

SAVE_INTERVAL_S = 60.0
"""What a killed process forgets at most; more often would only wear the disk."""

SAVE_LIMIT_S = 2.0
"""A disk that hangs must not keep the budget from being enforced, or the relay from ending. What was queued is written
when it goes on, and by the store at its end."""


class UsageKeeper:
    """Drives a `TransferBudget`: `run` while the relay runs, then `close`."""

    def __init__(
        self,
        budget_bytes: int,
        store: Store | None,
        *,
        sent_bytes: Callable[[], int],
        on_spent: Callable[[bool], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """`sent_bytes`: since the start. `on_spent` is told when the budget is used up, and when it is not any more.

        Without a store it counts and keeps nothing.
        """
        self._store = store
        self._sent_bytes = sent_bytes
        self._on_spent = on_spent
        self._wall_clock = wall_clock
        self._has_budget = budget_bytes > 0
        kept = store.relay_usage if store is not None else _nothing
        self._budget = TransferBudget(budget_bytes, kept, wall_clock())
        self._was_spent = False
        self._is_failing = False

    def usage(self) -> MonthlyUsage:
        """This month's, as it is now."""
        self._count()
        return self._budget.usage

    def enforce(self) -> None:
        """Counts what was sent until now, and tells `on_spent` of a change. To be called once before data moves."""
        self._count()
        is_spent = self._budget.is_spent
        if is_spent != self._was_spent:
            self._was_spent = is_spent
            self._on_spent(is_spent)
            if not is_spent:
                log_event(_log, logging.INFO, "transfer-budget-renewed", month=self._budget.usage.month)

    def _count(self) -> None:
        level = self._budget.count(self._sent_bytes(), self._wall_clock())
        if level is not None:
            usage = self._budget.usage
            event = "transfer-budget-spent" if level is Level.SPENT else "transfer-budget-nearly-spent"
            figures = {"used_gb": f"{usage.used / GB:.3f}", "budget_gb": f"{usage.budget / GB:g}"}
            log_event(_log, logging.WARNING, event, month=usage.month, **figures)

    async def run(self) -> None:
        """Counts, enforces and keeps until cancelled."""
        interval_s = COUNT_INTERVAL_S if self._has_budget else SAVE_INTERVAL_S
        next_save = trio.current_time() + SAVE_INTERVAL_S
        while True:
            await trio.sleep(interval_s)
            self.enforce()
            if trio.current_time() >= next_save:
                await self._save()
                next_save = trio.current_time() + SAVE_INTERVAL_S

    async def close(self) -> None:
        """Counts what moved last and keeps it, also when cancelled; within `SAVE_LIMIT_S`."""
        self._count()
        with trio.CancelScope(shield=True):
            await self._save()

    async def _save(self) -> None:
        if self._store is None:
            return
        problem: object = None
        try:
            with trio.move_on_after(SAVE_LIMIT_S) as limit:
                for month, used in self._budget.unsaved.items():
                    await self._store.save_relay_usage(month, used)
                    self._budget.saved(month, used)
        except RemoteError as error:  # the disk's fault: it is tried again with the next figures
            problem = error
        if limit.cancelled_caught:
            problem = f"the disk took more than {SAVE_LIMIT_S:g} s"
        if problem is not None and not self._is_failing:  # once per episode
            log_event(_log, logging.WARNING, "transfer-not-kept", error=problem)
        self._is_failing = problem is not None


def _nothing(_month: str) -> int:
    return 0

"""What the relay may send in a calendar month (UTC): how much is left, when to warn, when a new month begins. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum

import attrs

from tavern.turn.flows import Traffic
from tavern.turn.metering import HEADERS_SIZE

GB = 1_000_000_000
"""As providers bill, not 2**30."""

NEARLY_SPENT_SHARE = 0.8

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Level(IntEnum):
    """How far a month's budget is used up."""

    ENOUGH = 0
    NEARLY_SPENT = 1
    SPENT = 2


@attrs.frozen
class MonthlyUsage:
    """What was sent in one month, in bytes."""

    month: str
    """`YYYY-MM`, UTC."""
    used: int
    budget: int
    """0: none."""

    @property
    def left(self) -> int | None:
        """Never below 0; None without a budget."""
        return max(0, self.budget - self.used) if self.budget else None

    @property
    def level(self) -> Level:
        if not self.budget or self.used < self.budget * NEARLY_SPENT_SHARE:
            return Level.ENOUGH
        return Level.NEARLY_SPENT if self.used < self.budget else Level.SPENT


class TransferBudget:
    """Counts by months, whichever the clock says it is.

    A clock that jumps back or forth goes on with what that month had; a month is never begun twice.
    """

    def __init__(self, budget: int, kept: Callable[[str], int], unix_time_s: float) -> None:
        """`budget`: bytes a month, 0 is none. `kept`: what was saved for a month, 0 where nothing was."""
        self._budget = budget
        self._kept = kept
        self._used: dict[str, int] = {}  # by month: one or two in the life of a process
        self._unsaved: dict[str, int] = {}
        self._announced: dict[str, Level] = {}
        self._counted = 0
        self._begin(month_of(unix_time_s))

    @property
    def usage(self) -> MonthlyUsage:
        """The month as it was counted last."""
        return MonthlyUsage(self._month, self._used[self._month], self._budget)

    @property
    def is_spent(self) -> bool:
        """Whether nothing may be sent any more in this month."""
        return self.usage.level is Level.SPENT

    @property
    def unsaved(self) -> dict[str, int]:
        """Bytes by month that were not kept yet."""
        return dict(self._unsaved)

    def count(self, sent_since_start: int, unix_time_s: float) -> Level | None:
        """What was sent since the last call belongs to the month that it is now.

        Returns the level where it is to be told of: each once in a month (and again after a restart, since that is
        where an operator looks for the reason), and nothing for ENOUGH.
        """
        month = month_of(unix_time_s)
        if month != self._month:
            self._begin(month)
        # The total is read while packets move and may be a packet short of an earlier one.
        if sent_since_start > self._counted:
            self._used[month] += sent_since_start - self._counted
            self._counted = sent_since_start
            self._unsaved[month] = self._used[month]
        level = self.usage.level
        if level <= self._announced.get(month, Level.ENOUGH):
            return None
        self._announced[month] = level
        return level

    def saved(self, month: str, used: int) -> None:
        """`used` is kept for `month`."""
        if self._unsaved.get(month) == used:
            del self._unsaved[month]

    def _begin(self, month: str) -> None:
        self._month = month
        if month not in self._used:
            self._used[month] = self._kept(month)


def month_of(unix_time_s: float) -> str:
    """`YYYY-MM` in UTC."""
    return (_EPOCH + timedelta(seconds=unix_time_s)).strftime("%Y-%m")


def sent_bytes(traffic: Traffic) -> int:
    """What left this machine for relayed data, headers estimated; what was handed over inside it left once."""
    packets = traffic.packets_from_clients - traffic.packets_handed_over + traffic.packets_to_clients
    payload = traffic.bytes_from_clients - traffic.bytes_handed_over + traffic.bytes_to_clients
    return payload + packets * HEADERS_SIZE

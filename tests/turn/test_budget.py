"""The month's transfer budget: what is counted, when it is told of, and what clocks and restarts do to it."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.turn.budget import GB, Level, MonthlyUsage, TransferBudget, month_of, sent_bytes
from tavern.turn.flows import Traffic
from tavern.turn.metering import HEADERS_SIZE

NOVEMBER = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
LAST_OF_NOVEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp() - 0.001
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


def budget(size: int = 1000, kept: dict[str, int] | None = None, unix_time_s: float = NOVEMBER) -> TransferBudget:
    return TransferBudget(size, lambda month: (kept or {}).get(month, 0), unix_time_s)


@pytest.mark.parametrize(
    ("unix_time_s", "month"),
    [(0.0, "1970-01"), (NOVEMBER, "2026-11"), (LAST_OF_NOVEMBER, "2026-11"), (DECEMBER, "2026-12")],
)
def test_months_are_calendar_months_in_utc(unix_time_s: float, month: str) -> None:
    assert month_of(unix_time_s) == month


def test_each_level_is_told_once() -> None:
    counted = budget()
    told = [counted.count(sent, NOVEMBER) for sent in (0, 799, 800, 801, 999, 1000, 1001, 5000)]
    assert told == [None, None, Level.NEARLY_SPENT, None, None, Level.SPENT, None, None]
    assert counted.is_spent
    assert counted.usage == MonthlyUsage("2026-11", 5000, 1000)
    assert counted.usage.left == 0


def test_a_jump_over_both_levels_tells_the_last() -> None:
    assert budget().count(1000, NOVEMBER) is Level.SPENT


def test_without_a_budget_it_only_counts() -> None:
    counted = budget(0)
    assert counted.count(10**15, NOVEMBER) is None
    assert not counted.is_spent
    assert counted.usage == MonthlyUsage("2026-11", 10**15, 0)
    assert counted.usage.left is None


def test_a_new_month_opens_it_again_and_is_told_of_anew() -> None:
    counted = budget()
    assert counted.count(1000, LAST_OF_NOVEMBER) is Level.SPENT
    assert counted.count(1000, DECEMBER) is None
    assert not counted.is_spent
    assert counted.usage == MonthlyUsage("2026-12", 0, 1000)
    assert counted.count(1800, DECEMBER) is Level.NEARLY_SPENT
    assert counted.usage.left == 200


def test_what_was_kept_counts_and_is_told_of_after_a_restart() -> None:
    counted = budget(kept={"2026-10": 990, "2026-11": 900})
    assert counted.usage.left == 100
    assert counted.count(0, NOVEMBER) is Level.NEARLY_SPENT
    assert counted.count(100, NOVEMBER) is Level.SPENT
    assert budget(kept={"2026-11": 1000}).is_spent


def test_a_clock_that_is_put_back_goes_on_with_the_month_it_names() -> None:
    """Neither begins a month twice nor stays in one that is not: a wrong year would close the relay for that long."""
    counted = budget(kept={"2026-11": 700})
    assert counted.count(400, NOVEMBER) is Level.SPENT
    assert counted.count(500, NOVEMBER + 400 * DAY_S) is None  # it says 2027-12
    assert counted.count(600, NOVEMBER) is None
    assert counted.usage == MonthlyUsage("2026-11", 1200, 1000)
    assert counted.is_spent
    assert counted.unsaved == {"2026-11": 1200, "2027-12": 100}


def test_a_clock_that_wavers_at_midnight_tells_nothing_twice() -> None:
    counted = budget()
    told = [counted.count(1000 + turn, (LAST_OF_NOVEMBER, DECEMBER)[turn % 2]) for turn in range(10)]
    assert told == [Level.SPENT] + [None] * 9


def test_what_is_unsaved_stays_so_until_that_figure_is_saved() -> None:
    counted = budget()
    assert counted.unsaved == {}
    counted.count(5, NOVEMBER)
    assert counted.unsaved == {"2026-11": 5}
    counted.count(6, NOVEMBER)
    counted.saved("2026-11", 5)  # the write took its time
    assert counted.unsaved == {"2026-11": 6}
    counted.saved("2026-11", 6)
    counted.count(6, NOVEMBER)
    assert counted.unsaved == {}


times = st.floats(NOVEMBER - 400 * DAY_S, NOVEMBER + 400 * DAY_S, allow_nan=False)


@given(st.integers(1, 10_000), st.lists(st.tuples(st.integers(-100, 4000), times), max_size=30))
def test_months_add_up_to_what_was_sent_whatever_the_clock_does(size: int, steps: list[tuple[int, float]]) -> None:
    kept: dict[str, int] = {}
    counted = TransferBudget(size, lambda month: kept.get(month, 0), NOVEMBER)
    total = sent = 0
    for more, unix_time_s in steps:
        total += more
        sent = max(sent, total)
        counted.count(total, unix_time_s)
        month = month_of(unix_time_s)
        assert counted.usage.month == month
        for name, used in counted.unsaved.items():
            kept[name] = used
            counted.saved(name, used)
        assert counted.is_spent == (kept.get(month, 0) >= size)
        assert counted.usage.used == kept.get(month, 0)
        if more % 3 == 0:  # the server is started again
            counted = TransferBudget(size, lambda month: kept.get(month, 0), unix_time_s)
            sent = total = 0
            assert counted.usage.used == kept.get(month, 0)
    assert not counted.unsaved


@given(st.integers(1, 10**6), st.lists(st.integers(0, 1000), max_size=40))
def test_levels_rise_and_follow_the_share(size: int, steps: list[int]) -> None:
    counted = budget(size)
    total = 0
    told: list[Level] = []
    for more in steps:
        total += more
        if (level := counted.count(total, NOVEMBER)) is not None:
            told.append(level)
    assert told == sorted(set(told))
    assert (Level.SPENT in told) == (total >= size) == counted.is_spent
    assert bool(told) == (total >= 0.8 * size)


def test_what_leaves_is_counted_with_headers_and_once() -> None:
    traffic = Traffic(packets_from_clients=10, bytes_from_clients=1000, packets_to_clients=5, bytes_to_clients=300)
    assert sent_bytes(traffic) == 1300 + 15 * HEADERS_SIZE
    handed_over = attrs.evolve(traffic, packets_handed_over=5, bytes_handed_over=300)
    assert sent_bytes(handed_over) == 1000 + 10 * HEADERS_SIZE


def test_a_gigabyte_is_a_providers() -> None:
    assert GB == 10**9

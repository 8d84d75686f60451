"""Rate limits: so many in any window, per connection and per address, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tavern.signaling.limits import VIOLATION_MEMORY_S, AddressLimit, Violations, WindowLimit


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 3, allow_nan=False), max_size=40).map(sorted),
)
def test_no_window_of_a_second_holds_more_than_the_limit(limit: int, times: list[float]) -> None:
    window = WindowLimit(limit, window_s=1.0)
    allowed = [time for time in times if window.allow(time)]
    for start in allowed:
        assert sum(start <= time < start + 1.0 for time in allowed) <= limit
    # And nobody is refused who would have fitted.
    for time in times:
        recent = sum(time - 1.0 < earlier <= time for earlier in allowed)
        assert time in allowed or recent == limit


def test_the_third_violation_is_too_many() -> None:
    violations = Violations()
    assert [violations.too_many(now) for now in (0.0, 1.0, 2.0)] == [False, False, True]


def test_old_violations_are_forgiven() -> None:
    violations = Violations()
    times = [0.0, 1.0, VIOLATION_MEMORY_S, VIOLATION_MEMORY_S + 1.0]
    assert [violations.too_many(now) for now in times] == [False] * 4


def test_each_address_has_its_own_allowance() -> None:
    limit = AddressLimit(limit=2, window_s=60.0)
    assert [limit.allow("192.0.2.1", 0.0) for _ in range(3)] == [True, True, False]
    assert limit.allow("192.0.2.2", 0.0)
    assert limit.allow("192.0.2.1", 60.0)


def test_the_table_of_addresses_is_bounded_and_forgets_the_one_unused_for_longest() -> None:
    limit = AddressLimit(limit=1, window_s=60.0, max_addresses=2)
    assert limit.allow("a", 0.0)
    assert limit.allow("b", 0.0)
    assert not limit.allow("a", 1.0)
    assert limit.allow("c", 2.0)  # b is forgotten, a was used since
    assert not limit.allow("a", 3.0)
    assert limit.allow("b", 3.0)

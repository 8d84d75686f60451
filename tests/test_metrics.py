"""The mean rate of messages over the last minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.metrics import MessageRate


@given(st.lists(st.floats(0, 300, allow_nan=False), max_size=50).map(sorted), st.floats(0, 200, allow_nan=False))
def test_the_rate_counts_the_last_sixty_seconds(times: list[float], later: float) -> None:
    rate = MessageRate()
    for time in times:
        rate.count(time)
    now = (times[-1] if times else 0.0) + later
    counted = sum(int(time) > int(now) - 60 for time in times)
    assert rate.per_second(now) == pytest.approx(counted / 60)

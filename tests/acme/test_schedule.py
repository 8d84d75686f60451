"""When certificates are renewed, and how patiently what fails is tried again."""

from __future__ import annotations

import pytest

from tavern.acme.schedule import FIRST_RETRY_S, LAST_RETRY_S, TRIES_AN_HOUR, renewal_due_at, retry_delay_s, wait_s

DAY_S = 86_400.0


@pytest.mark.parametrize(("lifetime_days", "left_days"), [(90, 30), (45, 15), (6, 2)])
def test_a_third_is_left_when_it_is_renewed(lifetime_days: int, left_days: int) -> None:
    end = 1_000 + lifetime_days * DAY_S
    assert end - renewal_due_at(1_000, end) == pytest.approx(left_days * DAY_S)


def test_retries_slow_down_to_twice_a_day() -> None:
    delays = [retry_delay_s(failures) for failures in range(1, 200)]
    assert delays[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert delays == sorted(delays)
    assert delays[-1] == LAST_RETRY_S == 12 * 3600


def test_the_first_hour_has_fewer_failed_validations_than_are_allowed() -> None:
    """Each try fails twice, once for each way; five an hour are allowed."""
    at, tries = 0.0, 0
    while at < 3600:
        tries += 1
        at += retry_delay_s(tries)
    assert 2 * tries < 5


@pytest.mark.parametrize(
    ("failed_at", "delay_s"),
    [
        ([], 0),
        ([9_000], 0),
        ([8_000, 9_000], 1_600),
        ([7_000, 8_000, 9_000], 1_600),
        ([1_000, 2_000, 9_000], 0),
        ([6_400, 9_000], 0),  # an hour ago
        ([20_000, 30_000], 0),  # the clock was wrong, then or now
    ],
)
def test_restarts_do_not_make_more_tries_than_are_allowed(failed_at: list[float], delay_s: float) -> None:
    assert wait_s(failed_at, 10_000) == delay_s


def test_a_server_that_is_started_again_and_again_fails_four_times_an_hour_at_most() -> None:
    """Two failed validations each."""
    failed: list[float] = []
    for now in range(0, 4 * 3600, 30):
        if wait_s(failed, now) == 0:
            failed.append(now)
    for start in range(0, 3 * 3600, 60):
        assert len([at for at in failed if start <= at < start + 3600]) <= TRIES_AN_HOUR

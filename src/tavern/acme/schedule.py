"""When a certificate is renewed, and when what failed is tried again. Pure; times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Sequence

CHECK_INTERVAL_S = 6 * 3600.0
"""How often a certificate is looked at, and the authority asked whether it wishes it renewed early (RFC 9773)."""

FIRST_RETRY_S = 1800.0
"""A failed try costs two failed validations, and Let's Encrypt takes five an hour for one name."""

HOUR_S = 3600.0
TRIES_AN_HOUR = 2
"""Over restarts as well, for the same reason: who is started again and again asks no more often."""

LAST_RETRY_S = 12 * 3600.0

REMAINING_PART = 3
"""Renewed when a third of its life is left: of 90 days the last 30, of a short-lived one's 6 the last 2."""


def renewal_due_at(not_before: float, not_after: float) -> float:
    """From then on a certificate of this validity is renewed."""
    return not_after - (not_after - not_before) / REMAINING_PART


def wait_s(failed_at: Sequence[float], now: float) -> float:
    """How long to wait before one more try, after those that failed then, in ascending order."""
    latest = [at for at in failed_at if now - HOUR_S < at <= now][-TRIES_AN_HOUR:]
    return latest[0] + HOUR_S - now if len(latest) == TRIES_AN_HOUR else 0.0


def retry_delay_s(failures: int) -> float:
    """How long to wait after so many failures in a row, one at least."""
    return min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 10), LAST_RETRY_S)

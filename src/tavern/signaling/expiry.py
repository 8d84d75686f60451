"""Taverns that nobody owns and nobody uses are deleted in the end: strangers fill the server for a while at most."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import trio

from tavern.errors import RemoteError
from tavern.logs import log_event
from tavern.store.base import Store, TavernRecord

INTERVAL_S = 3600.0
MAX_AT_ONCE = 500
"""In one pass: a tenth of a second of the disk. The others have their turn an hour later."""

_log = logging.getLogger("tavern.store")


def expired(
    taverns: Iterable[TavernRecord], now: datetime, lifetime: timedelta, in_use: Callable[[str], bool]
) -> Iterator[str]:
    """Ids of the taverns without owner that nobody has come into for so long; `in_use(id)`: somebody is there."""
    limit = (now - lifetime).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for tavern in taverns:
        if not tavern.owner_key and (tavern.last_used_at or tavern.created_at) < limit and not in_use(tavern.id):
            yield tavern.id


async def expire_taverns(store: Store, lifetime_days: int, in_use: Callable[[str], bool]) -> None:
    """Deletes what has expired, now and each hour, until cancelled. With a lifetime of 0 nothing expires."""
    if not lifetime_days:
        return
    lifetime = timedelta(days=lifetime_days)
    while True:
        found = list(expired(store.taverns(), datetime.now(UTC), lifetime, in_use))[:MAX_AT_ONCE]
        try:
            for tavern_id in found:
                if not in_use(tavern_id):
                    await store.delete_tavern(tavern_id)
                    log_event(_log, logging.INFO, "tavern-expired", tavern=tavern_id)
        except RemoteError as error:  # the disk's: it is tried again
            log_event(_log, logging.WARNING, "expiry-failed", reason=error)
        await trio.sleep(INTERVAL_S)

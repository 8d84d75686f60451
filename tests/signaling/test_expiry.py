"""TAVERN_TAVERN_TTL_DAYS: what nobody owns and nobody uses is deleted in the end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tavern.signaling.expiry import INTERVAL_S, expire_taverns, expired
from tavern.store.base import TavernRecord
from tavern.store.memory import MemoryStore

NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)


def tavern(**changes: Any) -> TavernRecord:
    record = TavernRecord(
        id="t",
        name="Pony",
        icon="",
        creator_public_key="k",
        signaling_url="",
        created_at="2020-01-01T00:00:00.000Z",
        last_used_at="2026-04-01T00:00:00.000Z",
    )
    return attrs.evolve(record, **changes)


@pytest.mark.parametrize(
    ("record", "days", "in_use", "gone"),
    [
        (tavern(), 29, False, True),
        (tavern(), 31, False, False),
        (tavern(), 29, True, False),
        (tavern(owner_key="somebody"), 1, False, False),
        (tavern(last_used_at=""), 365, False, True),
        (tavern(last_used_at="", created_at="2026-04-30T00:00:00.000Z"), 29, False, False),
        (tavern(last_used_at="2027-01-01T00:00:00.000Z"), 1, False, False),
    ],
)
def test_what_expires(record: TavernRecord, days: int, in_use: bool, gone: bool) -> None:
    found = list(expired([record], NOW, timedelta(days=days), lambda _id: in_use))
    assert found == (["t"] if gone else [])


async def test_expired_taverns_are_deleted_at_once_and_each_hour(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    await store.create_tavern(tavern(id="old", last_used_at="2021-01-01T00:00:00.000Z"), ())
    await store.create_tavern(tavern(id="owned", last_used_at="2021-01-01T00:00:00.000Z", owner_key="k"), ())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expire_taverns, store, 365, lambda _id: False)
        await trio.testing.wait_all_tasks_blocked()
        assert [record.id for record in store.taverns()] == ["owned"]
        await store.create_tavern(tavern(id="later", last_used_at="2021-01-01T00:00:00.000Z"), ())
        await trio.sleep(INTERVAL_S + 1)
        assert [record.id for record in store.taverns()] == ["owned"]
        nursery.cancel_scope.cancel()


async def test_with_zero_days_nothing_expires() -> None:
    store = MemoryStore()
    await store.create_tavern(tavern(last_used_at="2021-01-01T00:00:00.000Z"), ())
    await expire_taverns(store, 0, lambda _id: False)
    assert store.tavern_count() == 1

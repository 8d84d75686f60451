"""Cancelled callers, and the end: what was queued is written, and no disk can hold the process for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
import trio
import trio.testing

import tavern
from tavern.store.base import ChannelRecord, TavernRecord
from tavern.store.sqlite import open_sqlite_store
from tavern.store.worker import QUEUE_LIMIT

LockOut = Callable[[Path], Callable[[], None]]
Created = tuple[TavernRecord, tuple[ChannelRecord, ...]]


class Records(Protocol):
    def tavern(self, *channel_names: str, name: str = ..., icon: str = ...) -> Created: ...
    def channel(self, tavern_id: str, name: str = ...) -> ChannelRecord: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tavern.db"


async def test_the_work_of_a_cancelled_caller_is_still_done(path: Path, records: Records, lock_out: LockOut) -> None:
    tavern, channels = records.tavern()
    other, _ = records.tavern()
    async with open_sqlite_store(path) as store:
        let_go = lock_out(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.create_tavern, tavern, channels)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert store.tavern(tavern.id) is None
        let_go()
        await store.create_tavern(other, ())  # behind it in the queue
        assert store.tavern(tavern.id) == tavern
        assert store.channels(tavern.id) == channels


async def test_closing_finishes_what_is_queued_even_when_all_is_cancelled(
    path: Path, records: Records, lock_out: LockOut
) -> None:
    created = [records.tavern() for _ in range(QUEUE_LIMIT)]
    with trio.CancelScope() as scope:
        async with open_sqlite_store(path) as store, trio.open_nursery() as nursery:
            let_go = lock_out(path)
            for tavern, channels in created:
                nursery.start_soon(store.create_tavern, tavern, channels)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            let_go()
    async with open_sqlite_store(path) as store:
        assert store.tavern_count() == QUEUE_LIMIT


async def test_a_closed_store_refuses_writes_and_still_reads(path: Path, records: Records) -> None:
    tavern, channels = records.tavern()
    async with open_sqlite_store(path) as store:
        await store.create_tavern(tavern, channels)
    with pytest.raises(trio.ClosedResourceError):
        await store.create_channel(records.channel(tavern.id))
    assert store.channels(tavern.id) == channels


async def test_opening_can_be_cancelled_and_leaves_the_file_free(path: Path, lock_out: LockOut) -> None:
    async with open_sqlite_store(path):
        pass
    let_go = lock_out(path)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def opening() -> None:
                async with open_sqlite_store(path):
                    raise AssertionError("opened a locked database")

            nursery.start_soon(opening)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            let_go()
    async with open_sqlite_store(path):
        pass


async def test_the_shutdown_has_an_end_when_the_disk_has_none(
    path: Path, records: Records, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lock_out: LockOut
) -> None:
    monkeypatch.setattr("tavern.store.worker.STOP_LIMIT_S", 0.05)
    tavern, channels = records.tavern()
    with trio.CancelScope() as scope:
        async with open_sqlite_store(path) as store, trio.open_nursery() as nursery:
            let_go = lock_out(path)
            nursery.start_soon(store.create_tavern, tavern, channels)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert "did not finish" in caplog.text
    let_go()
    await until_the_thread_is_gone()


ENDS_WITH_A_HANGING_DISK = """
import sqlite3, sys, trio
from pathlib import Path
from tavern.store import sqlite, worker
from tavern.store.base import TavernRecord
sqlite.BUSY_TIMEOUT_MS = 600_000
worker.STOP_LIMIT_S = 0.05
path = Path(sys.argv[1])

async def main():
    with trio.CancelScope() as scope:
        async with sqlite.open_sqlite_store(path) as store, trio.open_nursery() as nursery:
            outsider = sqlite3.connect(path, isolation_level=None)
            outsider.execute("BEGIN IMMEDIATE")
            nursery.start_soon(store.create_tavern, TavernRecord(
                id="t", name="", icon="", creator_public_key="", signaling_url="", created_at=""), ())
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    print("ended")

import trio.testing
trio.run(main)
"""


def test_a_process_with_a_hanging_disk_ends_all_the_same(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(tavern.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", ENDS_WITH_A_HANGING_DISK, path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (ran.returncode, ran.stdout) == (0, "ended\n"), ran.stderr


async def until_the_thread_is_gone() -> None:
    for thread in threading.enumerate():
        if thread.name == "tavern-store":
            await trio.to_thread.run_sync(thread.join)

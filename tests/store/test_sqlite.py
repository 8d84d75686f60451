"""Writing to the file: durability, group commit, faults of the disk."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import trio
import trio.testing

from tavern.store import sqlite as sqlite_module
from tavern.store.base import ChannelRecord, StoreBusy, TavernRecord, WriteFailed
from tavern.store.sqlite import SqliteStore, open_sqlite_store
from tavern.store.worker import MAX_BATCH, QUEUE_LIMIT

LockOut = Callable[[Path], Callable[[], None]]
Created = tuple[TavernRecord, tuple[ChannelRecord, ...]]


class Records(Protocol):
    def tavern(self, *channel_names: str, name: str = ..., icon: str = ...) -> Created: ...
    def channel(self, tavern_id: str, name: str = ...) -> ChannelRecord: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tavern.db"


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that SQLite itself runs on the store's connection."""
    seen: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(sqlite_module.sqlite3, "connect", traced)  # type: ignore[attr-defined]
    return seen


def ids_in_copy(path: Path, copy: Path) -> set[str]:
    """What somebody finds who copies the .db file, and nothing else, while the server runs."""
    shutil.copyfile(path, copy)
    connection = sqlite3.connect(copy)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT id FROM taverns UNION SELECT id FROM channels")}
    finally:
        connection.close()


async def test_what_was_acknowledged_is_there_after_reopening(path: Path, records: Records) -> None:
    tavern, channels = records.tavern("z", "a", icon="\N{BEER MUG}")
    more = [records.channel(tavern.id, name) for name in ("y", "b")]
    async with open_sqlite_store(path) as store:
        await store.create_tavern(tavern, channels)
        for channel in more:
            await store.create_channel(channel)
    async with open_sqlite_store(path) as store:
        assert store.tavern_count() == 1
        assert store.tavern(tavern.id) == tavern
        assert store.channels(tavern.id) == (*channels, *more)
    assert not path.with_name("tavern.db-wal").exists()  # closed for good: the one file holds all


async def test_the_settings_of_a_durable_database_are_in_force(path: Path, statements: list[str]) -> None:
    async with open_sqlite_store(path):
        pass
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        assert f"PRAGMA {setting}" in statements
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_a_copy_of_the_db_file_alone_holds_every_acknowledged_write(path: Path, records: Records) -> None:
    acknowledged: set[str] = set()
    async with open_sqlite_store(path) as store:
        for round_number in range(3):
            tavern, channels = records.tavern()
            await store.create_tavern(tavern, channels)
            acknowledged |= {tavern.id, channels[0].id}
            assert ids_in_copy(path, path.with_name(f"copy-{round_number}.db")) == acknowledged
            channel = records.channel(tavern.id)
            await store.create_channel(channel)
            acknowledged.add(channel.id)
            assert ids_in_copy(path, path.with_name(f"copy-{round_number}b.db")) == acknowledged


async def test_writers_at_once_share_a_transaction(
    path: Path, records: Records, statements: list[str], lock_out: LockOut
) -> None:
    created = [records.tavern() for _ in range(MAX_BATCH)]
    async with open_sqlite_store(path) as store:
        statements.clear()
        let_go = lock_out(path)
        async with trio.open_nursery() as nursery:
            for tavern, channels in created:
                nursery.start_soon(store.create_tavern, tavern, channels)
            await trio.testing.wait_all_tasks_blocked()
            let_go()
        assert statements.count("COMMIT") == 1
        assert store.transactions == 1
        assert store.checkpoints == 1
        assert store.tavern_count() == MAX_BATCH
        assert len(ids_in_copy(path, path.with_name("copy.db"))) == 2 * MAX_BATCH


async def test_under_load_the_checkpoint_waits_for_the_last_transaction(
    path: Path, records: Records, lock_out: LockOut
) -> None:
    created = [records.tavern() for _ in range(3 * MAX_BATCH)]
    async with open_sqlite_store(path) as store:
        let_go = lock_out(path)
        async with trio.open_nursery() as nursery:
            for tavern, channels in created:
                nursery.start_soon(store.create_tavern, tavern, channels)
            await trio.testing.wait_all_tasks_blocked()
            let_go()
        assert (store.transactions, store.checkpoints) == (3, 1)


async def test_a_failing_item_fails_alone(path: Path, records: Records, lock_out: LockOut) -> None:
    async with open_sqlite_store(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TRIGGER poison BEFORE INSERT ON channels WHEN NEW.name = 'poison' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    connection.close()
    good = [records.tavern() for _ in range(6)]
    bad, bad_channels = records.tavern("fine", "poison")
    async with open_sqlite_store(path) as store:
        failures: list[WriteFailed] = []

        async def create_bad() -> None:
            with pytest.raises(WriteFailed, match="no") as caught:
                await store.create_tavern(bad, bad_channels)
            failures.append(caught.value)

        let_go = lock_out(path)
        async with trio.open_nursery() as nursery:
            for tavern, channels in good[:3]:
                nursery.start_soon(store.create_tavern, tavern, channels)
            nursery.start_soon(create_bad)
            for tavern, channels in good[3:]:
                nursery.start_soon(store.create_tavern, tavern, channels)
            await trio.testing.wait_all_tasks_blocked()
            let_go()
        assert store.transactions == 1
        assert len(failures) == 1
        assert store.tavern(bad.id) is None
        assert store.tavern_count() == 6
        assert bad.id not in ids_in_copy(path, path.with_name("copy.db"))
        await store.create_tavern(bad, ())  # its id was given back


async def test_what_another_program_breaks_in_the_file_fails_writes_and_ends_nothing(
    path: Path, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    tavern, channels = records.tavern()
    late, late_channels = records.tavern()
    async with open_sqlite_store(path) as store:
        await store.create_tavern(tavern, channels)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("CREATE TRIGGER t AFTER INSERT ON taverns BEGIN INSERT INTO audit VALUES (NEW.id); END")
        with pytest.raises(WriteFailed, match="no such table"):
            await store.create_tavern(late, late_channels)
        assert store.tavern(late.id) is None
        assert store.tavern(tavern.id) == tavern
        [record] = caplog.records
        assert record.levelname == "ERROR"
        assert "no such table" in record.getMessage()
        connection.execute("DROP TRIGGER t")
        connection.close()
        await store.create_tavern(late, late_channels)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system to fill (needs root): {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


async def test_a_full_disk_fails_the_whole_transaction_and_the_server_lives_on(
    tiny_disk: Path, records: Records, statements: list[str], lock_out: LockOut
) -> None:
    path = tiny_disk / "tavern.db"
    async with open_sqlite_store(path) as store:
        before, before_channels = records.tavern()
        await store.create_tavern(before, before_channels)
        ballast = tiny_disk / "ballast"
        fill(ballast)
        statements.clear()
        batch = [records.tavern(name="x" * 10_000) for _ in range(10)]
        await expect_all_to_fail(store, path, batch, "full", lock_out)
        assert "COMMIT" in statements  # each insert went well, it was the commit that the disk refused
        assert store.tavern_count() == 1
        assert store.tavern(before.id) == before
        ballast.unlink()
        for tavern, channels in batch:
            await store.create_tavern(tavern, channels)
    async with open_sqlite_store(path) as store:
        assert store.tavern_count() == 11


async def test_a_database_that_may_not_grow_fails_writes_and_not_reads(
    path: Path, records: Records, monkeypatch: pytest.MonkeyPatch, lock_out: LockOut
) -> None:
    prepare = sqlite_module._prepare

    def prepare_small(connection: sqlite3.Connection) -> None:
        prepare(connection)
        connection.execute("PRAGMA max_page_count = 8")

    monkeypatch.setattr(sqlite_module, "_prepare", prepare_small)
    async with open_sqlite_store(path) as store:
        tavern, channels = records.tavern()
        await store.create_tavern(tavern, channels)
        await expect_all_to_fail(store, path, [records.tavern(name="x" * 16_000) for _ in range(5)], "full", lock_out)
        assert store.tavern(tavern.id) == tavern
        await store.create_channel(records.channel(tavern.id))


async def expect_all_to_fail(
    store: SqliteStore, path: Path, batch: list[Created], match: str, lock_out: LockOut
) -> None:
    """Create them in one transaction, which fails for every one."""
    failed = 0
    transactions = store.transactions

    async def create(tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        nonlocal failed
        with pytest.raises(WriteFailed, match=match):
            await store.create_tavern(tavern, channels)
        failed += 1
        assert store.tavern(tavern.id) is None

    let_go = lock_out(path)
    async with trio.open_nursery() as nursery:
        for tavern, channels in batch:
            nursery.start_soon(create, tavern, channels)
        await trio.testing.wait_all_tasks_blocked()
        let_go()
    assert failed == len(batch)
    assert store.transactions == transactions


async def test_a_lock_that_never_ends_fails_what_waits_for_it_together(
    path: Path, records: Records, monkeypatch: pytest.MonkeyPatch, statements: list[str], lock_out: LockOut
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_TIMEOUT_MS", 500)
    created = [records.tavern() for _ in range(20)]
    failed = 0

    async def create(store: SqliteStore, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        nonlocal failed
        with pytest.raises(WriteFailed, match="locked"):
            await store.create_tavern(tavern, channels)
        failed += 1

    async with open_sqlite_store(path) as store:
        statements.clear()
        let_go = lock_out(path)
        async with trio.open_nursery() as nursery:
            for tavern, channels in created:
                nursery.start_soon(create, store, tavern, channels)
        assert failed == 20
        assert statements.count("BEGIN IMMEDIATE") == 1  # one wait for all, not one after the other
        let_go()
        await store.create_tavern(*created[0])


async def test_a_full_queue_refuses_at_once_and_recovers(path: Path, records: Records, lock_out: LockOut) -> None:
    async with open_sqlite_store(path) as store:
        let_go = lock_out(path)
        async with trio.open_nursery() as nursery:
            first, first_channels = records.tavern()
            nursery.start_soon(store.create_tavern, first, first_channels)
            await trio.testing.wait_all_tasks_blocked()
            while store.queued_writes:  # until the thread has taken the first and waits for the lock
                await trio.lowlevel.checkpoint()
            for _ in range(QUEUE_LIMIT):
                tavern, channels = records.tavern()
                nursery.start_soon(store.create_tavern, tavern, channels)
            await trio.testing.wait_all_tasks_blocked()
            assert store.queued_writes == QUEUE_LIMIT
            late, late_channels = records.tavern()
            with pytest.raises(StoreBusy):
                await store.create_tavern(late, late_channels)
            let_go()
        await store.create_tavern(late, late_channels)
        assert store.tavern_count() == QUEUE_LIMIT + 2

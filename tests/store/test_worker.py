"""The thread by itself: its own failures must end the run, never hang it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trio

from tavern.store.base import WriteFailed
from tavern.store.sqlite import SqliteStore, open_sqlite_store
from tavern.store.worker import Worker


class Bug(Exception):
    """Ours."""


@contextmanager
def memory_database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def buggy(_connection: sqlite3.Connection) -> None:
    raise Bug


def wrong_sql(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO nowhere VALUES (1)")


def too_few_values(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT ?", ())


@pytest.mark.parametrize(
    ("work", "cause"),
    [(buggy, Bug), (too_few_values, sqlite3.ProgrammingError)],
)
async def test_a_bug_in_the_thread_ends_everything_with_its_cause(
    work: Callable[[sqlite3.Connection], None], cause: type[Exception]
) -> None:
    settled: list[bool] = []
    worker = Worker(memory_database)
    await worker.start()

    async def supervised() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.supervise)
            nursery.start_soon(worker.run, work, settled.append)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as group:
        await supervised()
    assert settled == [False]
    for error in group.value.exceptions:
        assert isinstance(error, RuntimeError)
        assert isinstance(error.__cause__, cause)
    with pytest.raises(trio.ClosedResourceError):
        await worker.run(buggy, settled.append)
    await worker.stop()  # returns: there is nothing left to wait for


async def test_sql_that_the_file_cannot_do_fails_alone() -> None:
    settled: list[bool] = []
    worker = Worker(memory_database)
    await worker.start()
    with pytest.raises(WriteFailed, match="no such table"):
        await worker.run(wrong_sql, settled.append)
    await worker.run(lambda _connection: None, settled.append)
    assert settled == [False, True]
    await worker.stop()
    await worker.supervise()


async def test_a_bug_in_the_thread_cancels_the_block_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_worker: Worker, _connection: sqlite3.Connection) -> None:
        raise Bug

    monkeypatch.setattr(Worker, "_checkpoint", fail)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="thread failed")):
        async with open_sqlite_store(tmp_path / "tavern.db") as store:
            await waste_a_write(store)
            await trio.sleep_forever()


async def waste_a_write(store: SqliteStore) -> None:
    # The caller's own shield must not make a hang of it.
    with trio.CancelScope(shield=True), pytest.raises(RuntimeError, match="thread failed"):
        await store._worker.run(lambda _connection: None, lambda _committed: None)
    await trio.lowlevel.checkpoint()


async def test_a_bug_while_opening_is_raised_as_it_is() -> None:
    def broken() -> AbstractContextManager[sqlite3.Connection]:
        raise Bug

    with pytest.raises(Bug):
        await Worker(broken).start()


async def test_a_checkpoint_that_another_program_blocks_fails_no_write_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tavern.store.sqlite.BUSY_TIMEOUT_MS", 600_000)  # waiting for the reader would hang this test
    path = tmp_path / "tavern.db"

    def insert(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO relay_usage VALUES (hex(randomblob(8)), 0)")

    async with open_sqlite_store(path) as store:
        worker = store._worker
        await worker.run(insert, lambda _committed: None)
        assert worker.checkpoints == 1
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM taverns").fetchone()
        for _ in range(2):
            await worker.run(insert, lambda _committed: None)
        assert worker.transactions == 3
        assert worker.checkpoints == 1
        assert caplog.text.count("misses recent writes") == 1
        reader.execute("COMMIT")
        reader.close()
        await worker.run(insert, lambda _committed: None)
        assert worker.checkpoints == 2


async def test_a_commit_that_fails_and_leaves_the_transaction_open_is_rolled_back(tmp_path: Path) -> None:
    def orphan(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")  # the constraint is checked by COMMIT
        connection.execute("INSERT INTO channels VALUES ('orphan', 'nowhere', '', '')")

    settled: list[bool] = []
    async with open_sqlite_store(tmp_path / "tavern.db") as store:
        worker = store._worker
        with pytest.raises(WriteFailed, match="FOREIGN KEY"):
            await worker.run(orphan, settled.append)
        await worker.run(lambda _connection: None, settled.append)
        assert settled == [False, True]
        assert worker.transactions == 1

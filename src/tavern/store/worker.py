"""The one thread that writes to SQLite: a bounded queue, drained into group commits.

Each transaction takes all that is queued, a savepoint per item: an item that fails, fails alone; when the COMMIT fails,
all in it fail. The callers of one transaction are woken by one `run_sync_soon`. Measured: 54,000 writes a second this
way, 2,000 with a transaction and a thread hand-over for each.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import attrs
import trio

from tavern.store.base import DiskFull, StoreBusy, WriteFailed

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 1024
"""Waiting writes. More than the busiest second ever asked for; a disk that hangs must not eat the memory."""

MAX_BATCH = 256
"""Writes in one transaction: what the first of them waits for stays within milliseconds."""

STOP_LIMIT_S = 8.0
"""For finishing the queue at the end: above the connection's busy timeout, inside a supervisor's patience (20 s)."""

_THREAD_FAILED = "the store's thread failed"

Work = Callable[[sqlite3.Connection], None]
OpenDatabase = Callable[[], AbstractContextManager[sqlite3.Connection]]


@attrs.define(eq=False)
class _Job:
    """One queued write. The thread sets `error`; `settle` and `done` belong to the trio thread."""

    work: Work
    settle: Callable[[bool], None]
    needs_room: bool
    done: trio.Event = attrs.field(factory=trio.Event)
    error: BaseException | None = None


class Worker:
    """Runs writes on the one connection that `open_database` yields, which is opened, used and closed in one thread.

    `start`, then `run` as often as needed, while `supervise` runs; `stop` at the end. All from the trio thread.
    """

    def __init__(
        self,
        open_database: OpenDatabase,
        *,
        min_free_bytes: int = 0,
        free_bytes: Callable[[], int] = lambda: 0,
        observe_commit_s: Callable[[float], None] = lambda _duration_s: None,
    ) -> None:
        """With fewer than `min_free_bytes` what needs room is refused; `free_bytes` says how many there are.

        `observe_commit_s` is told in the thread how long each transaction took.
        """
        self._open_database = open_database
        self._min_free_bytes = min_free_bytes
        self._free_bytes = free_bytes
        self._observe_commit_s = observe_commit_s
        self._disk_was_full = False  # the thread's own
        # One place more than the limit: it is kept for the end mark, so that stopping never waits for room.
        self._queue: queue.Queue[_Job | None] = queue.Queue(maxsize=QUEUE_LIMIT + 1)
        self._opened = trio.Event()
        self._ended = trio.Event()
        self._failure: BaseException | None = None
        self._batch: list[_Job] = []  # the transaction under way: the thread's, and _end's once the thread is over
        self._stop_requested = False
        self._end_mark_seen = False  # the thread's own
        self._checkpoint_failing = False  # the thread's own
        self.transactions = 0
        """Transactions committed so far."""
        self.checkpoints = 0
        """Checkpoints completed so far."""

    @property
    def queued(self) -> int:
        """Writes that wait for the thread (those in the transaction under way not counted)."""
        return self._queue.qsize()

    async def start(self) -> None:
        """Start the thread; the database is open on return. Raises what `open_database` raises.

        Cancelled, it closes again what was opened before it leaves.
        """
        token = trio.lowlevel.current_trio_token()
        # A daemon: a disk that hangs in a system call must not keep the process from ending after STOP_LIMIT_S.
        threading.Thread(target=self._main, args=(token,), name="tavern-store", daemon=True).start()
        try:
            await self._opened.wait()
        except trio.Cancelled:
            await self.stop()
            raise
        if self._failure is not None:
            raise self._failure

    async def supervise(self) -> None:
        """Return when the thread has ended as it should; raise RuntimeError from what ended it otherwise (our bug)."""
        await self._ended.wait()
        if self._failure is not None:
            raise RuntimeError(_THREAD_FAILED) from self._failure

    async def run(self, work: Work, settle: Callable[[bool], None], *, needs_room: bool = False) -> None:
        """Run `work` in the next transaction; on return it is committed.

        `settle(committed)` is called in the trio thread exactly once, before any waiter of the same transaction goes
        on, also if this caller is cancelled: queued work is done in any case. Raises `WriteFailed` if the disk refused,
        `DiskFull` for what `needs_room` where little is left, and without queueing anything `StoreBusy`, or
        `trio.ClosedResourceError` after `stop`.
        """
        if self._stop_requested or self._failure is not None:
            settle(False)
            raise trio.ClosedResourceError("the store is closed")
        if self._queue.qsize() >= QUEUE_LIMIT:  # no race: this thread is the only one that puts
            settle(False)
            raise StoreBusy(f"{QUEUE_LIMIT} writes are waiting for the disk")
        job = _Job(work, settle, needs_room)
        self._queue.put_nowait(job)
        await job.done.wait()
        if job.error is None:
            return
        if job.error is self._failure:
            raise RuntimeError(_THREAD_FAILED) from job.error
        if isinstance(job.error, DiskFull):
            raise job.error
        raise WriteFailed(f"the database refused a write: {job.error}") from job.error

    async def stop(self) -> None:
        """Finish what is queued, checkpoint, close. Takes at most `STOP_LIMIT_S`, also when cancelled."""
        if not self._stop_requested:
            self._stop_requested = True
            self._queue.put_nowait(None)
        with trio.move_on_after(STOP_LIMIT_S, shield=True) as limit:
            await self._ended.wait()
        if limit.cancelled_caught:
            logger.error("store: the disk did not finish within %.0f s; unacknowledged writes are lost", STOP_LIMIT_S)

    # From here on: the thread.

    def _main(self, token: trio.lowlevel.TrioToken) -> None:
        failure: BaseException | None = None
        try:
            with self._open_database() as connection:
                self._post(token, self._opened.set)
                while not self._end_mark_seen:
                    first = self._queue.get()
                    if first is None:
                        break
                    self._run_batch(connection, first, token)
                self._checkpoint(connection)
        except BaseException as error:  # noqa: BLE001  - nothing is swallowed: it goes to the trio thread
            failure = error
        self._post(token, self._end, failure)

    def _post(self, token: trio.lowlevel.TrioToken, function: Callable[..., None], *arguments: object) -> None:
        try:
            token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:  # stop() gave up waiting: nobody is left to be told, the writes still count
            logger.warning("store: finished after the server had ended")

    def _end(self, failure: BaseException | None) -> None:
        """In the trio thread: the thread is over, whatever it left undone has failed."""
        self._failure = failure
        self._opened.set()
        self._ended.set()
        left = self._batch
        while not self._queue.empty():
            if (job := self._queue.get_nowait()) is not None:
                left.append(job)
        for job in left:
            job.error = failure
        _wake(left)

    def _run_batch(self, connection: sqlite3.Connection, first: _Job, token: trio.lowlevel.TrioToken) -> None:
        self._batch = batch = [first]
        began_at = time.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
            # Learns of a schema that another program has mended: an insert that fails to compile never does.
            connection.execute("SELECT count(*) FROM sqlite_schema WHERE 0").fetchone()
            self._apply(connection, first)
            while (job := self._next_of(batch)) is not None:
                self._apply(connection, job)
            connection.execute("COMMIT")
            self.transactions += 1
            self._observe_commit_s(time.monotonic() - began_at)
        except sqlite3.DatabaseError as error:
            _raise_if_ours(error)
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # What waits now would have been part of it, and would only repeat the wait for a lock.
            while self._next_of(batch) is not None:
                pass
            for job in batch:
                job.error = job.error or error
            logger.error("store: a transaction of %d writes failed: %s", len(batch), error)  # noqa: TRY400  - no bug
        # People copy the .db file alone, without the log beside it. Under load (more is queued) the last transaction
        # does it for all: a checkpoint costs as much as a transaction.
        if self._queue.empty():
            self._checkpoint(connection)
        self._batch = []
        self._post(token, _wake, batch)

    def _next_of(self, batch: list[_Job]) -> _Job | None:
        """The next queued write, added to `batch`; None when there is none or no room."""
        if self._end_mark_seen or len(batch) >= MAX_BATCH:
            return None
        try:
            job = self._queue.get_nowait()
        except queue.Empty:
            return None
        if job is None:
            self._end_mark_seen = True
            return None
        batch.append(job)
        return job

    def _apply(self, connection: sqlite3.Connection, job: _Job) -> None:
        if job.needs_room and self._is_disk_full():
            job.error = DiskFull("the server's disk is nearly full: nothing new is stored")
            return
        connection.execute("SAVEPOINT item")
        try:
            job.work(connection)
        except sqlite3.DatabaseError as error:
            _raise_if_ours(error)
            if not connection.in_transaction:  # a full disk: SQLite has rolled back everything by itself
                raise
            connection.execute("ROLLBACK TO item")
            job.error = error
            logger.error("store: a write failed: %s", error)  # noqa: TRY400  - the disk's or the file's fault
        connection.execute("RELEASE item")

    def _is_disk_full(self) -> bool:
        """Some microseconds, beside the milliseconds of a transaction."""
        if not self._min_free_bytes:
            return False
        try:
            left = self._free_bytes()
        except OSError:
            return False  # the write itself will tell
        full = left < self._min_free_bytes
        if full and not self._disk_was_full:  # once per episode
            logger.error("store: %d MB are left on the disk: nothing new is stored", left // 2**20)
        self._disk_was_full = full
        return full

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move the log into the .db file. Failing is no failure of the writes: they are durable in the log."""
        (patience_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
        try:
            # Not waiting for readers: somebody's open `sqlite3` shell would delay every answer by the busy timeout.
            connection.execute("PRAGMA busy_timeout = 0")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            problem = "another program is reading the database" if busy else None
        except sqlite3.DatabaseError as error:
            _raise_if_ours(error)
            problem = str(error)
        finally:
            connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
        if problem is None:
            self.checkpoints += 1
        elif not self._checkpoint_failing:  # once per episode: each write would log it otherwise
            logger.warning("store: a copy of the .db file alone misses recent writes for now: %s", problem)
        self._checkpoint_failing = problem is not None


def _wake(batch: list[_Job]) -> None:
    """In the trio thread: first all become readable (or are given up), then their callers go on."""
    for job in batch:
        job.settle(job.error is None)
    for job in batch:
        job.done.set()


def _raise_if_ours(error: sqlite3.DatabaseError) -> None:
    """Go on raising `error` if misuse of SQLite is the reason, not the disk or what is in the file.

    SQLITE_ERROR is not ours: our statements were tried when the file was opened, and another program may change it.
    """
    if isinstance(error, sqlite3.ProgrammingError) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_MISUSE:
        raise error

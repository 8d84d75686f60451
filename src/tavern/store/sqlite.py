"""The store that survives: one SQLite file, one connection, one thread (see `worker`), reads from memory."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import trio

from tavern.errors import StartupError
from tavern.store.base import BanRecord, ChannelRecord, InviteRecord, MemberRecord, TavernRecord
from tavern.store.changes import Change, CreateTavern, DeleteTavern
from tavern.store.files import DATABASE_MODE, is_no_file
from tavern.store.index import Caps, Index
from tavern.store.indexed import IndexedStore
from tavern.store.locking import locked, remember
from tavern.store.migrations import iso_utc, migrate
from tavern.store.takeover import take_over
from tavern.store.worker import Worker

BUSY_TIMEOUT_MS = 2_000
"""How long a write waits for another program (a backup, `sqlite3`) that holds the database: below `STOP_LIMIT_S`."""

_MAX_USAGE_BYTES = 2**62
"""More in one month is no figure of ours, and adding to it would pass what SQLite holds."""

UNKNOWN_MOMENT = "1970-01-01T00:00:00.000Z"
"""What a record says whose `created_at` an existing server left unreadable."""


class SqliteStore(IndexedStore):
    """A `Store` in a file. `open_sqlite_store` makes and closes it; a write afterwards raises ClosedResourceError."""

    def __init__(self, index: Index, worker: Worker) -> None:
        super().__init__(index)
        self._worker = worker

    @property
    def transactions(self) -> int:
        """Transactions committed since the start."""
        return self._worker.transactions

    @property
    def checkpoints(self) -> int:
        """Checkpoints completed since the start."""
        return self._worker.checkpoints

    @property
    def queued_writes(self) -> int:
        """Writes that wait for the disk."""
        return self._worker.queued

    async def _write(self, change: Change) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        change.reserve(self._index)
        await self._worker.run(change.apply, partial(change.settle, self._index), needs_room=change.needs_room)


@asynccontextmanager
async def open_sqlite_store(
    path: Path,
    caps: Caps | None = None,
    *,
    min_free_bytes: int = 0,
    observe_commit_s: Callable[[float], None] = lambda _duration_s: None,
) -> AsyncIterator[SqliteStore]:
    """The store in the file at `path`, made (0640, its directories 0700) or migrated forward if need be.

    With less than `min_free_bytes` left on its disk nothing is stored that needs room. `observe_commit_s` is told in
    the store's thread how long each transaction took.

    Raises StartupError, one line that names the file, where it cannot be used or another server uses it. At the end,
    and also when cancelled, queued writes are finished, the log is moved into the file, and it is closed, all within
    `STOP_LIMIT_S`. If the store's thread itself fails (our bug), the block is cancelled and RuntimeError raised. As
    with any nursery, errors of the block, and that one, leave in an exception group.
    """
    index = Index(caps)
    worker = Worker(
        partial(_opened_database, path, index),
        min_free_bytes=min_free_bytes,
        free_bytes=partial(free_bytes, path),
        observe_commit_s=observe_commit_s,
    )
    await worker.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.supervise)
        try:
            yield SqliteStore(index, worker)
        finally:
            await worker.stop()
            nursery.cancel_scope.cancel()  # supervise has returned, or the disk hangs and the thread is left behind


def free_bytes(path: Path) -> int:
    """What is left on the disk for us, where the file at `path` is. Raises OSError."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize


def refuse_no_file(path: Path) -> None:
    """Raises StartupError where a directory, a device or a pipe is: before anything is made beside it."""
    if os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises where a directory above may not be entered
        raise StartupError(f"the database {path} is a directory: set TAVERN_DB_PATH to a file in it")
    if is_no_file(path):
        raise StartupError(f"cannot use the database {path}: it is no regular file: set TAVERN_DB_PATH to another")


@contextmanager
def _opened_database(path: Path, index: Index) -> Iterator[sqlite3.Connection]:
    """In the store's thread: lock the file, open it, migrate it, read it into `index`; close and unlock at the end."""
    path = Path(os.path.realpath(path))  # one lock for one file, whatever links lead to it
    refuse_no_file(path)
    with locked(path), closing(_connected(path)) as connection:
        try:
            _prepare(connection)
            _load(connection, index)
        except StartupError as error:
            raise StartupError(f"cannot use the database {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StartupError(f"cannot use the database {path}: {_explained(error)}") from error
        yield connection


def _connected(path: Path) -> sqlite3.Connection:
    take_over(path)
    try:
        # Made here, since SQLite would make it readable for all; the files beside it get the same mode from SQLite.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, DATABASE_MODE)
        os.close(descriptor)
        remember(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)
    except (OSError, sqlite3.DatabaseError) as error:
        raise StartupError(
            f"cannot open the database {path}: {getattr(error, 'strerror', None) or error}: "
            "mend its permissions, or set TAVERN_DB_PATH to another file"
        ) from error
    # An existing server may have stored what is not UTF-8; one such name must not keep the rest from being served.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Check, migrate, try, set: a database that is refused stays as it is (migrated, where trying it failed)."""
    # Damage can stay unseen for weeks until a query meets it. 12,000 taverns are checked and read in 90 ms.
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StartupError(f"it is damaged ({_one_line(verdict)}): restore a backup")
    migrate(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    _try_writing(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _try_writing(connection: sqlite3.Connection) -> None:
    """Store a tavern and take it back: triggers or columns that are not ours must fail here, not under strangers."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    tavern_id, channel_id = (str(uuid4()) for _ in range(2))
    tavern = TavernRecord(
        id=tavern_id,
        name="Trial",
        icon="",
        creator_public_key="00" * 32,
        signaling_url="ws://localhost:3001",
        created_at=moment,
    )
    channel = ChannelRecord(id=channel_id, tavern_id=tavern_id, name="General", created_at=moment)
    connection.execute("BEGIN IMMEDIATE")
    try:
        CreateTavern(tavern, (channel,)).apply(connection)
        DeleteTavern(tavern_id).apply(connection)
    except sqlite3.DatabaseError as error:
        if _primary_code(error) not in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT}:
            raise
        raise StartupError(
            f"no new tavern can be stored in it ({_one_line(str(error))}): "
            "remove its triggers, columns and constraints that are not Tavern's, or set TAVERN_DB_PATH to another file"
        ) from error
    finally:
        if connection.in_transaction:  # a trigger may have ended it
            connection.execute("ROLLBACK")


def _load(connection: sqlite3.Connection, index: Index) -> None:
    """Read all of it. Row ids follow the order of creation; channels without a tavern stay in the file, unread."""
    channels: dict[str, list[ChannelRecord]] = defaultdict(list)
    for channel_id, tavern_id, name, created_at in connection.execute(
        "SELECT id, tavern_id, name, created_at FROM channels WHERE id IS NOT NULL ORDER BY rowid"
    ):
        channel = ChannelRecord(
            id=_text(channel_id), tavern_id=_text(tavern_id), name=_text(name), created_at=_moment(created_at)
        )
        channels[channel.tavern_id].append(channel)
    for row in connection.execute(
        "SELECT id, name, icon, creator_public_key, signaling_url, created_at, owner_key, creator_address, "
        "last_used_at, locked FROM taverns WHERE id IS NOT NULL ORDER BY rowid"
    ):
        tavern_id, name, icon, key, url, created_at, owner_key, creator_address, last_used_at = map(_text, row[:9])
        tavern = TavernRecord(
            id=tavern_id,
            name=name,
            icon=icon,
            creator_public_key=key,
            signaling_url=url,
            created_at=_moment(row[5]),
            owner_key=owner_key,
            locked=bool(row[9]),
            creator_address=creator_address,
            last_used_at=last_used_at,
        )
        index.add(tavern, tuple(channels[tavern.id]))
    _load_people(connection, index)
    for month, size_bytes in connection.execute(
        "SELECT month, bytes FROM relay_usage WHERE typeof(bytes) = 'integer' AND bytes BETWEEN 0 AND ?",
        (_MAX_USAGE_BYTES,),
    ):
        index.settle_relay_usage(_text(month), size_bytes, True)


def _load_people(connection: sqlite3.Connection, index: Index) -> None:
    """Whoever is named in taverns that exist."""
    for row in connection.execute("SELECT tavern_id, public_key, display_name, added_at, role FROM tavern_members"):
        tavern_id, key, name, added_at, role = map(_text, row)
        if index.tavern(tavern_id):
            index.people_to_change(tavern_id).members[key] = MemberRecord(
                tavern_id=tavern_id,
                public_key=key,
                display_name=name,
                added_at=added_at,
                role="moderator" if role == "moderator" else "member",
            )
    for row in connection.execute(
        "SELECT id, tavern_id, public_key, address_hash, display_name, banned_by, created_at FROM tavern_bans"
    ):
        ban_id, tavern_id, key, address_hash, name, banned_by, created_at = map(_text, row)
        if index.tavern(tavern_id):
            index.people_to_change(tavern_id).bans[ban_id] = BanRecord(
                id=ban_id,
                tavern_id=tavern_id,
                public_key=key,
                address_hash=address_hash,
                display_name=name,
                banned_by=banned_by,
                created_at=created_at,
            )
    for row in connection.execute(
        "SELECT id, tavern_id, token_hash, created_by, created_at, expires_at, max_uses, uses FROM tavern_invites "
        "WHERE typeof(max_uses) = 'integer' AND typeof(uses) = 'integer'"
    ):
        invite_id, tavern_id, token_hash, created_by, created_at, expires_at = map(_text, row[:6])
        if index.tavern(tavern_id):
            index.people_to_change(tavern_id).invites[invite_id] = InviteRecord(
                id=invite_id,
                tavern_id=tavern_id,
                token_hash=token_hash,
                created_by=created_by,
                created_at=created_at,
                expires_at=expires_at,
                max_uses=row[6],
                uses=row[7],
            )


def _text(value: object) -> str:
    """SQLite keeps what it was given, whatever the column says: also numbers, and bytes where text was meant."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def _moment(value: object) -> str:
    return iso_utc(_text(value) if isinstance(value, bytes) else value) or UNKNOWN_MOMENT


def _explained(error: sqlite3.DatabaseError) -> str:
    """What SQLite found, and what to do about it, on one line."""
    advice = {
        sqlite3.SQLITE_NOTADB: "set TAVERN_DB_PATH to another file, or restore a backup",
        sqlite3.SQLITE_CORRUPT: "restore a backup",
        sqlite3.SQLITE_BUSY: "end the program that holds it",
        sqlite3.SQLITE_FULL: "make room on the disk",
        sqlite3.SQLITE_ERROR: "its tables are not Tavern's: set TAVERN_DB_PATH to another file",
    }
    return f"{_one_line(str(error))}: {advice.get(_primary_code(error), 'mend its permissions or its disk')}"


def _primary_code(error: sqlite3.DatabaseError) -> int:
    """Without the part that says where in SQLite; 0 where Python itself raised it."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""Copies of the database: made while the server runs, checked, and brought back. Blocking; for the command line."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import attrs

from tavern.errors import StartupError, TavernError
from tavern.store.files import give_to_owner, taking_the_place_of
from tavern.store.locking import lock_path, locked
from tavern.store.migrations import MIGRATIONS, refuse_unknown, schema_version

_BUSY_TIMEOUT_S = 10.0
"""For a program that is writing; the server itself never keeps readers waiting."""


class DataError(TavernError):
    """What was asked of the data cannot be done; one line that says why, and what can be done."""


@attrs.frozen(kw_only=True)
class Content:
    """What a database holds that was found whole."""

    size_bytes: int
    schema: int
    newest_schema: int
    taverns: int
    channels: int


@attrs.frozen(kw_only=True)
class Restored:
    """What was brought back, and where what was there before is kept."""

    content: Content
    kept: Path | None


def check(path: Path) -> Content:
    """Reads all of the database and what refers to what. Changes nothing; a server may be running on it.

    Raises DataError for what is damaged, another program's, or cannot be read.
    """
    with _reading(path) as connection:
        return _checked(connection, path)


def back_up(path: Path, target: Path) -> Content:
    """`target` is a whole copy of the database as it is at one moment, in one file; the server goes on meanwhile.

    A file that was there is replaced, once the copy is known to be good. Raises DataError, and leaves it then.
    """
    if target.is_dir():
        raise DataError(f"{target} is a directory: name a file in it")
    if lock_path(target).exists() or _is_same(path, target):
        raise DataError(f"{target} is a server's own database: name another file")
    with _reading(path) as source, _writing(target) as temporary:
        return _copied(source, temporary, path)


def restore(path: Path, copy: Path) -> Restored:
    """The database is what the copy holds; what was there before stays beside it. No server may be running on it.

    Raises DataError, or StartupError where a server runs, and changes nothing then.
    """
    if not path.parent.is_dir():
        raise DataError(f"there is no directory {path.parent}: start the server once, or set TAVERN_DB_PATH")
    if _is_same(path, copy):
        raise DataError(f"{copy} is the database itself: name the copy that is to take its place")
    path = Path(os.path.realpath(path))
    with locked(path), _reading(copy) as source, _writing(path) as temporary:
        content = _copied(source, temporary, copy)
        kept = _set_aside(path)
    give_to_owner(lock_path(path))
    return Restored(content=content, kept=kept)


def _copied(source: sqlite3.Connection, target: Path, name: Path) -> Content:
    """`target`, an empty file, holds what `source` does, and was read again. `name` is what complaints name."""
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        source.backup(connection)  # all pages in one step: a server that writes meanwhile makes it begin anew
        # One file, with no log beside it, wherever it is taken.
        connection.execute("PRAGMA journal_mode = DELETE")
        return _checked(connection, name)


def _checked(connection: sqlite3.Connection, name: Path) -> Content:
    problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise DataError(f"{name} is damaged ({'; '.join(' '.join(text.split()) for text in problems)}): use a backup")
    try:
        refuse_unknown(connection)
    except StartupError as error:
        raise DataError(f"cannot use {name}: {error}") from error
    tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not {"taverns", "channels"} <= tables:
        raise DataError(f"{name} holds no taverns: it is no database of Tavern's")
    strays = connection.execute("PRAGMA foreign_key_check").fetchall()
    own = [row for row in strays if row[0] != "channels"]  # an older server left channels behind: they are not read
    if own:
        raise DataError(
            f"{name} is damaged ({len(own)} rows of {own[0][0]} are of taverns that are gone): use a backup"
        )
    (pages,), (page_size,) = (connection.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size"))
    taverns, channels = (
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - no input in it
        for table in ("taverns", "channels")
    )
    return Content(
        size_bytes=pages * page_size,
        schema=schema_version(connection),
        newest_schema=len(MIGRATIONS),
        taverns=taverns,
        channels=channels,
    )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The database at `path`, to be read; what SQLite or the disk says of it is a DataError."""
    if not path.exists():
        raise DataError(f"there is no database {path}: set TAVERN_DB_PATH to where it is")
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with taking_the_place_of(path) as temporary:
            yield temporary
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _set_aside(path: Path) -> Path | None:
    """What is at `path` has a second name, and its logs go by that: another database would take them for its own."""
    kept = path.with_name(f"{path.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z") if path.exists() else None
    for log in _logs(path):
        if kept is None:
            log.unlink(missing_ok=True)
        elif log.exists():
            log.rename(kept.with_name(kept.name + log.name.removeprefix(path.name)))
    if kept is not None:
        try:
            kept.hardlink_to(path)  # so that at every moment there is one at `path`
        except OSError:
            path.rename(kept)
    return kept


def _logs(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")]


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False

"""One server for one database, held by a lock beside it, which also says which file the server opened last."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tavern.errors import StartupError
from tavern.store.files import FILE_MODE, create_private_directories

_MAX_NUMBER_BYTES = 32


def lock_path(path: Path) -> Path:
    """The lock's file for the database at `path`."""
    return path.with_name(path.name + ".lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `<path>.lock`. SQLite's own locks allow two servers, which would not see each other's taverns.

    The file stays: removing it would let a third server lock a new one while a second still waits on the old.
    Raises StartupError where another server holds it, or it cannot be made.
    """
    lock = lock_path(path)
    try:
        create_private_directories(path.parent)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    except OSError as error:
        raise StartupError(
            f"cannot write {lock} beside the database: {error.strerror}: "
            "mend the directory's permissions, or set TAVERN_DB_PATH to a file elsewhere"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupError(
                f"the database {path} is in use by another Tavern server (it holds {lock}): "
                "stop that one, or set TAVERN_DB_PATH to another file"
            ) from error
        except OSError as error:
            raise StartupError(
                f"cannot lock {lock}: {error.strerror}: put the database on a local file system"
            ) from error
        yield
    finally:
        os.close(descriptor)


def remember(path: Path) -> None:
    """Under the lock: the file that is at `path` now is the one that the log beside it belongs to. Raises OSError."""
    lock_path(path).write_text(f"{path.stat().st_ino}\n")


def is_remembered(path: Path) -> bool:
    """Under the lock: whether this file was there when a server opened it last, or nobody knows."""
    with lock_path(path).open("rb") as file:
        number = file.read(_MAX_NUMBER_BYTES).strip()
    return not number.isdigit() or int(number) == path.stat().st_ino

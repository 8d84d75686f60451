"""A database that somebody has put there: a copy of the .db file alone, which may belong to root."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

from tavern.errors import StartupError
from tavern.store.files import taking_the_place_of
from tavern.store.locking import is_remembered

_log = logging.getLogger("tavern.store")


def take_over(path: Path) -> None:
    """Under the lock: what is at `path` can be opened by this process, and no other database's log is beside it.

    Raises StartupError, one line that says what mends it, where it cannot be read or its directory not be written.
    """
    if not path.exists():
        return
    try:
        _set_log_aside(path)
        if not os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            _replace_by_own(path)
    except OSError as error:
        raise StartupError(f"cannot take over the database {path}: {error.strerror}: {_advice(path)}") from error


def _replace_by_own(path: Path) -> None:
    """`docker compose cp` leaves what it copies to root: the server's own takes its place."""
    owner = path.stat().st_uid
    with taking_the_place_of(path) as temporary:
        shutil.copyfile(path, temporary)
    _log.warning("the database %s belonged to user %d: a copy of it is used, which is the server's own", path, owner)


def _set_log_aside(path: Path) -> None:
    """A log that a crash left behind is another file's once a copy took that one's place: applied, it would ruin it."""
    log = path.with_name(path.name + "-wal")
    if not log.exists() or not log.stat().st_size or is_remembered(path):
        return
    aside = path.with_name(f"{path.name}-wal.before-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z")
    log.rename(aside)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    _log.warning("the database %s is not the one whose log lies beside it, which is now %s", path, aside)


def _advice(path: Path) -> str:
    try:
        about = path.stat()
    except OSError:
        return "mend its permissions"
    return (
        f"it belongs to user {about.st_uid} and has mode {stat.S_IMODE(about.st_mode):04o}: "
        f"make it readable (chmod 0644), or give it to user {os.geteuid()}"
    )

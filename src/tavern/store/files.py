"""Files and directories of the data: whose they are, and how they take each other's place."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
"""Of secrets."""

DATABASE_MODE = 0o640
"""Nobody else enters the directory. A copy that is brought back into a container belongs to root and its group there,
which is the server's group too: it can be read, and so taken over."""


def create_private_directories(directory: Path) -> None:
    """Make the directory and what is missing above it, mode 0700; what exists keeps its mode. Raises OSError."""
    missing = []
    while not directory.exists():  # a dangling link ends in mkdir's own FileExistsError
        missing.append(directory)
        directory = directory.parent
    for each in reversed(missing):  # not mkdir(parents=True): that gives the upper ones the default mode
        each.mkdir(mode=DIRECTORY_MODE, exist_ok=True)


def is_no_file(path: Path) -> bool:
    """Whether something is there, and is no regular file. Nothing is opened: that can wait, rewind or ring a bell."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # there is nothing, or opening it says better why not
        return False


@contextmanager
def taking_the_place_of(path: Path, mode: int = DATABASE_MODE) -> Iterator[Path]:
    """A new empty file beside `path`; it takes its place at the block's end, on the disk, and is gone after an error.

    Made by root it belongs to whoever owns the directory, as what it replaces did. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        yield temporary
        give_to_owner(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def give_to_owner(path: Path) -> None:
    """What root made belongs to whoever owns the directory: a server that is not root must be able to use it."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def sync(path: Path) -> None:
    """The file, or the directory's entries, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

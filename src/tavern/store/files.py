"""Files and directories that only the server's user may read."""

from __future__ import annotations

import stat
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


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

"""`tavern backup`, `restore` and `check`: what an operator does with the data, from a shell or from cron."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tavern.config import load_settings
from tavern.errors import StartupError
from tavern.startup import database_path
from tavern.store.copies import Content, DataError, back_up, check, restore

EXIT_FAILED = 1
"""What was asked for was not done, or what was checked is not in order."""
EXIT_SETTINGS = 2

STREAM = "-"
"""Instead of a file: standard output, or standard input."""

Command = Callable[[Mapping[str, str], str], str]
"""`(environment, file)` to the line that says what was done. Raises DataError and StartupError."""


def run_data_command(name: str, environment: Mapping[str, str], file: str) -> int:
    """Runs one of COMMANDS; returns the exit code. What it did is said on stdout, or on stderr where the data is."""
    try:
        said = COMMANDS[name](environment, file)
    except DataError as error:
        print(f"tavern: {error}", file=sys.stderr)
        return EXIT_FAILED
    except StartupError as error:
        for line in str(error).splitlines():
            print(f"tavern: {line}", file=sys.stderr)
        return EXIT_SETTINGS
    print(said, file=sys.stderr if name == "backup" and file == STREAM else sys.stdout)
    return 0


def _backup(environment: Mapping[str, str], file: str) -> str:
    path = _database(environment)
    if file != STREAM:
        return f"backed up {_described(back_up(path, Path(file)))} to {file}"
    if sys.stdout.isatty():
        raise DataError("a database is nothing for a terminal: redirect it, tavern backup - > FILE")
    with _scratch(path) as copy:
        content = back_up(path, copy)
        with copy.open("rb") as source:
            shutil.copyfileobj(source, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return f"backed up {_described(content)}"


def _restore(environment: Mapping[str, str], file: str) -> str:
    path = _database(environment)
    if file != STREAM:
        restored = restore(path, Path(file))
    elif sys.stdin.isatty():
        raise DataError("a database does not come from a terminal: redirect it, tavern restore - < FILE")
    else:
        with _scratch(path) as copy:
            with copy.open("wb") as target:
                shutil.copyfileobj(sys.stdin.buffer, target)
            restored = restore(path, copy)
    kept = f"; what was there before is {restored.kept}" if restored.kept else ""
    return f"restored {_described(restored.content)} to {path}{kept}"


def _check(environment: Mapping[str, str], file: str) -> str:
    path = Path(file) if file else _database(environment)
    content = check(path)
    older = content.schema < content.newest_schema
    migrated = f"; schema {content.schema}, which the next start brings to {content.newest_schema}" if older else ""
    return f"{path} is whole: {_described(content)}{migrated}"


COMMANDS: dict[str, Command] = {"backup": _backup, "restore": _restore, "check": _check}


def _database(environment: Mapping[str, str]) -> Path:
    path = database_path(load_settings(environment), environment)
    if path is None:
        raise DataError("TAVERN_STORE=memory keeps nothing on the disk: there is no database")
    return path


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A name for a file on the database's own disk, where there is room for a copy; gone at the block's end."""
    if not path.parent.is_dir():
        raise DataError(f"there is no directory {path.parent}: start the server once, or set TAVERN_DB_PATH")
    try:
        with tempfile.TemporaryDirectory(prefix=".tavern-copy-", dir=path.parent) as directory:
            yield Path(directory) / path.name
    except OSError as error:
        raise DataError(f"cannot write in {path.parent}: {error.strerror}") from error


def _described(content: Content) -> str:
    return f"{content.taverns} taverns with {content.channels} channels ({content.size_bytes / 1000:,.0f} KB)"

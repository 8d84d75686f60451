"""Opening the file: one server at a time, permissions, and whatever may lie at the path."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tavern.errors import StartupError
from tavern.store.base import ChannelRecord, TavernRecord
from tavern.store.sqlite import open_sqlite_store

Created = tuple[TavernRecord, tuple[ChannelRecord, ...]]


class Records(Protocol):
    def tavern(self, *channel_names: str, name: str = ..., icon: str = ...) -> Created: ...
    def channel(self, tavern_id: str, name: str = ...) -> ChannelRecord: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tavern.db"


async def test_a_second_server_on_the_same_file_is_refused_however_it_names_it(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    async with open_sqlite_store(path):
        for name in (path, link):
            await assert_refused(name, "in use by another Tavern server", "tavern.db.lock", "TAVERN_DB_PATH")
    async with open_sqlite_store(link):
        pass


async def test_the_lock_is_free_again_after_a_failed_start(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    await assert_refused(path, "not a database")
    path.unlink()
    async with open_sqlite_store(path):
        pass


async def test_nobody_else_enters_the_directory(tmp_path: Path, records: Records) -> None:
    path = tmp_path / "a" / "b" / "tavern.db"
    async with open_sqlite_store(path) as store:
        await store.create_tavern(*records.tavern())
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["tavern.db", "tavern.db-wal", "tavern.db-shm"], 0o640) | {"tavern.db.lock": 0o600}
    for directory in (path.parent, path.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_relative_path_that_sqlite_would_take_for_memory_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_sqlite_store(Path(":memory:")):
        pass
    assert (tmp_path / ":memory:").stat().st_size > 0


async def assert_refused(path: Path, *words: str) -> None:
    """Opening raises StartupError: one line that names the file and holds the words."""
    with pytest.raises(StartupError) as caught:
        async with open_sqlite_store(path):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert str(Path(os.path.realpath(path)).parent) in message
    for word in words:
        assert word in message


def make_directory(path: Path) -> None:
    path.mkdir()


def make_garbage(path: Path) -> None:
    path.write_text("taverns: []\n" * 500)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cookies (id)")
    connection.close()


def make_half(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE taverns (id TEXT PRIMARY KEY, name, icon, creator_public_key, created_at)")
    connection.execute("CREATE TABLE channels (id TEXT PRIMARY KEY, tavern_id, name, created_at)")
    connection.executemany(
        "INSERT INTO taverns (id, name) VALUES (?, ?)", [(str(number), "x" * 500) for number in range(200)]
    )
    connection.commit()
    connection.close()
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


def make_damaged_index(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE taverns (id TEXT PRIMARY KEY, name, icon, creator_public_key, created_at)")
    connection.execute("CREATE TABLE channels (id TEXT PRIMARY KEY, tavern_id, name, created_at)")
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_channels_1'"
    ).fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.commit()
    connection.close()
    with path.open("rb+") as file:
        file.seek((page - 1) * page_size)
        file.write(b"\xff" * page_size)


def make_wrong_columns(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE taverns (id TEXT PRIMARY KEY, title TEXT)")
    connection.close()


def make_newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE taverns (id TEXT PRIMARY KEY)")
    connection.execute("PRAGMA user_version = 999")
    connection.close()


TAVERNS_SQL = (
    "CREATE TABLE taverns (id TEXT PRIMARY KEY, name TEXT, icon TEXT, creator_public_key TEXT, signaling_url TEXT, "
    "created_at TEXT)"
)
CHANNELS_SQL = "CREATE TABLE channels (id TEXT PRIMARY KEY, tavern_id TEXT, name TEXT, created_at TEXT)"


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (
            ("CREATE TRIGGER t AFTER INSERT ON taverns BEGIN INSERT INTO audit VALUES (NEW.id); END",),
            ("no such table", "audit"),
        ),
        (
            ("CREATE TRIGGER t AFTER INSERT ON channels BEGIN SELECT RAISE(ROLLBACK, 'closed'); END",),
            ("closed",),
        ),
        (("ALTER TABLE taverns ADD COLUMN owner TEXT NOT NULL DEFAULT NULL",), ("NOT NULL", "taverns.owner")),
        (
            (
                "DROP TABLE channels",
                "CREATE TABLE channels (id TEXT, tavern_id TEXT REFERENCES pubs (id), name TEXT, created_at TEXT)",
            ),
            ("no such table", "pubs"),
        ),
    ],
)
async def test_a_database_that_no_tavern_can_be_stored_in_is_refused_at_once(
    path: Path, statements: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Not at the first create-tavern, which a stranger sends."""
    connection = sqlite3.connect(path)
    for statement in (TAVERNS_SQL, CHANNELS_SQL, *statements):
        connection.execute(statement)
    connection.close()
    await assert_refused(path, "no new tavern can be stored", "TAVERN_DB_PATH", *words)
    await assert_refused(path, "no new tavern can be stored")  # and not only at the first start
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM taverns").fetchone() == (0,)
    connection.close()


async def test_trying_whether_a_tavern_can_be_stored_leaves_nothing(path: Path) -> None:
    connection = sqlite3.connect(path)
    for statement in (TAVERNS_SQL, CHANNELS_SQL, "CREATE TABLE audit (id TEXT)"):
        connection.execute(statement)
    connection.execute("CREATE TRIGGER t AFTER INSERT ON taverns BEGIN INSERT INTO audit VALUES (NEW.id); END")
    connection.close()
    async with open_sqlite_store(path) as store:
        assert store.tavern_count() == 0
    connection = sqlite3.connect(path)
    for table in ("taverns", "channels", "audit"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608
    connection.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_directory, ("is a directory", "TAVERN_DB_PATH")),
        (make_garbage, ("not a database", "TAVERN_DB_PATH")),
        (make_fifo, ("no regular file", "TAVERN_DB_PATH")),
        (make_foreign, ("another program", "TAVERN_DB_PATH")),
        (make_half, ("malformed", "restore a backup")),
        (make_damaged_index, ("damaged", "restore a backup")),
        (make_wrong_columns, ("tables are not Tavern's",)),
        (make_newer, ("newer version", "999", "update tavern")),
    ],
)
async def test_what_is_no_database_of_ours_is_refused_in_one_line_and_left_alone(
    path: Path, make: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else None
    await assert_refused(path, *words)
    if before is not None:
        assert path.read_bytes() == before
    else:
        assert list(path.parent.iterdir()) == [path]  # no lock beside what was never a file


async def test_a_path_below_a_file_or_where_no_directory_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await assert_refused(tmp_path / "file" / "tavern.db", "Not a directory")
    await assert_refused(Path("/proc/tavern/tavern.db"), "TAVERN_DB_PATH")


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A directory, and for the test's time a user who may not do everything."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if os.geteuid():
            yield directory
            return
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
        try:
            yield directory
        finally:
            os.seteuid(0)


async def test_a_directory_without_write_permission_is_refused(not_root: Path) -> None:
    not_root.chmod(0o555)
    await assert_refused(not_root / "tavern.db", "Permission denied", "TAVERN_DB_PATH")
    await assert_refused(not_root / "new" / "tavern.db", "Permission denied", "TAVERN_DB_PATH")
    not_root.chmod(0o755)


async def test_a_database_without_write_permission_is_refused(not_root: Path) -> None:
    path = not_root / "tavern.db"
    path.touch()
    path.chmod(0o444)
    await assert_refused(path, "Permission denied", "TAVERN_DB_PATH")


async def test_an_empty_file_becomes_a_database(path: Path, records: Records) -> None:
    path.touch()  # what a start leaves that was killed between making the file and filling it
    async with open_sqlite_store(path) as store:
        await store.create_tavern(*records.tavern())


async def test_a_torn_log_loses_only_what_was_never_acknowledged(path: Path, tmp_path: Path, records: Records) -> None:
    tavern, channels = records.tavern()
    async with open_sqlite_store(path) as store:
        await store.create_tavern(tavern, channels)
    torn = tmp_path / "torn.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO channels VALUES ('half', ?, 'half', '')", (tavern.id,))
    shutil.copyfile(path, torn)
    log = path.with_name("tavern.db-wal").read_bytes()
    connection.close()
    torn.with_name("torn.db-wal").write_bytes(log[:-100])  # the commit's frame never reached the disk whole
    async with open_sqlite_store(torn) as store:
        assert store.channels(tavern.id) == channels
        await store.create_channel(records.channel(tavern.id))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not enter a directory")
async def test_a_directory_that_may_not_be_entered_is_said_so(tmp_path: Path) -> None:
    """`Path.is_dir` raises there, where `os.path.isdir` does not."""
    locked = Path(tempfile.mkdtemp())  # in no directory of pytest's, which others may not enter either
    os.seteuid(65534)
    try:
        await assert_refused(locked / "inner" / "tavern.db", "Permission denied")
    finally:
        os.seteuid(0)
        locked.rmdir()

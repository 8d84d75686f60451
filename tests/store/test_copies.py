"""Copies of the database: made while it is written to, checked, brought back, and taken over from root."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

import tavern
from tavern.errors import StartupError
from tavern.store.copies import DataError, back_up, check, restore
from tavern.store.migrations import MIGRATIONS
from tavern.store.sqlite import SqliteStore, open_sqlite_store
from tests.prerequisites import skip_unless
from tests.store.conftest import Records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tavern.db"


@asynccontextmanager
async def with_tavern(path: Path, records: Records, *names: str) -> AsyncIterator[SqliteStore]:
    async with open_sqlite_store(path) as store:
        for name in names:
            await store.create_tavern(*records.tavern(name=name))
        yield store


async def names_in(path: Path) -> list[str]:
    async with open_sqlite_store(path) as store:
        return [tavern.name for tavern in store.taverns()]


async def test_a_backup_of_a_running_server_is_one_file_with_all_of_it(
    path: Path, tmp_path: Path, records: Records
) -> None:
    copy = tmp_path / "copy.db"
    async with with_tavern(path, records, "Pony", "Bree"):
        content = await trio.to_thread.run_sync(back_up, path, copy)
        assert (content.taverns, content.channels, content.schema) == (2, 2, len(MIGRATIONS))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "data"]
    assert content.size_bytes == copy.stat().st_size
    assert check(copy) == content
    assert await names_in(copy) == ["Pony", "Bree"]


async def test_backups_while_the_server_writes_are_whole_each_time(path: Path, tmp_path: Path) -> None:
    """A writer in a process of its own: each copy holds what was acknowledged before it, and no half of a tavern."""
    source = str(Path(tavern.__file__).parents[1])
    command = [sys.executable, str(Path(__file__).with_name("writer.py")), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}) as writer:
        assert writer.stdout is not None
        seen: list[str] = []
        try:
            for number in range(8):
                seen += [writer.stdout.readline().decode().strip() for _ in range(random.randint(1, 60))]  # noqa: S311
                copy = tmp_path / f"{number}.db"
                back_up(path, copy)
                with closing(sqlite3.connect(copy)) as connection:
                    found = {row[0] for row in connection.execute("SELECT id FROM taverns")}
                    channels = {row[0] for row in connection.execute("SELECT id FROM channels")}
                assert {name.partition("/")[0] for name in seen} <= found
                assert {f"{each}/1" for each in found} <= channels
        finally:
            writer.send_signal(signal.SIGKILL)


async def test_a_backup_takes_an_older_ones_place_and_leaves_it_where_it_fails(
    path: Path, tmp_path: Path, records: Records
) -> None:
    copy = tmp_path / "copy.db"
    async with with_tavern(path, records, "Pony"):
        pass
    back_up(path, copy)
    async with with_tavern(path, records, "Bree"):
        pass
    assert back_up(path, copy).taverns == 2
    before = copy.read_bytes()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    with pytest.raises(DataError, match=r"tavern\.db"):
        back_up(path, copy)
    assert copy.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["copy.db"]


async def test_a_backup_never_takes_the_place_of_a_servers_database(path: Path, records: Records) -> None:
    async with with_tavern(path, records, "Pony"):
        for target in (path, path.parent / "link"):
            if target != path:
                target.symlink_to(path)
            with pytest.raises(DataError, match="own database"):
                back_up(path, target)
        with pytest.raises(DataError, match="is a directory"):
            back_up(path, path.parent)


async def test_what_is_restored_is_there_at_the_next_start_and_what_was_before_is_kept(
    path: Path, tmp_path: Path, records: Records
) -> None:
    copy = tmp_path / "copy.db"
    async with with_tavern(path, records, "Pony"):
        back_up(path, copy)
    async with with_tavern(path, records, "Bree"):
        pass
    restored = restore(path, copy)
    assert restored.content.taverns == 1
    assert restored.kept is not None
    assert await names_in(path) == ["Pony"]
    assert await names_in(restored.kept) == ["Pony", "Bree"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_nothing_is_restored_while_a_server_runs(path: Path, tmp_path: Path, records: Records) -> None:
    copy = tmp_path / "copy.db"
    async with with_tavern(path, records, "Pony") as store:
        back_up(path, copy)
        await store.create_tavern(*records.tavern(name="Bree"))
        with pytest.raises(StartupError, match="in use by another Tavern server"):
            restore(path, copy)
    assert await names_in(path) == ["Pony", "Bree"]


async def test_restoring_where_nothing_was_yet(path: Path, tmp_path: Path, records: Records) -> None:
    other = tmp_path / "other" / "tavern.db"
    async with with_tavern(other, records, "Pony"):
        pass
    with pytest.raises(DataError, match="no directory"):
        restore(path, other)
    path.parent.mkdir()
    path.with_name("tavern.db-wal").write_bytes(b"somebody else's")
    assert restore(path, other).kept is None
    assert await names_in(path) == ["Pony"]


async def test_a_damaged_database_with_its_log_is_set_aside_as_it_is(
    path: Path, tmp_path: Path, records: Records
) -> None:
    copy = tmp_path / "copy.db"
    async with with_tavern(path, records, "Pony"):
        back_up(path, copy)
    path.write_bytes(b"damaged" * 1000)
    path.with_name("tavern.db-wal").write_bytes(b"its log")
    kept = restore(path, copy).kept
    assert kept is not None
    assert kept.read_bytes() == b"damaged" * 1000
    assert kept.with_name(kept.name + "-wal").read_bytes() == b"its log"
    assert await names_in(path) == ["Pony"]


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE taverns (name TEXT)")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


def _empty(path: Path) -> None:
    path.touch()


def _garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


async def _strays(path: Path, records: Records) -> None:
    async with with_tavern(path, records, "Pony"):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO tavern_members VALUES ('nowhere', 'k', 'n', 'a', 'member')")
        connection.commit()


@pytest.mark.parametrize(
    ("make", "words"),
    [(_foreign, "another program"), (_newer, "newer version"), (_empty, "no taverns"), (_garbage, "not a database")],
)
async def test_what_is_no_database_of_ours_is_refused_by_all_of_them(
    path: Path, tmp_path: Path, records: Records, make: Callable[[Path], None], words: str
) -> None:
    async with with_tavern(path, records, "Pony"):
        pass
    before = path.read_bytes()
    copy = tmp_path / "copy.db"
    make(copy)
    for refused in (lambda: check(copy), lambda: restore(path, copy), lambda: back_up(copy, tmp_path / "new.db")):
        with pytest.raises(DataError, match=words) as caught:
            refused()
        assert str(copy) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert not (tmp_path / "new.db").exists()


async def test_rows_that_belong_to_nothing_are_damage(path: Path, records: Records) -> None:
    await _strays(path, records)
    with pytest.raises(DataError, match="1 rows of tavern_members"):
        check(path)


def test_what_is_not_there_is_said_to_be(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no database"):
        check(path)
    with pytest.raises(DataError, match="there is no database"):
        back_up(path, tmp_path / "copy.db")


async def test_checking_changes_nothing_and_does_not_mind_a_server(path: Path, records: Records) -> None:
    async with with_tavern(path, records, "Pony"):
        before = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}
        assert check(path).taverns == 1
        after = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}
        assert after == before


# What `docker compose cp` leaves behind


async def test_a_crashed_servers_log_is_not_applied_to_a_copy_that_took_its_place(
    path: Path, tmp_path: Path, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    copy, crashed = tmp_path / "copy.db", tmp_path / "crashed"
    async with with_tavern(path, records, "Pony"):
        back_up(path, copy)
    async with with_tavern(path, records, "Bree") as store:
        # A reader keeps the log from being moved into the file, as it would in a crash.
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM taverns").fetchone()
            await store.create_tavern(*records.tavern(name="Rivendell"))
            shutil.copytree(path.parent, crashed)
            reader.execute("COMMIT")
    copied = crashed / path.name
    inode = copied.stat().st_ino
    copied.with_name("tavern.db.lock").write_text(f"{inode}\n")  # as the server that crashed there had it
    assert copied.with_name("tavern.db-wal").stat().st_size
    replaced = crashed / "incoming"
    shutil.copyfile(copy, replaced)
    replaced.replace(copied)
    assert await names_in(copied) == ["Pony"]
    assert "is not the one whose log" in caplog.text
    assert [file for file in crashed.iterdir() if ".db-wal.before-" in file.name]


async def test_the_log_of_a_crash_is_applied_to_its_own_file(path: Path, tmp_path: Path, records: Records) -> None:
    async with with_tavern(path, records, "Pony") as store, _reader(path):
        await store.create_tavern(*records.tavern(name="Bree"))
        crashed = tmp_path / "crashed"
        shutil.copytree(path.parent, crashed)
    copied = crashed / path.name
    copied.with_name("tavern.db.lock").write_text(f"{copied.stat().st_ino}\n")
    assert await names_in(copied) == ["Pony", "Bree"]


@asynccontextmanager
async def _reader(path: Path) -> AsyncIterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM taverns").fetchone()
        yield
        connection.execute("COMMIT")


OTHER_USER = 12345


@skip_unless(os.geteuid() == 0, "only root can give files to others")
@pytest.mark.parametrize(("mode", "is_taken"), [(0o644, True), (0o640, True), (0o600, False)])
async def test_a_copy_that_belongs_to_root_is_taken_over_where_it_can_be_read(
    path: Path, records: Records, mode: int, is_taken: bool
) -> None:
    async with with_tavern(path, records, "Pony"):
        pass
    for file in (path.parent, *path.parent.iterdir()):
        os.chown(file, OTHER_USER, 0)
    # As root: docker compose cp COPY signaling:/data/tavern.db
    os.chown(path, 0, 0)
    path.chmod(mode)
    program = (
        "import os, sys, trio; from pathlib import Path; from tavern.store.sqlite import open_sqlite_store\n"
        f"os.setgroups([]); os.setgid(0); os.setuid({OTHER_USER})\n"
        "async def main():\n"
        "    async with open_sqlite_store(Path(sys.argv[1])) as store: print(store.tavern_count())\n"
        "trio.run(main)\n"
    )
    for directory in path.parents[:4]:
        if directory != path.parent and str(directory).startswith("/tmp/"):  # noqa: S108 - pytest's own
            directory.chmod(directory.stat().st_mode | 0o055)
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    if is_taken:
        assert ran.stdout == "1\n", ran.stderr
        assert path.stat().st_uid == OTHER_USER
        assert "belonged to user 0" in ran.stderr
    else:
        assert "belongs to user 0 and has mode 0600" in ran.stderr
        assert path.stat().st_uid == 0

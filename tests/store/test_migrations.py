"""Databases that existing servers wrote: opened, migrated forward, nothing lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.errors import StartupError
from tavern.store import migrations
from tavern.store.base import ChannelRecord, Store, TavernRecord
from tavern.store.migrations import MIGRATIONS, iso_utc, schema_version
from tavern.store.sqlite import open_sqlite_store

OLD_SCHEMA = """
    CREATE TABLE taverns (id TEXT PRIMARY KEY, name TEXT NOT NULL, icon TEXT DEFAULT '',
                          creator_public_key TEXT NOT NULL, signaling_url TEXT DEFAULT '', created_at {created_at});
    CREATE TABLE channels (id TEXT PRIMARY KEY, tavern_id TEXT NOT NULL, name TEXT NOT NULL, created_at {created_at},
                           FOREIGN KEY (tavern_id) REFERENCES taverns (id) ON DELETE CASCADE);
"""
MOMENT = "2024-05-01T10:00:00.000Z"
MOMENT_MS = 1714557600000


def migrated(store: Store, tavern_id: str) -> TavernRecord:
    """The tavern without the moment of its migration, which must be the present one."""
    tavern = store.tavern(tavern_id)
    assert tavern is not None
    assert abs(datetime.now(UTC) - datetime.fromisoformat(tavern.last_used_at)) < timedelta(minutes=1)
    return attrs.evolve(tavern, last_used_at="")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tavern.db"


def old_database(path: Path, *, created_at_type: str = "TEXT NOT NULL", created_at: object = MOMENT) -> None:
    """Two taverns with all that was seen in the wild; WAL mode, user_version 0."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(OLD_SCHEMA.format(created_at=created_at_type))
        connection.executemany(
            "INSERT INTO taverns VALUES (?, ?, ?, ?, ?, ?)",
            [
                ("t-2", "Pony", "\N{BEER MUG}", "ab" * 32, "wss://tavern.example.com", created_at),
                ("t-1", "Bree", None, "same_key_123", None, created_at),
            ],
        )
        connection.executemany(
            "INSERT INTO channels VALUES (?, ?, ?, ?)",
            [
                ("c-9", "t-2", "General", created_at),
                ("c-5", "t-1", "General", created_at),
                ("c-1", "t-2", "Cellar", created_at),
                ("c-4", "t-2", "Attic", created_at),
            ],
        )
        connection.commit()


def channel(channel_id: str, tavern_id: str, name: str) -> ChannelRecord:
    return ChannelRecord(id=channel_id, tavern_id=tavern_id, name=name, created_at=MOMENT)


@pytest.mark.parametrize(
    ("created_at_type", "created_at"),
    [
        ("TEXT NOT NULL", MOMENT),
        ("INTEGER NOT NULL", MOMENT_MS),
        ("INTEGER NOT NULL", MOMENT),
        ("TEXT NOT NULL", MOMENT_MS),  # text affinity: stored as "1714557600000"
        ("TEXT NOT NULL", float(MOMENT_MS)),  # JavaScript's numbers bind as doubles: "1714557600000.0"
        ("", MOMENT_MS),
        ("TEXT DEFAULT CURRENT_TIMESTAMP", "2024-05-01 10:00:00"),
    ],
)
async def test_an_existing_servers_database_is_served_whole(
    path: Path, created_at_type: str, created_at: object
) -> None:
    old_database(path, created_at_type=created_at_type, created_at=created_at)
    for _ in range(2):  # migrated, and opened again as what it is now
        async with open_sqlite_store(path) as store:
            assert store.tavern_count() == 2
            assert migrated(store, "t-2") == TavernRecord(
                id="t-2",
                name="Pony",
                icon="\N{BEER MUG}",
                creator_public_key="ab" * 32,
                signaling_url="wss://tavern.example.com",
                created_at=MOMENT,
            )
            assert migrated(store, "t-1") == TavernRecord(
                id="t-1",
                name="Bree",
                icon="",
                creator_public_key="same_key_123",
                signaling_url="",
                created_at=MOMENT,
            )
            assert store.channels("t-2") == (
                channel("c-9", "t-2", "General"),
                channel("c-1", "t-2", "Cellar"),
                channel("c-4", "t-2", "Attic"),
            )
            assert store.channels("t-1") == (channel("c-5", "t-1", "General"),)
    with closing(sqlite3.connect(path)) as connection:
        assert schema_version(connection) == len(MIGRATIONS)
        assert connection.execute("SELECT DISTINCT created_at FROM taverns").fetchall() == [(MOMENT,)]


async def test_a_migrated_database_takes_new_records_after_the_old(path: Path) -> None:
    old_database(path, created_at_type="INTEGER NOT NULL", created_at=MOMENT_MS)
    new = channel("a-first-by-id", "t-1", "New")
    async with open_sqlite_store(path) as store:
        await store.create_channel(new)
    async with open_sqlite_store(path) as store:
        assert store.channels("t-1") == (channel("c-5", "t-1", "General"), new)


async def test_rows_still_in_an_old_servers_log_are_not_lost(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    old_database(source)
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("INSERT INTO channels VALUES ('c-log', 't-1', 'In the log', ?)", (MOMENT,))
        path.write_bytes(source.read_bytes())
        path.with_name("tavern.db-wal").write_bytes(source.with_name("source.db-wal").read_bytes())
    async with open_sqlite_store(path) as store:
        assert store.channels("t-1")[-1] == channel("c-log", "t-1", "In the log")


async def test_columns_and_rows_that_are_not_ours_survive(path: Path) -> None:
    old_database(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE taverns ADD COLUMN motto TEXT")
        connection.execute("UPDATE taverns SET motto = 'cheers'")
        connection.execute("CREATE TABLE other (x)")
        connection.execute("INSERT INTO channels VALUES ('orphan', 'gone', 'Orphan', ?)", (MOMENT,))
        connection.commit()
    async with open_sqlite_store(path) as store:
        assert store.channels("gone") == ()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT motto FROM taverns").fetchall() == [("cheers",)] * 2
        assert connection.execute("SELECT count(*) FROM channels WHERE id = 'orphan'").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM other").fetchone() == (0,)


async def test_a_database_from_before_icons_is_completed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE taverns (id TEXT PRIMARY KEY, name, creator_public_key, created_at)")
        connection.execute("INSERT INTO taverns VALUES ('t', 'Old', 'k', ?)", (MOMENT_MS,))
        connection.commit()
    async with open_sqlite_store(path) as store:
        assert migrated(store, "t") == TavernRecord(
            id="t", name="Old", icon="", creator_public_key="k", signaling_url="", created_at=MOMENT
        )


async def test_what_is_unreadable_in_one_row_does_not_hide_the_others(path: Path) -> None:
    old_database(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE taverns SET created_at = 'yesterday', name = CAST(x'ff41' AS TEXT) WHERE id = 't-1'")
        connection.commit()
    async with open_sqlite_store(path) as store:
        tavern = store.tavern("t-1")
        assert tavern is not None
        assert tavern.name == "\N{REPLACEMENT CHARACTER}A"
        assert tavern.created_at == "1970-01-01T00:00:00.000Z"
        assert store.tavern_count() == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT created_at FROM taverns WHERE id = 't-1'").fetchone() == ("yesterday",)


async def test_bytes_are_read_as_the_text_they_were_meant_as(path: Path) -> None:
    old_database(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE taverns SET id = ?, name = ?, icon = ?, creator_public_key = ?, signaling_url = ?, created_at = ? "
            "WHERE id = 't-1'",
            (b"t-1", "Bree \N{BEER MUG}".encode(), b"\xff", b"key", b"ws://bree", MOMENT.encode()),
        )
        connection.execute(
            "UPDATE channels SET id = ?, tavern_id = ?, name = ? WHERE id = 'c-5'", (b"c-5", b"t-1", b"\xe9")
        )
        connection.commit()
    async with open_sqlite_store(path) as store:
        assert migrated(store, "t-1") == TavernRecord(
            id="t-1",
            name="Bree \N{BEER MUG}",
            icon="\N{REPLACEMENT CHARACTER}",
            creator_public_key="key",
            signaling_url="ws://bree",
            created_at=MOMENT,
        )
        assert store.channels("t-1") == (
            ChannelRecord(id="c-5", tavern_id="t-1", name="\N{REPLACEMENT CHARACTER}", created_at=MOMENT),
        )


async def test_a_database_of_version_1_takes_relay_usage_and_keeps_its_taverns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_database(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:1])
        migrations.migrate(connection)
        assert schema_version(connection) == 1
    async with open_sqlite_store(path) as store:
        assert store.relay_usage("2026-11") == 0
        await store.save_relay_usage("2026-11", 12)
        assert store.tavern_count() == 2
        assert store.channels("t-1") == (channel("c-5", "t-1", "General"),)
    async with open_sqlite_store(path) as store:
        assert store.relay_usage("2026-11") == 12
    with closing(sqlite3.connect(path)) as connection:
        assert schema_version(connection) == len(MIGRATIONS)
        assert connection.execute("SELECT month, bytes FROM relay_usage").fetchall() == [("2026-11", 12)]


async def test_usage_that_is_no_number_of_bytes_counts_as_none(path: Path) -> None:
    async with open_sqlite_store(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for month, value in (("a", "many"), ("b", 1.5), ("c", -1), ("d", 2**63 - 1), ("e", 7)):
            connection.execute("INSERT INTO relay_usage VALUES (?, ?)", (month, value))
    async with open_sqlite_store(path) as store:
        assert [store.relay_usage(month) for month in "abcde"] == [0, 0, 0, 0, 7]
        await store.save_relay_usage("d", 8)
        assert store.relay_usage("d") == 8


async def test_a_migration_that_fails_halfway_leaves_the_database_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_database(path)

    def torn(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE channels")
        connection.execute("ALTER TABLE nowhere ADD COLUMN x")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, torn))
        with pytest.raises(StartupError, match="nowhere"):
            async with open_sqlite_store(path):
                pass
    with closing(sqlite3.connect(path)) as connection:
        assert schema_version(connection) == 0
        assert connection.execute("SELECT count(*) FROM channels").fetchone() == (4,)
    async with open_sqlite_store(path) as store:
        assert len(store.channels("t-2")) == 3


@given(st.datetimes(min_value=datetime(1974, 1, 1), max_value=datetime(2286, 1, 1)))  # noqa: DTZ001  - made UTC below
def test_every_form_of_a_moment_is_read_the_same(moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
    iso = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    milliseconds = round(moment.timestamp() * 1000)
    assert iso_utc(iso) == iso
    assert iso_utc(milliseconds) == iso
    assert iso_utc(str(milliseconds)) == iso
    assert iso_utc(f"{milliseconds}.0") == iso
    assert iso_utc(moment.isoformat(sep=" ")) == iso
    assert iso_utc(iso.replace("Z", "")) == iso


@given(st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.binary()))
def test_anything_else_is_unreadable_or_a_moment_and_never_an_error(value: object) -> None:
    read = iso_utc(value)
    assert read is None or iso_utc(read) == read

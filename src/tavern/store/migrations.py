"""Numbered steps from any earlier schema to the newest (`PRAGMA user_version` holds the number).

A step runs once, in one transaction with its number. Steps are appended, never changed: each has databases behind it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tavern.errors import StartupError

Migration = Callable[[sqlite3.Connection], None]

_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_BELOW = 100_000_000_000
"""A smaller number of milliseconds is a date before March 1973: it counts seconds."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest schema, all steps or none. The connection is in autocommit mode.

    Raises StartupError for a database that a newer version wrote, or that is another program's; it is unchanged then.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = schema_version(connection)
        refuse_unknown(connection)
        for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
            step(connection)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def schema_version(connection: sqlite3.Connection) -> int:
    """The number of the last step that this database has seen."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def refuse_unknown(connection: sqlite3.Connection) -> None:
    """Raises StartupError for a database that a newer version wrote, or that is another program's."""
    version = schema_version(connection)
    _refuse_newer(version)
    if version == 0:
        _refuse_foreign(connection)


def iso_utc(value: object) -> str | None:
    """A moment as existing servers wrote it, as records hold it (ISO 8601 UTC, milliseconds, `Z`); None if unreadable.

    They wrote ISO text, SQLite's own text (UTC), or milliseconds since 1970 as an integer; a column with text affinity
    made "1714557600000" or "1714557600000.0" of the latter.
    """
    if isinstance(value, str) and _ISO.fullmatch(value):
        return value
    try:
        if isinstance(value, str) and "-" in value:
            moment = datetime.fromisoformat(value.strip())
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        elif isinstance(value, (int, float, str)):
            number = float(value)
            # Not fromtimestamp: its seconds are a float, which is a millisecond off now and then.
            moment = _EPOCH + timedelta(milliseconds=number * 1000 if number < _SECONDS_BELOW else number)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refuse_newer(version: int) -> None:
    if version > len(MIGRATIONS):
        raise StartupError(
            f"a newer version of tavern wrote it (schema {version}, this version knows {len(MIGRATIONS)}): "
            "update tavern, or restore a backup from before the update"
        )


def _refuse_foreign(connection: sqlite3.Connection) -> None:
    """The first server of this schema wrote no version number: tell its databases from other programs'."""
    tables = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and not {"taverns", "channels"} & tables:
        raise StartupError("it is the database of another program: set TAVERN_DB_PATH to another file")


def _adopt(connection: sqlite3.Connection) -> None:
    """1: a new database, or one of the first server, whose rows stay where they are: columns of its own survive."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS taverns (id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, "
        "icon TEXT NOT NULL DEFAULT '', creator_public_key TEXT NOT NULL, "
        "signaling_url TEXT NOT NULL DEFAULT '', created_at TEXT NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS channels (id TEXT NOT NULL PRIMARY KEY, "
        "tavern_id TEXT NOT NULL REFERENCES taverns (id) ON DELETE CASCADE, "
        "name TEXT NOT NULL, created_at TEXT NOT NULL)"
    )
    columns = {str(row[1]) for row in connection.execute("PRAGMA table_info(taverns)")}
    for optional in sorted({"icon", "signaling_url"} - columns):
        connection.execute(f"ALTER TABLE taverns ADD COLUMN {optional} TEXT DEFAULT ''")
    for column in ("icon", "signaling_url"):
        connection.execute(f"UPDATE taverns SET {column} = '' WHERE {column} IS NULL")  # noqa: S608  - no input in it
    for table in ("taverns", "channels"):
        rows = connection.execute(f"SELECT rowid, created_at FROM {table}").fetchall()  # noqa: S608
        changes = [(iso, rowid) for rowid, value in rows if (iso := iso_utc(value)) not in {None, value}]
        connection.executemany(f"UPDATE {table} SET created_at = ? WHERE rowid = ?", changes)  # noqa: S608
    connection.execute("CREATE INDEX IF NOT EXISTS channels_by_tavern ON channels (tavern_id)")


def _count_relayed_bytes(connection: sqlite3.Connection) -> None:
    """2: what the relay sent in each month."""
    connection.execute("CREATE TABLE relay_usage (month TEXT NOT NULL PRIMARY KEY, bytes INTEGER NOT NULL)")


def _own_taverns(connection: sqlite3.Connection) -> None:
    """3: whose a tavern is, who may enter it, and when it was used last; which for all that exist is now."""
    columns = {str(row[1]) for row in connection.execute("PRAGMA table_info(taverns)")}
    for column, kind in (
        ("owner_key", "TEXT NOT NULL DEFAULT ''"),
        ("locked", "INTEGER NOT NULL DEFAULT 0"),
        ("creator_address", "TEXT NOT NULL DEFAULT ''"),
        ("last_used_at", "TEXT NOT NULL DEFAULT ''"),
    ):
        if column in columns:
            raise StartupError(f"its table taverns has a column {column} that is not ours: rename it")
        connection.execute(f"ALTER TABLE taverns ADD COLUMN {column} {kind}")
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    connection.execute("UPDATE taverns SET last_used_at = ?", (now,))
    belongs = "tavern_id TEXT NOT NULL REFERENCES taverns (id) ON DELETE CASCADE"
    connection.execute(
        f"CREATE TABLE tavern_members ({belongs}, public_key TEXT NOT NULL, display_name TEXT NOT NULL, "
        "added_at TEXT NOT NULL, role TEXT NOT NULL, PRIMARY KEY (tavern_id, public_key))"
    )
    connection.execute(
        f"CREATE TABLE tavern_bans (id TEXT NOT NULL PRIMARY KEY, {belongs}, public_key TEXT NOT NULL, "
        "address_hash TEXT NOT NULL, display_name TEXT NOT NULL, banned_by TEXT NOT NULL, created_at TEXT NOT NULL)"
    )
    connection.execute(
        f"CREATE TABLE tavern_invites (id TEXT NOT NULL PRIMARY KEY, {belongs}, token_hash TEXT NOT NULL, "
        "created_by TEXT NOT NULL, created_at TEXT NOT NULL, expires_at TEXT NOT NULL, max_uses INTEGER NOT NULL, "
        "uses INTEGER NOT NULL)"
    )
    for table in ("tavern_bans", "tavern_invites"):
        connection.execute(f"CREATE INDEX {table}_by_tavern ON {table} (tavern_id)")


MIGRATIONS: tuple[Migration, ...] = (_adopt, _count_relayed_bytes, _own_taverns)

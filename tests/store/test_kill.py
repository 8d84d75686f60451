"""kill -9 during writes: everything acknowledged is there afterwards."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import tavern
from tavern.store.sqlite import open_sqlite_store

ROUNDS = 6


def acknowledged_before_kill(path: Path, lines: int) -> list[str]:
    """Run the writer until it has printed `lines` ids, kill it, return all that it printed whole."""
    source = str(Path(tavern.__file__).parents[1])
    command = [sys.executable, str(Path(__file__).with_name("writer.py")), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}) as writer:
        assert writer.stdout is not None
        try:
            printed = [writer.stdout.readline() for _ in range(lines)]
        finally:
            writer.send_signal(signal.SIGKILL)
        printed += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL, "the writer ended by itself"
    return [line.decode().strip() for line in printed if line.endswith(b"\n")]


async def test_a_killed_server_has_kept_all_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "tavern.db"
    acknowledged: list[str] = []
    for _ in range(ROUNDS):
        acknowledged += acknowledged_before_kill(path, random.randint(1, 400))  # noqa: S311  - a moment to die
        async with open_sqlite_store(path) as store:
            for name in acknowledged:
                tavern_id, _, channel = name.partition("/")
                assert store.tavern(tavern_id) is not None
                ids = [each.id for each in store.channels(tavern_id)]
                assert ids[: 2 if channel else 1] == [f"{tavern_id}/1", f"{tavern_id}/2"][: 2 if channel else 1]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()

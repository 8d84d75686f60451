"""TAVERN_MIN_FREE_MB: with little left on the disk nothing new is stored, and all else goes on."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tavern.store import sqlite
from tavern.store.base import DiskFull
from tavern.store.sqlite import free_bytes, open_sqlite_store


async def test_below_the_floor_what_takes_room_is_refused_and_nothing_else(
    tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = 100
    monkeypatch.setattr(sqlite, "free_bytes", lambda _path: left)
    async with open_sqlite_store(tmp_path / "tavern.db", min_free_bytes=100) as store:
        tavern, channels = records.tavern()
        other, _ = records.tavern()
        await store.create_tavern(tavern, channels)
        await store.create_tavern(other, ())
        left = 99
        for _ in range(3):
            with pytest.raises(DiskFull, match="nearly full"):
                await store.create_channel(records.channel(tavern.id))
            with pytest.raises(DiskFull):
                await store.create_tavern(*records.tavern())
        assert store.channels(tavern.id) == channels
        await store.update_tavern(tavern.id, locked=True)
        await store.save_relay_usage("2026-11", 5)
        await store.delete_tavern(other.id)
        left = 100
        await store.create_channel(records.channel(tavern.id))
        assert len(store.channels(tavern.id)) == 2
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1  # once an episode


async def test_without_a_floor_nobody_asks(tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "free_bytes", lambda _path: 1 / 0)
    async with open_sqlite_store(tmp_path / "tavern.db") as store:
        await store.create_tavern(*records.tavern())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a file system of its own is for root to mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    assert mounted.returncode == 0, mounted.stderr
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_on_a_real_file_system(small_disk: Path, records: Any) -> None:
    async with open_sqlite_store(small_disk / "tavern.db", min_free_bytes=2**20) as store:
        tavern, channels = records.tavern()
        await store.create_tavern(tavern, channels)
        filling = small_disk / "filling"
        filling.write_bytes(bytes(free_bytes(filling) - 2**19))
        with pytest.raises(DiskFull):
            await store.create_channel(records.channel(tavern.id))
        filling.unlink()
        await store.create_channel(attrs.evolve(records.channel(tavern.id), name="Attic"))

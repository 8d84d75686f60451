"""Records, and each kind of store as the contract's tests see it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from tavern.store.base import ChannelRecord, Store, TavernRecord
from tavern.store.index import Caps
from tavern.store.memory import MemoryStore
from tavern.store.sqlite import open_sqlite_store

Created = tuple[TavernRecord, tuple[ChannelRecord, ...]]


class Records:
    """Makes records whose ids never repeat."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def tavern(self, *channel_names: str, name: str = "The Prancing Pony", icon: str = "") -> Created:
        tavern = TavernRecord(
            id=f"tavern-{next(self._numbers)}",
            name=name,
            icon=icon,
            creator_public_key="ab" * 32,
            signaling_url="ws://localhost:3001",
            created_at="2024-05-01T10:00:00.000Z",
        )
        return tavern, tuple(self.channel(tavern.id, channel_name) for channel_name in channel_names or ("General",))

    def channel(self, tavern_id: str, name: str = "Cellar") -> ChannelRecord:
        return ChannelRecord(
            id=f"channel-{next(self._numbers)}", tavern_id=tavern_id, name=name, created_at="2024-05-01T10:00:00.001Z"
        )


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def lock_out() -> Callable[[Path], Callable[[], None]]:
    """Takes a database's write lock as another program would; returns what gives it back."""

    def locked(path: Path) -> Callable[[], None]:
        connection = sqlite3.Connection(str(path), isolation_level=None)  # not connect: tests trace the store's
        connection.execute("BEGIN IMMEDIATE")

        def let_go() -> None:
            connection.execute("COMMIT")
            connection.close()

        return let_go

    return locked


OpenStore = Callable[..., AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens a store of each kind; nothing in the contract may depend on which."""

    @asynccontextmanager
    async def opened(caps: Caps | None = None) -> AsyncIterator[Store]:
        if request.param == "memory":
            yield MemoryStore(caps)
        else:
            async with open_sqlite_store(tmp_path / "data" / "tavern.db", caps) as store:
                yield store

    return opened

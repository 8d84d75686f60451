"""A store that forgets everything when the process ends (`TAVERN_STORE=memory`, and tests)."""

from __future__ import annotations

import trio

from tavern.store.changes import Change
from tavern.store.index import Caps, Index
from tavern.store.indexed import IndexedStore


class MemoryStore(IndexedStore):
    """A `Store` without a disk: writes are committed at once and never raise WriteFailed, StoreBusy or DiskFull."""

    def __init__(self, caps: Caps | None = None) -> None:
        super().__init__(Index(caps))

    async def _write(self, change: Change) -> None:
        await trio.lowlevel.checkpoint()
        change.reserve(self._index)
        change.settle(self._index, True)

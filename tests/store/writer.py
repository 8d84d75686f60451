"""Run as a program, to be killed: creates taverns in the database given, and prints each id once it is acknowledged."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import trio

from tavern.store.base import ChannelRecord, TavernRecord
from tavern.store.sqlite import SqliteStore, open_sqlite_store

WRITERS = 16


async def write_without_end(store: SqliteStore) -> None:
    moment = "2024-05-01T10:00:00.000Z"
    while True:
        tavern_id = str(uuid.uuid4())
        tavern = TavernRecord(
            id=tavern_id, name="x" * 500, icon="", creator_public_key="k", signaling_url="", created_at=moment
        )
        general = ChannelRecord(id=f"{tavern_id}/1", tavern_id=tavern_id, name="General", created_at=moment)
        await store.create_tavern(tavern, (general,))
        os.write(1, f"{tavern_id}\n".encode())  # unbuffered: what is printed was acknowledged, even if killed now
        more = ChannelRecord(id=f"{tavern_id}/2", tavern_id=tavern_id, name="More", created_at=moment)
        await store.create_channel(more)
        os.write(1, f"{tavern_id}/2\n".encode())


async def main() -> None:
    async with open_sqlite_store(Path(sys.argv[1])) as store, trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(write_without_end, store)


if __name__ == "__main__":
    trio.run(main)

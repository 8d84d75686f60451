"""Writes: what each of them checks, what it does to the database, and what readers see afterwards.

A change is reserved first (checked and counted; from then on it must be settled once), then applied in the store's
thread, and settled: committed, which readers see, or given up, which leaves no trace.
"""

from __future__ import annotations

import sqlite3
from typing import Any, ClassVar, Protocol

import attrs

from tavern.store.base import ChannelRecord, NoSuchChannel, TavernRecord
from tavern.store.index import Index, check_texts


class Change(Protocol):
    """One write."""

    needs_room: ClassVar[bool]
    """Whether it is refused where the disk is nearly full."""

    def reserve(self, index: Index) -> None:
        """Raises what the store's method promises; then nothing is reserved."""

    def apply(self, connection: sqlite3.Connection) -> None:
        """In the store's thread, inside a transaction. Raises sqlite3.DatabaseError."""

    def settle(self, index: Index, committed: bool) -> None:
        """Ends what `reserve` began."""


@attrs.frozen
class CreateTavern:
    tavern: TavernRecord
    channels: tuple[ChannelRecord, ...]
    needs_room: ClassVar[bool] = True

    def reserve(self, index: Index) -> None:
        index.reserve_tavern(self.tavern, self.channels)

    def apply(self, connection: sqlite3.Connection) -> None:
        tavern = self.tavern
        connection.execute(
            "INSERT INTO taverns (id, name, icon, creator_public_key, signaling_url, created_at, owner_key, locked, "
            "creator_address, last_used_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(tavern.id, tavern.name, tavern.icon, tavern.creator_public_key, tavern.signaling_url),
                *(tavern.created_at, tavern.owner_key, int(tavern.locked), tavern.creator_address, tavern.last_used_at),
            ),
        )
        for channel in self.channels:
            _insert_channel(channel, connection)

    def settle(self, index: Index, committed: bool) -> None:
        index.settle_tavern(self.tavern, self.channels, committed)


@attrs.frozen
class CreateChannel:
    channel: ChannelRecord
    needs_room: ClassVar[bool] = True

    def reserve(self, index: Index) -> None:
        index.reserve_channel(self.channel)

    def apply(self, connection: sqlite3.Connection) -> None:
        _insert_channel(self.channel, connection)

    def settle(self, index: Index, committed: bool) -> None:
        index.settle_channel(self.channel, committed)


@attrs.frozen(kw_only=True)
class UpdateTavern:
    """What is None stays as it is."""

    tavern_id: str
    name: str | None = None
    icon: str | None = None
    locked: bool | None = None
    owner_key: str | None = None
    last_used_at: str | None = None
    needs_room: ClassVar[bool] = False  # a few bytes more or less in a row that exists

    def reserve(self, index: Index) -> None:
        index.existing(self.tavern_id)
        check_texts(self.name or "", self.icon or "", self.owner_key or "")

    def apply(self, connection: sqlite3.Connection) -> None:
        values = self._values()
        columns = ", ".join(f"{column} = ?" for column in values)
        connection.execute(
            f"UPDATE taverns SET {columns} WHERE id = ?",  # noqa: S608  - the columns are ours
            (*values.values(), self.tavern_id),
        )

    def settle(self, index: Index, committed: bool) -> None:
        tavern = index.tavern(self.tavern_id)
        if committed and tavern is not None:
            index.change(attrs.evolve(tavern, **self._values()))

    def _values(self) -> dict[str, Any]:
        values = attrs.asdict(self)
        del values["tavern_id"]
        return {column: value for column, value in values.items() if value is not None}


@attrs.frozen
class DeleteTavern:
    tavern_id: str
    needs_room: ClassVar[bool] = False

    def reserve(self, index: Index) -> None:
        index.reserve_deletion(self.tavern_id)

    def apply(self, connection: sqlite3.Connection) -> None:
        # By hand, since tables of existing servers may cascade nothing.
        for table in ("tavern_members", "tavern_bans", "tavern_invites", "channels"):
            connection.execute(f"DELETE FROM {table} WHERE tavern_id = ?", (self.tavern_id,))  # noqa: S608
        connection.execute("DELETE FROM taverns WHERE id = ?", (self.tavern_id,))

    def settle(self, index: Index, committed: bool) -> None:
        index.settle_deletion(self.tavern_id, committed)


@attrs.frozen
class RenameChannel:
    tavern_id: str
    channel_id: str
    name: str
    needs_room: ClassVar[bool] = False

    def reserve(self, index: Index) -> None:
        _require_channel(index, self.tavern_id, self.channel_id)
        check_texts(self.name)

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE channels SET name = ? WHERE id = ? AND tavern_id = ?", (self.name, self.channel_id, self.tavern_id)
        )

    def settle(self, index: Index, committed: bool) -> None:
        if committed:
            index.change_channels(
                self.tavern_id,
                (
                    attrs.evolve(channel, name=self.name) if channel.id == self.channel_id else channel
                    for channel in index.channels(self.tavern_id)
                ),
            )


@attrs.frozen
class DeleteChannel:
    tavern_id: str
    channel_id: str
    needs_room: ClassVar[bool] = False

    def reserve(self, index: Index) -> None:
        _require_channel(index, self.tavern_id, self.channel_id)

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM channels WHERE id = ? AND tavern_id = ?", (self.channel_id, self.tavern_id))

    def settle(self, index: Index, committed: bool) -> None:
        if committed:
            left = [channel for channel in index.channels(self.tavern_id) if channel.id != self.channel_id]
            index.change_channels(self.tavern_id, left)


@attrs.frozen
class SaveRelayUsage:
    month: str
    size_bytes: int
    needs_room: ClassVar[bool] = False

    def reserve(self, index: Index) -> None:
        """Nothing can be wrong with it."""

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO relay_usage (month, bytes) VALUES (?, ?) "
            "ON CONFLICT (month) DO UPDATE SET bytes = excluded.bytes",
            (self.month, self.size_bytes),
        )

    def settle(self, index: Index, committed: bool) -> None:
        index.settle_relay_usage(self.month, self.size_bytes, committed)


def _require_channel(index: Index, tavern_id: str, channel_id: str) -> None:
    index.existing(tavern_id)
    if all(channel.id != channel_id for channel in index.channels(tavern_id)):
        raise NoSuchChannel("Channel not found")


def _insert_channel(channel: ChannelRecord, connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO channels (id, tavern_id, name, created_at) VALUES (?, ?, ?, ?)",
        (channel.id, channel.tavern_id, channel.name, channel.created_at),
    )

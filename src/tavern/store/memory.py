"""A store that forgets everything when the process ends (`TAVERN_STORE=memory`, and tests)."""

from __future__ import annotations

import trio

from tavern.store.base import MAX_CHANNELS_PER_TAVERN, MAX_TAVERNS, ChannelRecord, TavernRecord
from tavern.store.index import Index


class MemoryStore:
    """A `Store` without a disk: writes are committed at once and never raise `WriteFailed` or `StoreBusy`."""

    def __init__(
        self, *, max_taverns: int = MAX_TAVERNS, max_channels_per_tavern: int = MAX_CHANNELS_PER_TAVERN
    ) -> None:
        self._index = Index(max_taverns=max_taverns, max_channels_per_tavern=max_channels_per_tavern)

    def tavern_count(self) -> int:
        return self._index.tavern_count()

    def tavern(self, tavern_id: str) -> TavernRecord | None:
        return self._index.tavern(tavern_id)

    def channels(self, tavern_id: str) -> tuple[ChannelRecord, ...]:
        return self._index.channels(tavern_id)

    async def create_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        await trio.lowlevel.checkpoint()
        self._index.reserve_tavern(tavern, channels)
        self._index.settle_tavern(tavern, channels, True)

    async def create_channel(self, channel: ChannelRecord) -> None:
        await trio.lowlevel.checkpoint()
        self._index.reserve_channel(channel)
        self._index.settle_channel(channel, True)

    def relay_usage(self, month: str) -> int:
        return self._index.relay_usage(month)

    async def save_relay_usage(self, month: str, size_bytes: int) -> None:
        await trio.lowlevel.checkpoint()
        self._index.settle_relay_usage(month, size_bytes, True)

"""The records in memory: what reads are answered from, and where every write is checked first."""

from __future__ import annotations

from collections import Counter

from tavern.store.base import (
    MAX_CHANNELS_PER_TAVERN,
    MAX_TAVERNS,
    MAX_TEXT_CHARACTERS,
    ChannelRecord,
    DuplicateId,
    NoSuchTavern,
    StoreFull,
    TavernRecord,
    UnstorableText,
)


class Index:
    """Taverns and channels by id, and the reservations of writes that are under way.

    A write is reserved (checked, counted, its ids taken, not readable), and later settled: committed, which makes it
    readable, or given up, which leaves no trace. Every reservation must be settled exactly once.
    """

    def __init__(
        self, *, max_taverns: int = MAX_TAVERNS, max_channels_per_tavern: int = MAX_CHANNELS_PER_TAVERN
    ) -> None:
        self._max_taverns = max_taverns
        self._max_channels_per_tavern = max_channels_per_tavern
        self._taverns: dict[str, TavernRecord] = {}
        self._channels: dict[str, tuple[ChannelRecord, ...]] = {}
        self._channel_ids: set[str] = set()
        self._reserved_taverns: set[str] = set()
        self._reserved_channel_ids: set[str] = set()
        self._reserved_channels: Counter[str] = Counter()  # by tavern; an entry lives while writes of it are under way
        self._relay_usage: dict[str, int] = {}  # by month: twelve a year

    def relay_usage(self, month: str) -> int:
        return self._relay_usage.get(month, 0)

    def settle_relay_usage(self, month: str, size_bytes: int, committed: bool) -> None:
        if committed:
            self._relay_usage[month] = size_bytes

    def tavern_count(self) -> int:
        return len(self._taverns)

    def tavern(self, tavern_id: str) -> TavernRecord | None:
        return self._taverns.get(tavern_id)

    def channels(self, tavern_id: str) -> tuple[ChannelRecord, ...]:
        return self._channels.get(tavern_id, ())

    def add(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        """Make a stored tavern readable. No caps: what an existing database holds is served."""
        self._taverns[tavern.id] = tavern
        self._channels[tavern.id] = channels
        self._channel_ids.update(channel.id for channel in channels)

    def reserve_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        """Raises as `Store.create_tavern` does; then nothing is reserved."""
        if any(channel.tavern_id != tavern.id for channel in channels):
            raise ValueError(f"a channel of another tavern than {tavern.id}")
        _check_texts(tavern.name, tavern.icon, tavern.creator_public_key, tavern.signaling_url)
        for channel in channels:
            _check_texts(channel.name)
        if tavern.id in self._taverns or tavern.id in self._reserved_taverns:
            raise DuplicateId(f"tavern {tavern.id}")
        if len(self._taverns) + len(self._reserved_taverns) >= self._max_taverns:
            raise StoreFull(f"this server holds {self._max_taverns} taverns, which is its limit")
        self._reserve_channels(tavern.id, channels)
        self._reserved_taverns.add(tavern.id)

    def settle_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...], committed: bool) -> None:
        self._reserved_taverns.remove(tavern.id)
        self._release_channels(tavern.id, channels)
        if committed:
            self.add(tavern, channels)

    def reserve_channel(self, channel: ChannelRecord) -> None:
        """Raises as `Store.create_channel` does; then nothing is reserved."""
        _check_texts(channel.name)
        if channel.tavern_id not in self._taverns:
            raise NoSuchTavern("Tavern not found")
        self._reserve_channels(channel.tavern_id, (channel,))

    def settle_channel(self, channel: ChannelRecord, committed: bool) -> None:
        self._release_channels(channel.tavern_id, (channel,))
        if committed:
            self._channels[channel.tavern_id] += (channel,)
            self._channel_ids.add(channel.id)

    def _reserve_channels(self, tavern_id: str, channels: tuple[ChannelRecord, ...]) -> None:
        ids = {channel.id for channel in channels}
        if len(ids) < len(channels) or ids & self._channel_ids or ids & self._reserved_channel_ids:
            raise DuplicateId(f"a channel of tavern {tavern_id}")
        count = len(self.channels(tavern_id)) + self._reserved_channels[tavern_id] + len(channels)
        if count > self._max_channels_per_tavern:
            raise StoreFull(f"a tavern holds {self._max_channels_per_tavern} channels at most")
        self._reserved_channel_ids |= ids
        self._reserved_channels[tavern_id] += len(channels)

    def _release_channels(self, tavern_id: str, channels: tuple[ChannelRecord, ...]) -> None:
        self._reserved_channel_ids.difference_update(channel.id for channel in channels)
        self._reserved_channels[tavern_id] -= len(channels)
        if not self._reserved_channels[tavern_id]:
            del self._reserved_channels[tavern_id]


def _check_texts(*texts: str) -> None:
    for text in texts:
        if len(text) > MAX_TEXT_CHARACTERS:
            raise UnstorableText(f"a text of {len(text)} characters is over the limit of {MAX_TEXT_CHARACTERS}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UnstorableText("a text holds half a surrogate pair, which is no character") from None

"""What every store promises, and what it may refuse. Pure."""

from __future__ import annotations

from typing import Protocol

import attrs

from tavern.errors import RemoteError, TavernError

MAX_TAVERNS = 20_000
"""Caps what strangers can make the server keep: about 1 KiB of memory and disk each, so 20 MiB in all."""

MAX_CHANNELS_PER_TAVERN = 50
"""One `tavern-info` answer lists them all, each with its peers: 50 keep it to a few kilobytes when nobody is there."""

MAX_TEXT_CHARACTERS = 16_384
"""For one field of a record. Callers have tighter limits; this one holds whatever they forget."""


class StoreFull(RemoteError):
    """A cap on taverns or channels is reached; nothing was written."""


class StoreBusy(RemoteError):
    """Too many writes are waiting; nothing was written, trying again later may succeed."""


class WriteFailed(RemoteError):
    """The disk refused, or the file did; the record does not exist for readers. Reads, and later writes, go on."""


class NoSuchTavern(RemoteError):
    """The tavern that a channel should belong to does not exist (or is not committed yet)."""


class UnstorableText(RemoteError):
    """A text is too long or is not Unicode (JSON can carry half a surrogate pair, which UTF-8 cannot)."""


class DuplicateId(TavernError):
    """A record with this id exists or is being written. Ids are made by the server: a bug, so no `RemoteError`."""


@attrs.frozen(kw_only=True)
class ChannelRecord:
    """A channel as it is stored."""

    id: str
    tavern_id: str
    name: str
    created_at: str
    """ISO 8601 UTC with milliseconds and `Z`."""


@attrs.frozen(kw_only=True)
class TavernRecord:
    """A tavern as it is stored, without its channels."""

    id: str
    name: str
    icon: str
    """Empty where it has none."""
    creator_public_key: str
    signaling_url: str
    created_at: str
    """ISO 8601 UTC with milliseconds and `Z`."""


class Store(Protocol):
    """All durable state. Used from the trio thread only.

    Reads are synchronous and answered from memory. They see a write from the moment when it is committed: before the
    writer returns, and also when the writer was cancelled meanwhile.
    """

    def tavern_count(self) -> int:
        """How many taverns exist."""

    def tavern(self, tavern_id: str) -> TavernRecord | None:
        """The tavern, or None where there is none."""

    def channels(self, tavern_id: str) -> tuple[ChannelRecord, ...]:
        """The tavern's channels in the order of their creation; empty where there is no such tavern."""

    async def create_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        """Store the tavern with its first channels, all or nothing. On return it is committed and readable.

        Raises `StoreFull`, `StoreBusy`, `WriteFailed`, `UnstorableText`; `DuplicateId` and (for a channel of another
        tavern) `ValueError` are the caller's bugs. A checkpoint. Cancelled while it waits, the write may still happen.
        """

    async def create_channel(self, channel: ChannelRecord) -> None:
        """Store one more channel, the last of its tavern. On return it is committed and readable.

        Raises `NoSuchTavern` and all that `create_tavern` raises; is cancelled in the same way.
        """

    def relay_usage(self, month: str) -> int:
        """Bytes that the relay sent in this month (`YYYY-MM`, UTC), as saved last; 0 where nothing was."""

    async def save_relay_usage(self, month: str, size_bytes: int) -> None:
        """Store that the relay sent so many bytes in this month, in place of what was saved for it before.

        Raises `StoreBusy`, `WriteFailed`. A checkpoint. Cancelled while it waits, the write may still happen.
        """

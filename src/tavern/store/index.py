"""The records in memory: what reads are answered from, and where every write is checked first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from tavern.store.base import (
    MAX_CHANNELS_PER_TAVERN,
    MAX_TAVERNS,
    MAX_TAVERNS_PER_ADDRESS,
    MAX_TEXT_CHARACTERS,
    BanRecord,
    ChannelRecord,
    DuplicateId,
    InviteRecord,
    MemberRecord,
    NoSuchTavern,
    StoreFull,
    TavernAccess,
    TavernRecord,
    UnstorableText,
)


@attrs.frozen(kw_only=True)
class Caps:
    """What strangers can have stored; what an existing database holds is served whatever it is."""

    taverns: int = MAX_TAVERNS
    taverns_per_address: int = MAX_TAVERNS_PER_ADDRESS
    channels_per_tavern: int = MAX_CHANNELS_PER_TAVERN


@attrs.define(eq=False)
class People:
    """Who is named in a tavern. Most taverns have no such lists."""

    members: dict[str, MemberRecord] = attrs.field(factory=dict)
    bans: dict[str, BanRecord] = attrs.field(factory=dict)
    invites: dict[str, InviteRecord] = attrs.field(factory=dict)


class Index:
    """Taverns and channels by id, and the reservations of writes that are under way.

    A write is reserved (checked, counted, its ids taken, not readable), and later settled: committed, which makes it
    readable, or given up, which leaves no trace. Every reservation must be settled exactly once.
    """

    def __init__(self, caps: Caps | None = None) -> None:
        self._caps = caps or Caps()
        self._people: dict[str, People] = {}
        self._by_address: Counter[str] = Counter()
        """Taverns by their creators' addresses, those under way too; the empty address is not counted."""
        self._doomed: set[str] = set()
        """Taverns that are being deleted."""
        self._held: Counter[tuple[str, str]] = Counter()
        """Writes that may yet count against a cap, by what they add to and its id."""
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

    def taverns(self) -> tuple[TavernRecord, ...]:
        return tuple(self._taverns.values())

    def access(self, tavern_id: str) -> TavernAccess | None:
        tavern = self._taverns.get(tavern_id)
        if tavern is None:
            return None
        people = self._people.get(tavern_id) or People()
        return TavernAccess(
            owner_key=tavern.owner_key,
            locked=tavern.locked,
            members=people.members,
            bans=people.bans,
            invites=people.invites,
        )

    def existing(self, tavern_id: str) -> TavernRecord:
        """The tavern. Raises NoSuchTavern where there is none, or it is being deleted."""
        tavern = self._taverns.get(tavern_id)
        if tavern is None or tavern_id in self._doomed:
            raise NoSuchTavern("Tavern not found")
        return tavern

    def people(self, tavern_id: str) -> People:
        """The lists of this tavern, to be read."""
        return self._people.get(tavern_id) or People()

    def people_to_change(self, tavern_id: str) -> People:
        """The lists of this tavern, which exists."""
        return self._people.setdefault(tavern_id, People())

    def held(self, kind: str, of: str) -> int:
        """How many writes under way count against this cap."""
        return self._held.get((kind, of), 0)

    def hold(self, kind: str, of: str) -> None:
        """One more of them."""
        self._held[kind, of] += 1

    def release(self, kind: str, of: str) -> None:
        """One of them is settled."""
        self._held[kind, of] -= 1
        if not self._held[kind, of]:
            del self._held[kind, of]

    def change(self, tavern: TavernRecord) -> None:
        """Other values for a tavern; without effect where it is gone."""
        if tavern.id in self._taverns:
            self._taverns[tavern.id] = tavern

    def change_channels(self, tavern_id: str, channels: Iterable[ChannelRecord]) -> None:
        """Other names, or fewer channels; without effect where the tavern is gone."""
        if tavern_id in self._taverns:
            self._channel_ids.difference_update(channel.id for channel in self._channels[tavern_id])
            self._channels[tavern_id] = tuple(channels)
            self._channel_ids.update(channel.id for channel in self._channels[tavern_id])

    def reserve_deletion(self, tavern_id: str) -> None:
        """Raises NoSuchTavern. Nothing more is reserved for the tavern until this is settled."""
        self.existing(tavern_id)
        self._doomed.add(tavern_id)

    def settle_deletion(self, tavern_id: str, committed: bool) -> None:
        self._doomed.remove(tavern_id)
        if committed:
            self._count_address(self._taverns.pop(tavern_id), -1)
            self._channel_ids.difference_update(channel.id for channel in self._channels.pop(tavern_id))
            self._people.pop(tavern_id, None)

    def add(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        """Make a stored tavern readable. No caps: what an existing database holds is served."""
        self._taverns[tavern.id] = tavern
        self._channels[tavern.id] = channels
        self._channel_ids.update(channel.id for channel in channels)
        self._count_address(tavern, 1)

    def reserve_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        """Raises as `Store.create_tavern` does; then nothing is reserved."""
        if any(channel.tavern_id != tavern.id for channel in channels):
            raise ValueError(f"a channel of another tavern than {tavern.id}")
        check_texts(tavern.name, tavern.icon, tavern.creator_public_key, tavern.signaling_url)
        for channel in channels:
            check_texts(channel.name)
        if tavern.id in self._taverns or tavern.id in self._reserved_taverns:
            raise DuplicateId(f"tavern {tavern.id}")
        if len(self._taverns) + len(self._reserved_taverns) >= self._caps.taverns:
            raise StoreFull(f"this server holds {self._caps.taverns} taverns, which is its limit")
        if self._by_address[tavern.creator_address] >= self._caps.taverns_per_address:
            raise StoreFull(f"your address has made {self._caps.taverns_per_address} taverns here, which is its limit")
        self._reserve_channels(tavern.id, channels)
        self._reserved_taverns.add(tavern.id)
        self._count_address(tavern, 1)

    def settle_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...], committed: bool) -> None:
        self._reserved_taverns.remove(tavern.id)
        self._release_channels(tavern.id, channels)
        self._count_address(tavern, -1)
        if committed:
            self.add(tavern, channels)

    def reserve_channel(self, channel: ChannelRecord) -> None:
        """Raises as `Store.create_channel` does; then nothing is reserved."""
        check_texts(channel.name)
        self.existing(channel.tavern_id)
        self._reserve_channels(channel.tavern_id, (channel,))

    def settle_channel(self, channel: ChannelRecord, committed: bool) -> None:
        self._release_channels(channel.tavern_id, (channel,))
        if committed and channel.tavern_id in self._taverns:
            self._channels[channel.tavern_id] += (channel,)
            self._channel_ids.add(channel.id)

    def _reserve_channels(self, tavern_id: str, channels: tuple[ChannelRecord, ...]) -> None:
        ids = {channel.id for channel in channels}
        if len(ids) < len(channels) or ids & self._channel_ids or ids & self._reserved_channel_ids:
            raise DuplicateId(f"a channel of tavern {tavern_id}")
        count = len(self.channels(tavern_id)) + self._reserved_channels[tavern_id] + len(channels)
        if count > self._caps.channels_per_tavern:
            raise StoreFull(f"a tavern holds {self._caps.channels_per_tavern} channels at most")
        self._reserved_channel_ids |= ids
        self._reserved_channels[tavern_id] += len(channels)

    def _release_channels(self, tavern_id: str, channels: tuple[ChannelRecord, ...]) -> None:
        self._reserved_channel_ids.difference_update(channel.id for channel in channels)
        self._reserved_channels[tavern_id] -= len(channels)
        if not self._reserved_channels[tavern_id]:
            del self._reserved_channels[tavern_id]

    def _count_address(self, tavern: TavernRecord, change: int) -> None:
        address = tavern.creator_address
        if address:
            self._by_address[address] += change
            if not self._by_address[address]:
                del self._by_address[address]


def check_texts(*texts: str) -> None:
    """Raises UnstorableText."""
    for text in texts:
        if len(text) > MAX_TEXT_CHARACTERS:
            raise UnstorableText(f"a text of {len(text)} characters is over the limit of {MAX_TEXT_CHARACTERS}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UnstorableText("a text holds half a surrogate pair, which is no character") from None

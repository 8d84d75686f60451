"""What every store promises, and what it may refuse. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

import attrs

from tavern.errors import RemoteError, TavernError

MAX_TAVERNS = 20_000
"""Caps what strangers can make the server keep: about 1 KiB of memory and disk each, so 20 MiB in all."""

MAX_TAVERNS_PER_ADDRESS = 100
"""So that one stranger cannot make them all."""

MAX_CHANNELS_PER_TAVERN = 50
"""One `tavern-info` answer lists them all, each with its peers: 50 keep it to a few kilobytes when nobody is there."""

# Of one tavern, whose owner is the only one to use them up. `members` and `bans` are sent in one message each.
MAX_MEMBERS = 1_000
MAX_MODERATORS = 32
MAX_BANS = 500
MAX_INVITES = 100

MAX_TEXT_CHARACTERS = 16_384
"""For one field of a record. Callers have tighter limits; this one holds whatever they forget."""


class StoreFull(RemoteError):
    """A cap on taverns or channels is reached; nothing was written."""


class StoreBusy(RemoteError):
    """Too many writes are waiting; nothing was written, trying again later may succeed."""


class WriteFailed(RemoteError):
    """The disk refused, or the file did; the record does not exist for readers. Reads, and later writes, go on."""


class DiskFull(RemoteError):
    """Little is left of the disk: nothing that needs room is stored. Reads, removals and small changes go on."""


class NoSuchTavern(RemoteError):
    """The tavern does not exist (or is not committed yet, or is being deleted)."""


class NoSuchChannel(RemoteError):
    """The tavern has no such channel."""


class NoSuchMember(RemoteError):
    """Nobody with this key is a member of the tavern."""


class NoSuchBan(RemoteError):
    """The tavern has no such ban."""


class NoSuchInvite(RemoteError):
    """The tavern has no such invite."""


class InviteSpent(RemoteError):
    """The invite is over: its time has come, or it was used as often as it may be."""


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
    """ISO 8601 UTC with milliseconds and `Z`, as all moments here."""
    owner_key: str = ""
    """The proven key that it belongs to; empty where it belongs to nobody."""
    locked: bool = False
    """Whether only members enter."""
    creator_address: str = ""
    """A keyed hash of the address that it was made from; empty where that is not known."""
    last_used_at: str = ""
    """When somebody came in last, to the day."""


MemberRole = Literal["member", "moderator"]


@attrs.frozen(kw_only=True)
class MemberRecord:
    """Somebody who enters a tavern though it is locked."""

    tavern_id: str
    public_key: str
    display_name: str
    added_at: str
    role: MemberRole


@attrs.frozen(kw_only=True)
class BanRecord:
    """Somebody who does not enter a tavern."""

    id: str
    tavern_id: str
    public_key: str
    address_hash: str
    """A keyed hash of an address that nobody enters from; empty where only the key is banned."""
    display_name: str
    banned_by: str
    created_at: str


@attrs.frozen(kw_only=True)
class InviteRecord:
    """A token that makes its bearers members."""

    id: str
    tavern_id: str
    token_hash: str
    created_by: str
    created_at: str
    expires_at: str
    """Empty: never."""
    max_uses: int
    """0: any number."""
    uses: int

    def is_open(self, now: str) -> bool:
        """Whether it can be used at this moment (ISO 8601)."""
        return (not self.expires_at or now < self.expires_at) and (not self.max_uses or self.uses < self.max_uses)


@attrs.frozen(kw_only=True)
class TavernAccess:
    """Who may do what in one tavern, as it is at this moment."""

    owner_key: str
    locked: bool
    members: Mapping[str, MemberRecord]
    """By their keys; the owner need not be one."""
    bans: Mapping[str, BanRecord]
    """By their ids."""
    invites: Mapping[str, InviteRecord]
    """By their ids."""

    def is_key_banned(self, key: str) -> bool:
        return any(ban.public_key == key for ban in self.bans.values())

    def is_address_banned(self, address_hash: str) -> bool:
        return bool(address_hash) and any(ban.address_hash == address_hash for ban in self.bans.values())

    def invite_by_token_hash(self, token_hash: str) -> InviteRecord | None:
        return next((invite for invite in self.invites.values() if invite.token_hash == token_hash), None)


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

    def taverns(self) -> Iterable[TavernRecord]:
        """All of them, in the order of their creation."""

    def access(self, tavern_id: str) -> TavernAccess | None:
        """Who may do what in the tavern, or None where there is none."""

    # Writes to what exists. On return they are committed and readable. They raise NoSuchTavern, StoreBusy and
    # WriteFailed, those that take room also DiskFull, StoreFull and UnstorableText; they are cancelled like
    # `create_tavern`.

    async def update_tavern(
        self,
        tavern_id: str,
        *,
        name: str | None = None,
        icon: str | None = None,
        locked: bool | None = None,
        owner_key: str | None = None,
    ) -> None:
        """Store what is not None."""

    async def delete_tavern(self, tavern_id: str) -> None:
        """The tavern is gone, with all that belongs to it. From the call on nothing more can be stored for it."""

    async def rename_channel(self, tavern_id: str, channel_id: str, name: str) -> None:
        """Raises NoSuchChannel as well."""

    async def delete_channel(self, tavern_id: str, channel_id: str) -> None:
        """Raises NoSuchChannel as well."""

    async def put_member(self, member: MemberRecord) -> None:
        """Store a member, in place of what was stored under this key."""

    async def remove_member(self, tavern_id: str, public_key: str) -> None:
        """Raises NoSuchMember as well."""

    async def add_ban(self, ban: BanRecord) -> None:
        """Store a ban; who has the key is no member from then on. A known id raises `DuplicateId`."""

    async def remove_ban(self, tavern_id: str, ban_id: str) -> None:
        """Raises NoSuchBan as well."""

    async def put_invite(self, invite: InviteRecord) -> None:
        """Store an invite, in place of what was stored under its id."""

    async def remove_invite(self, tavern_id: str, invite_id: str) -> None:
        """Raises NoSuchInvite as well."""

    async def redeem_invite(self, invite_id: str, member: MemberRecord, now: str) -> None:
        """Count one use of the invite and store the member, both or neither; nothing for who is a member already.

        Raises NoSuchInvite, and InviteSpent: uses that are under way count.
        """

    async def mark_used(self, tavern_id: str, now: str) -> None:
        """Somebody came in at this moment."""

    def relay_usage(self, month: str) -> int:
        """Bytes that the relay sent in this month (`YYYY-MM`, UTC), as saved last; 0 where nothing was."""

    async def save_relay_usage(self, month: str, size_bytes: int) -> None:
        """Store that the relay sent so many bytes in this month, in place of what was saved for it before.

        Raises `StoreBusy`, `WriteFailed`. A checkpoint. Cancelled while it waits, the write may still happen.
        """

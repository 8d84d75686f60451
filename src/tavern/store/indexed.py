"""What all stores have in common: reads from memory, and writes as changes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tavern.store import changes, people_changes
from tavern.store.base import (
    BanRecord,
    ChannelRecord,
    InviteRecord,
    MemberRecord,
    TavernAccess,
    TavernRecord,
)
from tavern.store.changes import Change
from tavern.store.index import Index


class IndexedStore(ABC):
    """A `Store`; subclasses say how a change is made durable."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @abstractmethod
    async def _write(self, change: Change) -> None:
        """Reserve, apply and settle the change, as `Store` promises for its writes."""

    def tavern_count(self) -> int:
        return self._index.tavern_count()

    def taverns(self) -> tuple[TavernRecord, ...]:
        return self._index.taverns()

    def tavern(self, tavern_id: str) -> TavernRecord | None:
        return self._index.tavern(tavern_id)

    def channels(self, tavern_id: str) -> tuple[ChannelRecord, ...]:
        return self._index.channels(tavern_id)

    def access(self, tavern_id: str) -> TavernAccess | None:
        return self._index.access(tavern_id)

    def relay_usage(self, month: str) -> int:
        return self._index.relay_usage(month)

    async def create_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        await self._write(changes.CreateTavern(tavern, channels))

    async def create_channel(self, channel: ChannelRecord) -> None:
        await self._write(changes.CreateChannel(channel))

    async def update_tavern(
        self,
        tavern_id: str,
        *,
        name: str | None = None,
        icon: str | None = None,
        locked: bool | None = None,
        owner_key: str | None = None,
    ) -> None:
        await self._write(
            changes.UpdateTavern(tavern_id=tavern_id, name=name, icon=icon, locked=locked, owner_key=owner_key)
        )

    async def delete_tavern(self, tavern_id: str) -> None:
        await self._write(changes.DeleteTavern(tavern_id))

    async def rename_channel(self, tavern_id: str, channel_id: str, name: str) -> None:
        await self._write(changes.RenameChannel(tavern_id, channel_id, name))

    async def delete_channel(self, tavern_id: str, channel_id: str) -> None:
        await self._write(changes.DeleteChannel(tavern_id, channel_id))

    async def put_member(self, member: MemberRecord) -> None:
        await self._write(people_changes.PutMember(member))

    async def remove_member(self, tavern_id: str, public_key: str) -> None:
        await self._write(people_changes.RemoveMember(tavern_id, public_key))

    async def add_ban(self, ban: BanRecord) -> None:
        await self._write(people_changes.AddBan(ban))

    async def remove_ban(self, tavern_id: str, ban_id: str) -> None:
        await self._write(people_changes.RemoveBan(tavern_id, ban_id))

    async def put_invite(self, invite: InviteRecord) -> None:
        await self._write(people_changes.PutInvite(invite))

    async def remove_invite(self, tavern_id: str, invite_id: str) -> None:
        await self._write(people_changes.RemoveInvite(tavern_id, invite_id))

    async def redeem_invite(self, invite_id: str, member: MemberRecord, now: str) -> None:
        if member.public_key in self._index.people(member.tavern_id).members:
            return
        await self._write(people_changes.RedeemInvite(invite_id, member, now))

    async def mark_used(self, tavern_id: str, now: str) -> None:
        await self._write(changes.UpdateTavern(tavern_id=tavern_id, last_used_at=now))

    async def save_relay_usage(self, month: str, size_bytes: int) -> None:
        await self._write(changes.SaveRelayUsage(month, size_bytes))

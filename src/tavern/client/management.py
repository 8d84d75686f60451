"""What owners and moderators of a tavern may ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import attrs

from tavern.client.events import (
    Bans,
    ChannelDeleted,
    ChannelUpdated,
    Done,
    Event,
    InviteCreated,
    Invites,
    Members,
    TavernDeleted,
    TavernUpdated,
)
from tavern.client.objects import (
    Ban,
    Invite,
    Member,
    NamedChannel,
    TavernSummary,
)

_T = TypeVar("_T", bound=Event)


class Asks(Protocol):
    """As much of a client as this needs."""

    async def ask(self, message: dict[str, Any], kind: type[_T], matches: Callable[[_T], bool] = ...) -> _T: ...


@attrs.frozen
class Management:
    """One tavern. Methods raise as all of a client's that ask: ServerError (`not-permitted`) for who may not."""

    _client: Asks
    tavern_id: str

    async def update(
        self, *, name: str | None = None, icon: str | None = None, locked: bool | None = None
    ) -> TavernSummary:
        """What is not None is changed. Only members enter a locked tavern, and who has an invite."""
        return await self._updated("update-tavern", name=name, icon=icon, locked=locked)

    async def delete(self) -> None:
        await self._ask("delete-tavern", TavernDeleted, lambda event: event.tavernId == self.tavern_id)

    async def rename_channel(self, channel_id: str, name: str) -> NamedChannel:
        updated = await self._ask(
            "update-channel",
            ChannelUpdated,
            lambda event: event.channel.id == channel_id,
            channelId=channel_id,
            name=name,
        )
        return updated.channel

    async def delete_channel(self, channel_id: str) -> None:
        await self._ask(
            "delete-channel", ChannelDeleted, lambda event: event.channelId == channel_id, channelId=channel_id
        )

    async def kick(self, public_key_hex: str, reason: str | None = None) -> None:
        """Out of its channel; it may come back."""
        await self._done("kick", publicKeyHex=public_key_hex, reason=reason)

    async def ban(self, public_key_hex: str, *, address: bool = False, reason: str | None = None) -> None:
        """`address`: everybody who comes from where that peer does, too."""
        await self._done("ban", publicKeyHex=public_key_hex, address=address, reason=reason)

    async def unban(self, ban_id: str) -> None:
        await self._done("unban", banId=ban_id)

    async def bans(self) -> list[Ban]:
        return (await self._ask("get-bans", Bans)).bans

    async def set_moderator(self, public_key_hex: str, moderator: bool) -> TavernSummary:
        return await self._updated("set-moderator", publicKeyHex=public_key_hex, moderator=moderator)

    async def transfer(self, public_key_hex: str) -> TavernSummary:
        """To a moderator, or to somebody who is here and has proven his key."""
        return await self._updated("transfer-tavern", publicKeyHex=public_key_hex)

    async def create_invite(self, *, expires_in_s: int | None = None, max_uses: int | None = None) -> Invite:
        """With its token, which is not told again. The link is `<origin>/join/<tavernId>#invite=<token>`."""
        created = await self._ask("create-invite", InviteCreated, expiresInS=expires_in_s, maxUses=max_uses)
        return created.invite

    async def rotate_invite(self, invite_id: str) -> Invite:
        """With a new token in place of the former, for as long and as many uses."""
        return (await self._ask("rotate-invite", InviteCreated, inviteId=invite_id)).invite

    async def revoke_invite(self, invite_id: str) -> None:
        await self._done("revoke-invite", inviteId=invite_id)

    async def invites(self) -> list[Invite]:
        return (await self._ask("get-invites", Invites)).invites

    async def members(self) -> list[Member]:
        return (await self._ask("get-members", Members)).members

    async def remove_member(self, public_key_hex: str) -> None:
        await self._done("remove-member", publicKeyHex=public_key_hex)

    async def _updated(self, request: str, **fields: Any) -> TavernSummary:
        updated = await self._ask(request, TavernUpdated, lambda event: event.tavern.id == self.tavern_id, **fields)
        return updated.tavern

    async def _done(self, request: str, **fields: Any) -> None:
        await self._ask(request, Done, lambda event: event.request == request, **fields)

    async def _ask(
        self, request: str, kind: type[_T], matches: Callable[[_T], bool] = lambda _event: True, **fields: Any
    ) -> _T:
        given = {name: value for name, value in fields.items() if value is not None}
        return await self._client.ask({"type": request, "tavernId": self.tavern_id, **given}, kind, matches)

"""What owners and moderators of a tavern ask for: done, stored, and told to all whom it concerns."""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any
from uuid import uuid4

import attrs

from tavern.logs import log_event
from tavern.signaling import access, messages
from tavern.signaling.ice import iso_utc, unix_s
from tavern.signaling.messages import SignalingError
from tavern.signaling.proofs import is_verifiable_key
from tavern.signaling.registry import Registry
from tavern.signaling.requests import (
    REQUEST_NAMES,
    Ban,
    CreateInvite,
    DeleteChannel,
    DeleteTavern,
    GetBans,
    GetInvites,
    GetMembers,
    Kick,
    ManagementRequest,
    RemoveMember,
    RevokeInvite,
    RotateInvite,
    SetModerator,
    TransferTavern,
    Unban,
    UpdateChannel,
    UpdateTavern,
)
from tavern.signaling.rooms import Channel, Peer
from tavern.signaling.taverns import Taverns, store_errors, token_hash
from tavern.store.base import BanRecord, InviteRecord, MemberRecord, MemberRole, Store, TavernAccess

_log = logging.getLogger("tavern.signaling")

TOKEN_BYTES = 16  # nobody guesses 128 bits; a link with 22 characters can still be read out

Answer = dict[str, Any] | None


@attrs.define(eq=False)
class Management:
    """Carries out requests of taverns' owners and moderators, one at a time for each of them."""

    taverns: Taverns

    @property
    def registry(self) -> Registry:
        return self.taverns.registry

    @property
    def _store(self) -> Store:
        return self.taverns.store

    async def perform(self, peer: Peer, message: ManagementRequest) -> Answer:
        """The answer to the peer; None where it is told among all others. Raises SignalingError."""
        found = self.taverns.access_of(message.tavernId)
        request = REQUEST_NAMES[type(message)]
        access.check_command(request, found, peer.proven_key, self._target_key(message))
        answer = await self._perform(peer, message, found)
        log_event(_log, logging.INFO, request, peer=peer.peer_id, key=peer.proven_key, tavern=message.tavernId)
        return answer

    def _target_key(self, message: ManagementRequest) -> str | None:
        """Whose role protects him: of who is here the key that he has proven, not the one that he names."""
        if not isinstance(message, Kick | Ban | RemoveMember):
            return None
        present = self.registry.presence.peer_in_tavern(message.tavernId, message.publicKeyHex)
        return present.proven_key if present and not isinstance(message, RemoveMember) else message.publicKeyHex

    async def _perform(self, peer: Peer, message: ManagementRequest, found: TavernAccess) -> Answer:
        match message:
            case UpdateTavern():
                return await self._update_tavern(peer, message)
            case DeleteTavern():
                return await self._delete_tavern(peer, message)
            case UpdateChannel():
                return await self._update_channel(peer, message)
            case DeleteChannel():
                return await self._delete_channel(peer, message)
            case Kick():
                return self._kick(message)
            case Ban():
                return await self._ban(peer, message, found)
            case Unban():
                with store_errors():
                    await self._store.remove_ban(message.tavernId, message.banId)
                return messages.done("unban")
            case GetBans():
                return {
                    "type": "bans",
                    "tavernId": message.tavernId,
                    "bans": [_ban_object(ban) for ban in found.bans.values()],
                }
            case SetModerator():
                return await self._set_moderator(peer, message, found)
            case TransferTavern():
                return await self._transfer(peer, message, found)
            case CreateInvite():
                return await self._create_invite(peer, message)
            case RotateInvite():
                return await self._rotate_invite(message, found)
            case RevokeInvite():
                with store_errors():
                    await self._store.remove_invite(message.tavernId, message.inviteId)
                return messages.done("revoke-invite")
            case GetInvites():
                invites = [_invite_object(invite) for invite in found.invites.values()]
                return {"type": "invites", "tavernId": message.tavernId, "invites": invites}
            case GetMembers():
                members = [_member_object(member) for member in found.members.values()]
                return {"type": "members", "tavernId": message.tavernId, "members": members}
            case RemoveMember():
                with store_errors():
                    await self._store.remove_member(message.tavernId, message.publicKeyHex)
                self.taverns.end_watches(message.tavernId)
                return messages.done("remove-member")

    async def _update_tavern(self, peer: Peer, message: UpdateTavern) -> Answer:
        if message.name is None and message.icon is None and message.locked is None:
            raise SignalingError("bad-message", "Field name, icon or locked: one of them is needed")
        with store_errors():
            await self._store.update_tavern(
                message.tavernId, name=message.name, icon=message.icon, locked=message.locked
            )
        self.taverns.end_watches(message.tavernId)
        return self._tell_updated(peer, message.tavernId)

    async def _delete_tavern(self, peer: Peer, message: DeleteTavern) -> Answer:
        with store_errors():
            await self._store.delete_tavern(message.tavernId)
        told = {"type": "tavern-deleted", "tavernId": message.tavernId}
        watchers = set(self.registry.watchers.of_tavern(message.tavernId))
        inside = self.registry.presence.tavern_peers(message.tavernId)
        for member in inside:
            self._put_out(member, told, SignalingError("tavern-deleted", "This tavern was deleted"))
        informed = {member for member in inside if member.extended}
        self.registry.send(watchers - informed, told)
        for watcher in watchers:
            self.registry.watchers.unwatch(watcher, message.tavernId)
        return None if peer in watchers | informed else told

    async def _update_channel(self, peer: Peer, message: UpdateChannel) -> Answer:
        with store_errors():
            await self._store.rename_channel(message.tavernId, message.channelId, message.name)
        channel = {"id": message.channelId, "name": message.name}
        return self._tell(peer, {"type": "channel-updated", "tavernId": message.tavernId, "channel": channel})

    async def _delete_channel(self, peer: Peer, message: DeleteChannel) -> Answer:
        with store_errors():
            await self._store.delete_channel(message.tavernId, message.channelId)
        told = {"type": "channel-deleted", "tavernId": message.tavernId, "channelId": message.channelId}
        answer = self._tell(peer, told)
        for member in self.registry.presence.channel_members(message.tavernId, message.channelId):
            self._put_out(member, None, SignalingError("channel-deleted", "This channel was deleted"))
        return answer

    def _kick(self, message: Kick) -> Answer:
        target = self.registry.presence.peer_in_tavern(message.tavernId, message.publicKeyHex)
        if target is None:
            raise _peer_not_found()
        self._throw_out(target, message.tavernId, message.reason, banned=False)
        return messages.done("kick")

    async def _ban(self, peer: Peer, message: Ban, found: TavernAccess) -> Answer:
        presence, tavern_id = self.registry.presence, message.tavernId
        target = presence.peer_in_tavern(tavern_id, message.publicKeyHex)
        if message.address and target is None:
            raise _peer_not_found()
        key = message.publicKeyHex
        if target is not None and not target.verified and access.role(found, key) >= access.Role.MODERATOR:
            # Whoever he is, the key is not his: it must not be what is banned.
            if not message.address:
                raise SignalingError("not-permitted", "This key is not his own: ban his address, or kick him")
            key = ""
        identity = target.identity if target else None
        ban = BanRecord(
            id=str(uuid4()),
            tavern_id=tavern_id,
            public_key=key,
            address_hash=self.taverns.address_hash(target.host) if target and message.address else "",
            display_name=identity.shown_name if identity else "",
            banned_by=peer.proven_key or "",
            created_at=iso_utc(time.time()),
        )
        with store_errors():
            await self._store.add_ban(ban)
        for banned in self.taverns.banned_inside(tavern_id):  # with its address those who come from there, too
            self._throw_out(banned, tavern_id, message.reason, banned=True)
        self.taverns.end_watches(tavern_id)
        return messages.done("ban")

    async def _set_moderator(self, peer: Peer, message: SetModerator, found: TavernAccess) -> Answer:
        key = message.publicKeyHex
        if not is_verifiable_key(key):
            raise _no_verifiable_key()
        if key == found.owner_key:
            raise SignalingError("not-permitted", "The owner is more than a moderator", field="publicKeyHex")
        member = found.members.get(key)
        if member is None and not message.moderator:
            raise SignalingError("peer-not-found", "Nobody with that key is a moderator", field="publicKeyHex")
        member = member or self._new_member(message.tavernId, key)
        role: MemberRole = "moderator" if message.moderator else "member"
        with store_errors():
            await self._store.put_member(attrs.evolve(member, role=role))
        return self._tell_updated(peer, message.tavernId)

    async def _transfer(self, peer: Peer, message: TransferTavern, found: TavernAccess) -> Answer:
        """The new owner must be somebody who is known to hold the key: nobody else could ever give it back."""
        key, tavern_id = message.publicKeyHex, message.tavernId
        present = self.registry.presence.peer_in_tavern(tavern_id, key)
        member = found.members.get(key)
        if not (present and present.verified) and not (member and member.role == "moderator"):
            raise SignalingError("peer-not-found", "The new owner must be a moderator, or here with a proven identity")
        assert peer.proven_key is not None
        former = self._new_member(tavern_id, peer.proven_key)
        with store_errors():
            await self._store.put_member(attrs.evolve(former, role="moderator"))
            await self._store.update_tavern(tavern_id, owner_key=key)
        return self._tell_updated(peer, tavern_id)

    async def _create_invite(self, peer: Peer, message: CreateInvite) -> Answer:
        now = time.time()
        token = secrets.token_urlsafe(TOKEN_BYTES)
        invite = InviteRecord(
            id=str(uuid4()),
            tavern_id=message.tavernId,
            token_hash=token_hash(token),
            created_by=peer.proven_key or "",
            created_at=iso_utc(now),
            expires_at="" if message.expiresInS is None else iso_utc(now + message.expiresInS),
            max_uses=message.maxUses or 0,
            uses=0,
        )
        with store_errors():
            await self._store.put_invite(invite)
        return _invite_created(invite, token)

    async def _rotate_invite(self, message: RotateInvite, found: TavernAccess) -> Answer:
        """A new token for as long and as many uses as the invite was made for; the former one opens nothing."""
        invite = found.invites.get(message.inviteId)
        if invite is None:
            raise SignalingError("invite-not-found", "There is no such invite")
        now = time.time()
        token = secrets.token_urlsafe(TOKEN_BYTES)
        expires_at = ""
        if invite.expires_at:
            expires_at = iso_utc(now + unix_s(invite.expires_at) - unix_s(invite.created_at))
        rotated = attrs.evolve(
            invite, token_hash=token_hash(token), created_at=iso_utc(now), expires_at=expires_at, uses=0
        )
        with store_errors():
            await self._store.put_invite(rotated)
        return _invite_created(rotated, token)

    def _throw_out(self, target: Peer, tavern_id: str, reason: str | None, *, banned: bool) -> None:
        channel = target.place
        assert isinstance(channel, Channel)
        told: dict[str, Any] = {"type": "kicked", "tavernId": tavern_id, "channelId": channel.channel_id}
        if reason:
            told["reason"] = reason
        if banned:
            told["banned"] = True
        text = "You were banned from this tavern" if banned else "You were removed from this channel"
        self._put_out(target, told, SignalingError("kicked", f"{text}: {reason}" if reason else text))

    def _put_out(self, target: Peer, told: dict[str, Any] | None, error: SignalingError) -> None:
        presence = self.registry.presence
        self.registry.act(target.place.room if target.place else None, lambda: presence.put_out(target, told, error))

    def _tell(self, peer: Peer, message: dict[str, Any]) -> Answer:
        """All whom it concerns and who understand it; the answer, if the peer is none of them."""
        return None if peer in self.registry.tell_tavern(message["tavernId"], message, old_ones=False) else message

    def _tell_updated(self, peer: Peer, tavern_id: str) -> Answer:
        updated = {"type": "tavern-updated", "tavern": self.taverns.summary(tavern_id)}
        return None if peer in self.registry.tell_tavern(tavern_id, updated, old_ones=False) else updated

    def _new_member(self, tavern_id: str, key: str) -> MemberRecord:
        holder = self.registry.presence.peer_with_key(key)
        name = holder.identity.shown_name if holder and holder.verified and holder.identity else ""
        return MemberRecord(
            tavern_id=tavern_id, public_key=key, display_name=name, added_at=iso_utc(time.time()), role="member"
        )


def _peer_not_found() -> SignalingError:
    return SignalingError("peer-not-found", "Nobody is in this tavern under that key", field="publicKeyHex")


def _no_verifiable_key() -> SignalingError:
    return SignalingError(
        "bad-message", "Field publicKeyHex: must be 64 lower-case hexadecimal digits", field="publicKeyHex"
    )


def _invite_created(invite: InviteRecord, token: str) -> dict[str, Any]:
    shown = {**_invite_object(invite), "token": token}
    return {"type": "invite-created", "tavernId": invite.tavern_id, "invite": shown}


def _invite_object(invite: InviteRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": invite.id, "uses": invite.uses}
    if invite.max_uses:
        shown["maxUses"] = invite.max_uses
    if invite.expires_at:
        shown["expiresAt"] = invite.expires_at
    return {**shown, "createdBy": invite.created_by, "createdAt": invite.created_at}


def _ban_object(ban: BanRecord) -> dict[str, Any]:
    return {
        "id": ban.id,
        "publicKeyHex": ban.public_key,
        "displayName": ban.display_name,
        "byAddress": bool(ban.address_hash),
        "bannedBy": ban.banned_by,
        "createdAt": ban.created_at,
    }


def _member_object(member: MemberRecord) -> dict[str, Any]:
    return {
        "publicKeyHex": member.public_key,
        "displayName": member.display_name,
        "role": member.role,
        "addedAt": member.added_at,
    }

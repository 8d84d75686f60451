"""Taverns as clients ask for them: made, shown, entered and watched. Who may do so is `access`."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import attrs

from tavern.logs import log_event
from tavern.signaling import access, messages
from tavern.signaling.ice import iso_utc
from tavern.signaling.messages import SignalingError
from tavern.signaling.registry import Registry
from tavern.signaling.requests import CreateChannel, CreateTavern, JoinChannel
from tavern.signaling.rooms import Peer, peer_in_channel
from tavern.store.base import (
    ChannelRecord,
    DiskFull,
    InviteSpent,
    MemberRecord,
    NoSuchBan,
    NoSuchChannel,
    NoSuchInvite,
    NoSuchMember,
    NoSuchTavern,
    Store,
    StoreBusy,
    StoreFull,
    TavernAccess,
    TavernRecord,
    UnstorableText,
    WriteFailed,
)

_log = logging.getLogger("tavern.signaling")


@attrs.define(eq=False)
class Taverns:
    """What is stored, with who is there. Methods raise SignalingError where the asker is to be told so."""

    registry: Registry
    store: Store
    address_hash: Callable[[str], str]
    """What is stored instead of a client's address."""

    def check_join(self, peer: Peer, key: str, tavern_id: str, channel_id: str) -> None:
        """Whether there is such a channel, and the peer may enter it under this key."""
        tavern_access = self.access_of(tavern_id)
        if all(channel.id != channel_id for channel in self.store.channels(tavern_id)):
            raise messages.channel_not_found()
        access.check_enter(tavern_access, key, peer.proven_key, self._address_for(tavern_access, peer))

    def watch(self, peer: Peer, tavern_id: str) -> dict[str, Any]:
        """The peer is told of all that changes there from now on; the answer says what there is."""
        self._check_enter(self.access_of(tavern_id), peer)
        self.registry.watchers.watch(peer, tavern_id)
        return {"type": "tavern-watched", "tavern": self.tavern_object(peer, tavern_id)}

    def end_watches(self, tavern_id: str) -> None:
        """Who watches and may not any more is told why, and does not watch."""
        found = self.access_of(tavern_id)
        for peer in self.registry.watchers.of_tavern(tavern_id):
            try:
                self._check_enter(found, peer)
            except SignalingError as error:
                self.registry.watchers.unwatch(peer, tavern_id)
                self.registry.send((peer,), {"type": "watch-ended", "tavernId": tavern_id, "reason": error.code})

    def banned_inside(self, tavern_id: str) -> tuple[Peer, ...]:
        """Who is in the tavern's channels and is banned from it."""
        found = self.access_of(tavern_id)
        return tuple(
            peer
            for peer in self.registry.presence.tavern_peers(tavern_id)
            if access.role(found, peer.proven_key) < access.Role.MODERATOR and self._is_banned(found, peer)
        )

    async def create_tavern(self, peer: Peer, message: CreateTavern) -> dict[str, Any]:
        """`tavern-created`; it belongs to the peer if that has proven its key."""
        created_at = iso_utc(time.time())
        identity = peer.identity
        tavern = TavernRecord(
            id=str(uuid4()),
            name=message.name,
            icon=message.icon or "",
            creator_public_key=peer.proven_key or (identity.publicKeyHex if identity else ""),
            signaling_url="",
            created_at=created_at,
            owner_key=peer.proven_key or "",
            creator_address=self.address_hash(peer.host),
            last_used_at=created_at,
        )
        channel = ChannelRecord(id=str(uuid4()), tavern_id=tavern.id, name="General", created_at=created_at)
        with store_errors():
            await self.store.create_tavern(tavern, (channel,))
        log_event(_log, logging.INFO, "created-tavern", peer=peer.peer_id, tavern=tavern.id)
        return {"type": "tavern-created", "tavern": self.tavern_object(peer, tavern.id)}

    async def create_channel(self, peer: Peer, message: CreateChannel) -> dict[str, Any] | None:
        """`channel-created`, or None where the peer has been told already, among all in the tavern."""
        self._check_enter(self.access_of(message.tavernId), peer)
        record = ChannelRecord(
            id=str(uuid4()), tavern_id=message.tavernId, name=message.name, created_at=iso_utc(time.time())
        )
        with store_errors():
            await self.store.create_channel(record)
        log_event(_log, logging.INFO, "created-channel", peer=peer.peer_id, tavern=message.tavernId, channel=record.id)
        channel = {"id": record.id, "name": record.name, "peers": []}
        created = {"type": "channel-created", "tavernId": message.tavernId, "channel": channel}
        told = self.registry.tell_tavern(message.tavernId, created, old_ones=True)
        # Existing clients append every channel-created that they get: the sender gets it once.
        return None if peer in told else created

    async def redeem_invite(self, peer: Peer, message: JoinChannel) -> None:
        """Who shows a token of the tavern is its member from now on. Where it is not locked a bad one is let be."""
        found = self.access_of(message.tavernId)
        if access.role(found, peer.proven_key) is not access.Role.NONE or self._is_banned(found, peer):
            return  # a member already, or somebody whom joining will refuse
        if peer.proven_key is None:
            if found.locked:
                raise messages.identity_required()
            return
        try:
            await self._redeem(found, peer.proven_key, message)
        except SignalingError:
            if found.locked:
                raise

    async def _redeem(self, found: TavernAccess, key: str, message: JoinChannel) -> None:
        invite = found.invite_by_token_hash(token_hash(message.invite or ""))
        if invite is None:
            raise messages.invite_invalid()
        now = iso_utc(time.time())
        member = MemberRecord(
            tavern_id=message.tavernId,
            public_key=key,
            display_name=message.identity.shown_name,
            added_at=now,
            role="member",
        )
        with store_errors():
            await self.store.redeem_invite(invite.id, member, now)

    def tavern_object(self, peer: Peer, tavern_id: str) -> dict[str, Any]:
        """The tavern with its channels and who is in them, as the peer's client understands it.

        Who is in a locked one is nobody's business but its members'.
        """
        tavern = self._tavern(tavern_id)
        found = self.access_of(tavern_id)
        hidden = found.locked and not access.may_enter(
            found, _key(peer), peer.proven_key, self._address_for(found, peer)
        )
        channels = []
        for record in self.store.channels(tavern_id):
            channel = None if hidden else self.registry.presence.channel(tavern_id, record.id)
            members = channel.members.values() if channel else ()
            peers = [peer_in_channel(p, channel, extended=peer.extended) for p in members if channel]
            channels.append({"id": record.id, "name": record.name, "peers": peers})
        answer = self.summary(tavern_id) if peer.extended else _old_summary(tavern)
        return {**answer, "channels": channels}

    def summary(self, tavern_id: str) -> dict[str, Any]:
        """The tavern without its channels, for clients that know the extensions."""
        tavern, found = self._tavern(tavern_id), self.access_of(tavern_id)
        return {
            **_old_summary(tavern),
            "owner": tavern.owner_key,
            "locked": tavern.locked,
            "moderators": [
                member.public_key
                for member in found.members.values()
                if member.role == "moderator" and member.public_key != tavern.owner_key
            ],
        }

    def note_used(self, tavern_id: str) -> None:
        """Somebody came in today, which keeps an ownerless tavern from expiring."""
        tavern = self.store.tavern(tavern_id)
        today = datetime.now(UTC).date().isoformat()
        if tavern is not None and tavern.last_used_at[: len(today)] != today:
            self.registry.start(partial(self._mark_used, tavern_id), "mark used")

    async def _mark_used(self, tavern_id: str) -> None:
        try:
            await self.store.mark_used(tavern_id, iso_utc(time.time()))
        except (StoreBusy, WriteFailed) as error:
            log_event(_log, logging.DEBUG, "not-marked-used", tavern=tavern_id, reason=error)

    def _tavern(self, tavern_id: str) -> TavernRecord:
        tavern = self.store.tavern(tavern_id)
        if tavern is None:
            raise messages.tavern_not_found()
        return tavern

    def access_of(self, tavern_id: str) -> TavernAccess:
        """Who may do what there. Raises SignalingError where there is no such tavern."""
        found = self.store.access(tavern_id)
        if found is None:
            raise messages.tavern_not_found()
        return found

    def _check_enter(self, found: TavernAccess, peer: Peer) -> None:
        access.check_enter(found, _key(peer), peer.proven_key, self._address_for(found, peer))

    def _is_banned(self, found: TavernAccess, peer: Peer) -> bool:
        return access.is_banned(found, _key(peer), self._address_for(found, peer))

    def _address_for(self, found: TavernAccess, peer: Peer) -> str:
        """The hash of the peer's address, where there is anything to compare it with."""
        return self.address_hash(peer.host) if found.bans else ""


def token_hash(token: str) -> str:
    """What is stored of an invite's token: 128 random bits need no slow hash."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


@contextmanager
def store_errors() -> Iterator[None]:
    """What the store refuses becomes an answer to the one who asked."""
    try:
        yield
    except NoSuchTavern:
        raise messages.tavern_not_found() from None
    except NoSuchChannel:
        raise messages.channel_not_found() from None
    except NoSuchInvite:
        raise SignalingError("invite-not-found", "There is no such invite") from None
    except InviteSpent:
        raise messages.invite_invalid() from None
    except NoSuchBan:
        raise SignalingError("ban-not-found", "There is no such ban") from None
    except NoSuchMember:
        raise SignalingError("peer-not-found", "Nobody with that key is a member", field="publicKeyHex") from None
    except StoreFull as error:
        raise SignalingError("limit-reached", str(error)) from None
    except UnstorableText as error:
        raise SignalingError("bad-message", str(error)) from None
    except DiskFull as error:
        raise SignalingError("disk-full", str(error)) from None
    except (StoreBusy, WriteFailed) as error:
        raise SignalingError("store-unavailable", str(error)) from None


def _old_summary(tavern: TavernRecord) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": tavern.id, "name": tavern.name}
    if tavern.icon:
        answer["icon"] = tavern.icon
    return {**answer, "createdBy": tavern.creator_public_key, "createdAt": tavern.created_at}


def _key(peer: Peer) -> str | None:
    return peer.identity.publicKeyHex if peer.identity else peer.proven_key

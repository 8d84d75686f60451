"""Writes to who is named in a tavern: members, bans, invites. What a change is, see `changes`."""

from __future__ import annotations

import sqlite3
from typing import ClassVar

import attrs

from tavern.store.base import (
    MAX_BANS,
    MAX_INVITES,
    MAX_MEMBERS,
    MAX_MODERATORS,
    BanRecord,
    DuplicateId,
    InviteRecord,
    InviteSpent,
    MemberRecord,
    NoSuchBan,
    NoSuchInvite,
    NoSuchMember,
    StoreFull,
)
from tavern.store.index import Index, check_texts


@attrs.frozen
class PutMember:
    member: MemberRecord
    needs_room: ClassVar[bool] = True

    def reserve(self, index: Index) -> None:
        _reserve_member(index, self.member)

    def apply(self, connection: sqlite3.Connection) -> None:
        _insert_member(self.member, connection)

    def settle(self, index: Index, committed: bool) -> None:
        _settle_member(index, self.member, committed)


@attrs.frozen
class RemoveMember:
    tavern_id: str
    public_key: str
    needs_room: ClassVar[bool] = False

    def reserve(self, index: Index) -> None:
        index.existing(self.tavern_id)
        if self.public_key not in index.people(self.tavern_id).members:
            raise NoSuchMember("there is no such member")

    def apply(self, connection: sqlite3.Connection) -> None:
        _delete_member(self.tavern_id, self.public_key, connection)

    def settle(self, index: Index, committed: bool) -> None:
        if committed and index.tavern(self.tavern_id):
            index.people_to_change(self.tavern_id).members.pop(self.public_key, None)


@attrs.frozen
class AddBan:
    """Who has the key is no member from then on."""

    ban: BanRecord
    needs_room: ClassVar[bool] = True

    def reserve(self, index: Index) -> None:
        index.existing(self.ban.tavern_id)
        if self.ban.id in index.people(self.ban.tavern_id).bans:
            raise DuplicateId(f"ban {self.ban.id}")
        check_texts(self.ban.public_key, self.ban.display_name, self.ban.address_hash)
        _reserve_place(index, "ban", self.ban.tavern_id, len(index.people(self.ban.tavern_id).bans), MAX_BANS)

    def apply(self, connection: sqlite3.Connection) -> None:
        ban = self.ban
        connection.execute(
            "INSERT INTO tavern_bans (id, tavern_id, public_key, address_hash, display_name, banned_by, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(ban.id, ban.tavern_id, ban.public_key, ban.address_hash, ban.display_name),
                *(ban.banned_by, ban.created_at),
            ),
        )
        _delete_member(ban.tavern_id, ban.public_key, connection)

    def settle(self, index: Index, committed: bool) -> None:
        index.release("ban", self.ban.tavern_id)
        if committed and index.tavern(self.ban.tavern_id):
            people = index.people_to_change(self.ban.tavern_id)
            people.bans[self.ban.id] = self.ban
            people.members.pop(self.ban.public_key, None)


@attrs.frozen
class RemoveBan:
    tavern_id: str
    ban_id: str
    needs_room: ClassVar[bool] = False

    def reserve(self, index: Index) -> None:
        index.existing(self.tavern_id)
        if self.ban_id not in index.people(self.tavern_id).bans:
            raise NoSuchBan("there is no such ban")

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM tavern_bans WHERE id = ? AND tavern_id = ?", (self.ban_id, self.tavern_id))

    def settle(self, index: Index, committed: bool) -> None:
        if committed and index.tavern(self.tavern_id):
            index.people_to_change(self.tavern_id).bans.pop(self.ban_id, None)


@attrs.frozen
class PutInvite:
    invite: InviteRecord
    needs_room: ClassVar[bool] = True

    def reserve(self, index: Index) -> None:
        invite = self.invite
        index.existing(invite.tavern_id)
        invites = index.people(invite.tavern_id).invites
        _reserve_place(index, "invite", invite.tavern_id, len(invites) - (invite.id in invites), MAX_INVITES)

    def apply(self, connection: sqlite3.Connection) -> None:
        invite = self.invite
        connection.execute(
            "INSERT OR REPLACE INTO tavern_invites "
            "(id, tavern_id, token_hash, created_by, created_at, expires_at, max_uses, uses) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(invite.id, invite.tavern_id, invite.token_hash, invite.created_by, invite.created_at),
                *(invite.expires_at, invite.max_uses, invite.uses),
            ),
        )

    def settle(self, index: Index, committed: bool) -> None:
        index.release("invite", self.invite.tavern_id)
        if committed and index.tavern(self.invite.tavern_id):
            index.people_to_change(self.invite.tavern_id).invites[self.invite.id] = self.invite


@attrs.frozen
class RemoveInvite:
    tavern_id: str
    invite_id: str
    needs_room: ClassVar[bool] = False

    def reserve(self, index: Index) -> None:
        index.existing(self.tavern_id)
        if self.invite_id not in index.people(self.tavern_id).invites:
            raise NoSuchInvite("there is no such invite")

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "DELETE FROM tavern_invites WHERE id = ? AND tavern_id = ?", (self.invite_id, self.tavern_id)
        )

    def settle(self, index: Index, committed: bool) -> None:
        if committed and index.tavern(self.tavern_id):
            index.people_to_change(self.tavern_id).invites.pop(self.invite_id, None)


@attrs.frozen
class RedeemInvite:
    """One use more, and a member more."""

    invite_id: str
    member: MemberRecord
    now: str
    needs_room: ClassVar[bool] = True

    def reserve(self, index: Index) -> None:
        index.existing(self.member.tavern_id)
        invite = index.people(self.member.tavern_id).invites.get(self.invite_id)
        if invite is None:
            raise NoSuchInvite("there is no such invite")
        under_way = index.held("use", self.invite_id)
        if not attrs.evolve(invite, uses=invite.uses + under_way).is_open(self.now):
            raise InviteSpent("this invite is over")
        _reserve_member(index, self.member)
        index.hold("use", self.invite_id)

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE tavern_invites SET uses = uses + 1 WHERE id = ?", (self.invite_id,))
        _insert_member(self.member, connection)

    def settle(self, index: Index, committed: bool) -> None:
        index.release("use", self.invite_id)
        _settle_member(index, self.member, committed)
        if committed and index.tavern(self.member.tavern_id):
            invites = index.people_to_change(self.member.tavern_id).invites
            if invite := invites.get(self.invite_id):
                invites[self.invite_id] = attrs.evolve(invite, uses=invite.uses + 1)


def _reserve_place(index: Index, kind: str, tavern_id: str, taken: int, limit: int) -> None:
    if taken + index.held(kind, tavern_id) >= limit:
        raise StoreFull(f"a tavern holds {limit} {kind}s at most")
    index.hold(kind, tavern_id)


def _reserve_member(index: Index, member: MemberRecord) -> None:
    index.existing(member.tavern_id)
    check_texts(member.public_key, member.display_name)
    members = index.people(member.tavern_id).members
    others = [other for key, other in members.items() if key != member.public_key]
    if member.role == "moderator" and sum(other.role == "moderator" for other in others) >= MAX_MODERATORS:
        raise StoreFull(f"a tavern holds {MAX_MODERATORS} moderators at most")
    _reserve_place(index, "member", member.tavern_id, len(others), MAX_MEMBERS)


def _settle_member(index: Index, member: MemberRecord, committed: bool) -> None:
    index.release("member", member.tavern_id)
    if committed and index.tavern(member.tavern_id):
        index.people_to_change(member.tavern_id).members[member.public_key] = member


def _insert_member(member: MemberRecord, connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO tavern_members (tavern_id, public_key, display_name, added_at, role) "
        "VALUES (?, ?, ?, ?, ?)",
        (member.tavern_id, member.public_key, member.display_name, member.added_at, member.role),
    )


def _delete_member(tavern_id: str, public_key: str, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM tavern_members WHERE tavern_id = ? AND public_key = ?", (tavern_id, public_key))

"""Owned taverns: who may do what, who hears of it, and what stays as it was where nobody owns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio.testing

from tavern.signaling import access
from tavern.signaling.access import Role
from tavern.signaling.messages import SignalingError
from tavern.signaling.requests import REQUEST_NAMES, ManagementRequest
from tavern.store.base import BanRecord, InviteRecord, MemberRecord, TavernAccess
from tests.signaling.lab import Lab, Person, hello, join, open_lab, prove, refused
from tests.signaling.memory_transport import MemoryTransport

OWNER, MODERATOR, MEMBER, STRANGER = (Person(name) for name in ("Owner", "Moderator", "Member", "Stranger"))
OTHER_MODERATOR, BANNED = Person("Other"), Person("Banned")
BY_OWNER = {"update-tavern", "delete-tavern", "delete-channel", "set-moderator", "transfer-tavern"}


def member(person: Person, role: Any) -> MemberRecord:
    return MemberRecord(tavern_id="t", public_key=person.key, display_name=person.name, added_at="", role=role)


def tavern_access(*, owner: str = OWNER.key, locked: bool = False) -> TavernAccess:
    people = (member(MODERATOR, "moderator"), member(OTHER_MODERATOR, "moderator"), member(MEMBER, "member"))
    ban = BanRecord(
        id="b", tavern_id="t", public_key=BANNED.key, address_hash="x", display_name="", banned_by="", created_at=""
    )
    return TavernAccess(
        owner_key=owner,
        locked=locked,
        members={record.public_key: record for record in people},
        bans={"b": ban},
        invites={},
    )


@pytest.mark.parametrize("request_name", [REQUEST_NAMES[kind] for kind in ManagementRequest.__args__])
def test_every_request_is_for_the_owner_and_some_for_moderators(request_name: str) -> None:
    found = tavern_access()
    access.check_command(request_name, found, OWNER.key)
    for person in (MODERATOR, MEMBER, STRANGER, None):
        key = person.key if person else None
        if person is MODERATOR and request_name not in BY_OWNER:
            access.check_command(request_name, found, key)
        else:
            with pytest.raises(SignalingError) as raised:
                access.check_command(request_name, found, key)
            assert raised.value.code == "not-permitted"
    with pytest.raises(SignalingError, match="no owner"):
        access.check_command(request_name, tavern_access(owner=""), MODERATOR.key)


@pytest.mark.parametrize("request_name", ["kick", "ban", "remove-member"])
@pytest.mark.parametrize(
    ("actor", "target", "may"),
    [
        (OWNER, MODERATOR, True),
        (OWNER, STRANGER, True),
        (OWNER, OWNER, False),
        (MODERATOR, MEMBER, True),
        (MODERATOR, STRANGER, True),
        (MODERATOR, OTHER_MODERATOR, False),
        (MODERATOR, MODERATOR, False),
        (MODERATOR, OWNER, False),
    ],
)
def test_nobody_does_it_to_his_equals_or_betters(request_name: str, actor: Person, target: Person, may: bool) -> None:
    if may:
        access.check_command(request_name, tavern_access(), actor.key, target.key)
    else:
        with pytest.raises(SignalingError):
            access.check_command(request_name, tavern_access(), actor.key, target.key)


@pytest.mark.parametrize(
    ("person", "proven", "address", "locked", "code"),
    [
        (STRANGER, False, "", False, None),
        (STRANGER, True, "", False, None),
        (STRANGER, True, "", True, "tavern-locked"),
        (MEMBER, True, "", True, None),
        (MEMBER, False, "", True, "tavern-locked"),
        (OWNER, True, "", True, None),
        (OWNER, False, "", True, "tavern-locked"),
        (BANNED, True, "", False, "banned"),
        (BANNED, False, "", False, "banned"),
        (STRANGER, True, "x", False, "banned"),
        (MEMBER, True, "x", False, "banned"),
        (MODERATOR, True, "x", True, None),
        (MODERATOR, False, "x", False, "banned"),
        (OWNER, True, "x", False, None),
    ],
)
def test_who_enters(person: Person, proven: bool, address: str, locked: bool, code: str | None) -> None:
    found = tavern_access(locked=locked)
    proven_key = person.key if proven else None
    assert access.may_enter(found, person.key, proven_key, address) is (code is None)
    if code is not None:
        with pytest.raises(SignalingError) as raised:
            access.check_enter(found, person.key, proven_key, address)
        assert raised.value.code == code


def test_a_role_is_for_who_has_proven_its_key() -> None:
    found = tavern_access()
    people = (OWNER, MODERATOR, MEMBER, STRANGER)
    assert [access.role(found, person.key) for person in people] == [
        Role.OWNER,
        Role.MODERATOR,
        Role.MEMBER,
        Role.NONE,
    ]
    assert access.role(found, None) is Role.NONE


def test_an_invite_ends_with_its_time_or_its_uses() -> None:
    invite = InviteRecord(
        id="i", tavern_id="t", token_hash="", created_by="", created_at="", expires_at="", max_uses=0, uses=7
    )
    assert invite.is_open("2026-01-01T00:00:00.000Z")
    assert not attrs.evolve(invite, max_uses=7).is_open("2026-01-01T00:00:00.000Z")
    timed = attrs.evolve(invite, expires_at="2026-01-01T00:00:00.000Z")
    assert timed.is_open("2025-12-31T23:59:59.999Z")
    assert not timed.is_open("2026-01-01T00:00:00.000Z")


# From here on with sessions.


@attrs.frozen
class Owned:
    """A tavern of OWNER's, who is connected and not inside."""

    lab: Lab
    owner: MemoryTransport
    tavern: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.tavern["id"])

    @property
    def channel_id(self) -> str:
        return str(self.tavern["channels"][0]["id"])

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "tavernId": self.id, **fields}

    async def do(self, client: MemoryTransport, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        client.say(self.ask(kind, **fields))
        return await client.hear(answer)

    async def enter(
        self, person: Person, *, proven: bool = True, host: str = "192.0.2.7", **more: Any
    ) -> MemoryTransport:
        client = self.lab.connect(host)
        if proven:
            await prove(client, person)
        else:
            await hello(client)
        client.say(person.join(self.tavern, **more))
        await client.hear("channel-joined")
        return client


@pytest.fixture
async def owned() -> AsyncIterator[Owned]:
    async with open_lab() as lab:
        client = lab.connect()
        await prove(client, OWNER)
        tavern = await lab.tavern(client)
        assert tavern["createdBy"] == tavern["owner"] == OWNER.key
        yield Owned(lab, client, tavern)


async def test_an_unverified_clients_tavern_is_open_as_ever(owned: Owned) -> None:
    lab = owned.lab
    tavern = await lab.tavern(lab.connect())
    assert "owner" not in tavern
    client = lab.connect()
    client.say(OWNER.join(tavern))  # named, not proven
    await client.hear("channel-joined")
    await refused(client, {"type": "update-tavern", "tavernId": tavern["id"], "name": "Mine"}, "not-permitted")
    client.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Cellar"})
    await client.hear("channel-created")


async def test_changes_are_told_to_all_inside_who_understand_them_once(owned: Owned) -> None:
    inside = await owned.enter(MEMBER)
    old = owned.lab.connect()
    old.say(join(owned.tavern, "old"))
    await old.hear("channel-joined")
    await inside.hear("peer-joined-channel")
    updated = await owned.do(owned.owner, "update-tavern", "tavern-updated", name="Bree", icon="*", locked=True)
    assert updated["tavern"] == {
        "id": owned.id,
        "name": "Bree",
        "icon": "*",
        "createdBy": OWNER.key,
        "createdAt": owned.tavern["createdAt"],
        "owner": OWNER.key,
        "locked": True,
        "moderators": [],
    }
    assert await inside.hear("tavern-updated") == updated
    channel = await owned.do(
        owned.owner, "update-channel", "channel-updated", channelId=owned.channel_id, name="Hearth"
    )
    assert channel["channel"] == {"id": owned.channel_id, "name": "Hearth"}
    assert await inside.hear("channel-updated") == channel
    assert old.heard_nothing()
    assert owned.owner.heard_nothing()
    assert old.closed is None


async def test_a_deleted_channel_puts_its_members_out(owned: Owned) -> None:
    inside = await owned.enter(MEMBER)
    old = owned.lab.connect()
    old.say(join(owned.tavern, "old"))
    await old.hear("channel-joined")
    await inside.hear("peer-joined-channel")
    await owned.do(owned.owner, "delete-channel", "channel-deleted", channelId=owned.channel_id)
    assert await inside.hear("channel-deleted") == {
        "type": "channel-deleted",
        "tavernId": owned.id,
        "channelId": owned.channel_id,
    }
    await old.hear("peer-left-channel")
    # An old client tears its calls down when it is closed, and at nothing else that could be said.
    assert (await old.hear("error"))["code"] == "channel-deleted"
    assert old.closed == (1000, "channel-deleted")
    await refused(inside, MEMBER.join(owned.tavern), "channel-not-found")
    assert owned.lab.registry.presence.active_taverns() == 0
    await refused(owned.owner, owned.ask("delete-channel", channelId=owned.channel_id), "channel-not-found")


async def test_a_deleted_tavern_is_gone_for_everybody(owned: Owned) -> None:
    inside = await owned.enter(MEMBER)
    watching = owned.lab.connect()
    await owned.do(watching, "watch-tavern", "tavern-watched")
    await owned.do(owned.owner, "delete-tavern", "tavern-deleted")
    await inside.hear("tavern-deleted")
    await watching.hear("tavern-deleted")
    assert inside.closed is watching.closed is None
    for client in (inside, watching, owned.owner):
        await refused(client, {"type": "get-tavern-info", "tavernId": owned.id}, "tavern-not-found")
    assert owned.lab.store.tavern_count() == 0


async def test_who_is_kicked_is_told_why_and_may_come_back(owned: Owned) -> None:
    inside, other = await owned.enter(MEMBER), await owned.enter(STRANGER)
    await inside.hear("peer-joined-channel")
    await owned.do(owned.owner, "kick", "done", publicKeyHex=MEMBER.key, reason="too loud")
    assert await inside.hear("kicked") == {
        "type": "kicked",
        "tavernId": owned.id,
        "channelId": owned.channel_id,
        "reason": "too loud",
    }
    assert (await other.hear("peer-left-channel"))["publicKeyHex"] == MEMBER.key
    await refused(inside, {"type": "offer", "sdp": "v=0"}, "not-in-room")
    inside.say(MEMBER.join(owned.tavern))
    await inside.hear("channel-joined")
    await refused(owned.owner, owned.ask("kick", publicKeyHex="nobody"), "peer-not-found")


async def test_an_old_client_that_is_kicked_is_closed(owned: Owned) -> None:
    old = owned.lab.connect()
    old.say(join(owned.tavern, "old"))
    await old.hear("channel-joined")
    await owned.do(owned.owner, "kick", "done", publicKeyHex="old", reason="too loud")
    error = await old.hear("error")
    assert (error["code"], error["message"]) == ("kicked", "You were removed from this channel: too loud")
    assert old.closed == (1000, "kicked")


async def test_who_is_banned_stays_out_until_he_is_not(owned: Owned) -> None:
    inside = await owned.enter(MEMBER)
    await owned.do(owned.owner, "ban", "done", publicKeyHex=MEMBER.key)
    assert (await inside.hear("kicked"))["banned"] is True
    for message in (
        MEMBER.join(owned.tavern),
        owned.ask("create-channel", name="Mine"),
        owned.ask("watch-tavern"),
    ):
        await refused(inside, message, "banned")
    elsewhere = owned.lab.connect("198.51.100.1")
    await refused(elsewhere, MEMBER.join(owned.tavern), "banned")
    await owned.enter(STRANGER)
    [ban] = (await owned.do(owned.owner, "get-bans", "bans"))["bans"]
    assert (ban["publicKeyHex"], ban["displayName"], ban["byAddress"], ban["bannedBy"]) == (
        MEMBER.key,
        "Member",
        False,
        OWNER.key,
    )
    await owned.do(owned.owner, "unban", "done", banId=ban["id"])
    await refused(owned.owner, owned.ask("unban", banId=ban["id"]), "ban-not-found")
    inside.say(MEMBER.join(owned.tavern))
    await inside.hear("channel-joined")


async def test_a_ban_by_address_is_for_all_from_there_but_who_manages(owned: Owned) -> None:
    troll = await owned.enter(STRANGER, host="2001:db8::1")
    neighbour = await owned.enter(MEMBER, host="2001:db8::2")
    await troll.hear("peer-joined-channel")
    await owned.do(owned.owner, "set-moderator", "tavern-updated", publicKeyHex=MODERATOR.key, moderator=True)
    for client in (troll, neighbour):
        await client.hear("tavern-updated")
    moderator = await owned.enter(MODERATOR, host="2001:db8::3")
    for client in (troll, neighbour):
        await client.hear("peer-joined-channel")
    await owned.do(owned.owner, "ban", "done", publicKeyHex=STRANGER.key, address=True)
    await troll.hear("kicked")
    assert moderator.closed is None
    assert [
        peer.identity.displayName for peer in owned.lab.registry.presence.tavern_peers(owned.id) if peer.identity
    ] == ["Moderator"]
    again = owned.lab.connect("2001:db8::9")
    await refused(again, Person("Another name").join(owned.tavern), "banned")
    far = owned.lab.connect("2001:db8:0:1::1")
    far.say(Person("Somebody").join(owned.tavern))
    await far.hear("channel-joined")
    # Its address is nowhere, not even for the owner.
    answer = await owned.do(owned.owner, "get-bans", "bans")
    assert "2001:db8" not in str(answer)
    assert "2001:db8" not in str(owned.lab.store.access(owned.id))


async def test_who_pretends_to_be_the_owner_is_kicked_like_anybody(owned: Owned) -> None:
    troll = await owned.enter(OWNER, proven=False)
    moderator = await owned.enter(MODERATOR)
    await troll.hear("peer-joined-channel")
    await owned.do(owned.owner, "set-moderator", "tavern-updated", publicKeyHex=MODERATOR.key, moderator=True)
    await moderator.hear("tavern-updated")
    await troll.hear("tavern-updated")
    await owned.do(moderator, "kick", "peer-left-channel", publicKeyHex=OWNER.key)
    await moderator.hear("done")
    await troll.hear("kicked")


async def test_a_locked_tavern_is_entered_with_a_token(owned: Owned) -> None:
    await owned.do(owned.owner, "update-tavern", "tavern-updated", locked=True)
    made = await owned.do(owned.owner, "create-invite", "invite-created", maxUses=1, expiresInS=3600)
    token = made["invite"]["token"]
    assert len(token) == 22
    stranger = owned.lab.connect()
    await refused(stranger, STRANGER.join(owned.tavern), "tavern-locked")
    await refused(stranger, STRANGER.join(owned.tavern, invite=token), "identity-required")
    await prove(stranger, STRANGER)
    await refused(stranger, STRANGER.join(owned.tavern), "tavern-locked")
    await refused(stranger, STRANGER.join(owned.tavern, invite="x" * 22), "invite-invalid")
    stranger.say(STRANGER.join(owned.tavern, invite=token))
    await stranger.hear("channel-joined")
    # A member comes back without a token, and the token is used up.
    await owned.enter(STRANGER)
    late = owned.lab.connect()
    await prove(late, MEMBER)
    await refused(late, MEMBER.join(owned.tavern, invite=token), "invite-invalid")
    [invite] = (await owned.do(owned.owner, "get-invites", "invites"))["invites"]
    assert (invite["uses"], invite["maxUses"]) == (1, 1)
    assert "token" not in invite
    [listed] = (await owned.do(owned.owner, "get-members", "members"))["members"]
    assert (listed["publicKeyHex"], listed["displayName"], listed["role"]) == (STRANGER.key, "Stranger", "member")
    await owned.do(owned.owner, "remove-member", "done", publicKeyHex=STRANGER.key)
    again = owned.lab.connect()
    await prove(again, STRANGER)
    await refused(again, STRANGER.join(owned.tavern), "tavern-locked")


async def test_an_old_client_gets_a_clear_error_from_a_locked_tavern(owned: Owned) -> None:
    await owned.do(owned.owner, "update-tavern", "tavern-updated", locked=True)
    await owned.enter(OWNER)
    old = owned.lab.connect()
    error = await refused(old, join(owned.tavern, "old"), "tavern-locked")
    assert "locked" in error["message"]
    old.say({"type": "get-tavern-info", "tavernId": owned.id})
    shown = (await old.hear("tavern-info"))["tavern"]
    assert shown["channels"][0]["peers"] == []  # who is inside is nobody's business


async def test_a_rotated_token_replaces_the_former(owned: Owned) -> None:
    await owned.do(owned.owner, "update-tavern", "tavern-updated", locked=True)
    made = (await owned.do(owned.owner, "create-invite", "invite-created", maxUses=5))["invite"]
    rotated = (await owned.do(owned.owner, "rotate-invite", "invite-created", inviteId=made["id"]))["invite"]
    assert rotated["id"] == made["id"]
    assert rotated["token"] != made["token"]
    client = owned.lab.connect()
    await prove(client, MEMBER)
    await refused(client, MEMBER.join(owned.tavern, invite=made["token"]), "invite-invalid")
    client.say(MEMBER.join(owned.tavern, invite=rotated["token"]))
    await client.hear("channel-joined")
    await owned.do(owned.owner, "revoke-invite", "done", inviteId=made["id"])
    await refused(owned.owner, owned.ask("revoke-invite", inviteId=made["id"]), "invite-not-found")
    await refused(owned.owner, owned.ask("rotate-invite", inviteId=made["id"]), "invite-not-found")


async def test_in_an_open_tavern_a_bad_token_does_no_harm_and_a_good_one_makes_a_member(owned: Owned) -> None:
    made = (await owned.do(owned.owner, "create-invite", "invite-created"))["invite"]
    await owned.enter(STRANGER, invite="nothing")
    await owned.enter(MODERATOR, proven=False, invite=made["token"])
    await owned.enter(MEMBER, invite=made["token"])
    members = (await owned.do(owned.owner, "get-members", "members"))["members"]
    assert [record["publicKeyHex"] for record in members] == [MEMBER.key]


async def test_ownership_goes_to_somebody_who_can_give_it_back(owned: Owned) -> None:
    await refused(owned.owner, owned.ask("transfer-tavern", publicKeyHex=STRANGER.key), "peer-not-found")
    pretender = await owned.enter(STRANGER, proven=False)
    await refused(owned.owner, owned.ask("transfer-tavern", publicKeyHex=STRANGER.key), "peer-not-found")
    pretender.hang_up()
    await trio.testing.wait_all_tasks_blocked()
    heir = await owned.enter(MEMBER)
    await owned.do(owned.owner, "transfer-tavern", "tavern-updated", publicKeyHex=MEMBER.key)
    tavern = (await heir.hear("tavern-updated"))["tavern"]
    assert (tavern["owner"], tavern["createdBy"], tavern["moderators"]) == (MEMBER.key, OWNER.key, [OWNER.key])
    await refused(owned.owner, owned.ask("delete-tavern"), "not-permitted")
    await owned.do(owned.owner, "get-bans", "bans")  # a moderator now
    await owned.do(heir, "transfer-tavern", "tavern-updated", publicKeyHex=OWNER.key)


async def test_moderators_come_and_go(owned: Owned) -> None:
    await refused(owned.owner, owned.ask("set-moderator", publicKeyHex="no key", moderator=True), "bad-message")
    client = await owned.enter(MODERATOR)
    await refused(client, owned.ask("get-bans"), "not-permitted")
    await owned.do(owned.owner, "set-moderator", "tavern-updated", publicKeyHex=MODERATOR.key, moderator=True)
    assert (await client.hear("tavern-updated"))["tavern"]["moderators"] == [MODERATOR.key]
    await owned.do(client, "get-bans", "bans")
    await owned.do(owned.owner, "set-moderator", "tavern-updated", publicKeyHex=MODERATOR.key, moderator=False)
    assert (await client.hear("tavern-updated"))["tavern"]["moderators"] == []
    await refused(client, owned.ask("get-bans"), "not-permitted")


async def test_nothing_to_change_and_no_such_tavern_are_errors(owned: Owned) -> None:
    await refused(owned.owner, owned.ask("update-tavern"), "bad-message")
    await refused(owned.owner, {"type": "delete-tavern", "tavernId": "x"}, "tavern-not-found")
    await refused(owned.owner, owned.ask("update-channel", channelId="x", name="y"), "channel-not-found")


async def test_a_key_that_somebody_else_named_is_not_banned_for_it(owned: Owned) -> None:
    await owned.do(owned.owner, "set-moderator", "tavern-updated", publicKeyHex=MODERATOR.key, moderator=True)
    troll = await owned.enter(MODERATOR, proven=False, host="198.51.100.1")
    await refused(owned.owner, owned.ask("ban", publicKeyHex=MODERATOR.key), "not-permitted")
    await owned.do(owned.owner, "ban", "done", publicKeyHex=MODERATOR.key, address=True)
    await troll.hear("kicked")
    await owned.enter(MODERATOR)
    [listed] = (await owned.do(owned.owner, "get-members", "members"))["members"]
    assert listed["role"] == "moderator"


async def test_nobody_becomes_a_member_by_not_being_made_a_moderator(owned: Owned) -> None:
    await refused(owned.owner, owned.ask("set-moderator", publicKeyHex=STRANGER.key, moderator=False), "peer-not-found")
    await refused(owned.owner, owned.ask("set-moderator", publicKeyHex=OWNER.key, moderator=True), "not-permitted")
    assert (await owned.do(owned.owner, "get-members", "members"))["members"] == []


async def test_a_moderator_who_gets_the_tavern_is_its_owner_only(owned: Owned) -> None:
    await owned.do(owned.owner, "set-moderator", "tavern-updated", publicKeyHex=MODERATOR.key, moderator=True)
    updated = await owned.do(owned.owner, "transfer-tavern", "tavern-updated", publicKeyHex=MODERATOR.key)
    assert (updated["tavern"]["owner"], updated["tavern"]["moderators"]) == (MODERATOR.key, [OWNER.key])

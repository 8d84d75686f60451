"""Owners, members, bans and invites: what every store promises of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import attrs
import pytest
import trio
import trio.testing

from tavern.store import people_changes
from tavern.store.base import (
    BanRecord,
    ChannelRecord,
    InviteRecord,
    InviteSpent,
    MemberRecord,
    NoSuchBan,
    NoSuchChannel,
    NoSuchInvite,
    NoSuchMember,
    NoSuchTavern,
    Store,
    StoreFull,
    TavernAccess,
    TavernRecord,
    UnstorableText,
)
from tavern.store.index import Caps

NOW = "2026-05-01T10:00:00.000Z"
Created = tuple[TavernRecord, tuple[ChannelRecord, ...]]


class Records(Protocol):
    def tavern(self, *channel_names: str, name: str = ..., icon: str = ...) -> Created: ...
    def channel(self, tavern_id: str, name: str = ...) -> ChannelRecord: ...


class OpenStore(Protocol):
    def __call__(self, caps: Caps | None = ...) -> AbstractAsyncContextManager[Store]: ...


def member(tavern: TavernRecord, key: str, role: Any = "member") -> MemberRecord:
    return MemberRecord(tavern_id=tavern.id, public_key=key, display_name=key.upper(), added_at=NOW, role=role)


def ban(tavern: TavernRecord, ban_id: str, key: str, address_hash: str = "") -> BanRecord:
    return BanRecord(
        id=ban_id,
        tavern_id=tavern.id,
        public_key=key,
        address_hash=address_hash,
        display_name="",
        banned_by="owner",
        created_at=NOW,
    )


def invite(tavern: TavernRecord, invite_id: str, *, max_uses: int = 0, expires_at: str = "") -> InviteRecord:
    return InviteRecord(
        id=invite_id,
        tavern_id=tavern.id,
        token_hash=f"hash of {invite_id}",
        created_by="owner",
        created_at=NOW,
        expires_at=expires_at,
        max_uses=max_uses,
        uses=0,
    )


def access(store: Store, tavern: TavernRecord) -> TavernAccess:
    found = store.access(tavern.id)
    assert found is not None
    return found


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened


@pytest.fixture
async def tavern(store: Store, records: Records) -> TavernRecord:
    made, channels = records.tavern("General", "Cellar")
    made = attrs.evolve(made, owner_key="owner", creator_address="here", last_used_at=NOW)
    await store.create_tavern(made, channels)
    return made


async def test_what_is_said_of_a_tavern_is_kept_and_can_be_changed(store: Store, tavern: TavernRecord) -> None:
    assert store.tavern(tavern.id) == tavern
    await store.update_tavern(tavern.id, name="Bree", locked=True)
    await store.update_tavern(tavern.id, owner_key="heir")
    await store.mark_used(tavern.id, "2026-06-01T00:00:00.000Z")
    expected = attrs.evolve(tavern, name="Bree", locked=True, owner_key="heir", last_used_at="2026-06-01T00:00:00.000Z")
    assert store.tavern(tavern.id) == expected
    assert list(store.taverns()) == [expected]
    assert (access(store, tavern).owner_key, access(store, tavern).locked) == ("heir", True)
    with pytest.raises(UnstorableText):
        await store.update_tavern(tavern.id, name="\ud800")
    with pytest.raises(NoSuchTavern):
        await store.update_tavern("nowhere", name="x")


async def test_channels_are_renamed_and_deleted(store: Store, tavern: TavernRecord, records: Records) -> None:
    general, cellar = store.channels(tavern.id)
    await store.rename_channel(tavern.id, cellar.id, "Attic")
    assert store.channels(tavern.id) == (general, attrs.evolve(cellar, name="Attic"))
    await store.delete_channel(tavern.id, general.id)
    assert [channel.name for channel in store.channels(tavern.id)] == ["Attic"]
    for channel_id in (general.id, "nothing"):
        with pytest.raises(NoSuchChannel):
            await store.rename_channel(tavern.id, channel_id, "x")
        with pytest.raises(NoSuchChannel):
            await store.delete_channel(tavern.id, channel_id)
    await store.create_channel(attrs.evolve(records.channel(tavern.id), id=general.id))  # its id is free


async def test_members_come_change_and_go(store: Store, tavern: TavernRecord) -> None:
    await store.put_member(member(tavern, "a"))
    await store.put_member(member(tavern, "b", "moderator"))
    await store.put_member(member(tavern, "a", "moderator"))
    assert access(store, tavern).members == {
        "a": member(tavern, "a", "moderator"),
        "b": member(tavern, "b", "moderator"),
    }
    await store.remove_member(tavern.id, "a")
    assert set(access(store, tavern).members) == {"b"}
    with pytest.raises(NoSuchMember):
        await store.remove_member(tavern.id, "a")


async def test_who_is_banned_is_no_member(store: Store, tavern: TavernRecord) -> None:
    await store.put_member(member(tavern, "a"))
    await store.add_ban(ban(tavern, "1", "a", "address"))
    found = access(store, tavern)
    assert found.members == {}
    assert found.is_key_banned("a")
    assert found.is_address_banned("address")
    assert not found.is_key_banned("b")
    assert not found.is_address_banned("")
    await store.remove_ban(tavern.id, "1")
    assert not access(store, tavern).is_key_banned("a")
    with pytest.raises(NoSuchBan):
        await store.remove_ban(tavern.id, "1")


async def test_an_invite_counts_its_uses(store: Store, tavern: TavernRecord) -> None:
    await store.put_invite(invite(tavern, "i", max_uses=2))
    await store.redeem_invite("i", member(tavern, "a"), NOW)
    await store.redeem_invite("i", member(tavern, "a"), NOW)  # a member already
    await store.redeem_invite("i", member(tavern, "b"), NOW)
    found = access(store, tavern)
    assert set(found.members) == {"a", "b"}
    assert found.invites["i"].uses == 2
    with pytest.raises(InviteSpent):
        await store.redeem_invite("i", member(tavern, "c"), NOW)
    await store.put_invite(invite(tavern, "i", max_uses=1, expires_at="2026-05-01T10:00:00.001Z"))
    with pytest.raises(InviteSpent):
        await store.redeem_invite("i", member(tavern, "c"), "2026-05-01T10:00:00.001Z")
    await store.redeem_invite("i", member(tavern, "c"), NOW)
    assert access(store, tavern).invite_by_token_hash("hash of i") == attrs.evolve(
        invite(tavern, "i", max_uses=1, expires_at="2026-05-01T10:00:00.001Z"), uses=1
    )
    await store.remove_invite(tavern.id, "i")
    for attempt in (store.redeem_invite("i", member(tavern, "d"), NOW), store.remove_invite(tavern.id, "i")):
        with pytest.raises(NoSuchInvite):
            await attempt


async def test_of_two_who_redeem_the_last_use_one_gets_it(store: Store, tavern: TavernRecord) -> None:
    await store.put_invite(invite(tavern, "i", max_uses=1))
    outcomes: list[str] = []

    async def redeem(key: str) -> None:
        try:
            await store.redeem_invite("i", member(tavern, key), NOW)
            outcomes.append("in")
        except InviteSpent:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(redeem, "a")
        nursery.start_soon(redeem, "b")
    assert sorted(outcomes) == ["in", "refused"]
    assert access(store, tavern).invites["i"].uses == len(access(store, tavern).members) == 1


async def test_a_deleted_tavern_takes_all_along(store: Store, tavern: TavernRecord, records: Records) -> None:
    await store.put_member(member(tavern, "a"))
    await store.add_ban(ban(tavern, "1", "b"))
    await store.put_invite(invite(tavern, "i"))
    await store.delete_tavern(tavern.id)
    assert store.tavern(tavern.id) is None
    assert store.access(tavern.id) is None
    assert store.channels(tavern.id) == ()
    assert store.tavern_count() == 0
    writes: list[Callable[[], Any]] = [
        lambda: store.delete_tavern(tavern.id),
        lambda: store.update_tavern(tavern.id, name="x"),
        lambda: store.create_channel(records.channel(tavern.id)),
        lambda: store.put_member(member(tavern, "a")),
        lambda: store.add_ban(ban(tavern, "2", "b")),
        lambda: store.put_invite(invite(tavern, "j")),
        lambda: store.redeem_invite("i", member(tavern, "c"), NOW),
    ]
    for write in writes:
        with pytest.raises(NoSuchTavern):
            await write()
    await store.create_tavern(tavern, ())  # nothing of the former one is left
    found = access(store, tavern)
    assert not found.members
    assert not found.bans
    assert not found.invites


async def test_what_is_asked_while_a_tavern_is_being_deleted_finds_it_gone(
    store: Store, tavern: TavernRecord, records: Records
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.delete_tavern, tavern.id)
        await trio.testing.wait_all_tasks_blocked()

        async def too_late() -> None:
            with pytest.raises(NoSuchTavern):
                await store.create_channel(records.channel(tavern.id))

        await too_late()
    assert store.tavern(tavern.id) is None


async def test_an_address_makes_so_many_taverns(open_store: OpenStore, records: Records) -> None:
    async with open_store(Caps(taverns_per_address=3)) as store:
        await fill_address(store, records)


async def fill_address(store: Store, records: Records) -> None:
    made = []
    for _ in range(3):
        record, channels = records.tavern()
        made.append(attrs.evolve(record, creator_address="here"))
        await store.create_tavern(made[-1], channels)
    record, channels = records.tavern()
    with pytest.raises(StoreFull, match="your address has made 3"):
        await store.create_tavern(attrs.evolve(record, creator_address="here"), channels)
    await store.create_tavern(attrs.evolve(record, creator_address="elsewhere"), channels)
    await store.delete_tavern(made[0].id)
    again, channels = records.tavern()
    await store.create_tavern(attrs.evolve(again, creator_address="here"), channels)
    unknown = [records.tavern() for _ in range(5)]
    for record, channels in unknown:  # of existing databases nobody knows
        await store.create_tavern(record, channels)


async def test_lists_are_capped(store: Store, tavern: TavernRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_MEMBERS", "MAX_BANS", "MAX_INVITES"):
        monkeypatch.setattr(people_changes, limit, 2)
    monkeypatch.setattr(people_changes, "MAX_MODERATORS", 1)
    await store.put_member(member(tavern, "a", "moderator"))
    await store.put_member(member(tavern, "b"))
    await store.put_member(member(tavern, "b"))
    with pytest.raises(StoreFull, match="2 members"):
        await store.put_member(member(tavern, "c"))
    with pytest.raises(StoreFull, match="1 moderators"):
        await store.put_member(member(tavern, "b", "moderator"))
    for number in range(2):
        await store.add_ban(ban(tavern, str(number), "x"))
        await store.put_invite(invite(tavern, str(number)))
    with pytest.raises(StoreFull, match="2 bans"):
        await store.add_ban(ban(tavern, "2", "x"))
    with pytest.raises(StoreFull, match="2 invites"):
        await store.put_invite(invite(tavern, "2"))
    await store.put_invite(invite(tavern, "1", max_uses=7))  # in place of itself
    with pytest.raises(StoreFull, match="2 members"):
        await store.redeem_invite("1", member(tavern, "c"), NOW)
    assert access(store, tavern).invites["1"].uses == 0

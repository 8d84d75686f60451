"""Whatever is done, both stores know the same, and SQLite still does when it is opened again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tavern.errors import RemoteError
from tavern.store.base import BanRecord, ChannelRecord, InviteRecord, MemberRecord, Store, TavernRecord
from tavern.store.index import Caps
from tavern.store.memory import MemoryStore
from tavern.store.sqlite import open_sqlite_store

NOW = "2026-05-01T10:00:00.000Z"
CAPS = Caps(taverns=4, taverns_per_address=2, channels_per_tavern=3)
TAVERNS, CHANNELS, KEYS, NAMES = (st.sampled_from(text) for text in ("tuv", "cdef", "kl", ("Pony", "Bree")))
ADDRESSES = st.sampled_from(["", "here"])


def _tavern(tavern: str, name: str, owner: str, address: str) -> TavernRecord:
    return TavernRecord(
        id=tavern,
        name=name,
        icon="",
        creator_public_key=owner,
        signaling_url="",
        created_at=NOW,
        owner_key=owner,
        creator_address=address,
        last_used_at=NOW,
    )


def _member(tavern: str, key: str, role: Any = "member") -> MemberRecord:
    return MemberRecord(tavern_id=tavern, public_key=key, display_name=key, added_at=NOW, role=role)


def _ban(tavern: str, ban: str, key: str) -> BanRecord:
    return BanRecord(
        id=f"{tavern} {ban}",
        tavern_id=tavern,
        public_key=key,
        address_hash="",
        display_name="",
        banned_by="",
        created_at=NOW,
    )


def _invite(tavern: str, invite: str, max_uses: int) -> InviteRecord:
    return InviteRecord(
        id=f"{tavern} {invite}",
        tavern_id=tavern,
        token_hash=invite,
        created_by="",
        created_at=NOW,
        expires_at="",
        max_uses=max_uses,
        uses=0,
    )


Action = tuple[str, tuple[Any, ...]]
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("create_tavern"), st.tuples(st.builds(_tavern, TAVERNS, NAMES, KEYS, ADDRESSES), st.just(()))),
    st.tuples(
        st.just("create_channel"),
        st.tuples(
            st.builds(
                lambda tavern, channel, name: ChannelRecord(
                    id=f"{tavern}{channel}", tavern_id=tavern, name=name, created_at=NOW
                ),
                TAVERNS,
                CHANNELS,
                NAMES,
            )
        ),
    ),
    st.tuples(st.just("update_tavern"), st.tuples(TAVERNS, NAMES, st.booleans())),
    st.tuples(st.just("delete_tavern"), st.tuples(TAVERNS)),
    st.tuples(st.just("rename_channel"), st.tuples(TAVERNS, CHANNELS, NAMES)),
    st.tuples(st.just("delete_channel"), st.tuples(TAVERNS, CHANNELS)),
    st.tuples(
        st.just("put_member"), st.tuples(st.builds(_member, TAVERNS, KEYS, st.sampled_from(["member", "moderator"])))
    ),
    st.tuples(st.just("remove_member"), st.tuples(TAVERNS, KEYS)),
    st.tuples(st.just("add_ban"), st.tuples(st.builds(_ban, TAVERNS, st.text("xyz", max_size=9), KEYS))),
    st.tuples(st.just("remove_ban"), st.tuples(TAVERNS, st.text("xyz", max_size=2))),
    st.tuples(st.just("put_invite"), st.tuples(st.builds(_invite, TAVERNS, st.sampled_from("ij"), st.integers(0, 2)))),
    st.tuples(st.just("remove_invite"), st.tuples(TAVERNS, st.sampled_from("ij"))),
    st.tuples(st.just("redeem_invite"), st.tuples(TAVERNS, st.sampled_from("ij"), KEYS)),
    st.tuples(st.just("mark_used"), st.tuples(TAVERNS, NAMES)),
)


async def perform(store: Store, action: Action) -> str | None:
    """What it was refused with."""
    name, values = action
    try:
        match name:
            case "update_tavern":
                await store.update_tavern(values[0], name=values[1], locked=values[2])
            case "rename_channel":
                await store.rename_channel(values[0], values[0] + values[1], values[2])
            case "delete_channel":
                await store.delete_channel(values[0], values[0] + values[1])
            case "remove_ban" | "remove_invite":
                await getattr(store, name)(values[0], f"{values[0]} {values[1]}")
            case "redeem_invite":
                await store.redeem_invite(f"{values[0]} {values[1]}", _member(values[0], values[2]), NOW)
            case _:
                await getattr(store, name)(*values)
    except RemoteError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  DuplicateId: the same for both
        return type(error).__name__
    return None


def known(store: Store) -> list[Any]:
    return [
        (
            tavern,
            store.channels(tavern.id),
            {name: dict(value) if isinstance(value, dict) else value for name, value in attrs.asdict(found).items()},
        )
        for tavern in store.taverns()
        if (found := store.access(tavern.id)) is not None
    ]


@given(st.lists(ACTIONS, max_size=40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_both_stores_know_the_same_also_when_opened_again(actions: list[Action], at_once: bool) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tavern.db"
            memory = MemoryStore(CAPS)
            async with open_sqlite_store(path, CAPS) as store:
                for action in actions:
                    assert await perform(store, action) == await perform(memory, action), action
                assert known(store) == known(memory)
                if at_once:  # many in one transaction, in whatever order: the file knows what is answered
                    async with trio.open_nursery() as nursery:
                        for action in actions:
                            nursery.start_soon(perform, store, action)
                after = known(store)
            async with open_sqlite_store(path, CAPS) as store:
                assert known(store) == after

    trio.run(main)

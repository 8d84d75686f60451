"""What every store promises, held for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import attrs
import pytest
import trio

from tavern.store import base
from tavern.store.base import ChannelRecord, DuplicateId, NoSuchTavern, Store, StoreFull, TavernRecord, UnstorableText

Created = tuple[TavernRecord, tuple[ChannelRecord, ...]]


class Records(Protocol):
    def tavern(self, *channel_names: str, name: str = ..., icon: str = ...) -> Created: ...
    def channel(self, tavern_id: str, name: str = ...) -> ChannelRecord: ...


class OpenStore(Protocol):
    def __call__(self) -> AbstractAsyncContextManager[Store]: ...


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened


async def test_a_new_store_is_empty(store: Store) -> None:
    assert store.tavern_count() == 0
    assert store.tavern("tavern-1") is None
    assert store.channels("tavern-1") == ()


async def test_a_created_tavern_is_readable_with_its_channels_in_order(store: Store, records: Records) -> None:
    tavern, channels = records.tavern("General", "Cellar", "Attic", icon="\N{BEER MUG}")
    await store.create_tavern(tavern, channels)
    assert store.tavern(tavern.id) == tavern
    assert store.channels(tavern.id) == channels
    assert store.tavern_count() == 1


async def test_channels_come_in_the_order_of_creation_not_of_ids_or_names(store: Store, records: Records) -> None:
    tavern, (general,) = records.tavern()
    await store.create_tavern(tavern, (general,))
    later = [attrs.evolve(records.channel(tavern.id, name), id=f"id-{name}") for name in ("z", "a", "m")]
    for channel in later:
        await store.create_channel(channel)
    assert store.channels(tavern.id) == (general, *later)


async def test_a_tavern_may_start_without_channels(store: Store, records: Records) -> None:
    tavern, _ = records.tavern()
    await store.create_tavern(tavern, ())
    assert store.channels(tavern.id) == ()
    channel = records.channel(tavern.id)
    await store.create_channel(channel)
    assert store.channels(tavern.id) == (channel,)


async def test_a_channel_needs_a_tavern(store: Store, records: Records) -> None:
    with pytest.raises(NoSuchTavern):
        await store.create_channel(records.channel("nowhere"))
    assert store.channels("nowhere") == ()


async def test_a_tavern_with_a_foreign_channel_is_refused_whole(store: Store, records: Records) -> None:
    tavern, channels = records.tavern()
    with pytest.raises(ValueError, match="another tavern"):
        await store.create_tavern(tavern, (*channels, records.channel("another")))
    assert store.tavern(tavern.id) is None
    await store.create_tavern(tavern, channels)


async def test_an_id_is_used_once(store: Store, records: Records) -> None:
    tavern, (general,) = records.tavern()
    await store.create_tavern(tavern, (general,))
    with pytest.raises(DuplicateId):
        await store.create_tavern(attrs.evolve(tavern, name="Impostor"), ())
    with pytest.raises(DuplicateId):
        await store.create_channel(general)
    other, _ = records.tavern()
    with pytest.raises(DuplicateId):
        await store.create_tavern(other, (attrs.evolve(general, tavern_id=other.id),))
    twin = records.channel(other.id)
    with pytest.raises(DuplicateId):
        await store.create_tavern(other, (twin, twin))
    assert store.tavern(tavern.id) == tavern
    assert store.tavern_count() == 1


async def test_of_two_writers_of_one_id_at_once_one_wins(store: Store, records: Records) -> None:
    tavern, channels = records.tavern()
    outcomes: list[str] = []

    async def create() -> None:
        try:
            await store.create_tavern(tavern, channels)
            outcomes.append("created")
        except DuplicateId:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create)
        nursery.start_soon(create)
    assert sorted(outcomes) == ["created", "refused"]
    assert store.tavern_count() == 1


@pytest.mark.parametrize("text", ["\ud83d", "x" * (base.MAX_TEXT_CHARACTERS + 1)], ids=["half a surrogate", "too long"])
@pytest.mark.parametrize("field", ["name", "icon", "creator_public_key", "signaling_url"])
async def test_text_that_no_file_can_hold_is_the_senders_fault(
    store: Store, records: Records, field: str, text: str
) -> None:
    tavern, channels = records.tavern()
    odd: dict[str, Any] = {field: text}
    with pytest.raises(UnstorableText):
        await store.create_tavern(attrs.evolve(tavern, **odd), channels)
    await store.create_tavern(tavern, channels)
    with pytest.raises(UnstorableText):
        await store.create_channel(records.channel(tavern.id, text))
    assert store.channels(tavern.id) == channels


async def test_odd_but_valid_text_comes_back_as_it_was(store: Store, records: Records) -> None:
    name = "nul \0 quote ' \N{BEER MUG} \N{RIGHT-TO-LEFT OVERRIDE} " + "x" * 10_000
    tavern, channels = records.tavern(name, name=name)
    await store.create_tavern(tavern, channels)
    assert store.tavern(tavern.id) == tavern
    assert store.channels(tavern.id)[0].name == name


async def test_a_tavern_holds_a_limited_number_of_channels(store: Store, records: Records) -> None:
    tavern, channels = records.tavern(*(f"channel {number}" for number in range(base.MAX_CHANNELS_PER_TAVERN - 1)))
    await store.create_tavern(tavern, channels)
    last = records.channel(tavern.id)
    await store.create_channel(last)
    with pytest.raises(StoreFull):
        await store.create_channel(records.channel(tavern.id))
    assert store.channels(tavern.id) == (*channels, last)
    other, other_channels = records.tavern(*(str(number) for number in range(base.MAX_CHANNELS_PER_TAVERN + 1)))
    with pytest.raises(StoreFull):
        await store.create_tavern(other, other_channels)
    assert store.tavern(other.id) is None


async def test_writers_at_once_cannot_pass_the_limit_together(store: Store, records: Records) -> None:
    tavern, channels = records.tavern(*(f"channel {number}" for number in range(base.MAX_CHANNELS_PER_TAVERN - 3)))
    await store.create_tavern(tavern, channels)
    refused = 0

    async def create() -> None:
        nonlocal refused
        try:
            await store.create_channel(records.channel(tavern.id))
        except StoreFull:
            refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(create)
    assert refused == 7
    assert len(store.channels(tavern.id)) == base.MAX_CHANNELS_PER_TAVERN


async def test_relay_usage_is_kept_by_month_and_the_last_figure_counts(store: Store) -> None:
    assert store.relay_usage("2026-11") == 0
    await store.save_relay_usage("2026-11", 5)
    await store.save_relay_usage("2026-12", 7)
    await store.save_relay_usage("2026-11", 2**62)
    await store.save_relay_usage("2026-12", 6)
    assert (store.relay_usage("2026-11"), store.relay_usage("2026-12")) == (2**62, 6)
    assert store.relay_usage("2027-01") == 0
    assert store.tavern_count() == 0


async def test_a_caller_cancelled_before_it_saves_usage_writes_nothing(store: Store) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.save_relay_usage("2026-11", 5)
    assert scope.cancelled_caught
    assert store.relay_usage("2026-11") == 0


async def test_a_caller_cancelled_before_it_asks_writes_nothing(store: Store, records: Records) -> None:
    tavern, channels = records.tavern()
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.create_tavern(tavern, channels)
    assert scope.cancelled_caught
    await store.create_tavern(tavern, channels)  # no trace of the first attempt: the id is free

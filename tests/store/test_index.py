"""Caps and reservations, at limits small enough to reach."""

from __future__ import annotations

import pytest

from tavern.store.base import ChannelRecord, DuplicateId, NoSuchTavern, StoreFull, TavernRecord
from tavern.store.index import Caps, Index


def tavern(name: str) -> TavernRecord:
    return TavernRecord(id=name, name=name, icon="", creator_public_key="k", signaling_url="", created_at="")


def channel(tavern_id: str, name: str) -> ChannelRecord:
    return ChannelRecord(id=name, tavern_id=tavern_id, name=name, created_at="")


def test_taverns_are_capped_and_those_under_way_count() -> None:
    index = Index(Caps(taverns=2))
    index.add(tavern("one"), ())
    index.reserve_tavern(tavern("two"), ())
    with pytest.raises(StoreFull):
        index.reserve_tavern(tavern("three"), ())
    index.settle_tavern(tavern("two"), (), False)
    index.reserve_tavern(tavern("three"), ())
    index.settle_tavern(tavern("three"), (), True)
    assert index.tavern_count() == 2
    assert index.tavern("two") is None


def test_what_is_under_way_is_not_readable_and_holds_its_ids() -> None:
    index = Index()
    first = channel("one", "first")
    index.reserve_tavern(tavern("one"), (first,))
    assert index.tavern("one") is None
    assert index.channels("one") == ()
    with pytest.raises(NoSuchTavern):
        index.reserve_channel(channel("one", "second"))
    with pytest.raises(DuplicateId):
        index.reserve_tavern(tavern("two"), (channel("two", "first"),))
    index.settle_tavern(tavern("one"), (first,), True)
    assert index.channels("one") == (first,)


def test_a_channel_given_up_leaves_room_and_its_id() -> None:
    index = Index(Caps(channels_per_tavern=1))
    index.add(tavern("one"), ())
    for committed in (False, True):
        index.reserve_channel(channel("one", "first"))
        with pytest.raises(StoreFull):
            index.reserve_channel(channel("one", "second"))
        index.settle_channel(channel("one", "first"), committed)
    assert index.channels("one") == (channel("one", "first"),)


def test_more_than_the_caps_in_an_existing_database_is_served_and_only_new_ones_are_refused() -> None:
    index = Index(Caps(taverns=1, channels_per_tavern=1))
    many = (channel("one", "a"), channel("one", "b"))
    index.add(tavern("one"), many)
    index.add(tavern("two"), ())
    assert index.channels("one") == many
    with pytest.raises(StoreFull):
        index.reserve_channel(channel("one", "c"))
    with pytest.raises(StoreFull):
        index.reserve_tavern(tavern("three"), ())

"""Presence without polling: who watches a tavern sees who is where, before joining."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tavern.signaling.messages import SignalingError
from tavern.signaling.registry import PRESENCE_INTERVAL_S
from tavern.signaling.rooms import Peer
from tavern.signaling.watchers import MAX_WATCHED, MAX_WATCHERS, Watchers
from tests.signaling.lab import Lab, Person, open_lab, prove, refused
from tests.signaling.memory_transport import MemoryTransport

ALICE, BOB = Person("Alice"), Person("Bob")


async def watching(lab: Lab, tavern: dict[str, Any]) -> MemoryTransport:
    client = lab.connect()
    client.say({"type": "watch-tavern", "tavernId": tavern["id"]})
    shown = (await client.hear("tavern-watched"))["tavern"]
    assert shown["id"] == tavern["id"]
    assert shown["owner"] == ""
    return client


async def test_a_watcher_hears_who_is_where(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        watcher = await watching(lab, tavern)
        alice = lab.connect()
        await prove(alice, ALICE)
        alice.say(ALICE.join(tavern))
        told = await watcher.hear("presence-changed")
        assert (told["tavernId"], told["channelId"]) == (tavern["id"], tavern["channels"][0]["id"])
        [peer] = told["peers"]
        assert (peer["publicKeyHex"], peer["displayName"], peer["verified"]) == (ALICE.key, "Alice", True)
        alice.say({"type": "update-identity", "identity": {**ALICE.identity, "displayName": "A."}})
        assert (await watcher.hear("presence-changed"))["peers"][0]["displayName"] == "A."
        alice.hang_up()
        assert (await watcher.hear("presence-changed"))["peers"] == []


async def test_what_happens_in_a_moment_is_told_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        watcher = await watching(lab, tavern)
        clients = [lab.connect() for _ in range(5)]
        for number, client in enumerate(clients):
            client.say(Person(f"P{number}").join(tavern))
            client.say({"type": "leave-channel", "tavernId": tavern["id"], "channelId": tavern["channels"][0]["id"]})
            client.say(Person(f"P{number}").join(tavern))
        assert len((await watcher.hear("presence-changed"))["peers"]) == 5
        await trio.sleep(3 * PRESENCE_INTERVAL_S)
        assert watcher.heard_nothing()


async def test_a_watcher_hears_of_channels_and_ends_when_it_asks(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        maker = lab.connect()
        tavern = await lab.tavern(maker)
        watcher = await watching(lab, tavern)
        maker.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Cellar"})
        created = await maker.hear("channel-created")
        assert await watcher.hear("channel-created") == created
        watcher.say({"type": "unwatch-tavern", "tavernId": tavern["id"]})
        assert await watcher.hear("done") == {"type": "done", "request": "unwatch-tavern"}
        await lab.join(tavern, "a")
        await trio.sleep(1)
        assert watcher.heard_nothing()


async def test_a_watcher_inside_hears_of_a_new_channel_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        watcher = await watching(lab, tavern)
        watcher.say(ALICE.join(tavern))
        await watcher.hear("channel-joined")
        await watcher.hear("presence-changed")
        watcher.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Cellar"})
        await watcher.hear("channel-created")
        await trio.sleep(1)
        assert watcher.heard_nothing()


async def test_who_may_not_watch_any_more_is_told_why(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        owner = lab.connect()
        await prove(owner, ALICE)
        tavern = await lab.tavern(owner)
        stranger, banned = lab.connect(), lab.connect()
        await prove(banned, BOB)
        for client in (stranger, banned, owner):
            client.say({"type": "watch-tavern", "tavernId": tavern["id"]})
            await client.hear("tavern-watched")
        owner.say({"type": "ban", "tavernId": tavern["id"], "publicKeyHex": BOB.key})
        await owner.hear("done")
        assert (await banned.hear("watch-ended"))["reason"] == "banned"
        owner.say({"type": "update-tavern", "tavernId": tavern["id"], "locked": True})
        assert (await owner.hear("tavern-updated"))["tavern"]["locked"] is True
        assert (await stranger.hear("watch-ended"))["reason"] == "tavern-locked"
        await refused(stranger, {"type": "watch-tavern", "tavernId": tavern["id"]}, "tavern-locked")
        owner.say({"type": "delete-tavern", "tavernId": tavern["id"]})
        await owner.hear("tavern-deleted")
        assert stranger.heard_nothing()


async def test_no_such_tavern_is_an_error() -> None:
    async with open_lab() as lab:
        await refused(lab.connect(), {"type": "watch-tavern", "tavernId": "x"}, "tavern-not-found")


async def test_a_connection_watches_so_many_taverns() -> None:
    async with open_lab() as lab:
        client = lab.connect()
        taverns = [await lab.tavern(client) for _ in range(MAX_WATCHED + 1)]
        for tavern in taverns[:-1]:
            client.say({"type": "watch-tavern", "tavernId": tavern["id"]})
            await client.hear("tavern-watched")
        await refused(client, {"type": "watch-tavern", "tavernId": taverns[-1]["id"]}, "limit-reached")
        client.say({"type": "watch-tavern", "tavernId": taverns[0]["id"]})  # twice is once
        await client.hear("tavern-watched")
        client.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        assert not any(lab.registry.watchers.is_watched(tavern["id"]) for tavern in taverns)


def test_a_tavern_has_so_many_watchers() -> None:
    watchers = Watchers()
    peers = [Peer(str(number)) for number in range(MAX_WATCHERS + 1)]
    for peer in peers[:-1]:
        watchers.watch(peer, "t")
    with pytest.raises(SignalingError):
        watchers.watch(peers[-1], "t")
    watchers.forget(peers[0])
    watchers.watch(peers[-1], "t")
    assert len(watchers.of_tavern("t")) == MAX_WATCHERS


async def test_a_crowd_of_watchers_is_told_less_often(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        crowd = [await watching(lab, tavern) for _ in range(128)]
        began = trio.current_time()
        await lab.join(tavern, "a")
        for watcher in crowd:
            await watcher.hear("presence-changed")
        assert trio.current_time() - began == pytest.approx(3 * PRESENCE_INTERVAL_S)

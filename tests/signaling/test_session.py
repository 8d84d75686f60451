"""Sessions: each request answered as the protocol says, limits kept, rooms supervised, drained."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tavern.signaling.ice import REFRESH_MARGIN_S, TURN_CREDENTIAL_LIFETIME_S
from tavern.signaling.messages import Identity
from tavern.signaling.session import MAX_WAITING
from tavern.store.base import ChannelRecord, StoreBusy, TavernRecord, WriteFailed
from tavern.store.index import Caps
from tavern.store.memory import MemoryStore
from tests.signaling.lab import Lab, join
from tests.signaling.memory_transport import MemoryTransport

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ISO_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with trio.open_nursery() as nursery:
        lab = Lab(nursery, MemoryStore(Caps(taverns_per_address=20_000)))
        await nursery.start(lab.registry.run)
        yield lab
        nursery.cancel_scope.cancel()


async def test_a_created_tavern_has_one_channel_and_is_found_again(lab: Lab) -> None:
    client = lab.connect()
    client.say({"type": "create-tavern", "name": "Pony", "icon": "🍺"})
    tavern = (await client.hear("tavern-created"))["tavern"]
    assert UUID.fullmatch(tavern["id"])
    assert ISO_MS.fullmatch(tavern["createdAt"])
    [channel] = tavern["channels"]
    assert UUID.fullmatch(channel["id"])
    assert (channel["name"], channel["peers"]) == ("General", [])
    assert (tavern["name"], tavern["icon"]) == ("Pony", "🍺")
    client.say({"type": "get-tavern-info", "tavernId": tavern["id"]})
    assert (await client.hear("tavern-info"))["tavern"] == tavern


async def test_a_tavern_without_icon_has_no_such_field(lab: Lab) -> None:
    assert "icon" not in await lab.tavern(lab.connect())


async def test_the_creator_is_named_by_the_identity_that_it_stated(lab: Lab) -> None:
    client = lab.connect()
    client.say({"type": "update-identity", "identity": {"publicKeyHex": "k", "tag": "#k", "displayName": None}})
    assert (await lab.tavern(client))["createdBy"] == "k"


async def test_info_shows_live_peers(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    await lab.join(tavern, "a")
    client = lab.connect()
    client.say({"type": "get-tavern-info", "tavernId": tavern["id"]})
    [channel] = (await client.hear("tavern-info"))["tavern"]["channels"]
    assert [peer["publicKeyHex"] for peer in channel["peers"]] == ["a"]


@pytest.mark.parametrize(
    ("message", "text", "code"),
    [
        ({"type": "get-tavern-info", "tavernId": "x"}, "Tavern not found", "tavern-not-found"),
        ({"type": "create-channel", "tavernId": "x", "name": "y"}, "Tavern not found", "tavern-not-found"),
        ({"type": "offer", "sdp": "v=0"}, "Join a room before signaling", "not-in-room"),
        ({"type": "nonsense"}, "Unknown message type 'nonsense'", "unknown-type"),
    ],
)
async def test_what_cannot_be_done_is_answered_and_the_connection_lives(
    lab: Lab, message: dict[str, Any], text: str, code: str
) -> None:
    client = lab.connect()
    client.say(message)
    error = await client.hear("error")
    assert (error["message"], error["code"]) == (text, code)
    await lab.tavern(client)


async def test_joining_what_does_not_exist(lab: Lab) -> None:
    client = lab.connect()
    tavern = await lab.tavern(client)
    client.say(join(tavern, "a") | {"tavernId": "x"})
    assert (await client.hear("error"))["message"] == "Tavern not found"
    client.say(join(tavern, "a") | {"channelId": "x"})
    assert (await client.hear("error"))["message"] == "Channel not found"


async def test_a_new_channel_is_told_once_to_each_peer_in_the_tavern_and_to_the_sender(lab: Lab) -> None:
    outsider = lab.connect()
    tavern = await lab.tavern(outsider)
    alice = await lab.join(tavern, "a")
    outsider.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Back room"})
    created = await outsider.hear("channel-created")
    assert created["channel"]["name"] == "Back room"
    assert await alice.hear("channel-created") == created
    alice.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Cellar"})
    assert (await alice.hear("channel-created"))["channel"]["name"] == "Cellar"
    await trio.testing.wait_all_tasks_blocked()
    assert alice.heard_nothing()
    assert outsider.heard_nothing()  # it is in no channel of the tavern


async def test_messages_from_one_sender_to_one_receiver_keep_their_order(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    alice, bob = await lab.join(tavern, "a"), await lab.join(tavern, "b")
    await alice.hear("peer-joined-channel")
    alice.say({"type": "offer", "sdp": "v=0", "target": "b"})
    for number in range(20):
        alice.say({"type": "ice-candidate", "candidate": str(number), "target": "b"})
    assert (await bob.hear("offer"))["from"] == "a"
    assert [(await bob.hear("ice-candidate"))["candidate"] for _ in range(20)] == [str(n) for n in range(20)]


async def test_hanging_up_is_leaving(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    alice, bob = await lab.join(tavern, "a"), await lab.join(tavern, "b")
    await alice.hear("peer-joined-channel")
    bob.hang_up()
    assert (await alice.hear("peer-left-channel"))["publicKeyHex"] == "b"


async def test_a_replaced_session_is_told_and_closed_with_1000(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    old = await lab.join(tavern, "a")
    await lab.join(tavern, "a")
    await old.hear("session-replaced")
    assert old.closed == (1000, "session replaced")


async def test_ice_servers_are_made_for_the_host_that_the_client_named(lab: Lab) -> None:
    client = lab.connect()
    client.say({"type": "get-ice-servers"})
    assert (await client.hear("ice-servers"))["expiresAt"].startswith("localhost:3001 ")


async def test_a_binary_frame_with_json_is_read_the_same_way(lab: Lab) -> None:
    client = lab.connect()
    client.say(b'{"type":"create-tavern","name":"Pony"}')
    await client.hear("tavern-created")


async def test_too_many_messages_in_a_second_and_the_third_violation_closes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        lab = Lab(nursery, MemoryStore(Caps(taverns_per_address=20_000)), messages=30)
        await nursery.start(lab.registry.run)
        client = lab.connect()
        for _ in range(30):
            client.say({"type": "get-tavern-info", "tavernId": "x"})
        for _ in range(30):
            assert (await client.hear("error"))["code"] == "tavern-not-found"
        client.say("")
        assert await client.hear("error") == {"type": "error", "message": "rate-limited", "code": "rate-limited"}
        await trio.sleep(1)  # the mock clock's: a second later all is well again
        client.say({"type": "get-tavern-info", "tavernId": "x"})
        assert (await client.hear("error"))["code"] == "tavern-not-found"
        for _ in range(31):
            client.say("")
        for _ in range(29):
            assert (await client.hear("error"))["code"] == "bad-json"
        assert (await client.hear("error"))["code"] == "rate-limited"
        assert (await client.hear("error"))["code"] == "rate-limited"
        assert client.closed == (1008, "rate-limited")
        nursery.cancel_scope.cancel()


async def test_taverns_a_minute_are_counted_by_address_over_all_its_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        lab = Lab(nursery, MemoryStore(Caps(taverns_per_address=20_000)), creates=10)
        await nursery.start(lab.registry.run)
        clients = [lab.connect() for _ in range(2)]
        for number in range(10):
            await lab.tavern(clients[number % 2])
        neighbour = lab.connect("192.0.2.8")
        await lab.tavern(neighbour)
        for _ in range(3):
            clients[0].say({"type": "create-tavern", "name": "Eleventh"})
            assert (await clients[0].hear("error"))["message"] == "rate-limited"
        assert clients[0].closed == (1008, "rate-limited")
        await trio.sleep(60)
        await lab.tavern(clients[1])
        nursery.cancel_scope.cancel()


class RefusingStore(MemoryStore):
    """A store whose disk is full."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def create_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        raise self.error


@pytest.mark.parametrize("error", [WriteFailed("the disk is full"), StoreBusy("too many writes are waiting")])
async def test_a_store_that_refuses_is_an_error_to_the_one_who_asked(error: Exception) -> None:
    async with trio.open_nursery() as nursery:
        lab = Lab(nursery, RefusingStore(error))
        await nursery.start(lab.registry.run)
        client = lab.connect()
        client.say({"type": "create-tavern", "name": "Pony"})
        assert await client.hear("error") == {"type": "error", "message": str(error), "code": "store-unavailable"}
        client.say({"type": "get-tavern-info", "tavernId": "x"})
        await client.hear("error")
        nursery.cancel_scope.cancel()


async def test_a_bug_in_a_room_closes_its_members_and_nobody_else(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tavern = await lab.tavern(lab.connect())
    other_tavern = await lab.tavern(lab.connect())
    alice, bob = await lab.join(tavern, "a"), await lab.join(tavern, "b")
    await alice.hear("peer-joined-channel")
    carol, dave = await lab.join(other_tavern, "c"), await lab.join(other_tavern, "d")
    await carol.hear("peer-joined-channel")

    def broken(_message: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bob, "send", broken)
    with caplog.at_level(logging.ERROR):
        alice.say({"type": "offer", "sdp": "v=0", "target": "b"})
        await trio.testing.wait_all_tasks_blocked()
    assert "ZeroDivisionError" in caplog.text
    assert alice.closed == bob.closed == (1011, "internal error")
    assert lab.registry.metrics.failures == {"room": 1}
    carol.say({"type": "offer", "sdp": "v=0", "target": "d"})
    assert (await dave.hear("offer"))["from"] == "c"
    # The room itself is new again.
    await lab.join(tavern, "a")


async def test_draining_tells_everybody_and_closes_with_1001(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    alice, idle = await lab.join(tavern, "a"), lab.connect()
    await trio.testing.wait_all_tasks_blocked()
    lab.registry.drain()
    for client in (alice, idle):
        await client.hear("server-shutdown")
        assert client.closed == (1001, "server shutdown")
    late = lab.connect()
    await late.hear("server-shutdown")
    assert late.closed == (1001, "server shutdown")


async def test_peers_and_taverns_are_counted_for_the_metrics(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    alice = await lab.join(tavern, "a")
    assert lab.registry.metrics.connected_peers == 2
    assert lab.registry.presence.active_taverns() == 1
    alice.hang_up()
    await trio.testing.wait_all_tasks_blocked()
    assert lab.registry.metrics.connected_peers == 1
    assert lab.registry.presence.active_taverns() == 0


class SlowStore(MemoryStore):
    """A store whose disk takes its time: writes wait until the test lets them go."""

    def __init__(self) -> None:
        super().__init__(Caps(taverns_per_address=20_000))
        self.go = trio.Event()

    async def create_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        await self.go.wait()
        await super().create_tavern(tavern, channels)


async def test_who_waits_for_the_disk_is_answered_in_order_and_may_leave_at_once() -> None:
    async with trio.open_nursery() as nursery:
        store = SlowStore()
        lab = Lab(nursery, store)
        await nursery.start(lab.registry.run)
        alice, bob = lab.connect(), lab.connect()
        for client in (alice, bob):
            client.say({"type": "join", "room": "den"})
            await client.hear("peer-list")
        await alice.hear("peer-joined")
        bob.say({"type": "create-tavern", "name": "One"})
        bob.say({"type": "update-identity", "identity": {"publicKeyHex": "k", "tag": "#k", "displayName": None}})
        bob.say({"type": "create-tavern", "name": "Two"})
        bob.say({"type": "get-tavern-info", "tavernId": "x"})
        await trio.testing.wait_all_tasks_blocked()
        assert bob.heard_nothing()
        store.go.set()
        taverns = [(await bob.hear("tavern-created"))["tavern"] for _ in range(2)]
        assert [(tavern["name"], tavern["createdBy"]) for tavern in taverns] == [("One", ""), ("Two", "k")]
        assert (await bob.hear("error"))["code"] == "tavern-not-found"
        await alice.hear("peer-identity-updated")
        store.go = trio.Event()
        bob.say({"type": "create-tavern", "name": "Three"})
        bob.say({"type": "create-tavern", "name": "Four"})
        bob.say({"type": "join", "room": "den"})
        await trio.testing.wait_all_tasks_blocked()
        bob.hang_up()
        await alice.hear("peer-left")
        assert store.tavern_count() == 2
        # What it asked for before it left is stored, and it does not come back for the rest.
        store.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert store.tavern_count() == 4
        assert alice.heard_nothing()
        nursery.cancel_scope.cancel()


class LateStore(SlowStore):
    """Writes are done, and their callers learn of it when the test lets them."""

    async def create_tavern(self, tavern: TavernRecord, channels: tuple[ChannelRecord, ...]) -> None:
        await MemoryStore.create_tavern(self, tavern, channels)
        await self.go.wait()


async def test_a_replaced_session_does_not_come_back_with_what_it_had_sent_before() -> None:
    async with trio.open_nursery() as nursery:
        store = LateStore()
        lab = Lab(nursery, store)
        await nursery.start(lab.registry.run)
        presence = lab.registry.presence
        await nursery.start(lab.registry.run)
        for _ in range(20):  # which task comes first is trio's to draw
            store.go.set()
            tavern = await lab.tavern(lab.connect())
            channel_id = tavern["channels"][0]["id"]
            store.go = trio.Event()
            old = await lab.join(tavern, "a")
            old.say({"type": "create-tavern", "name": "Pony"})
            old.say(join(tavern, "a"))
            await trio.testing.wait_all_tasks_blocked()
            # In one step of the scheduler the disk is done and the session is replaced.
            store.go.set()
            new = MemoryTransport()
            peer = lab.registry.connect(new)
            identity = Identity(publicKeyHex="a", tag="#a")
            room = presence.rooms["tavern", tavern["id"]]
            lab.registry.act(room, partial(presence.join_channel, peer, tavern["id"], channel_id, identity))
            await trio.testing.wait_all_tasks_blocked()
            assert old.closed == (1000, "session replaced")
            assert new.closed is None
            assert presence.channel_members(tavern["id"], channel_id) == (peer,)
            lab.registry.disconnect(peer)
        nursery.cancel_scope.cancel()


async def test_all_that_is_within_the_message_limit_is_done_however_many_wait() -> None:
    async with trio.open_nursery() as nursery:
        store = SlowStore()
        lab = Lab(nursery, store)
        await nursery.start(lab.registry.run)
        client = lab.connect()
        for _ in range(2 * MAX_WAITING):
            client.say({"type": "create-tavern", "name": "Pony"})
        await trio.testing.wait_all_tasks_blocked()
        store.go.set()
        for _ in range(2 * MAX_WAITING):
            await client.hear("tavern-created")
        nursery.cancel_scope.cancel()


async def test_a_target_that_reads_slowly_costs_the_sender_and_is_not_closed_for_it(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    alice, bob, carol = [await lab.join(tavern, key) for key in "abc"]
    await alice.hear("peer-joined-channel")
    await alice.hear("peer-joined-channel")
    await bob.hear("peer-joined-channel")
    bob.congested = True
    alice.say({"type": "offer", "sdp": "v=0", "target": "b"})
    assert (await alice.hear("error"))["code"] == "target-busy"
    alice.say({"type": "offer", "sdp": "v=0"})
    assert (await alice.hear("error"))["code"] == "target-busy"
    await carol.hear("offer")
    assert bob.heard_nothing()
    assert bob.closed is None


async def test_the_log_tells_of_what_happened_only(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client = lab.connect()
    tavern = await lab.tavern(client)
    channel_id = tavern["channels"][0]["id"]
    client.say({"type": "leave-channel", "tavernId": tavern["id"], "channelId": channel_id})
    client.say(join(tavern, "a"))
    await client.hear("channel-joined")
    assert "left-channel" not in caplog.text
    client.say({"type": "leave-channel", "tavernId": tavern["id"], "channelId": channel_id})
    await lab.tavern(client)
    assert caplog.text.count("left-channel") == 1


async def test_the_create_limit_counts_an_ipv6_network_as_one_client(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        lab = Lab(nursery, MemoryStore(Caps(taverns_per_address=20_000)), creates=1)
        await nursery.start(lab.registry.run)
        await lab.tavern(lab.connect("2001:db8:1:2::1"))
        neighbour = lab.connect("2001:db8:1:2:3::9")
        neighbour.say({"type": "create-tavern", "name": "Pony"})
        assert (await neighbour.hear("error"))["code"] == "rate-limited"
        await lab.tavern(lab.connect("2001:db8:1:3::1"))
        nursery.cancel_scope.cancel()


# What the relay is told


CANDIDATE = "candidate:1 1 udp 2122260223 9.8.7.6 5000 typ host"


async def test_the_relay_is_told_who_is_with_whom(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    general = ("tavern", tavern["id"], tavern["channels"][0]["id"])
    lab.observed.take()
    ada = await lab.join(tavern, "a")
    ben = await lab.join(tavern, "b")
    assert lab.observed.take() == [
        ("opened", 1, "192.0.2.7"),
        ("moved", 1, general),
        ("opened", 2, "192.0.2.7"),
        ("moved", 2, general),
    ]
    ada.say({"type": "leave-channel", "tavernId": tavern["id"], "channelId": tavern["channels"][0]["id"]})
    await ben.hear("peer-left-channel")
    ada.say({"type": "join", "room": "cellar"})
    await ada.hear("peer-joined-channel")
    await ada.hear("peer-list")
    assert lab.observed.take() == [("moved", 1, None), ("moved", 1, ("legacy", "cellar", "cellar"))]


async def test_moving_from_one_channel_to_another_is_leaving_first(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    ada = await lab.join(tavern, "a")
    ada.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Cellar"})
    channel = (await ada.hear("channel-created"))["channel"]
    lab.observed.take()
    ada.say({**join(tavern, "a"), "channelId": channel["id"]})
    await ada.hear("channel-joined")
    assert lab.observed.take() == [("moved", 1, None), ("moved", 1, ("tavern", tavern["id"], channel["id"]))]
    ada.say({**join(tavern, "a"), "channelId": channel["id"]})
    await ada.hear("channel-joined")
    assert lab.observed.take() == [], "it was there already"


async def test_the_relay_hears_of_addresses_before_who_is_told_them(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    ada, ben, cleo = [await lab.join(tavern, key) for key in "abc"]
    lab.observed.take()
    ada.say({"type": "ice-candidate", "target": "b", "candidate": CANDIDATE})
    await ben.hear("peer-joined-channel")
    await ben.hear("ice-candidate")
    ada.say({"type": "offer", "sdp": f"v=0\r\na={CANDIDATE}\r\n"})
    await cleo.hear("offer")
    ada.say({"type": "ice-candidate", "target": "nobody", "candidate": CANDIDATE})
    ada.say({"type": "ice-candidate", "target": "b", "candidate": "end"})
    await ben.hear("offer")
    await ben.hear("ice-candidate")
    assert lab.observed.take() == [
        ("announced", 1, (2,), ("9.8.7.6",)),
        ("announced", 1, (2, 3), ("9.8.7.6",)),
    ]


async def test_a_lost_connection_is_out_of_the_call_and_lost_once(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    ada, ben = await lab.join(tavern, "a"), await lab.join(tavern, "b")
    lab.observed.take()
    ada.hang_up()
    await ben.hear("peer-left-channel")
    await trio.testing.wait_all_tasks_blocked()
    assert lab.observed.take() == [("moved", 1, None), ("lost", 1)]


async def test_a_replaced_session_is_revoked_and_not_lost_besides(lab: Lab) -> None:
    tavern = await lab.tavern(lab.connect())
    ada = await lab.join(tavern, "a")
    lab.observed.take()
    await lab.join(tavern, "a")
    await ada.hear("session-replaced")
    await trio.testing.wait_all_tasks_blocked()
    events = lab.observed.take()
    assert [event[:2] for event in events] == [("opened", 2), ("moved", 1), ("revoked", 1), ("moved", 2)]
    assert events[1] == ("moved", 1, None)


# ICE servers


async def test_who_asked_once_for_ice_servers_gets_new_ones_in_time(lab: Lab, autojump_clock: object) -> None:
    other = lab.connect()
    await trio.testing.wait_all_tasks_blocked()
    client = lab.connect()
    client.say({"type": "get-ice-servers"})
    await client.hear("ice-servers")
    start = trio.current_time()
    client.say({"type": "get-ice-servers"})
    await client.hear("ice-servers")
    for _ in range(3):
        await client.hear("ice-servers")
    passed_s = trio.current_time() - start
    assert passed_s == pytest.approx(3 * (TURN_CREDENTIAL_LIFETIME_S - REFRESH_MARGIN_S), abs=1)
    assert other.heard_nothing()
    client.hang_up()
    await trio.testing.wait_all_tasks_blocked()
    assert lab.observed.take()[-1] == ("lost", 1)

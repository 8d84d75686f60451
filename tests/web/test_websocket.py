"""Signaling over real sockets, read by Python and by the compiled poller: nobody can tell which of them it is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tavern.client.websocket import open_websocket
from tavern.signaling.registry import Registry
from tavern.signaling.taverns import Taverns
from tavern.web.frames import encode_close
from tavern.web.native.poller import NativePoller
from tavern.web.poller import PythonPoller
from tests.prerequisites import native_or_skip
from tests.signaling.lab import Lab, join, open_lab
from tests.web.native_lab import masked
from tests.web.test_door import ROOMY, UPGRADE, OpenDoor, open_door

CANDIDATE = "candidate:1 1 udp 1 {} 9 typ host"


@attrs.define
class Client:
    """Frames by hand: what is sent at once is read at once."""

    stream: trio.SocketStream
    received: bytes = b""

    async def say(self, *messages: dict[str, Any]) -> None:
        await self.stream.send_all(b"".join(masked(json.dumps(message).encode()) for message in messages))

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of this type."""
        message: dict[str, Any] = json.loads(await self.frame())
        assert message["type"] == kind, message
        return message

    async def frame(self) -> bytes:
        with trio.fail_after(5):
            while True:
                payload, rest = self._split()
                if payload is not None:
                    self.received = rest
                    return payload
                data = await self.stream.receive_some(65536)
                assert data, "the server closed the connection"
                self.received += data

    def _split(self) -> tuple[bytes | None, bytes]:
        data = self.received
        if len(data) < 4:
            return None, data
        length, start = data[1], 2
        assert length < 127
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        end = start + length
        return (data[start:end], data[end:]) if len(data) >= end else (None, data)


@attrs.define
class Counting:
    """The registry as an observer, and how much was passed on without it."""

    registry: Registry
    count: int = 0

    def passed_on(self, count: int) -> None:
        self.count += count
        self.registry.passed_on(count)

    def address_announced(self, sender: object, receiver: object, address: bytes) -> None:
        self.registry.address_announced(sender, receiver, address)


@attrs.define
class Served:
    """Signaling behind a door."""

    lab: Lab
    opened: OpenDoor
    stack: AsyncExitStack
    passed: Counting | None

    async def is_passed_on(self, sender: Client, target: str, receiver: Client) -> None:
        """A message from one to the other takes the short way, where there is one."""
        before = self.passed.count if self.passed else 0
        await sender.say(offer(target))
        await receiver.hear("offer")
        assert self.passed is None or self.passed.count == before + 1

    async def connect(self) -> Client:
        stream = await self.stack.enter_async_context(await self.opened.connect())
        await stream.send_all(UPGRADE)
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(1)
        return Client(stream)

    async def tavern(self) -> dict[str, Any]:
        client = await self.connect()
        await client.say({"type": "create-tavern", "name": "Pony"})
        tavern: dict[str, Any] = (await client.hear("tavern-created"))["tavern"]
        return tavern

    async def join(self, tavern: dict[str, Any], *keys: str) -> list[Client]:
        """All of them in the tavern's channel, where everybody has heard of everybody."""
        clients: list[Client] = []
        for key in keys:
            client = await self.connect()
            await client.say(join(tavern, key))
            await client.hear("channel-joined")
            for other in clients:
                await other.hear("peer-joined-channel")
            clients.append(client)
        self.lab.observed.take()
        return clients


@pytest.fixture(params=["python", "native"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    if request.param == "native":
        native_or_skip()
    async with open_lab() as lab, AsyncExitStack() as stack, trio.open_nursery() as nursery:
        passed = Counting(lab.registry) if request.param == "native" else None
        poller = NativePoller(passed) if passed else PythonPoller()
        opened = await open_door(nursery, serve_peer=lab.signaling.serve, poller=poller, limits=ROOMY)
        yield Served(lab, opened, stack, passed)
        assert lab.registry.metrics.failures == {}
        assert opened.door.metrics.failures == {}
        nursery.cancel_scope.cancel()


def offer(target: str, **members: Any) -> dict[str, Any]:
    return {"type": "offer", "target": target, "sdp": "v=0", **members}


async def test_what_members_send_each_other_arrives_with_who_sent_it(served: Served) -> None:
    alice, bob, carol = await served.join(await served.tavern(), "a", "b", "c")
    await alice.say(offer("b", signature="x", **{"from": "c"}), offer("c"), {**offer("b"), "type": "answer"})
    await carol.say({"type": "ice-candidate", "candidate": "text", "target": "b"})
    assert await bob.hear("offer") == {"type": "offer", "from": "a", "sdp": "v=0", "signature": "x"}
    assert await carol.hear("offer") == {"type": "offer", "from": "a", "sdp": "v=0"}
    heard = [json.loads(await bob.frame()) for _ in range(2)]
    assert {"type": "answer", "from": "a", "sdp": "v=0"} in heard
    assert {"type": "ice-candidate", "from": "c", "candidate": "text"} in heard
    assert served.lab.registry.metrics.messages.per_second(trio.current_time()) * 60 == 8


async def test_what_comes_together_is_answered_in_its_order(served: Served) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    await alice.say(
        offer("b", number="1"), offer("nobody"), offer("b", number="2"), {"type": "nothing"}, offer("b", number="3")
    )
    assert [(await bob.hear("offer"))["number"] for _ in range(3)] == ["1", "2", "3"]
    assert [(await alice.hear("error"))["code"] for _ in range(2)] == ["target-not-found", "unknown-type"]
    await alice.say(offer("b", number="4"))
    assert (await bob.hear("offer"))["number"] == "4"


@pytest.mark.parametrize("cut", [1, 5, 20, -1])
async def test_messages_that_come_in_pieces_are_put_together(served: Served, cut: int) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    frame = masked(json.dumps(offer("b")).encode())
    for piece in (frame[:cut], frame[cut:] + frame[:cut], frame[cut:]):
        await alice.stream.send_all(piece)
        await trio.testing.wait_all_tasks_blocked(0.02)  # the server has read it
    assert [(await bob.hear("offer"))["sdp"] for _ in range(2)] == ["v=0", "v=0"]


async def test_what_looks_like_a_message_inside_of_another_one_is_none(served: Served) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    inner = masked(json.dumps(offer("b", number="inner")).encode())
    outer = masked(inner, mask=bytes(4), first=0x82)
    for piece in (outer[: -len(inner)], inner):
        await alice.stream.send_all(piece)
        await trio.testing.wait_all_tasks_blocked(0.02)  # the server has read it
    assert (await alice.hear("error"))["code"] == "bad-json"
    await alice.say(offer("b", number="own"))
    assert (await bob.hear("offer"))["number"] == "own"


async def test_the_relay_hears_of_addresses_and_again_after_somebody_was_away(served: Served) -> None:
    tavern = await served.tavern()
    alice, bob = await served.join(tavern, "a", "b")
    candidate = {"type": "ice-candidate", "candidate": CANDIDATE.format("192.0.2.9"), "target": "b"}
    for _ in range(2):
        await alice.say(candidate)
        await bob.hear("ice-candidate")
        announced = [event for event in served.lab.observed.take() if event[0] == "announced"]
        assert announced
        assert announced[0][2:] == ((announced[0][2][0],), ("192.0.2.9",))  # type: ignore[index]
        await bob.say({"type": "leave-channel", "tavernId": tavern["id"], "channelId": tavern["channels"][0]["id"]})
        await alice.hear("peer-left-channel")
        await alice.say(candidate)
        assert (await alice.hear("error"))["code"] == "target-not-found"
        await bob.say(join(tavern, "b"))
        await bob.hear("channel-joined")
        await alice.hear("peer-joined-channel")
        served.lab.observed.take()


async def test_who_takes_another_key_is_reached_and_named_by_it(served: Served) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    identity = {"publicKeyHex": "new", "tag": "#new"}
    await bob.say({"type": "update-identity", "identity": identity}, offer("a", number="1"))
    assert (await alice.hear("peer-identity-updated"))["peerId"] == "b"
    assert (await alice.hear("offer"))["from"] == "new"
    await alice.say(offer("b"), offer("new"))
    assert (await alice.hear("error"))["code"] == "target-not-found"
    assert (await bob.hear("offer"))["from"] == "a"


async def test_who_comes_back_on_another_connection_is_reached_there(served: Served) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    await bob.say({"type": "get-resume-token"})
    token = (await bob.hear("resume-token"))["token"]
    back = await served.connect()
    await back.say({"type": "resume", "token": token})
    await back.hear("resumed")
    await back.hear("resume-token")
    assert await bob.frame() == encode_close(1000, "resumed elsewhere")[2:]
    await alice.say(offer("b"))
    assert (await back.hear("offer"))["from"] == "a"
    await back.say({**offer("a"), "type": "answer"})
    assert (await alice.hear("answer"))["from"] == "b"
    await served.is_passed_on(alice, "b", back)
    await served.is_passed_on(back, "a", alice)


async def test_a_replaced_session_acts_no_more(served: Served) -> None:
    tavern = await served.tavern()
    alice, bob = await served.join(tavern, "a", "b")
    [other] = await served.join(tavern, "b")
    await bob.hear("session-replaced")
    await bob.say(offer("a", number="old"))
    for kind in ("peer-left-channel", "peer-joined-channel"):
        await alice.hear(kind)
    await other.say(offer("a", number="new"))
    assert (await alice.hear("offer"))["number"] == "new"
    await alice.say(offer("b"))
    assert (await other.hear("offer"))["from"] == "a"


async def test_more_messages_than_the_rate_are_refused_however_they_are_read(served: Served) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    limit = served.lab.signaling.rate_messages
    await alice.say(*(offer("b", number=str(number)) for number in range(limit)))
    # One of its messages was the join.
    assert [(await bob.hear("offer"))["number"] for _ in range(limit - 1)] == [str(n) for n in range(limit - 1)]
    assert (await alice.hear("error"))["code"] == "rate-limited"


async def test_one_that_does_not_read_gets_all_in_order_once_it_does(served: Served) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    bob.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sent, text = 0, "x" * 12_000
    with trio.fail_after(20):
        while True:
            await alice.say(offer("b", number=str(sent), sdp=text))
            sent += 1
            if sent % 20 == 0:
                # Whether the server has got so far, and what it thinks of it.
                await alice.say({"type": "nothing"})
                codes = []
                while "unknown-type" not in codes:
                    codes.append((await alice.hear("error"))["code"])
                if "target-busy" in codes:
                    refused = codes.count("target-busy")
                    break
    numbers = [int((await bob.hear("offer"))["number"]) for _ in range(sent - refused)]
    assert numbers == list(range(sent - refused))
    # And then it is as it was.
    await served.is_passed_on(alice, "b", bob)


async def test_what_waits_for_one_is_not_broken_into(served: Served) -> None:
    """A half-sent answer of Python's, and then a message that is passed on."""
    alice, bob = await served.join(await served.tavern(), "a", "b")
    bob.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for peer in served.lab.registry._admitted:
        with socket.socket(fileno=os.dup(peer.outlet._link._descriptor)) as its:
            its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    asked = 200
    await bob.say(*({"type": "nothing" * 6} for _ in range(asked)))
    await bob.say({"type": "leave-channel", "tavernId": "no", "channelId": "no"}, {"type": "get-ice-servers"})
    while not any(peer.outlet._link.queued for peer in served.lab.registry._admitted):
        await trio.testing.wait_all_tasks_blocked(0.01)
    for number in range(30):
        await alice.say(offer("b", number=str(number)))
    await alice.say({"type": "nothing"})
    assert (await alice.hear("error"))["code"] == "unknown-type"
    heard = [json.loads(await bob.frame()) for _ in range(asked + 1 + 30)]
    assert [message["number"] for message in heard if message["type"] == "offer"] == [str(n) for n in range(30)]
    assert [message["type"] for message in heard].count("error") == asked
    await served.is_passed_on(alice, "b", bob)


async def test_one_that_is_gone_harms_nobody(served: Served) -> None:
    alice, bob, carol = await served.join(await served.tavern(), "a", "b", "c")
    await bob.stream.aclose()
    for number in range(5):
        await alice.say(offer("b"), offer("c", number=str(number)))
    heard = [json.loads(await carol.frame()) for _ in range(6)]
    assert [message["number"] for message in heard if message["type"] == "offer"] == list("01234")
    assert [message["type"] for message in heard].count("peer-left-channel") == 1


async def test_what_comes_behind_something_that_waits_for_the_disk_waits_as_well(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = await served.join(await served.tavern(), "a", "b")
    stored, create = trio.Event(), Taverns.create_tavern

    async def slow(*arguments: Any) -> dict[str, Any]:
        await stored.wait()
        return await create(*arguments)

    monkeypatch.setattr(Taverns, "create_tavern", slow)
    await alice.say({"type": "create-tavern", "name": "Other"})
    await alice.say(offer("b", number="1"))
    await alice.say(offer("b", number="2"), {"type": "get-ice-servers"})
    await bob.say(offer("a", number="3"))
    assert (await alice.hear("offer"))["number"] == "3"
    with trio.move_on_after(0.05):
        await bob.frame()
        pytest.fail("it was overtaken")
    stored.set()
    await alice.hear("tavern-created")
    assert [(await bob.hear("offer"))["number"] for _ in range(2)] == ["1", "2"]
    await alice.hear("ice-servers")
    await served.is_passed_on(alice, "b", bob)


async def test_a_well_kept_client_speaks_with_it(served: Served) -> None:
    [alice] = await served.join(await served.tavern(), "a")
    async with open_websocket(served.opened.ws) as client:
        await client.send_message("hello")
        assert "bad-json" in await client.get_message()
    await alice.say({"type": "nothing"})
    assert (await alice.hear("error"))["code"] == "unknown-type"

"""Sessions over real sockets: what signaling says has its effect in the kernel, at once."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tavern.stun.attributes import decode_error_code
from tavern.stun.message import AttributeType, Message, Method
from tests.relay.conftest import UDP, Running, TurnClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tavern.addresses import SocketAddress
    from tests.relay.conftest import Start

ROOM = ("tavern", "t", "c")


@pytest.fixture
async def running(start_relay: Start) -> AsyncIterator[Running]:
    async with start_relay(static_credentials=False) as running:
        yield running


async def connected(running: Running, peer_id: str) -> TurnClient:
    running.relay.session_opened(peer_id, "127.0.0.1")
    client = await TurnClient.connect(running)
    client.credential = running.relay.session_credential(peer_id, 600)
    return client


async def until_free(address: SocketAddress) -> None:
    with trio.fail_after(2):
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
                probe.bind(address)
                return
            await trio.lowlevel.checkpoint()


def code(answer: Message) -> int:
    value = answer.get(AttributeType.ERROR_CODE)
    return 0 if value is None else decode_error_code(value)[0]


async def test_a_revoked_sessions_port_is_free_and_its_credential_worthless(running: Running) -> None:
    client = await connected(running, "ada")
    relayed = await client.allocate()
    with pytest.raises(OSError, match="in use"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(relayed)
    running.relay.session_revoked("ada")
    await until_free(relayed)
    assert code(await client.request(Method.ALLOCATE, UDP)) == 401
    assert running.relay.statistics().allocations == 0
    client.close()


async def test_leaving_frees_the_port_and_keeps_the_credential(running: Running) -> None:
    client = await connected(running, "ada")
    running.relay.session_moved("ada", ROOM)
    relayed = await client.allocate()
    running.relay.session_moved("ada", None)
    await until_free(relayed)
    assert code(await client.request(Method.ALLOCATE, UDP)) == 0
    client.close()


async def test_members_talk_and_strangers_do_not(running: Running) -> None:
    ada, ben, stranger = [await connected(running, name) for name in ("ada", "ben", "stranger")]
    for name in ("ada", "ben"):
        running.relay.session_moved(name, ROOM)
    relayed = [await client.allocate() for client in (ada, ben, stranger)]
    for client in (ada, ben, stranger):
        assert code(await client.permit(relayed[0])) == 0
    assert code(await stranger.bind(0x4000, relayed[1])) == 403
    await stranger.send_indication(b"let me in", relayed[1])
    await ada.send_indication(b"hello", relayed[1])
    assert b"hello" in await ben.receive()
    assert running.relay.statistics().drops["no_relayed_peer"] == 1
    for client in (ada, ben, stranger):
        client.close()


async def test_a_lost_sessions_allocations_end_by_themselves(
    start_relay: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tavern.turn.sessions.LOST_SESSION_S", 0.05)
    async with start_relay(static_credentials=False) as running:
        client = await connected(running, "ada")
        relayed = await client.allocate()
        running.relay.session_lost("ada")
        await until_free(relayed)
        client.close()


async def test_who_returns_from_another_address_goes_on_relaying(running: Running) -> None:
    ada, ben = [await connected(running, name) for name in ("ada", "ben")]
    for name in ("ada", "ben"):
        running.relay.session_moved(name, ROOM)
    relayed = [await client.allocate() for client in (ada, ben)]
    for client in (ada, ben):
        assert code(await client.permit(relayed[0])) == 0
    running.relay.session_returned("ada", "127.0.0.9")
    await ada.send_indication(b"here again", relayed[1])
    assert b"here again" in await ben.receive()
    running.relay.session_lost("ada")  # its address is the one that it came from last
    running.relay.session_lost("ben")
    for client in (ada, ben):
        client.close()

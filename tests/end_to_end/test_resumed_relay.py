"""Relayed media never stops for a client that loses its WebSocket and comes back: its allocations are its own still."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio

from tavern.client import Client, Keypair, open_client
from tavern.client.websocket import open_websocket
from tavern.turn.auth import Credential
from tests.end_to_end.server import RunningServer, running_server
from tests.relay.conftest import TurnClient

pytestmark = pytest.mark.end_to_end
ADA, BEN = Keypair.generate(), Keypair.generate()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server({"TAVERN_HOST": "127.0.0.1", "TAVERN_EXTERNAL_IP": "127.0.0.1"}) as started:
        yield started


async def relay_of(client: Client, server: RunningServer) -> TurnClient:
    given = (await client.ice_servers()).iceServers[0]
    assert given.username is not None
    assert given.credential is not None
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))
    return TurnClient(sock, ("127.0.0.1", server.turn_port), Credential(given.username, given.credential, 0))


async def speak(one: TurnClient, other: TurnClient, others_address: tuple[str, int], word: bytes) -> None:
    await one.send_indication(word, others_address)
    with trio.fail_after(5):
        assert word in await other.receive()


async def test_media_goes_on_while_a_websocket_is_lost_and_another_resumes(server: RunningServer) -> None:
    async with open_client(server.ws_url) as ben, trio.open_nursery() as nursery:
        tavern = await ben.create_tavern("Pony")
        where = tavern.id, tavern.channels[0].id
        await ben.join_channel(*where, BEN.identity("Ben"))
        async with open_websocket(server.ws_url) as lost:
            ada = Client(lost, "127.0.0.1")
            nursery.start_soon(ada._read)
            await ada.prove_identity(ADA)
            await ada.join_channel(*where, ADA.identity("Ada"))
            turns = [await relay_of(client, server) for client in (ada, ben)]
            relayed = [await turn.allocate() for turn in turns]
            for turn in turns:
                await turn.permit(relayed[0])
            await speak(turns[0], turns[1], relayed[1], b"before")
            token = await ada.get_resume_token()
            seen = len([line for line in server.lines if "peer-away" in line])
            await trio.aclose_forcefully(lost._stream)
            with trio.fail_after(5):
                while len([line for line in server.lines if "peer-away" in line]) == seen:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        await speak(turns[0], turns[1], relayed[1], b"away")
        await speak(turns[1], turns[0], relayed[0], b"to who is away")
        async with open_client(server.ws_url) as again:
            assert (await again.resume(token)).continued
            await speak(turns[1], turns[0], relayed[0], b"back")
            # What it asks the relay for from now on is the same session's.
            renewed = await relay_of(again, server)
            third = await renewed.allocate()
            await renewed.permit(relayed[1])
            await turns[1].permit(third)
            await speak(renewed, turns[1], relayed[1], b"anew")
            assert server.get_json("/metrics")["relay"]["allocations"] == 3  # type: ignore[index]
            renewed.close()
        for turn in turns:
            turn.close()
        nursery.cancel_scope.cancel()

"""The promise of the closed relay, against the real program: a credential reaches the people in the call only.

Everything goes over real sockets: signaling by WebSocket, TURN by UDP. Peers are sockets on this machine, which the
operator's list allows, so that it is the session alone that decides.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import attrs
import pytest
import trio

from tavern.client import Client, Identity, open_client
from tavern.stun.attributes import decode_error_code
from tavern.stun.message import AttributeType, Message, MessageClass, Method, encode
from tavern.turn.auth import Credential, Credentials
from tests.end_to_end.server import RunningServer, running_server
from tests.relay.conftest import UDP, TurnClient

pytestmark = pytest.mark.end_to_end

SETTINGS = {"TAVERN_TURN_ALLOW_PEERS": "127.0.0.0/8", "TAVERN_HOST": "127.0.0.1", "TAVERN_EXTERNAL_IP": "127.0.0.2"}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(SETTINGS) as started:
        yield started


@attrs.define(eq=False)
class Person:
    signaling: Client
    turn: TurnClient

    async def announce(self, target: str, host: str, port: int) -> None:
        candidate = f"candidate:1 1 udp 2122260223 {host} {port} typ host"
        await self.signaling.send_ice_candidate(json.dumps({"candidate": candidate}), target)


@asynccontextmanager
async def person(server: RunningServer) -> AsyncIterator[Person]:
    async with open_client(server.ws_url) as signaling:
        given = (await signaling.ice_servers()).iceServers[0]
        assert given.username is not None
        assert given.credential is not None
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind(("127.0.0.1", 0))
        credential = Credential(given.username, given.credential, 0)
        turn = TurnClient(sock, ("127.0.0.1", server.turn_port), credential)
        try:
            yield Person(signaling, turn)
        finally:
            turn.close()


@contextmanager
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


def code(answer: Message) -> int:
    value = answer.get(AttributeType.ERROR_CODE)
    return 0 if value is None else decode_error_code(value)[0]


def silent(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(2048)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(5)
    return False


async def test_nothing_but_checks_reaches_an_announced_address_until_it_speaks(server: RunningServer) -> None:
    async with person(server) as ada, person(server) as ben:
        with peer() as bens_socket:
            host, port = bens_socket.getsockname()
            for one in (ada, ben):
                await one.turn.allocate()
            assert code(await ada.turn.permit((host, port))) == 403, "in no call"
            tavern = await ada.signaling.create_tavern("Pony")
            for one, key in ((ada, "ada"), (ben, "ben")):
                await one.signaling.join_channel(tavern.id, tavern.channels[0].id, Identity(key, f"#{key}"))
            # Both connect from 127.0.0.1 here, where the announced address is: another one shows what is not announced.
            assert code(await ada.turn.permit(("127.0.0.3", port))) == 403
            await ben.announce("ada", "127.0.0.3", port)
            assert (await ada.signaling.next_event()) is not None
            assert (await ada.signaling.next_event()) is not None
            assert code(await ada.turn.permit(("127.0.0.3", port))) == 0
            assert code(await ada.turn.permit((host, port))) == 0
            await ada.turn.send_indication(b"media before consent", (host, port))
            check = encode(Method.BINDING, MessageClass.REQUEST, b"c" * 12)
            await ada.turn.send_indication(check, (host, port))
            data, relay = await trio.to_thread.run_sync(bens_socket.recvfrom, 2048)
            assert data == check, "the media before it was dropped"
            answer = encode(Method.BINDING, MessageClass.SUCCESS, b"c" * 12, integrity_key=b"ben's ice-pwd")
            bens_socket.sendto(answer, relay)
            await ada.turn.receive()
            await ada.turn.send_indication(b"media", (host, port))
            assert await trio.to_thread.run_sync(bens_socket.recv, 2048) == b"media"
            await ben.signaling.leave_channel(tavern.id, tavern.channels[0].id)
            assert (await ada.signaling.next_event()) is not None
            await ada.turn.send_indication(b"after he left", (host, port))
            assert code(await ada.turn.request(Method.REFRESH)) == 0  # the relay has dealt with what came before
            assert silent(bens_socket)
            assert code(await ada.turn.permit((host, port))) == 403
            assert code(await ben.turn.request(Method.REFRESH)) == 437


async def test_a_replaced_sessions_credential_is_worthless(server: RunningServer) -> None:
    async with AsyncExitStack() as stack:
        ada, again = [await stack.enter_async_context(person(server)) for _ in range(2)]
        tavern = await ada.signaling.create_tavern("Pony")
        await ada.turn.allocate()
        for one in (ada, again):
            await one.signaling.join_channel(tavern.id, tavern.channels[0].id, Identity("ada", "#ada"))
        assert code(await ada.turn.request(Method.REFRESH)) == 401
        assert code(await ada.turn.request(Method.ALLOCATE, UDP)) == 401
        assert code(await again.turn.request(Method.ALLOCATE, UDP)) == 0


async def test_the_secret_in_old_clients_opens_nothing_without_signaling(server: RunningServer) -> None:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.4", 0))
    credential = Credentials("localhost", ("tavern-dev-secret",)).mint("tavern", 86400, 2_000_000_000)
    stranger = TurnClient(sock, ("127.0.0.1", server.turn_port), credential)
    assert code(await stranger.request(Method.ALLOCATE, UDP)) == 401
    stranger.close()
    async with person(server) as old:
        old.turn.credential = credential
        assert code(await old.turn.request(Method.ALLOCATE, UDP)) == 0
        assert code(await old.turn.permit(("127.0.0.3", 9))) == 403


async def test_legacy_turn_can_be_switched_off() -> None:
    with running_server({**SETTINGS, "TAVERN_LEGACY_TURN": "off"}) as server:
        async with person(server) as old:
            old.turn.credential = Credentials("localhost", ("tavern-dev-secret",)).mint("tavern", 86400, 2_000_000_000)
            assert code(await old.turn.request(Method.ALLOCATE, UDP)) == 401

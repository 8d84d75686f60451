"""The month's transfer budget in the real program: spent over real sockets, and still spent after a restart."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import trio

from tavern.client import open_client
from tavern.store.sqlite import open_sqlite_store
from tavern.stun.attributes import decode_error_code
from tavern.stun.message import AttributeType, MessageClass, Method
from tavern.turn.auth import Credentials
from tavern.turn.budget import GB, month_of
from tests.end_to_end.server import RunningServer, running_server
from tests.relay.conftest import UDP, TurnClient

pytestmark = pytest.mark.end_to_end

SECRET = "a program computes credentials with it"
SETTINGS = {
    "TAVERN_HOST": "127.0.0.1",
    "TAVERN_EXTERNAL_IP": "127.0.0.2",
    "TAVERN_TURN_ALLOW_PEERS": "127.0.0.0/8",
    "TAVERN_TURN_SECRET": SECRET,
    "TAVERN_TURN_MONTHLY_GB": "1",
}
SIZE = 1000
LEFT = 20 * SIZE
DAY_S = 86_400.0


def months() -> tuple[str, str]:
    """This one and, should it end meanwhile, the next."""
    return month_of(time.time()), month_of(time.time() + DAY_S)


async def connect(server: RunningServer) -> TurnClient:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))
    credential = Credentials("localhost", (SECRET,)).mint("bob", 600, time.time())
    return TurnClient(sock, ("127.0.0.1", server.turn_port), credential)


async def allocate_error(server: RunningServer) -> int:
    client = await connect(server)
    value = (await client.request(Method.ALLOCATE, UDP)).get(AttributeType.ERROR_CODE)
    client.close()
    return 0 if value is None else decode_error_code(value)[0]


def logged(server: RunningServer, event: str) -> int:
    return sum(f" {event} " in line for line in server.lines)


async def relay_until_spent(server: RunningServer) -> None:
    client = await connect(server)
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, trio.fail_after(20):
        await peer.bind(("127.0.0.1", 0))
        await client.allocate()
        await client.bind(0x4000, peer.getsockname())
        for _ in range(LEFT // SIZE):
            await client.send(b"\x40\x00" + SIZE.to_bytes(2, "big") + bytes(SIZE))
            assert len(await peer.recv(2 * SIZE)) == SIZE
        while not logged(server, "transfer-budget-spent"):  # noqa: ASYNC110 - the line comes from another process
            await trio.sleep(0.05)
    client.close()


def test_a_budget_that_is_not_kept_is_warned_of() -> None:
    with running_server({"TAVERN_TURN_MONTHLY_GB": "5"}) as server:
        assert server.stop() == 0  # its last lines are read at the block's end
    assert any("each start begins TAVERN_TURN_MONTHLY_GB anew" in line for line in server.lines)


async def test_a_spent_budget_survives_a_restart_and_signaling_goes_on(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path / "tavern.db") as store:
        for month in months():
            await store.save_relay_usage(month, GB - LEFT)
    with running_server(SETTINGS, tmp=tmp_path) as server:
        assert await allocate_error(server) == 0
        await relay_until_spent(server)
        assert logged(server, "transfer-budget-nearly-spent") == logged(server, "transfer-budget-spent") == 1
        assert await allocate_error(server) == 486
        client = await connect(server)
        assert (await client.binding()).message_class is MessageClass.SUCCESS
        client.close()
        async with open_client(server.ws_url) as signaling:
            tavern = await signaling.create_tavern("Pony")
        assert server.stop() == 0
    async with open_sqlite_store(tmp_path / "tavern.db") as store:
        assert max(store.relay_usage(month) for month in months()) > GB
        assert store.tavern(tavern.id) is not None
    with running_server(SETTINGS, tmp=tmp_path) as server:
        assert await allocate_error(server) == 486
        assert logged(server, "transfer-budget-spent") == 1
    with running_server({**SETTINGS, "TAVERN_TURN_MONTHLY_GB": "2"}, tmp=tmp_path) as server:
        assert await allocate_error(server) == 0

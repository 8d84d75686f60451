"""`tavern ctl` and `tavern top` on a server that is in use."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from tavern.client import Client, ConnectionLost, Keypair, PeerLeftChannel, open_client
from tavern.client.turn import open_turn
from tests.end_to_end.server import environment, running_server

pytestmark = pytest.mark.end_to_end
LOOPBACK = {"TAVERN_EXTERNAL_IP": "127.0.0.1"}


def tavern(data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tavern", *arguments],
        env=environment(data, **settings),
        capture_output=True,
        text=True,
        timeout=20,
    )


async def ctl(data: Path, *arguments: str) -> Any:
    """What it printed, read; it must have worked."""
    ran = await trio.to_thread.run_sync(lambda: tavern(data, "ctl", *arguments))
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return json.loads(ran.stdout) if ran.stdout.startswith("{") else ran.stdout


async def drained(client: Client) -> None:
    """Hears all that comes, until the connection is over."""
    while True:
        await client.next_event()


async def test_an_operator_sees_who_is_here_and_puts_somebody_out(tmp_path: Path) -> None:
    with running_server(LOOPBACK, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
            await alice.prove_identity(keypair := Keypair.generate())
            pony = await alice.create_tavern("Pony")
            place = pony.id, pony.channels[0].id
            await alice.join_channel(*place, keypair.identity("Alice"))
            await bob.join_channel(*place, Keypair.generate().identity("Bob\x1b[2J"))
            status = await ctl(tmp_path, "status")
            [room] = status["rooms"]
            assert (room["name"], room["channel"]) == ("Pony", "General")
            assert [(peer["name"], peer["verified"]) for peer in room["peers"]] == [
                ("Alice", True),
                ("Bob\x1b[2J", False),
            ]
            shown = (await trio.to_thread.run_sync(lambda: tavern(tmp_path, "top"))).stdout
            assert "Pony" in shown
            assert "*Alice, Bob?[2J" in shown
            assert await ctl(tmp_path, "kick", room["peers"][1]["peer"]) == "done\n"
            async for event in alice.events:
                if isinstance(event, PeerLeftChannel):
                    break
            with pytest.raises(ConnectionLost, match="1008 closed by the operator"):
                await drained(bob)
            assert (await ctl(tmp_path, "status"))["peers"] == 1


async def test_an_allocation_is_listed_and_closed(tmp_path: Path) -> None:
    with running_server(LOOPBACK, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as alice:
            [turn] = [one for one in (await alice.ice_servers()).iceServers if one.credential]
            async with open_turn(
                ("127.0.0.1", server.turn_port), "udp", turn.username or "", turn.credential or ""
            ) as client:
                relayed = await client.allocate()
                [allocation] = (await ctl(tmp_path, "status"))["allocations"]
                assert allocation["relayed"] == [f"{relayed[0]}:{relayed[1]}"]
                shown = (await trio.to_thread.run_sync(lambda: tavern(tmp_path, "top", "--once"))).stdout
                assert allocation["client"] in shown
                assert await ctl(tmp_path, "close-allocation", str(allocation["allocation"])) == "done\n"
                assert (await ctl(tmp_path, "status"))["allocations"] == []
                assert await client.allocate() != relayed  # its five-tuple is free again


async def test_a_minted_credential_allocates_where_the_operator_has_a_secret(tmp_path: Path) -> None:
    with running_server({**LOOPBACK, "TAVERN_TURN_SECRET": "s" * 32}, tmp=tmp_path) as server:
        minted = await ctl(tmp_path, "mint", "doctor", "--lifetime-s", "60")
        address = ("127.0.0.1", server.turn_port)
        async with open_turn(address, "udp", minted["username"], minted["credential"]) as client:
            await client.allocate()
    with running_server(LOOPBACK, tmp=tmp_path):
        refused = tavern(tmp_path, "ctl", "mint", "doctor")
    assert refused.returncode == 1
    assert "set TAVERN_TURN_SECRET" in refused.stderr


def test_drain_is_a_polite_stop(tmp_path: Path) -> None:
    with running_server(LOOPBACK, tmp=tmp_path) as server:
        assert tavern(tmp_path, "ctl", "reload").stdout.startswith("reloaded: nothing")
        assert tavern(tmp_path, "ctl", "drain").returncode == 0
        assert server.process.wait(10) == 0
    assert not (tmp_path / "control.sock").exists()


def test_only_the_servers_user_may_open_it(tmp_path: Path) -> None:
    with running_server(LOOPBACK, tmp=tmp_path):
        about = (tmp_path / "control.sock").stat()
        assert stat.S_ISSOCK(about.st_mode)
        assert stat.S_IMODE(about.st_mode) == 0o600
        assert about.st_uid == os.geteuid()


def test_where_no_server_is_it_says_so(tmp_path: Path) -> None:
    for arguments in (("ctl", "status"), ("top",)):
        ran = tavern(tmp_path, *arguments)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "no server runs here" in ran.stderr
    assert "there is no control socket" in tavern(tmp_path, "top", TAVERN_CONTROL_SOCKET="off").stderr


def test_a_socket_that_a_killed_server_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    with running_server(LOOPBACK, tmp=tmp_path) as server:
        server.process.kill()
        server.process.wait()
    assert "no server runs here any more" in tavern(tmp_path, "top").stderr
    with running_server(LOOPBACK, tmp=tmp_path):
        assert tavern(tmp_path, "top").returncode == 0
    (tmp_path / "control.sock").write_text("a file of yours")
    ran = tavern(tmp_path, "serve")
    assert ran.returncode == 2
    assert "is in the control socket's place" in ran.stderr
    assert (tmp_path / "control.sock").read_text() == "a file of yours"


def test_a_name_that_is_too_long_keeps_nobody_from_serving(tmp_path: Path) -> None:
    data = tmp_path / ("d" * 100)
    with running_server(LOOPBACK, tmp=data) as server:
        assert server.get_json("/health")["status"] == "ok"
        assert any("no control socket" in line for line in server.lines)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"{}\n", "no such command"),
        (b"[]\n", "no JSON object"),
        (b"\xff\n", "no JSON object"),
        (b'{"command":"kick","peer":7}\n', "no such peer"),
        (b'{"command":"close-allocation","allocation":"x"}\n', "no such allocation"),
        (b"x" * 5000 + b"\n", "too long"),
    ],
)
def test_what_is_no_request_is_refused_and_the_server_goes_on(tmp_path: Path, sent: bytes, words: str) -> None:
    with running_server(LOOPBACK, tmp=tmp_path) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(tmp_path / "control.sock"))
            sock.sendall(sent)
            sock.settimeout(5)
            answer: Mapping[str, Any] = json.loads(sock.recv(65536))
        assert answer["ok"] is False
        assert words in answer["error"]
        assert server.get_json("/health")["status"] == "ok"

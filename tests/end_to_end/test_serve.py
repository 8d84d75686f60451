"""The program as its operator meets it: starting, stopping, refusing to start, and keeping what it acknowledged."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import attrs
import pytest
import trio
import trustme

from tavern import __version__
from tavern.client import (
    Channel,
    ChannelCreated,
    Client,
    ConnectionLost,
    Identity,
    PeerIdentity,
    PeerIdentityUpdated,
    PeerJoined,
    PeerJoinedChannel,
    PeerLeft,
    PeerLeftChannel,
    ReceivedAnswer,
    ReceivedIceCandidate,
    ReceivedOffer,
    ServerError,
    ServerShutdown,
    SessionReplaced,
    open_client,
)
from tests.end_to_end.server import RunningServer, environment, free_port, running_server
from tests.prerequisites import has_native

pytestmark = pytest.mark.end_to_end

ALICE, BOB = (Identity(publicKeyHex=key * 64, tag=f"TVN-{key * 4}-{key * 4}", displayName=None) for key in "ab")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as server:
        yield server


def run_to_its_end(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tavern", *(arguments or ("serve",))],
        env=environment(None, **settings),
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_health_and_metrics_answer_as_promised(server: RunningServer) -> None:
    assert server.get_json("/health") == {"status": "ok", "taverns": 0}
    metrics = server.get_json("/metrics")
    assert set(metrics) == {"connectedPeers", "activeTaverns", "totalTaverns", "uptime", "messagesPerSecond", "relay"}
    relay = metrics["relay"]
    assert isinstance(relay, dict)
    assert relay["dataPath"] == ("native" if has_native() else "python")
    assert (relay["allocations"], relay["packetsFromClients"], relay["dropped"]["no_permission"]) == (0, 0, 0)
    assert isinstance(metrics["uptime"], int)


def test_a_hangup_has_the_certificate_read_again_and_ends_nobody(tmp_path: Path) -> None:
    def certify(authority: trustme.CA) -> None:
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")

    certify(trustme.CA())
    settings = {"TAVERN_TLS_CERT": str(tmp_path / "cert.pem"), "TAVERN_TLS_KEY": str(tmp_path / "key.pem")}
    # As a supervisor starts it: what runs these tests may have been told to ignore hangups, and that is inherited.
    deaf_no_more = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    )
    with running_server(settings, inside=(sys.executable, "-c", deaf_no_more)) as server:
        renewed = trustme.CA()
        certify(renewed)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line("reloaded")
        context = ssl.create_default_context()
        renewed.configure_trust(context)
        with urlopen(f"{server.url}health", timeout=5, context=context) as response:
            assert response.status == 200
        assert server.stop() == 0


def test_ready_says_what_was_looked_at(server: RunningServer) -> None:
    first = server.get_json("/ready")
    assert first["status"] == "ready"
    checks = first["checks"]
    assert isinstance(checks, dict)
    assert {name.split(" ")[0] for name in checks} == {"relay", "stun", "store"}
    assert f"stun udp 0.0.0.0:{server.turn_port}" in checks
    assert f"stun tcp 0.0.0.0:{server.turn_port}" in checks
    assert set(checks.values()) == {"ok"}
    assert first["client"] == "127.0.0.1"


def test_serve_says_what_is_open_where(server: RunningServer) -> None:
    said = "".join(server.lines)
    assert f"Tavern is open at http://localhost:{server.http_port}/" in said
    assert f"0.0.0.0:{server.turn_port}" in said
    assert "50000-59999 (UDP); 59936-59999 are shared once the others are taken" in said
    assert "relay address" in said
    assert "taverns kept in  memory" in said
    assert "warning: browsers give a microphone only to https pages" in said
    assert "TURN secret" not in said


async def test_two_clients_meet_and_signal(server: RunningServer) -> None:
    """The whole conversation of two peers, over the wire."""
    async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
        tavern = await alice.create_tavern("Pony", "🍺")
        [general] = tavern.channels
        where = (tavern.id, general.id)
        assert (await bob.tavern_info(tavern.id)) == tavern
        assert (await alice.join_channel(*where, ALICE)).peers == []
        joined = await bob.join_channel(*where, BOB)
        assert [peer.publicKeyHex for peer in joined.peers] == [ALICE.publicKeyHex]
        event = await alice.next_event()
        assert isinstance(event, PeerJoinedChannel)
        assert event.peer.displayName == BOB.tag
        await alice.send_offer("v=0 offer", BOB.publicKeyHex)
        await alice.send_ice_candidate('{"candidate":""}', BOB.publicKeyHex)
        assert await bob.next_event() == ReceivedOffer(ALICE.publicKeyHex, "v=0 offer")
        assert await bob.next_event() == ReceivedIceCandidate(ALICE.publicKeyHex, '{"candidate":""}')
        await bob.send_answer("v=0 answer", ALICE.publicKeyHex)
        assert await alice.next_event() == ReceivedAnswer(BOB.publicKeyHex, "v=0 answer")
        named = Identity(publicKeyHex=BOB.publicKeyHex, tag=BOB.tag, displayName="Bob")
        await bob.update_identity(named)
        assert await alice.next_event() == PeerIdentityUpdated(BOB.publicKeyHex, PeerIdentity(**attrs.asdict(named)))
        cellar = await bob.create_channel(tavern.id, "Cellar")
        assert await alice.next_event() == ChannelCreated(tavern.id, cellar)
        await bob.leave_channel(*where)
        assert await alice.next_event() == PeerLeftChannel(*where, BOB.publicKeyHex)
        with pytest.raises(ServerError, match="Tavern not found"):
            await bob.tavern_info("nowhere")


async def test_a_session_is_replaced_by_its_key(server: RunningServer) -> None:
    async with open_client(server.ws_url) as old, open_client(server.ws_url) as new:
        tavern = await old.create_tavern("Pony")
        await old.join_channel(tavern.id, tavern.channels[0].id, ALICE)
        await new.join_channel(tavern.id, tavern.channels[0].id, ALICE)
        assert await old.next_event() == SessionReplaced()
        with pytest.raises(ConnectionLost) as lost:
            await old.next_event()
        assert lost.value.code == 1000


async def test_a_request_is_answered_by_its_own_answer(server: RunningServer) -> None:
    """Channels of others, and errors of what was only sent, are events."""
    async with open_client(server.ws_url) as alice, open_client(server.ws_url) as bob:
        tavern = await alice.create_tavern("Pony")
        for client, identity in ((alice, ALICE), (bob, BOB)):
            await client.join_channel(tavern.id, tavern.channels[0].id, identity)
        created: dict[str, Channel] = {}

        async def create(client: Client, name: str) -> None:
            created[name] = await client.create_channel(tavern.id, name)

        for number in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(create, alice, f"a{number}")
                nursery.start_soon(create, bob, f"b{number}")
        assert {channel.name for channel in created.values()} == set(created)
        assert all(name == channel.name for name, channel in created.items())
        await alice.send_offer("v=0", "nobody")
        assert (await alice.tavern_info(tavern.id)).id == tavern.id


async def test_legacy_rooms(server: RunningServer) -> None:
    async with open_client(server.ws_url) as one:
        async with open_client(server.ws_url) as two:
            assert (await one.join_room("den")).peers == []
            [first] = (await two.join_room("den")).peers
            joined = await one.next_event()
            assert isinstance(joined, PeerJoined)
            await two.send_offer("v=0", first.peerId)
            assert await one.next_event() == ReceivedOffer(joined.peerId, "v=0")
        assert await one.next_event() == PeerLeft(joined.peerId)


async def test_ice_servers_hold_a_credential_for_this_very_relay(server: RunningServer) -> None:
    async with open_client(server.ws_url) as client:
        answer = await client.ice_servers()
    turn, stun = answer.iceServers
    here = f"127.0.0.1:{server.turn_port}"
    assert turn.urls == [f"turn:{here}?transport=udp", f"turn:{here}?transport=tcp"]
    assert stun.urls == [f"stun:127.0.0.1:{server.turn_port}"]
    assert turn.username
    assert turn.credential
    assert stun.username is None


async def test_what_is_malformed_is_answered_and_the_connection_lives(server: RunningServer) -> None:
    async with open_client(server.ws_url) as client:
        with pytest.raises(ServerError) as refused:
            await client.create_tavern(" ")
        assert (refused.value.code, refused.value.field) == ("bad-message", "name")
        await client.create_tavern("Pony")


def test_the_page_is_there(server: RunningServer) -> None:
    with urlopen(server.url, timeout=5) as answer:
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_tells_everybody_and_exits_with_0(signal_number: int) -> None:
    with running_server() as server:
        async with open_client(server.ws_url) as client:
            await client.create_tavern("Pony")
            server.process.send_signal(signal_number)
            assert await client.next_event() == ServerShutdown()
            with pytest.raises(ConnectionLost) as lost:
                await client.next_event()
            assert lost.value.code == 1001
        assert await trio.to_thread.run_sync(server.process.wait, 10) == 0
        assert "Traceback" not in "".join(server.lines)


def test_any_number_of_signals_is_a_clean_end() -> None:
    """As they come from impatient people and supervisors: while it drains, while it closes, after it has."""
    with running_server() as server:
        for sent in range(1000):
            server.process.send_signal(signal.SIGTERM if sent % 2 else signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(0.003)
                break
        assert sent > 1
        assert server.process.returncode == 0
        assert "Traceback" not in "".join(server.lines)


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def deaf_stream(server: RunningServer, request: bytes) -> trio.SocketStream:
    """A connection that asks and never reads: next to nothing fits into its socket's buffer."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    await sock.connect(("127.0.0.1", server.http_port))
    stream = trio.SocketStream(sock)
    await stream.send_all(request)
    return stream


def masked(message: bytes) -> bytes:
    return b"\x81\xfe" + len(message).to_bytes(2, "big") + bytes(4) + message


@pytest.mark.parametrize("second", [None, signal.SIGTERM, signal.SIGINT])
async def test_those_who_never_read_hold_the_drain_for_its_3_seconds_and_a_second_signal_ends_it(
    second: signal.Signals | None,
) -> None:
    """A WebSocket whose outbox is full, and pages that nobody takes: hypercorn shields its sends."""
    ask = json.dumps({"type": "get-tavern-info", "tavernId": "x" * 128, "padding": "y" * 200}).encode()
    with running_server({"TAVERN_RATE_MSG_SEC": "100000"}) as server, ExitStack() as stack:
        for _ in range(4):
            page = await deaf_stream(server, b"GET /static/style.css HTTP/1.1\r\nHost: t\r\n\r\n")
            stack.callback(page.socket.close)
        stuck = await deaf_stream(server, UPGRADE + masked(ask) * 300)
        stack.callback(stuck.socket.close)
        async with open_client(server.ws_url) as client:
            await client.create_tavern("Pony")
            started = trio.current_time()
            server.process.send_signal(signal.SIGTERM)
            assert await client.next_event() == ServerShutdown()
        if second is not None:
            server.process.send_signal(second)
        assert await trio.to_thread.run_sync(server.process.wait, 10) == 0
        took_s = trio.current_time() - started
        # Generous: this machine may be busy. Without the limits it takes 20 s.
        assert took_s < (3 if second else 8)
        assert "Traceback" not in "".join(server.lines)


async def test_while_draining_health_says_503() -> None:
    with running_server() as server:
        stuck = await deaf_stream(server, UPGRADE)
        async with stuck, open_client(server.ws_url) as client:
            await client.create_tavern("Pony")
            server.process.send_signal(signal.SIGTERM)
            assert await client.next_event() == ServerShutdown()
            with pytest.raises(HTTPError) as answer:
                await trio.to_thread.run_sync(server.get_json, "/health")
            assert answer.value.code == 503
            assert json.load(answer.value) == {"status": "draining", "taverns": 1}
            answer.value.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PORT": "x"}, ["PORT='x'", "0 to 65535"]),
        ({"PORT": "x", "TAVERN_STORE": "y"}, ["PORT='x'", "TAVERN_STORE='y'"]),
        ({"TAVERN_TURN_MIN_PORT": "50001", "TAVERN_TURN_MAX_PORT": "50000"}, ["TAVERN_TURN_MIN_PORT"]),
        ({"TAVERN_STORE": "sqlite", "TAVERN_DB_PATH": "/proc/nothing/tavern.db"}, ["/proc/nothing"]),
        ({"TAVERN_STORE": "sqlite", "TAVERN_DB_PATH": "/"}, ["TAVERN_DB_PATH", "path of a file"]),
        ({"TAVERN_TLS_CERT": "/nowhere.pem", "TAVERN_TLS_KEY": "/nowhere.pem"}, ["TAVERN_TLS_CERT", "/nowhere.pem"]),
        ({"TAVERN_HOST": "203.0.113.77"}, ["203.0.113.77"]),
        (
            {"TAVERN_DOMAIN": "tavern.example.com", "TAVERN_TURN_SECRET": "tavern-dev-secret"},
            ["TAVERN_TURN_SECRET", "unset it"],
        ),
    ],
)
def test_what_cannot_work_is_one_clear_line_and_exit_code_2(settings: dict[str, str], words: list[str]) -> None:
    ended = run_to_its_end(settings)
    assert ended.returncode == 2, ended
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr
    assert len(ended.stderr.splitlines()) == (2 if "TAVERN_STORE='y'" in words else 1)


def test_a_port_in_use_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run_to_its_end({"PORT": port})
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"tavern: TCP 0.0.0.0:{port} is in use")
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = str(taken.getsockname()[1])
        ended = run_to_its_end({"TAVERN_TURN_PORT": port})
    assert ended.returncode == 2
    assert port in ended.stderr
    assert "in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tavern.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9999")
    database.close()
    before = path.read_bytes()
    ended = run_to_its_end({"TAVERN_STORE": "sqlite", "TAVERN_DB_PATH": str(path)})
    assert ended.returncode == 2
    assert "newer" in ended.stderr
    assert path.read_bytes() == before


def test_a_second_server_on_the_same_database_is_refused(tmp_path: Path) -> None:
    with running_server(tmp=tmp_path):
        ended = run_to_its_end({"TAVERN_STORE": "sqlite", "TAVERN_DB_PATH": str(tmp_path / "tavern.db")})
    assert ended.returncode == 2
    assert "tavern.db" in ended.stderr


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: list[str] = []

    async def create(client: Client) -> None:
        try:
            while True:
                acknowledged.append((await client.create_tavern("Pony")).id)
        except ConnectionLost:
            pass

    settings = {"TAVERN_RATE_CREATE": "1000000", "TAVERN_RATE_MSG_SEC": "1000000"}
    with running_server(settings, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as one, open_client(server.ws_url) as two, trio.open_nursery() as nursery:
            nursery.start_soon(create, one)
            nursery.start_soon(create, two)
            while len(acknowledged) < 50:
                await trio.lowlevel.checkpoint()
            server.process.kill()
    with running_server(settings, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as client:
            for tavern_id in acknowledged:
                assert (await client.tavern_info(tavern_id)).id == tavern_id


async def test_data_is_there_after_a_restart_and_the_secret_is_kept(tmp_path: Path) -> None:
    settings = {"TAVERN_DOMAIN": "tavern.test", "TAVERN_EXTERNAL_IP": "127.0.0.1"}
    with running_server(settings, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as client:
            tavern = await client.create_tavern("Pony")
            cellar = await client.create_channel(tavern.id, "Cellar")
        assert server.stop() == 0
    secret = tmp_path / "turn-secret"
    kept = secret.read_text()
    assert secret.stat().st_mode & 0o777 == 0o600
    with running_server(settings, tmp=tmp_path) as server:
        async with open_client(server.ws_url) as client:
            again = await client.tavern_info(tavern.id)
            assert again.channels == [*tavern.channels, cellar]
            ice = await client.ice_servers()
        assert server.get_json("/health") == {"status": "ok", "taverns": 1}
    assert secret.read_text() == kept
    assert ice.iceServers[0].urls[:1] == [f"turn:tavern.test:{server.turn_port}?transport=udp"]


async def test_with_a_certificate_everything_is_https_and_wss(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = {"TAVERN_TLS_CERT": str(tmp_path / "cert.pem"), "TAVERN_TLS_KEY": str(tmp_path / "key.pem")}
    with running_server(settings) as server:
        assert f"Tavern is open at https://localhost:{server.http_port}/" in "".join(server.lines)
        assert "microphone" not in "".join(server.lines)
        async with open_client(server.ws_url, ssl_context=context) as client:
            await client.create_tavern("Pony")


def test_options_of_the_same_names_override_the_environment(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tavern", "serve", "--port", str(port), "--store", "memory"],
        env=environment(tmp_path, PORT="1", TAVERN_TRUN_SECRET="x"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("warning: TAVERN_TRUN_SECRET is not a setting")
        assert process.stdout.readline() == f"Tavern is open at http://localhost:{port}/\n"
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_help_and_version() -> None:
    ended = run_to_its_end({}, "--version")
    assert (ended.returncode, ended.stdout) == (0, f"tavern {__version__}\n")
    ended = run_to_its_end({}, "serve", "--help")
    assert ended.returncode == 0
    assert "--turn-external-ip" not in ended.stdout
    assert "--external-ip" in ended.stdout
    assert "TAVERN_EXTERNAL_IP" in ended.stdout


def test_the_descriptor_limit_is_raised() -> None:
    with running_server() as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard


def test_json_of_health_is_what_curl_users_were_shown(server: RunningServer) -> None:
    with urlopen(server.url + "health", timeout=5) as answer:
        body = answer.read()
    assert json.loads(body)["status"] == "ok"
    assert b": " not in body
    assert os.linesep.encode() not in body

"""Port 3001 on real sockets: HTTP and WebSocket told apart, garbage answered, nobody harmed by anybody else.

This is the contract with hypercorn's per-connection server, too, which is semi-internal.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
import h11
import pytest
import trio
import trio.testing
import trio_websocket
import trustme

from tavern.client.websocket import open_websocket
from tavern.metrics import Metrics
from tavern.signaling.transport import ConnectionEnded, Transport
from tavern.turn.five_tuple import FiveTuple
from tavern.web import asgi, frames
from tavern.web.asgi import Health, make_app
from tavern.web.door import Door
from tavern.web.handshake import TlsSide
from tavern.web.heads import MAX_HEAD_BYTES
from tavern.web.listeners import open_listeners
from tavern.web.streams import LentStream
from tavern.web.websocket import MAX_FRAGMENTS, MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES, WebSocketLimits

ROOMY = WebSocketLimits(ping_interval_s=60, pong_timeout_s=60, frames_per_s=100_000)


async def echo(transport: Transport) -> None:
    """Echoes; obeys a few words."""

    def answer(message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode()
        if text == "close":
            transport.send(b"goodbye")
            transport.close(1008, "you asked for it")
        elif text == "crash":
            raise ZeroDivisionError
        elif text == "large":
            transport.send(b"x" * 2 * MAX_QUEUED_BYTES)
        elif text == "flood":
            for _ in range(MAX_QUEUED_MESSAGES + 100):
                transport.send(b"x" * 100_000)
        elif text == "who":
            transport.send(f"{transport.client_host} {transport.host_header}".encode())
        else:
            transport.send(text.encode())

    with suppress(ConnectionEnded):
        await transport.deliver(answer)


async def echo_stun(stream: trio.abc.Stream, first: bytes, five_tuple: FiveTuple) -> None:
    """Says who the client is, and echoes."""
    data = f"{five_tuple.transport.value} {five_tuple.client[1]} ".encode() + first
    while data:
        await stream.send_all(data)
        data = bytes(await stream.receive_some())


@attrs.frozen
class OpenDoor:
    door: Door
    port: int

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def exchange(self, data: bytes) -> bytes:
        """All that comes back for these bytes, until the other side closes."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(data)
            return await read_all(stream)

    async def exchange_and_end(self, data: bytes) -> bytes:
        """The same, for who is served until it ends."""
        stream = await self.connect()
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                await stream.send_eof()
                return await read_all(stream)
        return b""


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    answer = b""
    with trio.fail_after(5):
        while data := await stream.receive_some():
            answer += data
    return answer


async def all_is_well() -> dict[str, str]:
    return {}


def make_door(**changes: Any) -> Door:
    health = Health(lambda: False, lambda: 7, lambda: {"uptime": 1}, lambda accept: (b"up 1\n", accept), all_is_well)
    arguments: dict[str, Any] = {
        "app": make_app(health),
        "serve_peer": echo,
        "serve_stun": echo_stun,
        "metrics": Metrics(0.0),
        "limits": ROOMY,
        "trusted_proxies": (),
        "max_connections": 100,
    }
    return Door(**(arguments | changes))


async def open_door(nursery: trio.Nursery, **changes: Any) -> OpenDoor:
    door = make_door(**changes)
    listeners = await open_listeners(("127.0.0.1",), 0)
    await nursery.start(door.run)
    await nursery.start(partial(trio.serve_listeners, door.handle, listeners))
    return OpenDoor(door, listeners[0].socket.getsockname()[1])


@pytest.fixture
async def opened(nursery: trio.Nursery) -> AsyncIterator[OpenDoor]:
    opened = await open_door(nursery)
    yield opened
    nursery.cancel_scope.cancel()


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: t", *headers, "", ""]).encode()


# RFC 6455 section 1.3's own example.
UPGRADE_HEADERS = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
UPGRADE = get("/", *UPGRADE_HEADERS)


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "t")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response), answer
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    return response.status_code, {name.decode(): value.decode() for name, value in response.headers}, body


async def test_health_has_exactly_two_keys(opened: OpenDoor) -> None:
    status, headers, body = parse(await opened.exchange(get("/health")))
    assert status == 200
    assert json.loads(body) == {"status": "ok", "taverns": 7}
    assert headers["content-type"] == "application/json"


async def test_our_own_client_says_what_answered_where_no_websocket_is(nursery: trio.Nursery) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<!doctype html>")

    [listener] = await open_listeners(("127.0.0.1",), 0)
    await nursery.start(partial(trio.serve_listeners, serve, [listener]))
    with pytest.raises(trio_websocket.HandshakeError):
        async with open_websocket(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"):
            pass
    nursery.cancel_scope.cancel()


async def test_health_of_a_draining_server_is_503(nursery: trio.Nursery) -> None:
    app = make_app(Health(lambda: True, lambda: 7, dict, lambda accept: (b"", accept), all_is_well))
    opened = await open_door(nursery, app=app)
    assert parse(await opened.exchange(get("/health")))[0] == 503
    assert parse(await opened.exchange(get("/ready")))[0] == 503
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", ["/", "/join/3fa85f64-5717-4562-b3fc-2c963f66afa6"])
async def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in(opened: OpenDoor, path: str) -> None:
    status, headers, body = parse(await opened.exchange(get(path)))
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert body.startswith(b"<!doctype html>")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    again = await opened.exchange(get(path, f"If-None-Match: {headers['etag']}"))
    assert parse(again)[0] == 304


@pytest.mark.parametrize("path", ["/", "/static/main.js"])
async def test_the_page_is_compressed_for_who_takes_it_so(opened: OpenDoor, path: str) -> None:
    _, plain_headers, plain = parse(await opened.exchange(get(path)))
    _, headers, compressed = parse(await opened.exchange(get(path, "Accept-Encoding: br, gzip")))
    assert headers["content-encoding"] == "gzip"
    assert "accept-encoding" in headers["vary"] == plain_headers["vary"]
    assert gzip.decompress(compressed) == plain
    assert headers["etag"] != plain_headers["etag"]
    matching = get(path, "Accept-Encoding: gzip", f"If-None-Match: {headers['etag']}")
    assert parse(await opened.exchange(matching))[0] == 304
    assert parse(await opened.exchange(get(path, f"If-None-Match: {headers['etag']}")))[0] == 200


async def test_the_page_names_all_its_modules_at_once(opened: OpenDoor) -> None:
    page = parse(await opened.exchange(get("/")))[2].decode()
    named = set(re.findall(r'<link rel="modulepreload" href="/static/([^"]+)">', page))
    static = {path.name for path in (Path(asgi.__file__).parent / "static").glob("*.js")}
    # A classic script, and what runs where the samples are.
    assert static - named == {"theme.js", "gate.js", "gate-worklet.js"}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/nothing"), 404),
        (get("/static/../../../../etc/passwd"), 404),
        (get("/static/%2e%2e/door.py"), 404),
        (b"POST /health HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        # A proxy or client that would like HTTP/2: it is not switched to, and answered.
        (get("/health", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"), 200),
        (get("/", "Upgrade: websocket", "Connection: Upgrade"), 426),
        (get("/", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 8"), 426),
        (get("/", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"), 400),
        (get("/", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"), 400),
        (get("/", *UPGRADE_HEADERS[:3], "Sec-WebSocket-Key: x"), 400),
        # Tokens are whole words.
        (get("/", "Upgrade: xwebsocketx", *UPGRADE_HEADERS[1:]), 200),
        (get("/", UPGRADE_HEADERS[0], "Connection: noupgrade", *UPGRADE_HEADERS[2:]), 400),
        # A load balancer's probe: HTTP/1.0 has no Host.
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (get("/join/x/"), 404),
        (b"POST / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 405),
    ],
)
async def test_what_is_no_good_request_gets_a_clear_answer(opened: OpenDoor, request_bytes: bytes, status: int) -> None:
    assert parse(await opened.exchange(request_bytes))[0] == status
    assert opened.door.metrics.failures == {}


@pytest.mark.parametrize(
    "header",
    ["Host: \xff", "Sec-WebSocket-Protocol: \xff", "Sec-WebSocket-Extensions: \xff", "Host: xn--" + "a" * 7000],
)
async def test_no_header_of_an_upgrade_is_our_bug(opened: OpenDoor, header: str) -> None:
    lines = ["GET / HTTP/1.1", *UPGRADE_HEADERS, header, "", ""]
    if not header.startswith("Host"):
        lines.insert(1, "Host: t")
    stream = await opened.connect()
    async with stream:
        await stream.send_all("\r\n".join(lines).encode("latin-1") + b"\x81\x82\0\0\0\0hi")
        answer = b""
        with trio.fail_after(5):
            while not answer.endswith(b"\x81\x02hi"):
                answer += await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert opened.door.metrics.failures == {}


async def test_one_request_for_each_connection_so_that_none_upgrades_behind_the_door(opened: OpenDoor) -> None:
    answer = await opened.exchange(get("/health", "Connection: keep-alive") + UPGRADE)
    assert answer.count(b"HTTP/1.1") == 1
    assert parse(answer)[1]["connection"] == "close"


async def test_a_request_in_small_pieces_is_one_request(opened: OpenDoor) -> None:
    stream = await opened.connect()
    async with stream:
        for byte in get("/health"):
            await stream.send_all(bytes([byte]))
        assert parse(await read_all(stream))[0] == 200


async def test_a_slow_head_is_answered_408(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, head_timeout_s=0.05)
    assert parse(await opened.exchange(b"GET / HTTP/1.1\r\nHo"))[0] == 408
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", ["/", "/ws", "/any/path?x=1"])
async def test_an_upgrade_is_accepted_on_any_path(opened: OpenDoor, path: str) -> None:
    async with open_websocket(opened.ws + path) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"


async def test_a_first_message_sent_with_the_upgrade_is_not_lost(opened: OpenDoor) -> None:
    stream = await opened.connect()
    async with stream:
        await stream.send_all(UPGRADE + b"\x81\x82\0\0\0\0hi")
        answer = b""
        with trio.fail_after(5):
            while not answer.endswith(b"\x81\x02hi"):
                answer += await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".lower() in answer.lower()


async def test_no_compression_is_agreed_on(opened: OpenDoor) -> None:
    upgrade = get("/", *UPGRADE_HEADERS, "Sec-WebSocket-Extensions: permessage-deflate")
    stream = await opened.connect()
    async with stream:
        await stream.send_all(upgrade)
        with trio.fail_after(5):
            answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"deflate" not in answer


async def close_code(ws: trio_websocket.WebSocketConnection) -> tuple[int, str | None]:
    """The code and reason that it is closed with, after whatever else arrives."""
    try:
        while True:
            await ws.get_message()
    except trio_websocket.ConnectionClosed as closed:
        assert closed.reason is not None
        return closed.reason.code, closed.reason.reason


async def test_what_was_sent_before_a_close_arrives_and_so_does_its_code(opened: OpenDoor) -> None:
    async with open_websocket(opened.ws) as ws:
        await ws.send_message("close")
        assert await ws.get_message() == "goodbye"
        assert await close_code(ws) == (1008, "you asked for it")


async def test_the_close_code_arrives_at_a_client_that_goes_on_sending(opened: OpenDoor) -> None:
    """A reset, which an unread byte causes, would discard the close frame on its way."""
    stream = await opened.connect()
    async with stream:
        await stream.send_all(UPGRADE + b"\x81\x85\0\0\0\0close" + b"\x81\x82\0\0\0\0hi" * 10_000)
        assert b"\x88\x12" + (1008).to_bytes(2, "big") + b"you asked for it" in await read_all(stream)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x81\x02hi", id="not masked"),
        pytest.param(b"\xf1\x82\0\0\0\0hi", id="reserved bits"),
        pytest.param(b"\x83\x82\0\0\0\0hi", id="reserved opcode"),
        pytest.param(b"\x80\x82\0\0\0\0hi", id="continues nothing"),
        pytest.param(b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), id="a ping that is too long"),
        pytest.param(b"\x81\x82\0\0\0\0\xff\xfe", id="a text that is no UTF-8"),
    ],
)
async def test_frames_against_the_protocol_end_their_connection_and_are_not_our_bug(
    opened: OpenDoor, frame: bytes
) -> None:
    """Without a close frame, as trio-websocket ends them."""
    answer = (await opened.exchange(UPGRADE + frame + b"\x81\x82\0\0\0\0hi")).partition(b"\r\n\r\n")[2]
    assert b"hi" not in answer
    assert opened.door.metrics.failures == {}


async def test_a_ping_after_the_close_frame_is_nobodys_bug(opened: OpenDoor) -> None:
    await opened.exchange(UPGRADE + b"\x81\x85\0\0\0\0close" + b"\x89\x80\0\0\0\0" * 5)
    with trio.fail_after(5):
        await opened.door.wait_no_websockets()
    assert opened.door.metrics.failures == {}


async def test_a_message_over_64_kib_closes_with_1009(opened: OpenDoor) -> None:
    async with open_websocket(opened.ws) as ws:
        await ws.send_message("x" * 64 * 1024)
        assert len(await ws.get_message()) == 64 * 1024
        await ws.send_message("x" * (64 * 1024 + 1))
        assert (await close_code(ws))[0] == 1009


async def test_the_limit_of_a_message_counts_bytes(opened: OpenDoor) -> None:
    async with open_websocket(opened.ws) as ws:
        await ws.send_message("€" * (64 * 1024 // 3))
        assert len(await ws.get_message()) == 64 * 1024 // 3
        await ws.send_message("€" * (64 * 1024 // 3 + 1))
        assert (await close_code(ws))[0] == 1009


async def test_what_was_sent_is_not_counted_as_waiting(opened: OpenDoor) -> None:
    """Twice what may wait for a client passes through its outbox."""
    async with open_websocket(opened.ws) as ws:
        for _ in range(2 * MAX_QUEUED_BYTES // 60_000 + 1):
            await ws.send_message("x" * 60_000)
            assert len(await ws.get_message()) == 60_000


async def test_one_message_fits_however_large_it_is(opened: OpenDoor) -> None:
    async with open_websocket(opened.ws, max_message_size=4 * MAX_QUEUED_BYTES) as ws:
        await ws.send_message("large")
        assert len(await ws.get_message()) == 2 * MAX_QUEUED_BYTES


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x89\x80\0\0\0\0", id="pings"),
        pytest.param(b"\x8a\x80\0\0\0\0", id="pongs"),
        pytest.param(b"\x00\x80\0\0\0\0", id="fragments"),
    ],
)
async def test_a_flood_of_frames_that_are_no_messages_is_closed_with_1008(nursery: trio.Nursery, frame: bytes) -> None:
    opened = await open_door(nursery, limits=attrs.evolve(ROOMY, frames_per_s=200))
    answer = await opened.exchange(UPGRADE + b"\x01\x81\0\0\0\0x" + frame * 10_000)
    assert (1008).to_bytes(2, "big") + b"too many frames" in answer
    assert opened.door.metrics.failures == {}
    nursery.cancel_scope.cancel()


async def test_a_message_in_endless_fragments_is_closed_with_1008(opened: OpenDoor) -> None:
    answer = await opened.exchange(UPGRADE + b"\x01\x81\0\0\0\0x" + b"\x00\x80\0\0\0\0" * (MAX_FRAGMENTS + 1))
    assert (1008).to_bytes(2, "big") + b"too many frames" in answer


async def test_after_a_close_of_ours_nothing_more_is_handled(nursery: trio.Nursery) -> None:
    """Also what had arrived in the same moment: a replaced session would replace the new one."""
    handled: list[str | bytes] = []

    async def serve(transport: Transport) -> None:
        def handle(message: str | bytes) -> None:
            handled.append(message)
            transport.close(1000, "session replaced")

        with suppress(ConnectionEnded):
            await transport.deliver(handle)

    opened = await open_door(nursery, serve_peer=serve)
    await opened.exchange(UPGRADE + b"\x81\x81\0\0\0\x001" + b"\x81\x81\0\0\0\x002")
    assert handled == ["1"]
    nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_read_is_closed_alone(opened: OpenDoor) -> None:
    async with open_websocket(opened.ws) as other:
        stuck = await opened.connect()
        async with stuck:
            await stuck.send_all(UPGRADE + b"\x81\x85\0\0\0\0flood")
            await other.send_message("still here")
            assert await other.get_message() == "still here"
            # Reading at last: what had left is there, then the reason.
            assert (1013).to_bytes(2, "big") + b"does not read" in await read_all(stuck)


async def test_a_peer_that_answers_no_ping_is_cut_off(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, limits=attrs.evolve(ROOMY, ping_interval_s=0.05, pong_timeout_s=0.05))
    async with open_websocket(opened.ws) as alive:
        assert b"\x89\x00" in await opened.exchange(UPGRADE)  # it was asked, then cut off
        await alive.send_message("still here")  # trio-websocket answers pings by itself
        assert await alive.get_message() == "still here"
    nursery.cancel_scope.cancel()


async def test_a_bug_in_a_session_closes_it_with_1011_and_nothing_else(
    opened: OpenDoor, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_websocket(opened.ws) as other,
        open_websocket(opened.ws) as ws,
    ):
        with caplog.at_level(logging.ERROR):
            await ws.send_message("crash")
            assert await close_code(ws) == (1011, "internal error")
        await other.send_message("still here")
        assert await other.get_message() == "still here"
    with trio.fail_after(5):
        await opened.door.wait_no_websockets()
    assert "ZeroDivisionError" in caplog.text
    assert opened.door.metrics.failures == {"connection": 1}


async def test_connections_that_reset_or_vanish_harm_nobody(opened: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for data in (b"", b"G", get("/"), UPGRADE, UPGRADE + b"\x81\xff", UPGRADE + b"\xff\xff\xff\xff"):
        for reset in (True, False):
            stream = await opened.connect()
            await stream.send_all(data) if data else None
            if reset:
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
    async with open_websocket(opened.ws) as ws:
        await ws.send_message("still here")
        assert await ws.get_message() == "still here"
    assert opened.door.metrics.failures == {}


async def test_connections_beyond_the_limit_are_closed_at_once(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, max_connections=1)  # one source has a part of them, and one at least
    async with open_websocket(opened.ws) as ws:
        stream = await opened.connect()
        async with stream:
            assert await read_all(stream) == b""
        await ws.send_message("still here")
        assert await ws.get_message() == "still here"
    # A place is free again once its connection is gone.
    with trio.fail_after(5):
        while opened.door._by_source:
            await trio.lowlevel.checkpoint()
    async with open_websocket(opened.ws) as ws:
        await ws.send_message("here again")
        assert await ws.get_message() == "here again"
    nursery.cancel_scope.cancel()


async def test_one_address_does_not_take_all_places(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    opened = await open_door(nursery, max_connections=8)
    async with open_websocket(opened.ws), open_websocket(opened.ws):
        stream = await opened.connect()
        async with stream:
            assert await read_all(stream) == b""
        elsewhere = await trio.open_tcp_stream("127.0.0.1", opened.port, local_address="127.0.0.9")
        async with elsewhere:
            await elsewhere.send_all(get("/health"))
            assert parse(await read_all(elsewhere))[0] == 200
    # An operator whose proxy it is finds the way out in the log.
    [refused] = [record for record in caplog.records if record.getMessage() == "connection-refused"]
    assert "TAVERN_TRUSTED_PROXIES" in refused.fields["reason"]  # type: ignore[attr-defined]
    nursery.cancel_scope.cancel()


async def test_a_trusted_proxy_stands_for_many(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, max_connections=8, trusted_proxies=(ip_network("127.0.0.0/8"),))
    async with open_websocket(opened.ws), open_websocket(opened.ws):
        assert parse(await opened.exchange(get("/health")))[0] == 200
    nursery.cancel_scope.cancel()


async def test_while_draining_http_is_answered_and_websockets_are_refused(opened: OpenDoor) -> None:
    opened.door.drain()
    assert parse(await opened.exchange(get("/health")))[0] == 200
    assert parse(await opened.exchange(UPGRADE))[0] == 503


async def test_an_http_client_that_never_reads_is_ended_by_abort(nursery: trio.Nursery) -> None:
    """hypercorn shields its sends: cancelling alone would wait for the client."""

    async def endless(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    opened = await open_door(nursery, app=endless)
    stream = await opened.connect()
    async with stream:
        await stream.send_all(get("/"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
        opened.door.abort()
        with trio.CancelScope(shield=True), trio.fail_after(5):
            while opened.door._by_source:
                await trio.lowlevel.checkpoint()


async def test_a_closed_stream_costs_whoever_goes_on_sending_a_checkpoint(nursery: trio.Nursery) -> None:
    """A loop of sends to a peer that died would otherwise freeze the event loop."""
    opened = await open_door(nursery)
    stream = await opened.connect()
    async with stream:
        lent = LentStream(stream, b"", send_timeout_s=1)
        await lent.aclose()
        with trio.testing.assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
            await lent.send_all(b"x")
    nursery.cancel_scope.cancel()


async def test_a_send_that_nobody_takes_has_a_deadline() -> None:
    ours, theirs = trio.socket.socketpair()
    with theirs:
        async with trio.SocketStream(ours) as stream:
            lent = LentStream(stream, b"", send_timeout_s=0.05)
            with pytest.raises(trio.BrokenResourceError):
                await lent.send_all(b"x" * 10_000_000)  # more than a socket's buffer takes


async def test_the_session_knows_the_client_behind_a_trusted_proxy(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, trusted_proxies=(ip_network("127.0.0.0/8"),))
    headers = [(b"X-Real-IP", b"198.51.100.1")]
    async with open_websocket(opened.ws, extra_headers=headers) as ws:
        await ws.send_message("who")
        assert await ws.get_message() == f"198.51.100.1 127.0.0.1:{opened.port}"
    nursery.cancel_scope.cancel()


async def test_with_a_certificate_the_port_speaks_https_and_wss(nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    opened = await open_door(nursery, tls=TlsSide(lambda: server_context))
    stream = await trio.open_ssl_over_tcp_stream("localhost", opened.port, ssl_context=client_context)
    await stream.send_all(get("/health"))
    answer = b""
    with trio.fail_after(5):
        while not answer.endswith(b"}"):
            answer += await stream.receive_some()
    assert parse(answer)[0] == 200
    await trio.aclose_forcefully(stream)
    url = f"wss://localhost:{opened.port}/"
    async with open_websocket(url, ssl_context=client_context) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
        await ws.send_message("close")
        assert await close_code(ws) == (1008, "you asked for it")
    # And garbage that looks like TLS harms nobody.
    await opened.exchange(b"\x16\x03\x01garbage" * 10)
    assert opened.door.metrics.failures == {}
    nursery.cancel_scope.cancel()


async def test_a_page_that_is_not_listed_is_refused(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, origins=("https://friends.example",))
    request = UPGRADE.replace(b"Host: t", b"Host: t\r\nOrigin: https://evil.example")
    status, _headers, body = parse(await opened.exchange(request))
    assert (status, body) == (403, b"This page may not use this server (TAVERN_ORIGINS).\n")
    async with open_websocket(opened.ws, extra_headers=[(b"Origin", b"https://friends.example")]) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
    nursery.cancel_scope.cancel()


async def test_places_are_counted_by_who_is_behind_a_trusted_proxy(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, max_per_source=2, trusted_proxies=(ip_network("127.0.0.0/8"),))

    def behind(address: str) -> list[tuple[bytes, bytes]]:
        return [(b"X-Real-IP", address.encode())]

    async with (
        open_websocket(opened.ws, extra_headers=behind("2001:db8::1")),
        open_websocket(opened.ws, extra_headers=behind("2001:db8::2")),
    ):
        request = UPGRADE.replace(b"Host: t", b"Host: t\r\nX-Real-IP: 2001:db8::3")
        assert parse(await opened.exchange(request))[0] == 429
        async with open_websocket(opened.ws, extra_headers=behind("198.51.100.1")) as ws:
            await ws.send_message("hello")
            assert await ws.get_message() == "hello"
    with trio.fail_after(5):
        await opened.door.wait_no_websockets()
    assert not opened.door._by_client
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("last", "closed_by_client"),
    [
        pytest.param(b"\x88\x80\0\0\0\0", True, id="close"),
        pytest.param(b"\x88\x82\0\0\0\0\x03\xe9", True, id="going away"),
        pytest.param(b"", False, id="lost"),
        pytest.param(b"\x81\x02hi", False, id="protocol error"),
        pytest.param(b"\x81\x85\0\0\0\0close", False, id="closed by us"),
    ],
)
async def test_a_close_by_the_client_is_told_from_a_loss(
    nursery: trio.Nursery, last: bytes, closed_by_client: bool
) -> None:
    seen: list[tuple[str, bool]] = []

    async def serve(transport: Transport) -> None:
        await echo(transport)
        seen.append((transport.query, transport.closed_by_client))

    opened = await open_door(nursery, serve_peer=serve)
    await opened.exchange_and_end(UPGRADE.replace(b"GET / ", b"GET /any?invite=a&b=%20 ") + last)
    assert seen == [("invite=a&b=%20", closed_by_client)]
    nursery.cancel_scope.cancel()


async def test_the_rest_of_a_frame_follows_before_the_reason(opened: OpenDoor) -> None:
    """A client that reads late gets whole frames: what had left in part, then why it was closed."""
    stuck = await opened.connect()
    async with stuck:
        await stuck.send_all(UPGRADE + b"\x81\x85\0\0\0\0flood")
        received = (await read_all(stuck)).partition(b"\r\n\r\n")[2]
    offset, sizes = 0, []
    while received[offset] == 0x81:
        head = 10 if received[offset + 1] == 127 else 4 if received[offset + 1] == 126 else 2
        length = int.from_bytes(received[offset + 2 : offset + head], "big")
        sizes.append(length)
        offset += head + length
    assert set(sizes) == {100_000}
    assert received[offset:] == frames.encode_close(1013, "does not read what it is sent")


async def test_a_reset_in_the_middle_of_a_send_ends_that_connection_only(opened: OpenDoor) -> None:
    async with open_websocket(opened.ws) as other:
        for _ in range(5):
            stuck = await opened.connect()
            await stuck.send_all(UPGRADE + b"\x81\x85\0\0\0\0large" * 20)
            await stuck.receive_some(1000)
            stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stuck.aclose()
        await other.send_message("still here")
        assert await other.get_message() == "still here"
    with trio.fail_after(5):
        await opened.door.wait_no_websockets()
    assert opened.door.metrics.failures == {}

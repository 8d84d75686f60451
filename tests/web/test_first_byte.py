"""One port for everything: STUN, TLS, HTTP and WebSocket told apart by a connection's first byte, TLS or not."""

from __future__ import annotations

import contextlib
import ssl

import attrs
import pytest
import trio
import trustme

from tavern.client.websocket import open_websocket
from tavern.signaling.transport import ConnectionEnded, Transport
from tavern.turn.five_tuple import FiveTuple
from tavern.web.handshake import TlsSide
from tests.web.test_door import get, open_door, parse, read_all

STUN = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)


@attrs.define(eq=False)
class Tls:
    """The server's and the clients' side of one authority."""

    server: ssl.SSLContext
    authority: trustme.CA

    def client(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


@pytest.fixture(scope="module")
def tls() -> Tls:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1", "stun.turn"])
    authority.issue_cert("localhost").configure_cert(context)
    return Tls(context, authority)


async def read_some(stream: trio.abc.Stream, size: int) -> bytes:
    data = b""
    with trio.fail_after(5):
        while len(data) < size:
            more = bytes(await stream.receive_some())
            assert more, data
            data += more
    return data


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("secured", [False, True])
async def test_zero_to_three_is_stun(nursery: trio.Nursery, tls: Tls, first: int, secured: bool) -> None:
    opened = await open_door(nursery, tls=TlsSide(lambda: tls.server) if secured else None)
    sent = bytes([first]) + STUN[1:]
    stream: trio.abc.Stream
    if secured:
        stream = await trio.open_ssl_over_tcp_stream("localhost", opened.port, ssl_context=tls.client())
    else:
        stream = await opened.connect()
    await stream.send_all(sent[:1])  # whoever sends a byte at a time is told apart as well
    greeting = await read_some(stream, len("tls 12345 ") + 1)
    transport, port, echoed = greeting.split(b" ", 2)
    assert transport == (b"tls" if secured else b"tcp")
    tcp = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(tcp, trio.SocketStream)
    assert int(port) == tcp.socket.getsockname()[1]
    await stream.send_all(sent[1:])
    assert echoed + await read_some(stream, len(sent) - len(echoed)) == sent
    await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def test_plain_stun_is_served_where_http_must_be_https(nursery: trio.Nursery, tls: Tls) -> None:
    opened = await open_door(nursery, tls=TlsSide(lambda: tls.server))
    stream = await opened.connect()
    async with stream:
        await stream.send_all(STUN)
        await stream.send_eof()
        answer = await read_all(stream)
    assert answer.startswith(b"tcp ")
    assert answer.endswith(STUN)
    assert parse(await opened.exchange(get("/")))[0] == 308
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", [0x04, 0x14, 0x40, 0x80, 0xFF])
async def test_what_is_nothing_gets_http_s_answer(nursery: trio.Nursery, first: int) -> None:
    opened = await open_door(nursery)
    assert parse(await opened.exchange(bytes([first]) + STUN[1:] + b"\r\n\r\n"))[0] == 400
    nursery.cancel_scope.cancel()


async def test_who_says_nothing_is_asked_to_hurry(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, head_timeout_s=0.05)
    assert parse(await opened.exchange(b""))[0] == 408
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [((), None), (("stun.turn",), "stun.turn"), (("h2", "http/1.1"), "http/1.1"), (("h2",), None)],
)
async def test_alpn_is_answered_and_nobody_held_to_it(
    nursery: trio.Nursery, tls: Tls, asked: tuple[str, ...], agreed: str | None
) -> None:
    """RFC 7443 names `stun.turn`; clients that name nothing are served as well."""
    opened = await open_door(nursery, tls=TlsSide(lambda: tls.server))
    for sent, answered in ((STUN, b"tls "), (get("/health"), b"HTTP/1.1 200")):
        stream = await trio.open_ssl_over_tcp_stream("localhost", opened.port, ssl_context=tls.client(*asked))
        await stream.send_all(sent)
        assert (await read_some(stream, len(answered))).startswith(answered)
        assert stream.selected_alpn_protocol() == agreed
        await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def test_stun_streams_have_places_as_all_connections(nursery: trio.Nursery) -> None:
    opened = await open_door(nursery, max_connections=8)  # of which one address has two
    streams = [await opened.connect() for _ in range(2)]
    for stream in streams:
        await stream.send_all(STUN)
        await read_some(stream, 30)
    assert await opened.exchange(STUN) == b""
    await streams[0].send_eof()
    assert await read_all(streams[0]) == b""
    await streams[0].aclose()
    with trio.fail_after(5):
        while not (await opened.exchange_and_end(STUN)).endswith(STUN):
            await trio.lowlevel.checkpoint()
    await streams[1].aclose()
    nursery.cancel_scope.cancel()


async def test_a_bug_in_one_stun_stream_ends_that_one(nursery: trio.Nursery) -> None:
    async def crash(_stream: trio.abc.Stream, _first: bytes, _five_tuple: FiveTuple) -> None:
        raise ZeroDivisionError

    opened = await open_door(nursery, serve_stun=crash)
    assert await opened.exchange(STUN) == b""
    assert opened.door.metrics.failures == {"connection": 1}
    assert parse(await opened.exchange(get("/health")))[0] == 200
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("secured", "headers", "direct"), [
    (True, [], True),
    (False, [], False),
    (True, [(b"X-Forwarded-For", b"203.0.113.7")], False),
])  # fmt: skip
async def test_signaling_knows_who_came_directly_over_tls(
    nursery: trio.Nursery, tls: Tls, secured: bool, headers: list[tuple[bytes, bytes]], direct: bool
) -> None:
    async def tell(transport: Transport) -> None:
        transport.send(str(transport.direct_tls).encode())
        with contextlib.suppress(ConnectionEnded):
            await transport.deliver(lambda _message: None)

    opened = await open_door(nursery, serve_peer=tell, tls=TlsSide(lambda: tls.server) if secured else None)
    url = f"{'wss' if secured else 'ws'}://localhost:{opened.port}/"
    context = tls.client() if secured else None
    async with open_websocket(url, ssl_context=context, extra_headers=headers) as websocket:
        assert await websocket.get_message() == str(direct)
    nursery.cancel_scope.cancel()

"""TURN over byte streams: frames cut anywhere, slow readers, floods, and how streams end."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from tavern.relay.stream_links import (
    MAX_INBOX_BYTES,
    MAX_INBOXES_BYTES,
    OUTBOX_BYTES,
    PACKET_SIZE,
    SOURCES_THAT_FIT,
    FromStream,
)
from tavern.relay.streams import IDLE_S, STALL_S, WorkShare
from tavern.relay.thread import PythonDataPath
from tavern.stun.attributes import decode_error_code
from tavern.stun.framing import StreamFramer
from tavern.stun.message import AttributeType, MessageClass, Method, encode, parse
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.forwarding import MAX_CONTROL_SIZE, MAX_CONTROL_SIZE_WITHOUT_FLOW
from tests.relay.conftest import UDP, Conversation, static_credential

if TYPE_CHECKING:
    from tavern.addresses import SocketAddress
    from tavern.turn.auth import Credential
    from tests.relay.conftest import Connect, Running, Start

BINDING = encode(Method.BINDING, MessageClass.REQUEST, bytes(12))
CHANNEL = 0x4000
_ports = count(20_000)


@attrs.define(eq=False)
class StreamClient(Conversation):
    """A client over a stream."""

    stream: trio.SocketStream
    credential: Credential
    nonce: bytes = b""
    cut: int = 1 << 20
    """So many bytes are sent at once."""
    held: bytearray | None = None
    """Where there is one, what would be sent goes here."""
    _framer: StreamFramer = attrs.field(factory=StreamFramer)

    async def send(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % 4)
        if self.held is not None:
            self.held += padded
            return
        for start in range(0, len(padded), self.cut):
            await self.stream.send_all(padded[start : start + self.cut])

    async def receive(self) -> bytes:
        """The next frame; nothing if the stream ends before."""
        with trio.fail_after(5):
            while (frame := self._framer.take()) is None:
                data = bytes(await self.stream.receive_some())
                if not data:
                    assert not self._framer.unfinished
                    return b""
                self._framer.feed(data)
        return frame

    async def send_on_channel(self, payload: bytes) -> None:
        await self.send(on_channel(payload))


def on_channel(payload: bytes) -> bytes:
    return CHANNEL.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


@asynccontextmanager
async def open_stream(
    running: Running,
    *,
    small: bool = False,
    transport: Transport = Transport.TCP,
    port: int | None = None,
) -> AsyncIterator[StreamClient]:
    """A client that is served until the block's end, or until the server has enough of it.

    With `small`, next to nothing waits in the kernel's buffers. It has sent a Binding request, as the door reads
    something before it knows whose stream this is.
    """
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    if small:
        for end in (ours, theirs):
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, buffer, 0)  # the kernel's least
    five_tuple = FiveTuple(transport, ("127.0.0.1", port or next(_ports)), ("127.0.0.1", running.port))

    async def serve() -> None:
        try:
            await running.relay.serve_stream(theirs, BINDING, five_tuple)
        except* trio.BrokenResourceError:
            pass
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        client = StreamClient(ours, static_credential("bob"))
        assert parse(await client.receive()).message_class is MessageClass.SUCCESS
        yield client
        await ours.aclose()


@asynccontextmanager
async def udp_peer() -> AsyncIterator[tuple[trio.socket.SocketType, SocketAddress]]:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        yield sock, sock.getsockname()


async def receive_from(sock: trio.socket.SocketType) -> tuple[bytes, SocketAddress]:
    with trio.fail_after(5):
        data, sender = await sock.recvfrom(65535)
    return bytes(data), sender[:2]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.lowlevel.checkpoint()


@pytest.mark.clause("8656 §12.5: ChannelData is padded to 4 over TCP and TLS, wherever the stream is cut")
@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS])
@pytest.mark.parametrize("cut", [1, 3, 19, 1 << 20])
async def test_a_call_over_a_stream_wherever_it_is_cut(start_relay: Start, cut: int, transport: Transport) -> None:
    async with (
        start_relay() as running,
        open_stream(running, transport=transport) as client,
        udp_peer() as (peer, address),
    ):
        client.cut = cut
        relayed = await client.allocate()
        assert (await client.bind(CHANNEL, address)).message_class is MessageClass.SUCCESS
        for size in range(6):  # §12.5: padded to four bytes on a stream, and the padding is no data
            await client.send_on_channel(b"x" * size)
            assert await receive_from(peer) == (b"x" * size, relayed)
            await peer.sendto(b"y" * size, relayed)
            assert await client.receive() == on_channel(b"y" * size)
        async with udp_peer() as (other, other_address):
            await client.permit(other_address)
            await client.send_indication(b"indicated", other_address)
            assert await receive_from(other) == (b"indicated", relayed)
            await other.sendto(b"back", relayed)
            indication = parse(await client.receive())
            assert (indication.method, indication.get(AttributeType.DATA)) == (Method.DATA, b"back")


@pytest.mark.clause("8656 §11, §12.5: over a stream too: empty data, DONT-FRAGMENT, ICMP, both families")
async def test_every_kind_of_data_passes_over_a_stream(start_relay: Start) -> None:
    async with start_relay() as running, open_stream(running) as client, udp_peer() as (peer, address):
        relayed = await client.allocate((AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02\0\0\0"))
        await client.permit(address)
        await client.send_indication(b"whole", address, (AttributeType.DONT_FRAGMENT, b""))
        assert await receive_from(peer) == (b"whole", relayed)
        await client.bind(CHANNEL, address)
        await client.send_on_channel(b"")
        assert await receive_from(peer) == (b"", relayed)
        await peer.sendto(b"", relayed)
        assert await client.receive() == on_channel(b"")
        peer.close()
        await client.send_on_channel(b"anybody?")
        heard = parse(await client.receive())
        assert (heard.method, heard.get(AttributeType.ICMP)) == (Method.DATA, b"\0\0\x06\x03\0\0\0\0")


async def test_what_comes_at_once_is_done_in_its_order(start_relay: Start) -> None:
    async with start_relay() as running, open_stream(running) as client, udp_peer() as (peer, address):
        relayed = await client.allocate()
        await client.bind(CHANNEL, address)
        client.held = bytearray()
        await client.send_on_channel(b"before")
        with trio.move_on_after(0.01):  # no answer comes to what was not sent
            await client.request(Method.REFRESH, (AttributeType.LIFETIME, bytes(4)))
        await client.send_on_channel(b"after")
        await client.stream.send_all(client.held)
        assert parse(await client.receive()).get(AttributeType.LIFETIME) == bytes(4)
        assert await receive_from(peer) == (b"before", relayed)
        await until(lambda: running.relay.statistics().drops[Drop.NO_FLOW] == 1)


@pytest.mark.clause("8656 §2: 5-tuples differ by transport too")
async def test_one_address_over_two_transports_is_two_clients(start_relay: Start) -> None:
    """RFC 8656 §2: the transport is part of the five-tuple."""
    async with (
        start_relay() as running,
        open_stream(running, port=9) as tcp,
        open_stream(running, port=9, transport=Transport.TLS) as tls,
    ):
        assert await tcp.allocate() != await tls.allocate()
        assert running.relay.statistics().allocations == 2


# Framed as a message is, with an attribute that goes beyond its end.
OVERRUN = BINDING[:2] + b"\x00\x04" + BINDING[4:] + b"\x80\x22\x00\xff"


async def test_a_client_that_comes_again_from_its_port_takes_the_place_of_its_dead_stream(start_relay: Start) -> None:
    """A reset frees the client's port at once, and may be noticed only when the stream is read from again."""
    async with start_relay() as running, open_stream(running, port=9) as dead:
        await dead.allocate()
        async with open_stream(running, port=9) as client:
            assert running.relay.statistics().allocations == 0
            assert await client.allocate()
            assert await dead.receive() == b""
            assert (await client.binding()).message_class is MessageClass.SUCCESS
        assert running.relay.statistics().allocations == 0


@pytest.mark.clause("8489 §6.2.2: TCP that does not parse closes the connection")
@pytest.mark.parametrize("broken", [b"\xff\xff\xff\xff", BINDING[:3] + b"\x01" + BINDING[4:], OVERRUN])
async def test_what_does_not_parse_ends_the_stream_after_what_came_before(start_relay: Start, broken: bytes) -> None:
    async with start_relay() as running, open_stream(running) as client, udp_peer() as (peer, address):
        await client.allocate()
        await client.bind(CHANNEL, address)
        await client.stream.send_all(on_channel(b"last") + BINDING + broken + BINDING)
        assert parse(await client.receive()).method == Method.BINDING
        assert await client.receive() == b""
        assert (await receive_from(peer))[0] == b"last"
        assert running.relay.statistics().allocations == 0


@pytest.mark.clause("8656 §2.1: when a TCP client goes, its allocation goes")
async def test_a_stream_s_end_ends_its_allocation_and_frees_its_port(start_relay: Start) -> None:
    async with start_relay(min_relay_port=50_100, max_relay_port=50_101) as running:
        for _ in range(6):
            async with open_stream(running) as client:
                _host, port = await client.allocate()
                assert running.relay.statistics().allocations == 1
            assert running.relay.statistics().allocations == 0
            await until(partial(is_free, port))


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_a_client_that_closes_its_side_still_gets_its_answers(start_relay: Start) -> None:
    async with start_relay() as running, open_stream(running) as client:
        await client.stream.send_all(BINDING * 50)
        await client.stream.send_eof()
        for _ in range(50):
            assert parse(await client.receive()).message_class is MessageClass.SUCCESS
        assert await client.receive() == b""


async def test_who_proves_nothing_too_often_is_told_by_the_stream_s_end(start_relay: Start) -> None:
    """RFC 8489 §6.2.2: over a stream nobody asks again, so a dropped request would be waited for."""
    async with start_relay(unauthenticated_rate=1) as running, open_stream(running) as client:
        answered = 0
        with trio.fail_after(5):
            while True:
                await client.stream.send_all(encode(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12), [UDP]))
                frame = await client.receive()
                if not frame:
                    break
                assert decode_error_code(parse(frame).get(AttributeType.ERROR_CODE) or b"") == (401, "")
                answered += 1
        assert answered in (4, 5)  # a second may pass meanwhile
        assert running.relay.statistics().unauthenticated_suppressed == 1


async def test_who_does_not_read_loses_media_and_nobody_else_does(start_relay: Start, connect_client: Connect) -> None:
    async with (
        start_relay() as running,
        open_stream(running, small=True) as slow,
        open_stream(running) as quick,
        udp_peer() as (peer, address),
    ):
        relayed = await slow.allocate()
        await slow.bind(CHANNEL, address)
        quick_relayed = await quick.allocate()
        await quick.bind(CHANNEL, address)
        dropped = running.relay.statistics().drops
        while running.relay.statistics().drops[Drop.STREAM_OUTBOX_FULL] < 20:
            for _ in range(10):
                await peer.sendto(bytes(1000), relayed)
            await peer.sendto(b"now", quick_relayed)
            assert await quick.receive() == on_channel(b"now")
        assert dropped[Drop.STREAM_OUTBOX_FULL] == 0
        # Requests are answered, behind what waits, and no answer is lost.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.stream.send_all, BINDING)
            received = 0
            while (frame := await slow.receive())[0] == CHANNEL >> 8:
                received += len(frame)
        assert parse(frame).message_class is MessageClass.SUCCESS
        assert OUTBOX_BYTES - 2000 < received < OUTBOX_BYTES + 20_000


async def test_who_takes_no_answers_is_not_read_from(start_relay: Start) -> None:
    async with start_relay() as running, open_stream(running, small=True) as client:
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await client.stream.send_all(BINDING * 100)
                sent += 100
        assert sent < 2000  # some 64 KB of answers
        with trio.move_on_after(0.3) as waiting:
            await client.stream.send_all(BINDING)
        assert waiting.cancelled_caught


async def test_a_flood_waits_with_its_sender(start_python: Start) -> None:
    """While the data path does not get on, the process does not hold what clients send."""
    least = MAX_INBOX_BYTES // (PACKET_SIZE + 4)
    async with start_python() as running, open_stream(running, small=True) as client:
        data_path = running.relay._data_path
        assert isinstance(data_path, PythonDataPath)
        data_path._wake_pending = True  # its thread does not look for commands
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await client.stream.send_all(on_channel(b"") * 100)
                sent += 100
        assert least <= sent
        assert (
            sum(len(command.frames) for command in data_path._commands if isinstance(command, FromStream)) < least + 40
        )
        data_path._wake_pending = False
        data_path._wake()
        with trio.fail_after(5):
            await client.stream.send_all(on_channel(b"") * 10_000)


@pytest.mark.parametrize(
    ("sources", "bound"),
    [
        (1, MAX_INBOXES_BYTES // SOURCES_THAT_FIT),
        (2, MAX_INBOXES_BYTES // SOURCES_THAT_FIT * 2),
        (8, MAX_INBOXES_BYTES),
    ],
)
async def test_floods_have_a_bound_for_each_source_and_all(start_python: Start, sources: int, bound: int) -> None:
    async with start_python() as running, trio.open_nursery() as nursery:
        data_path = running.relay._data_path
        assert isinstance(data_path, PythonDataPath)
        data_path._wake_pending = True  # its thread does not look for commands
        ends = []
        for number in range(2 * MAX_INBOXES_BYTES // MAX_INBOX_BYTES):
            ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
            client = f"127.0.1.{number % sources}", next(_ports)
            five_tuple = FiveTuple(Transport.TCP, client, ("127.0.0.1", running.port))
            nursery.start_soon(running.relay.serve_stream, theirs, on_channel(b"") * 4000, five_tuple)
            ends += [ours, theirs]
        await trio.testing.wait_all_tasks_blocked(0.05)
        frames = sum(len(command.frames) for command in data_path._commands if isinstance(command, FromStream))
        assert bound <= frames * (PACKET_SIZE + 4) < bound + sources * 32 * (PACKET_SIZE + 4)
        data_path._wake_pending = False
        nursery.cancel_scope.cancel()
        for end in ends:
            end.socket.close()


async def test_somebodys_many_streams_have_one_turn_where_others_have_theirs() -> None:
    work = WorkShare()
    loud, quiet = work.source("203.0.113.7"), work.source("203.0.113.8")
    assert work.source("203.0.113.7") is loud
    order: list[trio.Lock] = []

    async def take_turn(source: trio.Lock) -> None:
        async with work.turn(source):
            order.append(source)

    async with trio.open_nursery() as nursery, work.turn(quiet):
        for source in (loud, loud, loud, loud, quiet):
            nursery.start_soon(take_turn, source)
            await trio.testing.wait_all_tasks_blocked()
    assert order.index(quiet) <= 1


@pytest.mark.parametrize(("allocated", "largest"), [(False, MAX_CONTROL_SIZE_WITHOUT_FLOW), (True, MAX_CONTROL_SIZE)])
async def test_a_request_beyond_what_any_client_needs_ends_the_stream(
    start_relay: Start, allocated: bool, largest: int
) -> None:
    """Over UDP it is dropped: reading it takes time in proportion. Over a stream nobody would ask again."""
    async with start_relay() as running, open_stream(running) as client:
        if allocated:
            await client.allocate()
        padding = (0x8000, bytes(largest - len(BINDING) - 4))
        await client.send(encode(Method.BINDING, MessageClass.REQUEST, bytes(12), [padding]))
        assert parse(await client.receive()).message_class is MessageClass.SUCCESS
        padding = (0x8000, bytes(largest - len(BINDING)))
        await client.send(encode(Method.BINDING, MessageClass.REQUEST, bytes(12), [padding]))
        assert await client.receive() == b""


async def test_no_bytes_do_harm(start_relay: Start) -> None:
    """Frames with bits turned, parts left out and parts repeated, after an allocation that they may hit."""
    random = Random(8656)  # noqa: S311 - the same in every run
    allocate = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), [UDP, (AttributeType.USERNAME, b"bob")])
    frames = [
        BINDING,
        allocate,
        on_channel(b"hello!!!"),
        on_channel(b""),
        encode(Method.SEND, MessageClass.INDICATION, bytes(12)),
    ]
    async with start_relay() as running, open_stream(running) as other:
        await other.allocate()
        for _ in range(150):
            stream = bytearray(b"".join(random.choices(frames, k=20)))
            for _ in range(random.randrange(4)):
                where = random.randrange(len(stream))
                stream[where] ^= 1 << random.randrange(8)
                stream[where : where + random.randrange(3)] = stream[: random.randrange(3)]
            async with open_stream(running) as client:
                await client.allocate()
                with suppress(trio.BrokenResourceError):
                    await client.stream.send_all(stream)
                    await client.stream.send_eof()
                    while await client.receive():
                        pass
        assert running.relay.statistics().allocations == 1
        assert (await other.binding()).message_class is MessageClass.SUCCESS


@pytest.fixture
def clock(mock_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Goes as the real one, and can jump."""
    mock_clock.rate = 1
    return mock_clock


async def jump(clock: trio.testing.MockClock, seconds: float) -> None:
    """Time passes once everybody has done what there was to do."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    clock.jump(seconds)


async def test_who_asks_for_nothing_is_closed(start_relay: Start, clock: trio.testing.MockClock) -> None:
    async with start_relay() as running, open_stream(running) as client:
        await jump(clock, IDLE_S - 1)
        await client.binding()
        await jump(clock, IDLE_S - 1)
        await client.send_on_channel(b"no request")
        await jump(clock, 1.1)
        assert await client.receive() == b""


async def test_an_allocation_keeps_its_stream(start_relay: Start, clock: trio.testing.MockClock) -> None:
    async with start_relay() as running, open_stream(running) as client:
        await client.allocate()
        for _ in range(3):
            await jump(clock, IDLE_S + 1)
        await client.binding()
        await client.request(Method.REFRESH, (AttributeType.LIFETIME, bytes(4)))
        await jump(clock, IDLE_S + 1)
        assert await client.receive() == b""


async def test_half_a_frame_is_waited_for_a_while_only(start_relay: Start, clock: trio.testing.MockClock) -> None:
    async with start_relay() as running, open_stream(running) as client:
        await client.allocate()
        await client.stream.send_all(BINDING[:10])
        await jump(clock, STALL_S - 1)
        await client.stream.send_all(BINDING[10:] + BINDING[:10])
        assert parse(await client.receive()).message_class is MessageClass.SUCCESS
        for byte in BINDING[10:15]:  # one at a time is no progress
            await jump(clock, STALL_S / 5)
            await client.stream.send_all(bytes([byte]))
        await jump(clock, 1)
        assert await client.receive() == b""
        assert running.relay.statistics().allocations == 0


async def test_who_takes_nothing_is_closed(start_relay: Start, clock: trio.testing.MockClock) -> None:
    async with start_relay() as running, open_stream(running, small=True) as client, udp_peer() as (peer, address):
        relayed = await client.allocate()
        await client.bind(CHANNEL, address)
        while running.relay.statistics().drops[Drop.STREAM_OUTBOX_FULL] == 0:
            await peer.sendto(bytes(1000), relayed)
        await jump(clock, STALL_S - 1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert running.relay.statistics().allocations == 1
        await jump(clock, 1.1)
        await until(lambda: running.relay.statistics().allocations == 0)

"""Signaling's transport on trio-websocket: one outbox and one heartbeat for each connection."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from tavern.logs import log_event
from tavern.signaling.messages import MAX_MESSAGE_BYTES
from tavern.signaling.registry import CLOSE_INTERNAL_ERROR, CLOSE_POLICY_VIOLATION
from tavern.signaling.transport import ConnectionEnded, Transport
from tavern.web.frames import FrameCounter
from tavern.web.streams import LINGER_S, LentStream

CLOSE_NORMAL = 1000
_NO_CLOSE_FRAME = 1006
CLOSE_MESSAGE_TOO_BIG = 1009
CLOSE_TRY_AGAIN_LATER = 1013

MAX_QUEUED_MESSAGES = 512
"""A mesh of 8 that is made anew sends one peer some 100; more waits only for a client that stopped reading."""
MAX_QUEUED_BYTES = 1024 * 1024
MAX_FRAGMENTS = 1024
"""Of one message: those of 64 bytes make up the largest message."""
_READ_BYTES = 2048
"""At most some 340 frames at once, 5 ms of work, before other connections have their turn."""
FLUSH_S = 3.0
"""For what is queued before a close, the whole drain included."""
HANDSHAKE_S = 5.0

_log = logging.getLogger("tavern.web")

Serve = Callable[[Transport], Awaitable[None]]


@attrs.frozen(kw_only=True)
class WebSocketLimits:
    """What one connection may take."""

    ping_interval_s: float
    pong_timeout_s: float
    frames_per_s: int
    """Frames of all kinds in a second: pings and fragments are no messages, and cost as much."""


@attrs.frozen(kw_only=True)
class Origin:
    """What the request said of where it comes from; see `signaling.transport.Transport`."""

    client_host: str
    host_header: str
    direct_tls: bool
    query: str


async def serve_websocket(
    stream: LentStream, rest: bytes, serve: Serve, *, origin: Origin, limits: WebSocketLimits
) -> None:
    """Accepts the upgrade that `stream` begins with, runs `serve`, and ends the WebSocket as it was told to.

    `rest` is what was read of the stream after the request. Our own bugs in `serve` close it with 1011 and are raised.
    Does not close `stream` itself.
    """
    try:
        async with trio.open_nursery() as nursery:
            transport = await _accept(nursery, stream, rest, origin, limits)
            if transport is not None:
                nursery.start_soon(transport.write)
                nursery.start_soon(transport.beat, limits)
                await _serve_and_finish(serve, transport)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, LocalProtocolError) as ended:
        # trio-websocket's reader raises these for a peer that is gone before it is answered, or that pings after the
        # close frame: the connection's end, and nobody's bug.
        log_event(_log, logging.DEBUG, "websocket-ended", reason=ended.exceptions[0])


def handshake(key: bytes) -> bytes:
    """An upgrade request with nothing of the client's in it but its key.

    wsproto decodes Host, protocols and extensions: bytes that are no ASCII raise, and a long `xn--` name takes 60 ms.
    """
    lines = [
        b"GET / HTTP/1.1",
        b"host: tavern",
        b"upgrade: websocket",
        b"connection: upgrade",
        b"sec-websocket-version: 13",
        b"sec-websocket-key: " + key,
    ]
    return b"\r\n".join([*lines, b"", b""])


async def _accept(
    nursery: trio.Nursery,
    stream: LentStream,
    rest: bytes,
    origin: Origin,
    limits: WebSocketLimits,
) -> TrioWebSocketTransport | None:
    """The accepted connection; None if the handshake took too long."""
    with trio.move_on_after(HANDSHAKE_S):
        # One undelivered message besides the one being handled: who floods waits in its own TCP window.
        request = await wrap_server_stream(
            nursery, stream, message_queue_size=1, max_message_size=MAX_MESSAGE_BYTES, receive_buffer_size=_READ_BYTES
        )
        connection = await request.accept()
        transport = TrioWebSocketTransport(connection, origin)
        guard = _FloodGuard(limits.frames_per_s, transport)
        # Not before: trio-websocket forgets frames that come with the request, until another one comes.
        stream.release(rest, guard.refuse)
        return transport
    return None


@attrs.define(eq=False)
class _FloodGuard:
    """Closes a connection whose frames are too many, in a second or in one message."""

    frames_per_s: int
    transport: TrioWebSocketTransport
    _counter: FrameCounter = attrs.field(factory=FrameCounter, init=False)
    _second: float = attrs.field(default=0.0, init=False)
    _frames: int = attrs.field(default=0, init=False)

    def refuse(self, data: bytes) -> bool:
        """Whether nothing of this connection is to be read any more, this included."""
        now = trio.current_time()
        if now - self._second >= 1.0:
            self._second, self._frames = now, 0
        self._frames += self._counter.feed(data)
        if self._frames <= self.frames_per_s and self._counter.fragments <= MAX_FRAGMENTS:
            return False
        self.transport.close(CLOSE_POLICY_VIOLATION, "too many frames")
        return True


async def _serve_and_finish(serve: Serve, transport: TrioWebSocketTransport) -> None:
    try:
        await serve(transport)
    except Exception:
        transport.close(CLOSE_INTERNAL_ERROR, "internal error")
        raise
    finally:
        transport.close(CLOSE_NORMAL, "")
        with trio.move_on_after(FLUSH_S + LINGER_S):
            await transport.written.wait()


class TrioWebSocketTransport:
    """One connection; implements `signaling.transport.Transport`."""

    def __init__(self, connection: WebSocketConnection, origin: Origin) -> None:
        self._connection = connection
        self._origin = origin
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._more = trio.Event()
        self._close: tuple[int, str] | None = None
        self._ended: str | None = None
        self._closed_by_client = False
        self._receiving: trio.CancelScope | None = None
        self.written = trio.Event()
        """Set when nothing more will be sent: the close frame went out, or the connection is dead."""

    @property
    def client_host(self) -> str:
        return self._origin.client_host

    @property
    def host_header(self) -> str:
        return self._origin.host_header

    @property
    def direct_tls(self) -> bool:
        return self._origin.direct_tls

    @property
    def query(self) -> str:
        return self._origin.query

    @property
    def closed_by_client(self) -> bool:
        return self._closed_by_client

    async def receive(self) -> str | bytes:
        if self._ended is None:
            try:
                with trio.CancelScope() as self._receiving:
                    message = await self._connection.get_message()
                    # It may have come in the same moment as a close of ours: a replaced session acts no more.
                    if not self._has_ended() and not self._too_large(message):
                        return message
            except ConnectionClosed as closed:
                self._closed_by_client = closed.reason is not None and closed.reason.code != _NO_CLOSE_FRAME
                self._end(_describe(closed))
        raise ConnectionEnded(self._ended or "closed")

    def _too_large(self, message: str | bytes) -> bool:
        """trio-websocket counts characters, of which one has up to four bytes."""
        if len(message) <= MAX_MESSAGE_BYTES // 4 or isinstance(message, bytes):
            return False
        if len(message.encode()) <= MAX_MESSAGE_BYTES:
            return False
        self.close(CLOSE_MESSAGE_TOO_BIG, f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        return True

    @property
    def congested(self) -> bool:
        return self._outbox_bytes > MAX_QUEUED_BYTES // 2 or len(self._outbox) > MAX_QUEUED_MESSAGES // 2

    def send(self, message: bytes) -> None:
        if self._ended is not None:
            return
        # One message always fits, however large: an existing tavern may have thousands of channels.
        if self._outbox and (
            len(self._outbox) >= MAX_QUEUED_MESSAGES or self._outbox_bytes + len(message) > MAX_QUEUED_BYTES
        ):
            self._outbox.clear()  # it would not read that either, and the close frame is heard sooner
            self.close(CLOSE_TRY_AGAIN_LATER, "does not read what it is sent")
            return
        self._outbox.append(message)
        self._outbox_bytes += len(message)
        self._more.set()

    def close(self, code: int, reason: str) -> None:
        if self._ended is None:
            self._close = (code, reason)
            self._end(f"closed {code} {reason}".rstrip())

    async def write(self) -> None:
        """Sends what is queued, in order, then the close frame. Returns when nothing more can be sent."""
        try:
            while await self._send_queued():
                await self._more.wait()
        except ConnectionClosed as closed:
            self._end(_describe(closed))
        finally:
            self.written.set()

    async def _send_queued(self) -> bool:
        """Whether more may come."""
        while self._outbox:
            message = self._outbox.popleft()
            self._outbox_bytes -= len(message)
            await self._connection.send_message(message.decode())
        self._more = trio.Event()
        if self._close is None:
            return self._ended is None
        # aclose waits for the peer's own close frame, and reads and discards until then.
        with trio.move_on_after(LINGER_S):
            await self._connection.aclose(*self._close)
        return False

    async def beat(self, limits: WebSocketLimits) -> None:
        """Cuts the connection off when a ping is not answered in time, or could not even be sent."""
        while self._ended is None:
            await trio.sleep(limits.ping_interval_s)
            try:
                with trio.fail_after(limits.pong_timeout_s):
                    await self._connection.ping()
            except trio.TooSlowError:
                self._outbox.clear()
                self._end("no answer to a ping")
                self.written.set()  # half a frame may be out: nothing can follow it
            except ConnectionClosed as closed:
                self._end(_describe(closed))

    def _has_ended(self) -> bool:
        return self._ended is not None

    def _end(self, reason: str) -> None:
        """Nothing more is received; the writer finishes."""
        if self._ended is None:
            self._ended = reason
        if self._receiving is not None:
            self._receiving.cancel()
        self._more.set()


def _describe(closed: ConnectionClosed) -> str:
    if closed.reason is None:
        return "closed"
    return f"{closed.reason.code} {closed.reason.reason or ''}".strip()

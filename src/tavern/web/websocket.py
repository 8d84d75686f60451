"""Signaling's transport: one WebSocket (RFC 6455), served in its connection's own task."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NoReturn

import attrs
import trio

from tavern.logs import log_event
from tavern.signaling.limits import Limit
from tavern.signaling.messages import MAX_MESSAGE_BYTES
from tavern.signaling.registry import CLOSE_INTERNAL_ERROR, CLOSE_POLICY_VIOLATION
from tavern.signaling.transport import ConnectionEnded, Handle, Membership, Transport, Waits
from tavern.web import frames
from tavern.web.frames import CloseFrame, FrameReader, Ping, Pong, Violation
from tavern.web.heartbeat import Heartbeat
from tavern.web.links import Link, SocketLink, Start, TlsLink
from tavern.web.poller import Poller
from tavern.web.streams import LINGER_S, AnyStream

CLOSE_NORMAL = 1000
CLOSE_TRY_AGAIN_LATER = 1013

MAX_FRAGMENTS = 1024
"""Of one message: those of 64 bytes make up the largest one."""
MAX_QUEUED_MESSAGES = 512
"""A mesh of 8 that is made anew sends one peer some 100; more waits only for a client that stopped reading."""
MAX_QUEUED_BYTES = 1024 * 1024
FLUSH_S = 3.0
"""For what is queued before a close, the whole drain included."""

_NO_CODE = 1005  # what the absence of a code is called (section 7.1.5)
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_log = logging.getLogger("tavern.web")

Serve = Callable[[Transport], Awaitable[None]]


@attrs.frozen(kw_only=True)
class WebSocketLimits:
    """What one connection may take."""

    ping_interval_s: float
    pong_timeout_s: float
    frames_per_s: int
    """Frames of all kinds in a second: pings and fragments are no messages, and cost as much."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_fragments: int = MAX_FRAGMENTS


@attrs.frozen(kw_only=True)
class Origin:
    """What the request said of where it comes from; see `signaling.transport.Transport`."""

    client_host: str
    host_header: str
    direct_tls: bool
    query: str


async def serve_websocket(
    stream: AnyStream,
    key: bytes,
    rest: bytes,
    serve: Serve,
    *,
    origin: Origin,
    limits: WebSocketLimits,
    heartbeat: Heartbeat,
    poller: Poller,
    start: Start,
) -> None:
    """Accepts the upgrade that `key` belongs to, runs `serve`, and ends the WebSocket as it was told to.

    `rest` is what was read of the stream after the request. Our own bugs in `serve` close it with 1011 and are raised.
    On return, also when cancelled, nothing more is sent; the caller closes `stream`.
    """
    link = TlsLink(stream, start) if isinstance(stream, trio.SSLStream) else SocketLink(stream.socket, start, poller)
    transport = WebSocketTransport(link, origin, limits, heartbeat)
    try:
        link.write(_accepted(key))
        transport.take(rest)
        heartbeat.add(transport)
        await _serve_and_finish(serve, transport, link)
    finally:
        heartbeat.remove(transport)
        link.detach()


def _accepted(key: bytes) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


async def _serve_and_finish(serve: Serve, transport: WebSocketTransport, link: Link) -> None:
    try:
        await serve(transport)
    except Exception:
        transport.close(CLOSE_INTERNAL_ERROR, "internal error")
        raise
    finally:
        transport.close(CLOSE_NORMAL, "")
        with trio.move_on_after(FLUSH_S):
            await link.wait_flushed()
        with trio.move_on_after(LINGER_S):
            await transport.wait_close_heard()


class WebSocketTransport:
    """One connection; implements `signaling.transport.Transport`."""

    __slots__ = (
        "_attention",
        "_ended",
        "_failure",
        "_frames_before",
        "_handle",
        "_heartbeat",
        "_held",
        "_inbox",
        "_limits",
        "_link",
        "_origin",
        "_paused",
        "_reader",
        "_second",
        "closed_by_client",
    )

    def __init__(self, link: Link, origin: Origin, limits: WebSocketLimits, heartbeat: Heartbeat) -> None:
        self._link = link
        self._origin = origin
        self._limits = limits
        self._heartbeat = heartbeat
        self._reader = FrameReader(limits.max_message_bytes, limits.max_fragments)
        self._inbox: deque[str | bytes | CloseFrame | Violation] | None = None
        """Messages of the last read that nobody has taken yet."""
        self._handle: Handle | None = None
        self._paused: Waits | None = None
        """What is over when more messages are wanted."""
        self._attention = trio.Event()
        """Set when the connection's own task has something to do: it is over, or paused."""
        self._held = False
        self._failure: Exception | None = None
        self._ended: str | None = None
        self._second = 0.0
        self._frames_before = 0
        """Frames that had come when that second began."""
        self.closed_by_client = False

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

    async def deliver(self, handle: Handle) -> NoReturn:
        self._handle = handle
        self._hand_over()
        try:
            while self._ended is None and self._failure is None:
                if self._paused is not None:
                    await self._paused.wait()
                    self._paused = None
                    self._hand_over()
                else:
                    await self._link.read_to(self._receive, self._attention)
                    self._attention = trio.Event()
        finally:
            self._handle = None
        if self._failure is not None:
            raise self._failure
        await trio.lowlevel.checkpoint()
        raise ConnectionEnded(self._ended or "")

    def _receive(self, data: bytes) -> None:
        """What the link has read; nothing: the connection is gone. Raises nothing."""
        if not data:
            self._end("connection lost")
            return
        self.take(data)

    def take(self, data: bytes) -> None:
        """What has come: messages are handled, or wait until they are wanted; all else is dealt with."""
        events = self._reader.feed(data) if data else ()
        if self._too_many_frames():
            self.close(CLOSE_POLICY_VIOLATION, "too many frames")
            return
        for event in events:
            if self._ended is not None:
                return
            if isinstance(event, Ping):
                if not self.congested:
                    self._link.write(frames.encode_pong(event.payload))
            elif isinstance(event, Pong):
                self._heartbeat.answered(self)
            elif self._handle is not None and self._paused is None and not self._inbox:
                self._give(self._handle, event)
            else:
                if self._inbox is None:
                    self._inbox = deque()
                self._inbox.append(event)
        self._allow_passing()

    def _hand_over(self) -> None:
        """Messages that wait are handled, as long as they are wanted."""
        while self._inbox and self._handle is not None and self._paused is None:
            self._give(self._handle, self._inbox.popleft())
        self._allow_passing()

    def _allow_passing(self) -> None:
        """What comes next may be passed on without us, if all that came before is done with."""
        if self._handle is not None and self._ended is None and not self._held and self._reader.between_messages:
            self._link.passing.release()

    def _give(self, handle: Handle, event: str | bytes | CloseFrame | Violation) -> None:
        """The next in order: a message, or the end, before which all that came was answered."""
        try:
            if isinstance(event, str | bytes):
                self._paused = handle(event)
            else:
                self._conclude(event)
        except Exception as error:  # noqa: BLE001  raised in the connection's own task, which is waiting
            self._failure = error
            self._handle = None
        if self._paused is not None or self._failure is not None:
            self._attention.set()

    async def wait_close_heard(self) -> None:
        """Returns when the client has answered our close frame, or is gone; what else it sends is discarded.

        A reset, which follows where something of it was not read, would eat the frame on its way.
        """
        while not self._link.broken and not self._reader.over:
            try:
                data = await self._link.read()
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self._reader.feed(data)

    @property
    def congested(self) -> bool:
        link = self._link
        return link.queued_bytes > 0 and (
            link.queued_bytes > MAX_QUEUED_BYTES // 2 or link.queued > MAX_QUEUED_MESSAGES // 2
        )

    def message_limit(self, per_s: int) -> Limit:
        return self._link.passing.message_limit(per_s)

    def set_membership(self, membership: Membership | None) -> None:
        if self._ended is None or membership is None:
            self._link.passing.set_membership(membership)

    def hold(self) -> None:
        self._held = True
        self._link.passing.hold()

    def release(self) -> None:
        self._held = False
        self._allow_passing()

    def send(self, message: bytes) -> None:
        if self._ended is not None:
            return
        link = self._link
        # One message always fits, however large: an existing tavern may have thousands of channels.
        if link.queued_bytes and (
            link.queued >= MAX_QUEUED_MESSAGES or link.queued_bytes + len(message) > MAX_QUEUED_BYTES
        ):
            link.drop_waiting()  # it would not read that either, and the close frame is heard sooner
            self.close(CLOSE_TRY_AGAIN_LATER, "does not read what it is sent")
            return
        link.write(frames.encode_text(message))

    def close(self, code: int, reason: str) -> None:
        if self._ended is None:
            self._inbox = None  # a replaced session acts no more
            self._finish(frames.encode_close(code, reason), f"closed {code} {reason}".rstrip())

    def ping(self) -> None:
        """See `heartbeat.Pinged`."""
        if self._ended is None:
            self._link.write(frames.encode_ping())

    def lose(self, reason: str) -> None:
        """See `heartbeat.Pinged`. Nothing that waits is sent: half of it may have been."""
        if self._ended is None:
            log_event(_log, logging.DEBUG, "websocket-lost", client=self.client_host, reason=reason)
            self._end(reason)
            self._link.abort()

    def _conclude(self, event: CloseFrame | Violation) -> None:
        if isinstance(event, CloseFrame):
            self.closed_by_client = self._ended is None
            self._finish(frames.encode_close(event.code), f"{event.code or _NO_CODE} {event.reason}".strip())
        else:
            self._finish(frames.encode_close(event.code, event.reason), f"closed {event.code} {event.reason}")

    def _finish(self, last_frame: bytes, reason: str) -> None:
        if self._ended is None:
            self._end(reason)
            self._link.write(last_frame)

    def _end(self, reason: str) -> None:
        """Nothing more is received, nor passed on to it."""
        self._ended = reason
        self._link.passing.set_membership(None)
        self._attention.set()

    def _too_many_frames(self) -> bool:
        now = trio.current_time()
        if now - self._second >= 1.0:
            self._second, self._frames_before = now, self._reader.frames
            return False
        return self._reader.frames - self._frames_before > self._limits.frames_per_s

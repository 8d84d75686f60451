"""What a WebSocket runs over: reads that wait, and writes that do not. One for plain TCP, one for TLS.

On plain TCP a write goes to the kernel at once, in the task of whoever has something to say: a hop through a task of
the receiver's would cost more than all else of a relayed message. Only what the kernel does not take is queued.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from tavern.web.poller import READ_BYTES, PassesNothingOn, Poller, Receive, Watched

_log = logging.getLogger("tavern.web")

Start = Callable[[Callable[[], Awaitable[None]]], None]
"""Runs an async function in a task that outlives the caller's."""


_NOTHING_PASSED_ON = PassesNothingOn()


class Link(ABC):
    """A connection's bytes. Used from the trio thread; the door closes the stream below, after `detach`."""

    __slots__ = ("_flushed", "_queue", "_start", "_under_way", "_writing", "broken", "passing", "queued_bytes")

    passing: PassesNothingOn | Watched
    """How what comes may be passed on without being read here."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._queue: deque[bytes] | None = None
        """What waits for the kernel; made when first needed, since most connections never wait."""
        self._under_way = False
        """Whether of the first one a part has been sent: the rest must follow."""
        self._writing = False
        self._flushed: trio.Event | None = None
        self.queued_bytes = 0
        self.broken = False
        """Whether nothing can be written any more."""

    @property
    def queued(self) -> int:
        """Writes that wait."""
        return len(self._queue) if self._queue else 0

    @abstractmethod
    async def read(self) -> bytes:
        """What has come, READ_BYTES at most; nothing at the stream's end.

        Raises BrokenResourceError if the connection is gone. A checkpoint. Not while `read_to` runs.
        """

    @abstractmethod
    async def read_to(self, receive: Receive, until: trio.Event) -> None:
        """Calls `receive` with what comes, READ_BYTES at most at a time, until the event is set.

        With nothing, and for the last time, where the stream has ended or the connection is gone. `receive` raises
        nothing, and sets the event if it wants no more.
        """

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Sends, or queues behind what waits. Who calls bounds `queued` and `queued_bytes`. Returns at once."""

    @abstractmethod
    def detach(self) -> None:
        """Nothing is read or written any more: the stream is about to be closed."""

    def drop_waiting(self) -> None:
        """What waits is not sent, but for the rest of what has left in part."""
        if self._queue:
            first = self._queue[0] if self._under_way else None
            self._queue.clear()
            if first is not None:
                self._queue.append(first)
            self.queued_bytes = len(first) if first is not None else 0

    def abort(self) -> None:
        """Nothing more is written, whatever waits."""
        self.broken = True
        self.passing.block()
        self._under_way = False
        self.drop_waiting()
        self._note_flushed()

    async def wait_flushed(self) -> None:
        """Returns when nothing waits any more, or nothing can be written."""
        while self._queue and not self.broken:
            self._flushed = trio.Event()
            await self._flushed.wait()

    def _enqueue(self, data: bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        self.queued_bytes += len(data)
        if not self._writing:
            self._writing = True
            self.passing.block()
            self._start(self._write_queued)

    async def _write_queued(self) -> None:
        try:
            await self._drain()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort()
        except Exception:  # noqa: BLE001  a wall: it runs beside all other connections' writers
            _log.exception("writing failed")
            self.abort()
        finally:
            self._writing = False
            if not self.broken and not self._queue:  # a rest is left where it was cancelled
                self.passing.unblock()
            self._note_flushed()

    @abstractmethod
    async def _drain(self) -> None:
        """Writes until nothing waits. Raises OSError and trio's own where it cannot."""

    def _note_flushed(self) -> None:
        if self._flushed is not None:
            self._flushed.set()


class SocketLink(Link):
    """Plain TCP."""

    __slots__ = ("_descriptor", "_receive", "_until")

    passing: Watched

    def __init__(self, tcp: trio.socket.SocketType, start: Start, poller: Poller) -> None:
        super().__init__(start)
        self._descriptor = tcp.fileno()
        self.passing = poller.watch(self._descriptor, self)
        self._receive: Receive | None = None
        self._until: trio.Event | None = None

    async def read(self) -> bytes:
        while True:
            if self._descriptor < 0:
                raise trio.BrokenResourceError
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def read_to(self, receive: Receive, until: trio.Event) -> None:
        if self._descriptor < 0 or until.is_set():
            await trio.lowlevel.checkpoint()
            return
        self._receive, self._until = receive, until
        self.passing.listen(self._received)
        try:
            await until.wait()
        finally:
            self.passing.unlisten()
            self._receive = self._until = None

    def _received(self, data: bytes) -> None:
        receive, until = self._receive, self._until
        if receive is not None and until is not None:
            receive(data)
            if until.is_set():
                # Its task is about to stop listening: what is there must not be asked for again until then.
                self.passing.unlisten()

    def write(self, data: bytes) -> None:
        if self.broken or self._descriptor < 0:
            return
        if not self._queue:
            try:
                sent = os.write(self._descriptor, data)
            except BlockingIOError:
                sent = 0
            except OSError:  # gone: the reader will see the same
                self.abort()
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._under_way = sent > 0
        self._enqueue(data)

    def write_rest(self, data: bytes, *, under_way: bool) -> None:
        """See `poller.Unsent`: nothing waits."""
        if not self.broken and self._descriptor >= 0:
            self._under_way = under_way
            self._enqueue(data)

    def detach(self) -> None:
        """From now on the descriptor's number may be somebody else's."""
        self.passing.close()
        if self._writing and self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
        self._descriptor = -1
        self.abort()

    async def _drain(self) -> None:
        while self._queue and self._descriptor >= 0:
            await trio.lowlevel.wait_writable(self._descriptor)
            self._write_some(self._queue)

    def _write_some(self, queue: deque[bytes]) -> None:
        while queue and self._descriptor >= 0:
            data = queue[0]
            try:
                sent = os.write(self._descriptor, data)
            except BlockingIOError:
                return
            self.queued_bytes -= sent
            if sent < len(data):
                queue[0] = data[sent:]
                self._under_way = True
                return
            queue.popleft()
            self._under_way = False


class TlsLink(Link):
    """TLS, whose stream encrypts and sends in one step that waits: a task writes."""

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], start: Start) -> None:
        super().__init__(start)
        self.passing = _NOTHING_PASSED_ON
        self._stream: trio.SSLStream[trio.SocketStream] | None = stream

    async def read(self) -> bytes:
        if self._stream is None:
            raise trio.BrokenResourceError
        return bytes(await self._stream.receive_some(READ_BYTES))

    async def read_to(self, receive: Receive, until: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_all, receive, until)
            await until.wait()
            nursery.cancel_scope.cancel()

    async def _read_all(self, receive: Receive, until: trio.Event) -> None:
        while not until.is_set():
            try:
                data = await self.read()
            except trio.BrokenResourceError:
                data = b""
            receive(data)

    def write(self, data: bytes) -> None:
        if not self.broken and self._stream is not None:
            self._enqueue(data)

    def detach(self) -> None:
        self._stream = None
        self.abort()

    async def _drain(self) -> None:
        while self._queue and self._stream is not None:
            self._under_way = True
            await self._stream.send_all(self._queue[0])
            self._under_way = False
            if self._queue:
                self.queued_bytes -= len(self._queue.popleft())

"""STUN and TURN over TCP and TLS: one task that reads and one that writes for each client."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import attrs
import trio

from tavern.addresses import source_key
from tavern.logs import log_event
from tavern.relay.data_path import DataPath, StreamLink
from tavern.stun.framing import StreamFramer
from tavern.stun.message import MalformedMessage
from tavern.turn.allocation import FIRST_CHANNEL
from tavern.turn.commands import CloseClient, Effect
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.forwarding import MAX_CONTROL_SIZE, MAX_CONTROL_SIZE_WITHOUT_FLOW
from tavern.turn.server import TurnServer

_log = logging.getLogger(__name__)

IDLE_S = 30.0
"""Without an allocation and without a request: clients that connect ask at once, and give up after 10 to 40 s."""
STALL_S = 20.0
"""For the rest of a frame that began, and for some of what we send. A mobile network's gaps are shorter."""
_READ_BYTES = 16 << 10  # one TLS record
_WORK_S = 0.001  # of all streams together between two checkpoints, as for requests over UDP: signaling waits no longer
_WORK_SHARE = 0.5  # of this thread's time, when streams flood
_MEDIA_BATCH = 32  # packets handed to the data path at once, before it is looked whether there is room
_SEND_INDICATION = b"\x00\x16"


class WorkShare:
    """Who does work for a stream has this thread's time in turn, and all together half of it at most.

    Each stream bounds what it does at once; this bounds a thousand of them. Sources take turns, and the streams of one
    source among themselves: somebody's thousand streams delay nobody else's a thousandfold.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._sources: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._left_s = _WORK_S
        self._counted_at = time.monotonic()

    def source(self, host: str) -> trio.Lock:
        """For `turn`; to be kept while there is a stream from there."""
        return self._sources.setdefault(source_key(host), trio.Lock())

    @asynccontextmanager
    async def turn(self, source: trio.Lock) -> AsyncIterator[float]:
        """A turn that ends at the given time (`time.monotonic`); whoever has more to do asks again."""
        async with _held(source), _held(self._lock):
            began = time.monotonic()
            self._left_s = min(_WORK_S, self._left_s + (began - self._counted_at) * _WORK_SHARE)
            yield began + _WORK_S
            self._counted_at = time.monotonic()
            self._left_s -= self._counted_at - began
            if self._left_s < 0:
                await trio.sleep(-self._left_s / _WORK_SHARE)


@asynccontextmanager
async def _held(lock: trio.Lock) -> AsyncIterator[None]:
    """As `async with lock`, without a checkpoint where it is free."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()


@attrs.define(eq=False)
class _Client:
    """One stream that is served."""

    stream: trio.abc.Stream
    five_tuple: FiveTuple
    link: StreamLink
    source: trio.Lock
    framer: StreamFramer = attrs.field(factory=StreamFramer)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Ends the serving."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    active_at: float = attrs.field(factory=trio.current_time)
    """When it last asked for something, or was seen with an allocation."""
    unfinished_since: float | None = None
    """When the frame began of which only a part has come."""

    @property
    def deadline(self) -> float:
        """Until when it is waited for more."""
        idle_at = self.active_at + IDLE_S
        return idle_at if self.unfinished_since is None else min(idle_at, self.unfinished_since + STALL_S)

    def take_frame(self) -> bytes | None:
        frame = self.framer.take()
        if frame is not None or not self.framer.unfinished:
            self.unfinished_since = None
        elif self.unfinished_since is None:
            self.unfinished_since = trio.current_time()
        return frame

    def submit(self, media: list[bytes]) -> None:
        if media:
            self.link.submit(media)


class StreamServer:
    """Serves clients over TCP and TLS: requests here, in trio; their media in the data path."""

    def __init__(
        self,
        server: TurnServer,
        data_path: DataPath,
        execute: Callable[[Iterable[Effect]], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """`execute` does what the server says. `wall_clock` gives Unix seconds."""
        self._server = server
        self._data_path = data_path
        self._execute = execute
        self._wall_clock = wall_clock
        self._work = WorkShare()
        self._served: dict[FiveTuple, _Client] = {}

    async def serve(self, stream: trio.abc.Stream, first: bytes, five_tuple: FiveTuple) -> None:
        """Serves a client until its stream ends or is not to be read on; `first` was read of it already.

        Its allocation is gone at once then, also when cancelled; answers that wait are sent before this returns. Does
        not close `stream`. Raises what the stream raises (in a group), when the client is gone without a word.
        """
        # The same addresses again: the client has reset the former stream, which nobody has read from since.
        while (former := self._served.get(five_tuple)) is not None:
            former.scope.cancel()
            await former.ended.wait()
        client = _Client(
            stream, five_tuple, self._data_path.open_stream(five_tuple), self._work.source(five_tuple.client[0])
        )
        self._served[five_tuple] = client
        try:
            async with trio.open_nursery() as nursery:
                client.scope = nursery.cancel_scope
                nursery.start_soon(self._write, client)
                await self._read(client, first)
                self._execute([*self._server.client_gone(five_tuple), CloseClient(five_tuple)])
                nursery.cancel_scope.deadline = trio.current_time() + STALL_S
        finally:
            self._execute(self._server.client_gone(five_tuple))
            client.link.close()
            del self._served[five_tuple]
            client.ended.set()

    async def _read(self, client: _Client, data: bytes) -> None:
        while data:
            client.framer.feed(data)
            while await self._serve_frames(client):
                pass
            if client.link.ending:
                return
            data = await self._receive(client)

    async def _receive(self, client: _Client) -> bytes:
        """What the client sends next; nothing at its end, or when it is not worth waiting for."""
        while True:
            with trio.move_on_at(client.deadline):
                return bytes(await client.stream.receive_some(_READ_BYTES))
            if self._server.allocations.find(client.five_tuple) is not None:
                client.active_at = trio.current_time()  # to be looked at again in a while: allocations expire
            if client.deadline <= trio.current_time():
                log_event(_log, logging.DEBUG, "stream-idle", client=client.five_tuple.client[0])
                return b""

    async def _serve_frames(self, client: _Client) -> bool:
        """Serves some frames in their order. Whether there may be more to serve now."""
        await client.link.wait_room()
        if client.link.ending:
            return False
        async with self._work.turn(client.source) as ends_at:
            return self._serve_turn(client, ends_at)

    def _serve_turn(self, client: _Client, ends_at: float) -> bool:
        if not client.link.has_room:
            return True  # others took it while this one waited for its turn
        media: list[bytes] = []
        broken = False
        more = False
        while not more:
            try:
                frame = client.take_frame()
            except MalformedMessage:
                broken = True
                break
            if frame is None:
                break
            if frame[0] >= FIRST_CHANNEL >> 8 or frame.startswith(_SEND_INDICATION):
                media.append(frame)
            else:
                client.submit(media)
                media = []
                self._serve_request(client, frame)
            more = client.link.ending or len(media) >= _MEDIA_BATCH or time.monotonic() >= ends_at
        client.submit(media)
        if broken:
            self._execute(self._server.malformed(client.five_tuple))
        return more

    def _serve_request(self, client: _Client, frame: bytes) -> None:
        five_tuple = client.five_tuple
        has_allocation = self._server.allocations.find(five_tuple) is not None
        if len(frame) > (MAX_CONTROL_SIZE if has_allocation else MAX_CONTROL_SIZE_WITHOUT_FLOW):
            effects = self._server.malformed(five_tuple)
        else:
            effects = self._server.receive(frame, five_tuple, time.monotonic(), self._wall_clock())
        if effects:
            client.active_at = trio.current_time()
        self._execute(effects)

    async def _write(self, client: _Client) -> None:
        """Sends what the data path has for the client; ends the serving at the stream's end, or when nobody reads."""
        while (data := client.link.take_output()) is not None:
            if not data:
                await client.link.wait_output()
                continue
            with trio.move_on_after(STALL_S) as sending:
                await client.stream.send_all(data)
            if sending.cancelled_caught:
                log_event(_log, logging.DEBUG, "stream-stalled", client=client.five_tuple.client[0])
                break
        client.scope.cancel()

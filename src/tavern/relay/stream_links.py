"""Between the task that serves a TCP or TLS client and the data path's thread: a bounded queue in each direction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

import attrs
import trio

from tavern.addresses import source_key
from tavern.turn.commands import CloseClient, SendToClient
from tavern.turn.five_tuple import FiveTuple, Transport

OUTBOX_BYTES = 64 << 10
"""Media that may wait for one client: half a second at 1 Mbit/s. What waits longer comes too late to be heard."""
MAX_INBOX_BYTES = 64 << 10
"""Of one client, on the way to the thread: a full read of media, or some 130 of the smallest packets."""
MAX_INBOXES_BYTES = 1 << 20
"""The same of all clients: some 2,000 packets, 15 ms of the thread's time. Whoever has more waits in its TCP window."""
SOURCES_THAT_FIT = 4
"""At least the clients of so many addresses have a part of that, however many streams one of them floods on."""
PACKET_SIZE = 500
"""Bytes that a packet counts for beyond its data: the smallest cost nearly as much time as the largest."""
MAX_UNSENT_ANSWERS_BYTES = 16 << 10
"""Answers are never dropped, so a client that does not take its answers is not read from."""
_WRITE_BYTES = 16 << 10  # taken at once; what is taken later can still be dropped
# A message for each TLS record: coturn's test client, which operators try relays with, overlooks all but the first in
# one (with its own server, too), and reports losses that there are none.
_TLS_WRITE_BYTES = 1
_PADDING = (b"", b"\x00\x00\x00", b"\x00\x00", b"\x00")


@attrs.frozen(eq=False)
class FromStream:
    """To the thread: what a client sent."""

    link: PythonStreamLink
    frames: list[bytes]
    size: int
    """What it counts for."""


@attrs.frozen(eq=False)
class ToStream:
    """To the thread: the next to be sent to the client, after what is on its way."""

    link: PythonStreamLink
    data: bytes | None
    """None: it ends."""


@attrs.define(eq=False)
class _Inboxes:
    """Of some clients, on the way to the thread. Each figure has one writer, so no lock is needed."""

    bytes_put: int = 0
    bytes_taken: int = 0

    def has_room(self, size: int) -> bool:
        """Whether less than `size` waits."""
        return self.bytes_put - self.bytes_taken < size


class LinkObserver(Protocol):
    """A data path that has links of its own behind these; called in trio's thread."""

    def opened(self, link: PythonStreamLink) -> None:
        """There may be output for it from now on."""

    def taken(self, link: PythonStreamLink, size: int) -> None:
        """So many bytes of media wait no longer."""

    def closed(self, link: PythonStreamLink) -> None:
        """No output is wanted any more."""


class PythonStreamLinks:
    """The links of one data path. What begins with `thread_` runs in its thread, all else in trio's.

    Each figure has one writer, so no lock is needed.
    """

    def __init__(
        self,
        submit: Callable[[FromStream | ToStream], None],
        run_in_trio: Callable[[Callable[[], None]], None],
        observer: LinkObserver | None = None,
    ) -> None:
        """`submit` hands a command to the thread; `run_in_trio` is for the thread to call, and does not wait."""
        self.submit = submit
        self.observer = observer
        self.waiting: set[PythonStreamLink] = set()
        """Who waits for room."""
        self._run_in_trio = run_in_trio
        self._links: dict[FiveTuple, PythonStreamLink] = {}
        self._all = _Inboxes()
        self._by_source: WeakValueDictionary[str, _Inboxes] = WeakValueDictionary()
        self._took = False
        self._with_output: deque[PythonStreamLink] = deque()
        self._announced = False

    def open(self, five_tuple: FiveTuple) -> PythonStreamLink:
        """A link that is found by `five_tuple` until it is closed."""
        of_source = self._by_source.setdefault(source_key(five_tuple.client[0]), _Inboxes())
        link = PythonStreamLink(five_tuple, self, (_Inboxes(), of_source, self._all))
        assert five_tuple not in self._links
        self._links[five_tuple] = link
        if self.observer is not None:
            self.observer.opened(link)
        return link

    def find(self, five_tuple: FiveTuple) -> PythonStreamLink | None:
        """The client's link; None if its stream has ended."""
        return self._links.get(five_tuple)

    def forget(self, link: PythonStreamLink) -> None:
        """It is not found any more."""
        del self._links[link.five_tuple]
        if self.observer is not None:
            self.observer.closed(link)

    def answer(self, command: SendToClient | CloseClient) -> None:
        """Executes `command` in the order of all commands; without effect if the client's stream has ended."""
        link = self._links.get(command.five_tuple)
        if link is not None:
            link.answer(command.data if isinstance(command, SendToClient) else None)

    def thread_took(self, link: PythonStreamLink, size: int) -> None:
        """So much of what the client sent waits no longer: there is room for other."""
        self._took = True
        link.thread_took(size)

    def thread_put_media(self, link: PythonStreamLink, data: bytes) -> bool:
        """Whether it goes to the client; False if too much waits already."""
        put = link.thread_put_media(data)
        self._has_output(link)  # only now: trio may have looked already when it is told before
        return put

    def thread_execute(self, command: ToStream) -> None:
        """What the command says."""
        command.link.thread_put(command.data)
        self._has_output(command.link)

    def _has_output(self, link: PythonStreamLink) -> None:
        if not link.announced:
            link.announced = True
            self._with_output.append(link)

    def thread_announce(self) -> None:
        """trio is told of all that was put and taken since the last call, with one wake-up."""
        tell = bool(self._with_output) or (self._took and bool(self.waiting))
        self._took = False
        if tell and not self._announced:
            self._announced = True
            self._run_in_trio(self._announce)

    def _announce(self) -> None:
        self._announced = False  # before the look: what the thread adds after it is told of again
        while self._with_output:
            link = self._with_output.popleft()
            link.announced = False
            link.output_arrived.set()
        for link in self.waiting:
            link.room_arrived.set()


@attrs.define(eq=False)
class PythonStreamLink:
    """`StreamLink` for `PythonDataPath`. What begins with `thread_` runs in its thread, all else in trio's."""

    five_tuple: FiveTuple
    _links: PythonStreamLinks
    _inboxes: tuple[_Inboxes, _Inboxes, _Inboxes]
    """Its own, those of its source, and all."""
    closed: bool = attrs.field(default=False, init=False)
    ending: bool = attrs.field(default=False, init=False)
    announced: bool = attrs.field(default=False, init=False)
    """The thread's: trio will be told of output."""
    _output: deque[tuple[bytes, bool] | None] = attrs.field(factory=deque, init=False)
    """Each with whether it is media; None ends the stream."""
    _media_put: int = attrs.field(default=0, init=False)
    _media_taken: int = attrs.field(default=0, init=False)
    _answers_put: int = attrs.field(default=0, init=False)
    _answers_taken: int = attrs.field(default=0, init=False)
    output_arrived: trio.Event = attrs.field(factory=trio.Event, init=False)
    room_arrived: trio.Event = attrs.field(factory=trio.Event, init=False)

    # From the client

    @property
    def has_room(self) -> bool:
        """See StreamLink."""
        own, of_source, of_all = self._inboxes
        return (
            own.has_room(MAX_INBOX_BYTES)
            and of_source.has_room(MAX_INBOXES_BYTES // SOURCES_THAT_FIT)
            and of_all.has_room(MAX_INBOXES_BYTES)
            and self._answers_put - self._answers_taken < MAX_UNSENT_ANSWERS_BYTES
        )

    def submit(self, frames: list[bytes]) -> None:
        """See StreamLink."""
        size = sum(map(len, frames)) + PACKET_SIZE * len(frames)
        for inboxes in self._inboxes:
            inboxes.bytes_put += size
        self._links.submit(FromStream(self, frames, size))

    async def wait_room(self) -> None:
        """See StreamLink."""
        waiting = self._links.waiting
        try:
            while not self.ending:
                self.room_arrived = trio.Event()
                waiting.add(self)  # before the look: the thread looks for who waits after it took something
                if self.has_room:
                    break
                await self.room_arrived.wait()
        finally:
            waiting.discard(self)
        await trio.lowlevel.checkpoint()

    def thread_took(self, size: int) -> None:
        """See PythonStreamLinks."""
        for inboxes in self._inboxes:
            inboxes.bytes_taken += size

    @property
    def is_heard_out(self) -> bool:
        """Whether nothing of the client is on its way to the thread."""
        own = self._inboxes[0]
        return own.bytes_put == own.bytes_taken

    # To the client

    def answer(self, data: bytes | None) -> None:
        """It goes to the client after what is on its way; with None the stream ends."""
        if data is None:
            self.ending = True
        else:
            self._answers_put += len(data)
        self._links.submit(ToStream(self, data))

    def thread_put_media(self, data: bytes) -> bool:
        """Whether it waits for the client now; False if there was no room."""
        if self.closed:
            return True  # nobody is left to miss it
        if self._media_put - self._media_taken + len(data) > OUTBOX_BYTES:
            return False
        data += _PADDING[len(data) & 3]  # RFC 8656 §12.5: ChannelData over TCP is padded
        self._media_put += len(data)
        self._output.append((data, True))
        return True

    def thread_put(self, data: bytes | None) -> None:
        """It waits for the client now; with None the end does."""
        self._output.append(None if data is None else (data, False))

    def take_output(self) -> bytes | None:
        """See StreamLink."""
        taken: list[bytes] = []
        size = media_size = 0
        at_once = _TLS_WRITE_BYTES if self.five_tuple.transport is Transport.TLS else _WRITE_BYTES
        while size < at_once and self._output:
            entry = self._output[0]
            if entry is None:
                if not taken:
                    return None
                break
            self._output.popleft()
            data, is_media = entry
            taken.append(data)
            size += len(data)
            if is_media:
                media_size += len(data)
            else:
                self._answers_taken += len(data)
        if taken:
            self.room_arrived.set()
        if media_size:
            self._media_taken += media_size
            if self._links.observer is not None:
                self._links.observer.taken(self, media_size)
        return b"".join(taken)

    async def wait_output(self) -> None:
        """See StreamLink."""
        self.output_arrived = trio.Event()
        if self._output:
            await trio.lowlevel.checkpoint()
        else:
            await self.output_arrived.wait()

    def close(self) -> None:
        """See StreamLink."""
        self.closed = True
        self._links.forget(self)

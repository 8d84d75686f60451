"""The compiled data path's side of the links to clients over TCP and TLS; all of it runs in trio's thread."""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable

from tavern.relay.native.encoding import pack_from_stream, pack_to_stream
from tavern.relay.stream_links import FromStream, PythonStreamLink, PythonStreamLinks, ToStream
from tavern.turn.commands import CloseClient, SendToClient
from tavern.turn.five_tuple import FiveTuple

_EVENTS_SIZE = 256 << 10  # bytes taken at once; the largest event is one datagram
_RECORD = struct.Struct("=IIB")  # its size beyond this figure, the link, and the kind
_SIZE_SIZE = 4
_MEDIA, _ANSWER, _END, _TOOK = range(4)


class NativeLinks:
    """The queues are those of `PythonStreamLinks`; here is what stands between them and compiled code.

    What is on its way to the thread is kept here until the thread says that it took it.
    """

    def __init__(self, library: ctypes.CDLL, path: int, submit: Callable[[bytes], None]) -> None:
        """`submit` takes encoded commands."""
        self.queues = PythonStreamLinks(self._submit, _at_once, self)
        self._library = library
        self._path = path
        self._submit_bytes = submit
        self._number_of: dict[PythonStreamLink, int] = {}
        self._links: dict[int, PythonStreamLink] = {}
        self._pointers: dict[int, int] = {}
        self._last_number = 0
        self._has_ended = False
        self._events = ctypes.create_string_buffer(_EVENTS_SIZE)

    # To the thread

    def number(self, five_tuple: FiveTuple) -> int:
        """What the data path calls this client; 0, as which there is none, if its stream has ended."""
        link = self.queues.find(five_tuple)
        return 0 if link is None else self._number_of.get(link, 0)

    def answer(self, command: SendToClient | CloseClient) -> None:
        """See PythonStreamLinks."""
        self.queues.answer(command)

    def _submit(self, command: FromStream | ToStream) -> None:
        number = self._number_of.get(command.link)
        if number is None:
            return  # the relay has ended before the stream
        if isinstance(command, FromStream):
            self._submit_bytes(pack_from_stream(number, command.frames, command.size))
        else:
            self._submit_bytes(pack_to_stream(number, command.data))

    # LinkObserver

    def opened(self, link: PythonStreamLink) -> None:
        """See LinkObserver."""
        if self._has_ended:
            return
        self._last_number += 1  # 32 bits of clients over streams: more than a process sees
        number = self._last_number
        self._number_of[link] = number
        self._links[number] = link
        self._pointers[number] = self._library.tavern_open_link(self._path, number)

    def taken(self, link: PythonStreamLink, size: int) -> None:
        """See LinkObserver."""
        if (number := self._number_of.get(link)) is not None:
            self._library.tavern_link_taken(self._pointers[number], size)

    def closed(self, link: PythonStreamLink) -> None:
        """See LinkObserver."""
        number = self._number_of.pop(link, None)
        if number is not None:
            self._library.tavern_close_link(self._path, self._pointers.pop(number))
            self._forget_if_done(number, link)

    def end(self) -> None:
        """The data path is about to be closed, and its links with it. What comes later has no effect."""
        self._has_ended = True
        self._number_of.clear()
        self._links.clear()
        self._pointers.clear()

    # From the thread

    def take_events(self) -> None:
        """Hands on all that the thread has for clients."""
        while size := self._library.tavern_take_events(self._path, self._events, _EVENTS_SIZE):
            events = self._events.raw[:size]
            offset = 0
            while offset < size:
                length, number, kind = _RECORD.unpack_from(events, offset)
                end = offset + _SIZE_SIZE + length
                self._take_event(number, kind, events[offset + _RECORD.size : end])
                offset = end
        self.queues.thread_announce()

    def _take_event(self, number: int, kind: int, data: bytes) -> None:
        link = self._links.get(number)
        if link is None:
            return
        if kind == _MEDIA:
            self.queues.thread_put_media(link, data)  # there is room: the thread counts the same bytes
        elif kind == _TOOK:
            self.queues.thread_took(link, int.from_bytes(data, sys.byteorder))
            self._forget_if_done(number, link)
        else:
            self.queues.thread_execute(ToStream(link, None if kind == _END else data))

    def _forget_if_done(self, number: int, link: PythonStreamLink) -> None:
        """What a client that is gone had sent still counts for its source, until the thread took it."""
        if link.closed and link.is_heard_out:
            del self._links[number]


def _at_once(function: Callable[[], None]) -> None:
    function()

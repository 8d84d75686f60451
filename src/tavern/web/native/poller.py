"""The compiled poller: offers, answers and candidates that are in order go from one socket to another without Python.

It takes no decision of its own: what it passes on is what `signaling.relaying.pass_on` would, and whatever it does not
understand is handed over as it came.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Hashable

import attrs
import trio

from tavern.signaling.limits import Limit
from tavern.signaling.transport import Membership, PassingObserver
from tavern.web.native.library import load_library
from tavern.web.poller import Receive, Unsent

_EVENT = struct.Struct("=QQII")
"""`struct event`."""
_RECEIVED, _UNSENT, _BROKEN, _ANNOUNCED = range(4)


@attrs.define(eq=False)
class _Group:
    """The members of one channel that are here."""

    pointer: int
    count: int = 0


class NativePoller:
    """`web.poller.Poller`, that passes on what it can."""

    def __init__(self, observer: PassingObserver) -> None:
        """Raises NoNativePoller, or OSError."""
        self.library = load_library()
        self._pointer: int | None = self.library.tavern_web_open()
        if self._pointer is None:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._observer = observer
        self._watched: dict[int, NativeWatched] = {}
        self._groups: dict[Hashable, _Group] = {}
        self._last_number = 0

    def watch(self, descriptor: int, unsent: Unsent) -> NativeWatched:
        self._last_number += 1
        connection = self.library.tavern_web_add(descriptor, self._last_number)
        watched = NativeWatched(self, connection, self._last_number, unsent)
        self._watched[self._last_number] = watched
        return watched

    async def run(self) -> None:
        descriptor = self.library.tavern_web_fd(self._pointer)
        try:
            while True:
                await trio.lowlevel.wait_readable(descriptor)
                self.turn(trio.current_time())
        finally:
            trio.lowlevel.notify_closing(descriptor)
            self.close()

    def turn(self, now: float) -> None:
        """Reads from some of the sockets that have something to be read. What `run` does again and again."""
        found = self.library.tavern_web_turn(self._pointer, now)
        if passed_on := found >> 32:
            self._observer.passed_on(passed_on)
        if size := found & 0xFFFFFFFF:
            self._deal_with(ctypes.string_at(self.library.tavern_web_events(self._pointer), size))

    def close(self) -> None:
        """Nobody is read any more. What `run` does at its end."""
        for watched in tuple(self._watched.values()):
            watched.close()
        pointer, self._pointer = self._pointer, None
        self.library.tavern_web_close(pointer)

    def listen(self, connection: int, *, wanted: bool) -> None:
        """Raises OSError."""
        if self._pointer is None:
            return  # it has ended: nobody is read any more
        if self.library.tavern_web_listen(self._pointer, connection, wanted) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def forget(self, watched: NativeWatched, connection: int) -> None:
        del self._watched[watched.number]
        self.library.tavern_web_remove(self._pointer, connection)

    def move(self, connection: int, before: Membership | None, membership: Membership | None) -> None:
        if before is not None:
            self.library.tavern_web_move(connection, None, b"", 0)
            self._leave(before.group)
        if membership is not None:
            group = self._groups.get(membership.group)
            if group is None:
                tavern, channel = membership.raw_tavern_id, membership.raw_channel_id
                pointer = self.library.tavern_web_open_group(tavern, len(tavern), channel, len(channel))
                group = self._groups[membership.group] = _Group(pointer)
            group.count += 1
            raw = membership.raw_address
            self.library.tavern_web_move(connection, group.pointer, raw, len(raw))

    def _leave(self, key: Hashable) -> None:
        group = self._groups[key]
        group.count -= 1
        if not group.count:
            del self._groups[key]
            self.library.tavern_web_close_group(group.pointer)

    def _deal_with(self, events: bytes) -> None:
        """What is to be read comes last: whoever answers it must not write before what was passed on has left."""
        to_read: list[tuple[int, bytes]] = []
        offset = 0
        while offset < len(events):
            number, other, kind, size = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size
            data = events[offset : offset + size]
            offset += size
            if kind == _RECEIVED:
                to_read.append((number, data))
            elif watched := self._watched.get(number):
                if kind == _UNSENT:
                    watched.unsent.write_rest(data, under_way=bool(other))
                elif kind == _BROKEN:
                    watched.unsent.abort()
                else:
                    self._announce(watched, self._watched.get(other), data)
        for number, data in to_read:
            if watched := self._watched.get(number):  # not where another one has closed it
                watched.received(data)

    def _announce(self, sender: NativeWatched, receiver: NativeWatched | None, address: bytes) -> None:
        told = receiver.membership if receiver else None
        if sender.membership is not None and told is not None:
            self._observer.address_announced(sender.membership.member, told.member, address)


class NativeWatched:
    """`web.poller.Watched`, and the limit of its messages, which both sides count against."""

    __slots__ = ("_connection", "_poller", "_receive", "membership", "number", "unsent")

    def __init__(self, poller: NativePoller, connection: int, number: int, unsent: Unsent) -> None:
        self._poller = poller
        self._connection: int | None = connection
        self._receive: Receive | None = None
        self.number = number
        self.unsent = unsent
        self.membership: Membership | None = None

    def listen(self, receive: Receive) -> None:
        if self._connection is not None:
            self._receive = receive
            self._poller.listen(self._connection, wanted=True)

    def unlisten(self) -> None:
        if self._receive is not None and self._connection is not None:
            self._receive = None
            self._poller.listen(self._connection, wanted=False)

    def close(self) -> None:
        if self._connection is not None:
            self.set_membership(None)
            connection, self._connection = self._connection, None
            self._receive = None
            self._poller.forget(self, connection)

    def received(self, data: bytes) -> None:
        if self._receive is not None:
            self._receive(data)

    def hold(self) -> None:
        if self._connection is not None:
            self._poller.library.tavern_web_hold(self._connection, True)

    def release(self) -> None:
        if self._connection is not None:
            self._poller.library.tavern_web_hold(self._connection, False)

    def block(self) -> None:
        if self._connection is not None:
            self._poller.library.tavern_web_block(self._connection, True)

    def unblock(self) -> None:
        if self._connection is not None:
            self._poller.library.tavern_web_block(self._connection, False)

    def set_membership(self, membership: Membership | None) -> None:
        if self._connection is not None and membership is not self.membership:
            self._poller.move(self._connection, self.membership, membership)
            self.membership = membership

    def message_limit(self, per_s: int) -> Limit:
        if self._connection is not None:
            self._poller.library.tavern_web_limit(self._connection, per_s)
        return self

    def allow(self, now: float) -> bool:
        """See `signaling.limits.Limit`."""
        return self._connection is not None and bool(self._poller.library.tavern_web_allow(self._connection, now))

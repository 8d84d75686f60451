"""Who of thousands of sockets has something to read: asked of the kernel once for all of them.

trio registers a wait anew each time, and resumes a task through all that it awaits: 8 us for each message. Here a
socket is registered once, and one task calls what is to be done.

Two implementations: this one, and a compiled one that passes most of what comes on by itself (`web/native/poller.py`).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Protocol

import trio

from tavern.signaling.limits import Limit, WindowLimit
from tavern.signaling.transport import Membership

READ_BYTES = 16 * 1024
"""At most some 2,700 frames at once, a few ms of work, before other connections have their turn."""

_AT_ONCE = 64
"""Sockets before other tasks have their turn."""

Receive = Callable[[bytes], None]


class Watched(Protocol):
    """A socket that a poller may read. Until `close`, which is called before the descriptor is closed."""

    def listen(self, receive: Receive) -> None:
        """`receive` gets what comes, READ_BYTES at most at a time; nothing: it is gone. It raises nothing."""

    def unlisten(self) -> None:
        """Nothing is read any more. Twice is once."""

    def close(self) -> None:
        """The poller knows nothing of it any more. Twice is once."""

    def hold(self) -> None:
        """From now on `receive` gets all that comes. It is so at first."""

    def release(self) -> None:
        """What comes next begins a frame, and may be passed on for the membership's sake without `receive`.

        Until `hold`, or `receive` was given something.
        """

    def block(self) -> None:
        """Nothing may be written to it but by who blocks it, since something waits already."""

    def unblock(self) -> None:
        """Nothing waits any more."""

    def set_membership(self, membership: Membership | None) -> None:
        """See `signaling.transport.Transport`."""

    def message_limit(self, per_s: int) -> Limit:
        """See `signaling.transport.Transport`. Once."""


class Unsent(Protocol):
    """Whoever writes to a socket, and is told of what a poller could not."""

    def write_rest(self, data: bytes, *, under_way: bool) -> None:
        """`data` is to be sent before all else; `under_way`: after a part of its first frame."""

    def abort(self) -> None:
        """Nothing can be written any more."""


class Poller(Protocol):
    """Reads from sockets for as long as it runs."""

    def watch(self, descriptor: int, unsent: Unsent) -> Watched:
        """Of a socket that does not block. Nothing is read yet."""

    async def run(self) -> None:
        """Until cancelled; then it is of no more use."""


class PythonPoller:
    """Passes nothing on by itself."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, _Watched] = {}

    def watch(self, descriptor: int, unsent: Unsent) -> Watched:  # noqa: ARG002 - nothing is left unsent
        return _Watched(descriptor, self)

    def add(self, watched: _Watched) -> None:
        self._watched[watched.descriptor] = watched
        self._epoll.register(watched.descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Twice is once."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def run(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for descriptor, _events in self._epoll.poll(0, _AT_ONCE):
                    # None where another one of this round has removed it.
                    if (watched := self._watched.get(descriptor)) is not None:
                        watched.read()
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
            self._watched.clear()


class PassesNothingOn:
    """What of `Watched` concerns what is passed on, where nothing is."""

    __slots__ = ()

    def hold(self) -> None:
        pass

    def release(self) -> None:
        pass

    def block(self) -> None:
        pass

    def unblock(self) -> None:
        pass

    def set_membership(self, membership: Membership | None) -> None:
        pass

    def message_limit(self, per_s: int) -> Limit:
        return WindowLimit(per_s, window_s=1.0)


class _Watched(PassesNothingOn):
    __slots__ = ("_poller", "_receive", "descriptor")

    def __init__(self, descriptor: int, poller: PythonPoller) -> None:
        self.descriptor = descriptor
        self._poller = poller
        self._receive: Receive | None = None

    def listen(self, receive: Receive) -> None:
        self._receive = receive
        self._poller.add(self)

    def unlisten(self) -> None:
        if self._receive is not None:
            self._receive = None
            self._poller.remove(self.descriptor)

    def close(self) -> None:
        self.unlisten()

    def read(self) -> None:
        try:
            data = os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self._receive is not None:
            self._receive(data)

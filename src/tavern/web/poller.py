"""Who of thousands of sockets has something to read: asked of the kernel once for all of them.

trio registers a wait anew each time, and resumes a task through all that it awaits: 8 us for each message. Here a
socket is registered once, and one task calls what is to be done.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio

_AT_ONCE = 64
"""Sockets before other tasks have their turn."""


class Poller:
    """Calls the handlers of descriptors that can be read, again and again for as long as there is something left."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def add(self, descriptor: int, handler: Callable[[], None]) -> None:
        """`handler` reads some of what is there, and raises nothing. Until `remove`."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """To be called before the descriptor is closed. Twice is once."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Until cancelled; then it is of no more use."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for descriptor, _events in self._epoll.poll(0, _AT_ONCE):
                    # None where another handler of this round has removed it.
                    if (handler := self._handlers.get(descriptor)) is not None:
                        handler()
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
            self._handlers.clear()

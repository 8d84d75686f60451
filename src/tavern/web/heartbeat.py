"""Pings to all clients, in one task: who does not answer in time is cut off."""

from __future__ import annotations

import math
from typing import Protocol

import trio

_AT_ONCE = 64
"""Pings before others have their turn: after a restart a thousand clients come in the same second."""


class Pinged(Protocol):
    """A connection as the heartbeat sees it."""

    def ping(self) -> None:
        """Asks for a pong. Returns at once."""

    def lose(self, reason: str) -> None:
        """The connection is as good as gone. Returns at once."""


class Heartbeat:
    """Each connection is pinged `interval_s` after it came, and after each answer, which has `timeout_s`."""

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        # When each is due. In the order of time, since all are given as much.
        self._to_ping: dict[Pinged, float] = {}
        self._awaited: dict[Pinged, float] = {}
        self._added = trio.Event()

    def add(self, connection: Pinged) -> None:
        if not self._to_ping:
            self._added.set()
        self._to_ping[connection] = trio.current_time() + self._interval_s

    def answered(self, connection: Pinged) -> None:
        """It is alive. A pong that nobody asked for says nothing."""
        if self._awaited.pop(connection, None) is not None:
            self.add(connection)

    def remove(self, connection: Pinged) -> None:
        self._to_ping.pop(connection, None)
        self._awaited.pop(connection, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._added = trio.Event()
            await self._sweep()
            due = (next(iter(deadlines.values()), math.inf) for deadlines in (self._to_ping, self._awaited))
            with trio.move_on_at(min(due)):
                await self._added.wait()

    async def _sweep(self) -> None:
        now = trio.current_time()
        while connection := _first_due(self._awaited, now):
            del self._awaited[connection]
            connection.lose("no answer to a ping")
        count = 0
        while connection := _first_due(self._to_ping, now):
            del self._to_ping[connection]
            self._awaited[connection] = now + self._timeout_s
            connection.ping()
            count += 1
            if count % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
                now = trio.current_time()


def _first_due(deadlines: dict[Pinged, float], now: float) -> Pinged | None:
    for connection, due in deadlines.items():
        return connection if due <= now else None
    return None

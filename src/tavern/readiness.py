"""Whether the server can do its work, as far as the machine itself can tell: asked of its own ports, seldom."""

from __future__ import annotations

import math

import trio

from tavern.addresses import SocketAddress, format_socket_address
from tavern.client.turn import NoAnswer, open_turn
from tavern.store.base import Store
from tavern.store.sqlite import SqliteStore
from tavern.store.worker import QUEUE_LIMIT

CACHE_S = 10.0
"""Probes that come more often are told what the last look found: looking takes sockets, and they are not trusted."""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Readiness:
    """Looks at most once in CACHE_S, whoever asks and however often."""

    def __init__(self, udp: tuple[SocketAddress, ...], tcp: tuple[SocketAddress, ...], store: Store) -> None:
        """`udp` and `tcp`: where STUN is answered."""
        self._ways = [*(("udp", address) for address in udp), *(("tcp", address) for address in tcp)]
        self._store = store
        self._lock = trio.Lock()
        self._looked_at = -math.inf
        self._checks: dict[str, str] = {}

    async def look(self) -> dict[str, str]:
        """What was looked at, and `ok` or what is wrong with it."""
        async with self._lock:  # one looks, and others who ask meanwhile are told the same
            if trio.current_time() - self._looked_at >= CACHE_S:
                self._checks = await self._look()
                self._looked_at = trio.current_time()
        return self._checks

    async def _look(self) -> dict[str, str]:
        checks = {"store": "ok"}
        if isinstance(self._store, SqliteStore) and self._store.queued_writes >= QUEUE_LIMIT:
            checks["store"] = f"{QUEUE_LIMIT} writes wait for the disk"

        async def ask(transport: str, address: SocketAddress) -> None:
            name = f"stun {transport} {format_socket_address(*address)}"
            try:
                own = (_LOOPBACK.get(address[0], address[0]), address[1])
                async with open_turn(own, transport, "", "") as client:
                    await client.binding()
            except NoAnswer as failed:
                checks[name] = str(failed)
            else:
                checks[name] = "ok"

        async with trio.open_nursery() as nursery:
            for transport, address in self._ways:
                nursery.start_soon(ask, transport, address)
        return dict(sorted(checks.items()))

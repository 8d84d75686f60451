"""Whether the server can do its work, as far as the machine itself can tell: asked of its own ports, seldom."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import trio

from tavern.addresses import SocketAddress, format_socket_address
from tavern.client.relayed import Relayed, talk
from tavern.client.turn import NoAnswer, TurnRefused, open_turn
from tavern.store.base import Store
from tavern.store.sqlite import SqliteStore
from tavern.store.worker import QUEUE_LIMIT
from tavern.turn.auth import Credential

OwnSessions = Callable[[], AbstractContextManager[tuple[Credential, Credential]]]
"""See `relay.service.Relay.own_sessions`."""

CACHE_S = 10.0
"""Probes that come more often are told what the last look found: looking takes sockets, and they are not trusted."""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Readiness:
    """Looks at most once in CACHE_S, whoever asks and however often."""

    def __init__(
        self, udp: tuple[SocketAddress, ...], tcp: tuple[SocketAddress, ...], store: Store, sessions: OwnSessions
    ) -> None:
        """`udp` and `tcp`: where STUN is answered."""
        self._udp, self._sessions = udp, sessions
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
                async with open_turn(_own(address), transport, "", "") as client:
                    await client.binding()
            except NoAnswer as failed:
                checks[name] = str(failed)
            else:
                checks[name] = "ok"

        async def relay(address: SocketAddress) -> None:
            checks["relay"] = await self._relayed(address)

        async with trio.open_nursery() as nursery:
            if (ipv4 := next((one for one in self._udp if ":" not in one[0]), None)) is not None:
                nursery.start_soon(relay, ipv4)
            for transport, address in self._ways:
                nursery.start_soon(ask, transport, address)
        return dict(sorted(checks.items()))

    async def _relayed(self, address: SocketAddress) -> str:
        """Whether what two allocations send each other arrives."""
        try:
            with self._sessions() as (one, other):
                async with (
                    open_turn(_own(address), "udp", one.username, one.password) as first,
                    open_turn(_own(address), "udp", other.username, other.password) as second,
                ):
                    arrives = await talk(await Relayed.allocate(first), await Relayed.allocate(second))
        except (NoAnswer, TurnRefused) as failed:
            return str(failed)
        return "ok" if arrives else "what is sent through it is lost"


def _own(address: SocketAddress) -> SocketAddress:
    return _LOOPBACK.get(address[0], address[0]), address[1]

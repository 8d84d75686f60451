"""The supervision tree: one process, one trio run. The only module that knows all shells."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from tavern.addresses import SocketAddress
from tavern.announcement import announcement
from tavern.config import Settings, host_without_port
from tavern.errors import StartupError
from tavern.logs import log_event
from tavern.metrics import Metrics
from tavern.relay.service import Relay, RelayConfig
from tavern.signaling import ice
from tavern.signaling.limits import AddressLimit
from tavern.signaling.registry import Registry
from tavern.signaling.session import Signaling
from tavern.signaling.transport import Transport
from tavern.startup import Decisions, decide
from tavern.store.base import Store
from tavern.store.memory import MemoryStore
from tavern.store.sqlite import open_sqlite_store
from tavern.web.asgi import Health, make_app
from tavern.web.door import Door
from tavern.web.listeners import open_listeners
from tavern.web.websocket import Heartbeat

DRAIN_S = 3.0
"""For telling everybody and flushing what was queued. With the store's own limit, below compose's stop_grace_period."""
CREATE_WINDOW_S = 60.0

_log = logging.getLogger("tavern.app")


@attrs.frozen
class Running:
    """A server that is up: where it listens."""

    http: tuple[SocketAddress, ...]
    stun: tuple[SocketAddress, ...]


async def serve(
    settings: Settings,
    environment: Mapping[str, str],
    announce: Callable[[str], None],
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs the server until SIGTERM or SIGINT, then drains and returns; a second signal ends the draining.

    `announce` gets the lines that say what is open where, once everything is. Raises SettingsError and StartupError
    before that. The outermost nursery lives longest: store, relay, rooms, connections, listeners.
    """
    decisions = await decide(settings, environment)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_store(decisions) as store, _supervised("relay") as relay_nursery:
            relay = Relay(_relay_config(settings, decisions))
            stun = await relay_nursery.start(relay.run)
            server = _Server(settings, store, relay, turn_port=stun[0][1])
            async with _supervised("rooms") as rooms_nursery:
                await rooms_nursery.start(server.registry.run)
                async with _supervised("connections") as connections:
                    door = server.make_door(decisions)
                    async with _supervised("listeners") as listeners_nursery:
                        listeners = await open_listeners(settings.hosts, settings.port)
                        listening = tuple(listener.socket.getsockname()[:2] for listener in listeners)
                        listeners_nursery.start_soon(
                            partial(trio.serve_listeners, door.handle, listeners, handler_nursery=connections)
                        )
                        running = Running(listening, stun)
                        for line in announcement(settings, decisions, running.http, running.stun):
                            announce(line)
                        task_status.started(running)
                        log_event(_log, logging.INFO, "started")
                        await anext(signals)
                        log_event(_log, logging.INFO, "draining", peers=server.metrics.connected_peers)
                        server.draining = True
                    connections.start_soon(_cancel_at_second_signal, signals, connections.cancel_scope)
                    server.registry.drain()
                    with trio.move_on_after(DRAIN_S):
                        await door.wait_no_websockets()
    log_event(_log, logging.INFO, "stopped")


@asynccontextmanager
async def _supervised(name: str) -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with its block: the layers inside are gone by then."""
    async with trio.open_nursery() as nursery:
        yield nursery
        log_event(_log, logging.DEBUG, "ending", layer=name)
        nursery.cancel_scope.cancel()


async def _cancel_at_second_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    log_event(_log, logging.WARNING, "second signal: ending at once")
    scope.cancel()


@asynccontextmanager
async def open_store(decisions: Decisions) -> AsyncIterator[Store]:
    """The store that the settings chose; closed, with all that was queued written, at the block's end."""
    if decisions.db_path is None:
        yield MemoryStore()
    else:
        async with open_sqlite_store(decisions.db_path) as store:
            yield store


class _Server:
    """What the tasks of one server share, put together."""

    def __init__(self, settings: Settings, store: Store, relay: Relay, *, turn_port: int) -> None:
        self.draining = False
        self.metrics = Metrics(trio.current_time())
        self.registry = Registry(self.metrics)
        self._settings = settings
        self._store = store
        self._relay = relay
        self._turn_port = turn_port
        self._signaling = Signaling(
            registry=self.registry,
            store=store,
            ice_servers=self._ice_servers,
            rate_messages=settings.rate_messages,
            create_limit=AddressLimit(settings.rate_create, CREATE_WINDOW_S),
        )

    def make_door(self, decisions: Decisions) -> Door:
        health = Health(lambda: self.draining, self._store.tavern_count, self._metrics_answer)
        return Door(
            app=make_app(health),
            serve_peer=self._serve_peer,
            metrics=self.metrics,
            heartbeat=Heartbeat(self._settings.heartbeat_interval_s, self._settings.heartbeat_timeout_s),
            trusted_proxies=self._settings.trusted_proxies,
            max_connections=decisions.max_connections,
            tls=decisions.tls,
        )

    async def _serve_peer(self, transport: Transport) -> None:
        # The relay answers those who are signaling even while somebody floods it from elsewhere.
        self._relay.signaling_connected(transport.client_host)
        try:
            await self._signaling.serve(transport)
        finally:
            self._relay.signaling_disconnected(transport.client_host)

    def _ice_servers(self, host_header: str, peer_id: str) -> dict[str, object]:
        settings = self._settings
        credential = self._relay.mint_credential(peer_id, ice.TURN_CREDENTIAL_LIFETIME_S)
        # While no domain is set, the name by which this client found us is one that works for it.
        host = (settings.is_local and host_without_port(host_header)) or settings.domain
        return ice.ice_servers_message(settings.ice_urls or ice.own_urls(host, self._turn_port), credential)

    def _metrics_answer(self) -> dict[str, object]:
        now = trio.current_time()
        return {
            "connectedPeers": self.metrics.connected_peers,
            "activeTaverns": self.registry.presence.active_taverns(),
            "totalTaverns": self._store.tavern_count(),
            "uptime": int(now - self.metrics.started_at),
            "messagesPerSecond": round(self.metrics.messages.per_second(now), 2),
        }


def _relay_config(settings: Settings, decisions: Decisions) -> RelayConfig:
    if not decisions.advertised_addresses:
        raise StartupError("this machine has no IP address: set TAVERN_EXTERNAL_IP to the one people reach it by")
    return RelayConfig(
        hosts=settings.hosts,
        port=settings.turn_port,
        min_relay_port=settings.turn_min_port,
        max_relay_port=settings.turn_max_port,
        realm=settings.domain,
        secrets=(decisions.turn_secret,),
        advertised_addresses=decisions.advertised_addresses,
        allow_peers=settings.turn_allow_peers,
        user_quota=settings.turn_user_quota,
        max_allocations=decisions.max_allocations,
        unauthenticated_rate=settings.turn_401_rate,
    )

"""The supervision tree: one process, one trio run. The only module that knows all shells."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import trio

from tavern.addresses import SocketAddress
from tavern.announcement import announcement
from tavern.config import DEV_SECRET, Settings
from tavern.control.server import open_control_socket, serve_control
from tavern.domain_addresses import watch_domain
from tavern.errors import StartupError
from tavern.exposition import Exposition, watch_loop_lag
from tavern.host_names import host_without_port, port_in_host
from tavern.listening import Listening, addresses, listen
from tavern.logs import log_event
from tavern.metrics import Metrics
from tavern.notify import notify
from tavern.operations import Operations
from tavern.readiness import Readiness
from tavern.relay.config import RelayConfig
from tavern.relay.service import Relay
from tavern.signaling import ice
from tavern.signaling.address_hashes import address_hash
from tavern.signaling.entry import Rules
from tavern.signaling.expiry import expire_taverns
from tavern.signaling.limits import AddressLimit
from tavern.signaling.management import Management
from tavern.signaling.registry import Registry
from tavern.signaling.resume_tokens import ResumeTokens
from tavern.signaling.resumption import Resumptions
from tavern.signaling.session import Signaling
from tavern.signaling.taverns import Taverns
from tavern.signaling.transport import Transport
from tavern.startup import Decisions, decide, follows_domain
from tavern.store.base import Store
from tavern.store.index import Caps
from tavern.store.memory import MemoryStore
from tavern.store.sqlite import open_sqlite_store
from tavern.turn.budget import GB
from tavern.turn.shared_ports import SharedPortsMode
from tavern.web.asgi import Health, make_app
from tavern.web.challenges import Challenges
from tavern.web.door import Door
from tavern.web.handshake import TlsSide
from tavern.web.native.library import NoNativePoller
from tavern.web.native.poller import NativePoller
from tavern.web.poller import Poller, PythonPoller
from tavern.web.websocket import WebSocketLimits

if TYPE_CHECKING:
    from tavern.acme.renewal import Renewal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DRAIN_S = 3.0
"""For telling everybody and flushing what was queued. With the store's own limit, below compose's stop_grace_period."""
CREATE_WINDOW_S = 60.0
MB = 2**20
FRAMES_PER_S = 200
FRAMES_PER_MESSAGE = 4
"""A browser sends a message in one frame and answers our pings; libraries that split messages do so rarely."""

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
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # the command line blocked them until now
        async with _supervised("signals") as nursery:
            shutdown = _Shutdown()
            nursery.start_soon(shutdown.watch, signals)
            with shutdown.deciding:
                decisions = await decide(settings, environment)
                await _run(settings, decisions, environment, announce, shutdown, task_status)
    log_event(_log, logging.INFO, "stopped")


@attrs.define(eq=False)
class _Shutdown:
    """What signals ask for: the first to stop, any further one to stop at once."""

    requested: trio.Event = attrs.field(factory=trio.Event)
    deciding: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled by a signal that comes before anything is open."""
    at_once: Callable[[], None] | None = None
    """Set once something is open that can be stopped less politely."""
    impatient: bool = False

    async def watch(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            if self.at_once is None:
                self.deciding.cancel()
            elif self.requested.is_set() and not self.impatient:
                self.impatient = True
                log_event(_log, logging.WARNING, "ending-at-once", reason="second signal")
                self.at_once()
            self.requested.set()


async def _run(
    settings: Settings,
    decisions: Decisions,
    environment: Mapping[str, str],
    announce: Callable[[str], None],
    shutdown: _Shutdown,
    task_status: trio.TaskStatus[Running],
) -> None:
    metrics = Metrics(trio.current_time())
    async with (
        open_store(settings, decisions, metrics) as store,
        listen(settings) as listening,
        _supervised("relay") as relay_nursery,
    ):
        relay = Relay(_relay_config(settings, decisions), store=store)
        stun = await relay_nursery.start(relay.run, listening.udp)
        if follows_domain(settings):
            relay_nursery.start_soon(watch_domain, settings.domain, lambda: relay.advertised_addresses, relay.advertise)
        server = _Server(settings, decisions, metrics, store, relay, listening)
        async with _supervised("rooms") as rooms_nursery:
            rooms_nursery.start_soon(watch_loop_lag, metrics)
            await rooms_nursery.start(server.registry.run)
            in_use = server.registry.presence.is_in_use
            if server.renewal is not None:
                rooms_nursery.start_soon(server.renewal.run)
            if _is_supervised():
                rooms_nursery.start_soon(_reload_on_hangup, server.reload)
            rooms_nursery.start_soon(expire_taverns, store, settings.tavern_ttl_days, in_use)
            async with _supervised("connections") as connections, _supervised("listeners") as listeners_nursery:
                door = server.make_door(decisions)
                await connections.start(door.run)
                listeners_nursery.start_soon(
                    partial(trio.serve_listeners, door.handle, listening.tcp, handler_nursery=connections)
                )

                def at_once() -> None:
                    connections.cancel_scope.cancel()
                    door.abort()

                shutdown.at_once = at_once
                if decisions.control_path is not None:
                    control = open_control_socket(decisions.control_path)
                    operations = server.make_operations(decisions, shutdown.requested.set)
                    connections.start_soon(serve_control, decisions.control_path, control, operations.perform)
                for line in announcement(settings, decisions, listening, relay.chosen_data_path):
                    announce(line)
                task_status.started(Running(addresses(listening.http), stun))
                log_event(_log, logging.INFO, "started")
                notify(environment, "READY=1")
                await shutdown.requested.wait()
                notify(environment, "STOPPING=1")
                log_event(_log, logging.INFO, "draining", peers=server.metrics.connected_peers)
                await _drain(server, door)
                at_once()


def _is_supervised() -> bool:
    """Whether SIGHUP means "read anew" here, and not that the terminal is gone, or nothing (nohup)."""
    return not sys.stdin.isatty() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def _reload_on_hangup(reload: Callable[[], bool]) -> None:
    """The certificate is read again when SIGHUP asks for it. Settings are the environment's, which is read at start."""
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async for _ in hangups:
            log_event(_log, logging.INFO, "reloaded", certificate=reload())


async def _drain(server: _Server, door: Door) -> None:
    """`/health` says 503, no WebSocket is accepted, everybody is told and closed, or DRAIN_S have passed."""
    server.draining = True
    door.drain()
    server.registry.drain()
    with trio.move_on_after(DRAIN_S):
        await door.wait_no_websockets()


@asynccontextmanager
async def _supervised(name: str) -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with its block: the layers inside are gone by then."""
    async with trio.open_nursery() as nursery:
        yield nursery
        log_event(_log, logging.DEBUG, "ending", layer=name)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_store(settings: Settings, decisions: Decisions, metrics: Metrics) -> AsyncIterator[Store]:
    """The store that the settings chose; closed, with all that was queued written, at the block's end."""
    caps = Caps(
        taverns=settings.max_taverns,
        taverns_per_address=settings.max_taverns_per_address,
        channels_per_tavern=settings.max_channels,
    )
    if decisions.db_path is None:
        yield MemoryStore(caps)
    else:
        floor = settings.min_free_mb * MB
        observe = metrics.commits_s.observe
        async with open_sqlite_store(decisions.db_path, caps, min_free_bytes=floor, observe_commit_s=observe) as store:
            yield store


class _Server:
    """What the tasks of one server share, put together."""

    def __init__(
        self,
        settings: Settings,
        decisions: Decisions,
        metrics: Metrics,
        store: Store,
        relay: Relay,
        listening: Listening,
    ) -> None:
        self.draining = False
        self.metrics = metrics
        self.registry = Registry(self.metrics, relay)
        self._settings = settings
        self._store = store
        self._relay = relay
        self._listening = listening
        self._certificate = decisions.certificate
        self._challenges = Challenges()
        self.renewal = _renewal(settings, decisions, self._challenges)
        taverns = Taverns(self.registry, store, partial(address_hash, decisions.server_secret))
        self._signaling = Signaling(
            registry=self.registry,
            taverns=taverns,
            management=Management(taverns),
            resumptions=Resumptions(self.registry, ResumeTokens(decisions.server_secret, run_id=str(uuid4()))),
            ice_servers=self._ice_servers,
            rate_messages=settings.rate_messages,
            create_limit=AddressLimit(settings.rate_create, CREATE_WINDOW_S),
            rules=Rules(
                server_name=settings.domain,
                invites=settings.invites,
                require_identity=settings.require_identity,
                create=settings.create,
                create_keys=settings.create_keys,
            ),
        )

    def reload(self) -> bool:
        """The certificate is read again, and asked for where it could not be got; returns whether there is one."""
        if self.renewal is not None:
            self.renewal.look_now()
        if self._certificate is not None:
            self._certificate.reload()
        return self._certificate is not None

    def make_operations(self, decisions: Decisions, drain: Callable[[], None]) -> Operations:
        return Operations(
            metrics=self.metrics,
            registry=self.registry,
            store=self._store,
            relay=self._relay,
            reload=self.reload,
            static_credentials=decisions.static_credentials,
            drain=drain,
        )

    def make_door(self, decisions: Decisions) -> Door:
        settings = self._settings
        exposition = Exposition(self.metrics, self.registry, self._store, self._relay)
        listening = self._listening
        stun = tuple(listener.address for listener in listening.udp)
        streams = addresses(listening.turn_tcp or listening.http)
        health = Health(
            draining=lambda: self.draining,
            taverns=self._store.tavern_count,
            metrics=self._metrics_answer,
            exposition=exposition.render,
            trusted_proxies=decisions.trusted_proxies,
            readiness=Readiness(stun, streams, self._store, self._relay.own_sessions).look,
        )
        return Door(
            app=make_app(health),
            serve_peer=self._signaling.serve,
            serve_stun=self._relay.serve_stream,
            metrics=self.metrics,
            limits=WebSocketLimits(
                ping_interval_s=settings.heartbeat_interval_s,
                pong_timeout_s=settings.heartbeat_timeout_s,
                frames_per_s=FRAMES_PER_S + FRAMES_PER_MESSAGE * settings.rate_messages,
            ),
            trusted_proxies=decisions.trusted_proxies,
            max_connections=decisions.max_connections,
            max_per_source=settings.max_connections_per_address,
            domain=settings.domain,
            origins=settings.origins,
            poller=_choose_poller(settings, self.registry),
            tls=self._tls_side(),
        )

    def _tls_side(self) -> TlsSide | None:
        if self._certificate is None:
            return None
        return TlsSide(self._certificate.context, self._settings.domain, self._challenges)

    def _ice_servers(self, transport: Transport, peer_id: str) -> dict[str, object]:
        settings = self._settings
        credential = self._relay.session_credential(peer_id, ice.TURN_CREDENTIAL_LIFETIME_S)
        # While no domain is set, the name by which this client found us is one that works for it.
        host = (settings.is_local and host_without_port(transport.host_header)) or settings.domain
        turns_port = ice.reachable_turns_port(
            self._listening.turns_port, port_in_host(transport.host_header), direct_tls=transport.direct_tls
        )
        own_urls = ice.own_urls(host, self._listening.turn_port, turns_port)
        return ice.ice_servers_message(settings.ice_urls or own_urls, credential)

    def _metrics_answer(self) -> dict[str, object]:
        now = trio.current_time()
        return {
            "connectedPeers": self.metrics.connected_peers,
            "activeTaverns": self.registry.presence.active_taverns(),
            "totalTaverns": self._store.tavern_count(),
            "uptime": int(now - self.metrics.started_at),
            "messagesPerSecond": round(self.metrics.messages.per_second(now), 2),
            "relay": self._relay_metrics(),
        }

    def _relay_metrics(self) -> dict[str, object]:
        statistics = self._relay.statistics()
        return {
            "dataPath": self._relay.chosen_data_path.name,
            "allocations": statistics.allocations,
            "packetsFromClients": statistics.packets_from_clients,
            "bytesFromClients": statistics.bytes_from_clients,
            "packetsToClients": statistics.packets_to_clients,
            "bytesToClients": statistics.bytes_to_clients,
            "dropped": statistics.drops,
        }


def _renewal(settings: Settings, decisions: Decisions, challenges: Challenges) -> Renewal | None:
    if decisions.certificate_files is None:
        return None
    from tavern.acme.renewal import Renewal  # with what it asks by: 8 MB, which no other server needs

    return Renewal(decisions.certificate_files, challenges, settings.acme_directory, settings.acme_email)


def _choose_poller(settings: Settings, registry: Registry) -> Poller:
    """The compiled one where there is one, and nobody asked for Python."""
    if settings.turn_data_path != "python":
        try:
            return NativePoller(registry)
        except NoNativePoller as error:
            if settings.turn_data_path == "native":
                raise StartupError(f"TAVERN_TURN_DATA_PATH=native: messages cannot be passed on so: {error}") from error
            log_event(_log, logging.INFO, "signaling-not-compiled", reason=error)
    return PythonPoller()


def _relay_config(settings: Settings, decisions: Decisions) -> RelayConfig:
    if not decisions.advertised_addresses:
        raise StartupError("this machine has no IP address: set TAVERN_EXTERNAL_IP to the one people reach it by")
    return RelayConfig(
        hosts=settings.hosts,
        port=settings.turn_port,
        min_relay_port=settings.turn_min_port,
        max_relay_port=settings.turn_max_port,
        realm=settings.domain,
        secrets=decisions.turn_secrets,
        legacy_secret=DEV_SECRET if settings.legacy_turn else None,
        static_credentials=decisions.static_credentials,
        advertised_addresses=decisions.advertised_addresses,
        allow_peers=settings.turn_allow_peers,
        deny_peers=settings.turn_deny_peers,
        user_quota=settings.turn_user_quota,
        address_quota=settings.turn_address_quota,
        max_allocations=decisions.max_allocations,
        shared_ports=SharedPortsMode(settings.turn_shared_ports),
        max_permissions=settings.turn_max_permissions,
        max_channels=settings.turn_max_channels,
        unauthenticated_rate=settings.turn_401_rate,
        user_bytes_per_s=settings.turn_user_bytes_per_s,
        bytes_per_s=settings.turn_bytes_per_s,
        monthly_bytes=settings.turn_monthly_gb * GB,
        data_path=settings.turn_data_path,
    )

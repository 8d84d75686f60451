"""The relay as the app sees it: it starts, runs until cancelled, mints credentials for sessions and counts."""

from __future__ import annotations

import logging
import random
import secrets
import socket
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import trio

from tavern.addresses import IPAddress, SocketAddress, format_socket_address, parse_address
from tavern.errors import StartupError
from tavern.logs import log_event
from tavern.relay.addresses import interface_addresses
from tavern.relay.config import RelayConfig, RelayStatistics
from tavern.relay.data_path import DataPath, DataPathStatistics
from tavern.relay.data_paths import challenges, choose_data_path, open_data_path, together
from tavern.relay.routes import is_local
from tavern.relay.sockets import Listener, open_listeners, open_relay_socket
from tavern.relay.streams import StreamServer
from tavern.relay.usage import UsageKeeper
from tavern.store.base import Store
from tavern.stun.attributes import AddressFamily, family_of
from tavern.turn.auth import Credential
from tavern.turn.budget import sent_bytes
from tavern.turn.commands import AddFlow, AddRelayedAddress, Effect, OpenRelaySocket
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.flows import Traffic
from tavern.turn.server import TurnConfig, TurnServer
from tavern.turn.shared_ports import SharedPortsMode

_log = logging.getLogger(__name__)

_CONTROL_BATCH_S = 0.002  # requests are served so long between two checkpoints: signaling waits no longer
# After a batch that time ended, where the data path is in Python: behind, this thread would hold the interpreter, and
# the data path's get it too late. One that is compiled needs no interpreter.
_CONTROL_PAUSE_S = 0.001
_OWN_LIFETIME_S = 60
_ADDRESS_REFRESH_S = 30.0  # how late a new interface's address becomes a forbidden peer


@attrs.frozen
class _Session:
    """What the relay calls one signaling connection, and where that comes from."""

    id: str
    host: str


class Relay:
    """STUN and TURN over UDP, and over the streams that others accept. Made once, run once."""

    def __init__(
        self,
        config: RelayConfig,
        *,
        store: Store | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`wall_clock` gives Unix seconds: credentials and months end by it. All else goes by `time.monotonic`.

        `store`: where it is kept what was sent in a month; it must outlive `run`. Raises StartupError where the data
        path that is asked for is not there.
        """
        self.chosen_data_path = choose_data_path(config.data_path)
        self._config = config
        self._wall_clock = wall_clock
        self._movable = frozenset[AddressFamily]()
        """Of which families the shared ports take what is sent to any address of this machine."""
        self._local_addresses: frozenset[IPAddress] = frozenset()
        self._data_path: DataPath | None = None
        self._streams: StreamServer | None = None
        self._opened: dict[tuple[int, AddressFamily], socket.socket] = {}
        self._sessions: dict[str, _Session] = {}
        self._deadline_moved = trio.Event()
        self._sleeping_until: float | None = None
        nonce_key = secrets.token_bytes(32)
        self._challenges = challenges(self.chosen_data_path.name, nonce_key, config.realm, config.unauthenticated_rate)
        self._server = TurnServer(
            TurnConfig(
                realm=config.realm,
                secrets=config.secrets,
                legacy_secret=config.legacy_secret,
                static_credentials=config.static_credentials,
                advertised_addresses=config.advertised_addresses,
                min_relay_port=config.min_relay_port,
                max_relay_port=config.max_relay_port,
                allow_peers=config.allow_peers,
                deny_peers=config.deny_peers,
                user_quota=config.user_quota,
                address_quota=config.address_quota,
                max_allocations=config.max_allocations,
                shared_ports=config.shared_ports,
                max_permissions=config.max_permissions,
                max_channels=config.max_channels,
                unauthenticated_rate=config.unauthenticated_rate,
                datagram_answer_count=1 if self._challenges is None else 2,
            ),
            random=random.SystemRandom(),
            nonce_key=nonce_key,
            is_local=is_local,
        )
        self._usage = UsageKeeper(
            config.monthly_bytes,
            store,
            sent_bytes=lambda: sent_bytes(self._traffic()),
            on_spent=lambda is_spent: self._execute(self._server.set_budget_spent(is_spent)),
            wall_clock=wall_clock,
        )

    async def run(
        self,
        listeners: list[Listener] | None = None,
        *,
        task_status: trio.TaskStatus[tuple[SocketAddress, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listens, tells `task_status` the addresses, relays until cancelled. Takes `listeners` over, or opens its own.

        StartupError, before that, if a listener or the shared ports cannot be opened. What crashes the data path's
        thread is raised here. However it ends, the thread is joined and every socket closed.
        """
        if listeners is None:
            listeners = open_listeners(self._config.hosts, self._config.port)
        own_hosts = frozenset(str(address) for address in self._config.advertised_addresses)
        try:
            self._local_addresses = interface_addresses()
            data_path = open_data_path(
                self.chosen_data_path.name,
                listeners,
                own_hosts,
                user_bytes_per_s=self._config.user_bytes_per_s,
                bytes_per_s=self._config.bytes_per_s,
                challenges=self._challenges,
            )
        except BaseException:
            for listener in listeners:
                listener.sock.close()
            raise
        self._data_path = data_path
        self._streams = StreamServer(self._server, data_path, self._execute_and_time, self._wall_clock)
        try:
            self._execute(self._server.set_local_addresses(self._local_addresses))
            self._server.set_listeners(frozenset(listener.address for listener in listeners))
            self._open_shared(data_path)
            self._usage.enforce()
            data_path.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_control, data_path)
                nursery.start_soon(self._serve_timers)
                nursery.start_soon(self._refresh_addresses)
                nursery.start_soon(self._usage.run)
                task_status.started(tuple(listener.address for listener in listeners))
                await data_path.wait_ended()
        finally:
            await data_path.stop()
            await self._usage.close()

    def _open_shared(self, data_path: DataPath) -> None:
        planned = self._server.shared_addresses
        elsewhere = (address for address in self._server.advertised.values() if address not in self._local_addresses)
        self._movable = frozenset(map(family_of, elsewhere))
        for address in planned:
            try:
                host = parse_address(address[0])
                relay = open_relay_socket(family_of(host), address[1], host, self._local_addresses, shared=True)
                try:
                    data_path.open_shared(address, relay)
                except OSError:
                    relay.close()
                    raise
            except OSError:
                self._server.shared_failed(address)
        skipped = len(planned) - len(self._server.shared_addresses)
        if skipped == len(planned) and self._config.shared_ports is SharedPortsMode.ALWAYS:
            raise StartupError(
                f"none of the shared relay ports {planned[0][1]} to {planned[-1][1]} can be opened (UDP): set "
                "TAVERN_TURN_MIN_PORT and TAVERN_TURN_MAX_PORT to ports that no other program has"
            )
        if skipped:
            log_event(_log, logging.WARNING, "shared-ports-skipped", skipped=skipped, of=len(planned))

    async def serve_stream(self, stream: trio.abc.Stream, first: bytes, five_tuple: FiveTuple) -> None:
        """Serves a client over TCP or TLS while `run` runs; see StreamServer.serve."""
        assert self._streams is not None, "the relay does not run yet"
        await self._streams.serve(stream, first, five_tuple)

    def session_credential(self, peer_id: str, lifetime_s: int) -> Credential:
        """A credential of this open session, for new allocations within `lifetime_s` seconds."""
        session = self._sessions[peer_id]
        return self._server.credentials.mint(session.id, lifetime_s, self._wall_clock())

    @contextmanager
    def own_sessions(self) -> Iterator[tuple[Credential, Credential]]:
        """Credentials of two sessions that are with each other, for a look at the relay itself from this machine.

        While `run` runs. Their allocations end with the block.
        """
        closed = self._server.closed
        sessions = [closed.open_session("127.0.0.1") for _ in range(2)]
        together = object()
        for session in sessions:
            self._execute(closed.move_session(session, together))
        minted = [self._server.credentials.mint(session, _OWN_LIFETIME_S, self._wall_clock()) for session in sessions]
        try:
            yield minted[0], minted[1]
        finally:
            for session in sessions:
                self._execute(closed.revoke_session(session))

    def static_credential(self, user: str, lifetime_s: int) -> Credential:
        """One of the operator's own, that belongs to no session. ValueError for too long a user."""
        return self._server.credentials.mint(user, lifetime_s, self._wall_clock())

    @property
    def advertised_addresses(self) -> tuple[IPAddress, ...]:
        """What new relayed addresses carry: at most one IPv4 and one IPv6."""
        return tuple(self._server.advertised.values())

    def advertise(self, addresses: Iterable[IPAddress]) -> None:
        """New relayed addresses carry these, at most one of each family; allocations that live keep theirs.

        While `run` runs. Without effect for a family that was not served from the start. To be called again from time
        to time: what nothing carries any more is somebody else's address by then.
        """
        wanted, before = tuple(addresses), dict(self._server.advertised)
        self._execute(self._server.advertise(wanted, self._movable))
        for address in wanted:
            family = family_of(address)
            former = before.get(family)
            if former is not None and former != address:
                changed = self._server.advertised[family] == address
                told = {"former": former, "address": address, "shared_ports": family in self._movable}
                log_event(_log, logging.WARNING, "address-changed" if changed else "address-not-changed", **told)

    def allocations(self) -> list[dict[str, object]]:
        """All of them, for the operator."""
        now = time.monotonic()
        return [
            {
                "allocation": allocation.id,
                "transport": allocation.five_tuple.transport.value,
                "client": format_socket_address(*allocation.five_tuple.client),
                "relayed": [format_socket_address(*relayed.address) for relayed in allocation.relayed.values()],
                "permissions": len(allocation.permissions),
                "channels": len(allocation.channels),
                "expires_in_s": round(allocation.expires_at - now),
            }
            for allocation in self._server.allocations
        ]

    def close_allocation(self, allocation_id: int) -> bool:
        """Whether there was one; it ends at once, and its client learns by silence."""
        found = next((one for one in self._server.allocations if one.id == allocation_id), None)
        if found is not None:
            self._execute_and_time(self._server.client_gone(found.five_tuple))
        return found is not None

    # What signaling observes. Ends of allocations that follow take effect at once.

    def session_opened(self, peer_id: str, host: str) -> None:
        """`host` has one more live connection: others cannot use up its unauthenticated answers any more."""
        self._sessions[peer_id] = _Session(self._server.closed.open_session(host), host)
        self._server.limiter.connected(host)

    def session_moved(self, peer_id: str, group: Hashable | None) -> None:
        """Its credential reaches the members of this group now. What it had in a former one ends."""
        if (session := self._sessions.get(peer_id)) is not None:
            self._execute(self._server.closed.move_session(session.id, group))

    def addresses_announced(self, peer_id: str, receiver_ids: Sequence[str], addresses: frozenset[IPAddress]) -> None:
        """The receivers' allocations may try to reach it at these addresses."""
        if (session := self._sessions.get(peer_id)) is not None:
            receivers = [self._sessions[receiver].id for receiver in receiver_ids if receiver in self._sessions]
            self._server.closed.announce(session.id, receivers, addresses)

    def session_returned(self, peer_id: str, host: str) -> None:
        """See `signaling.observer.SessionObserver`."""
        if (session := self._sessions.get(peer_id)) is not None:
            self._server.limiter.disconnected(session.host)
            self._server.limiter.connected(host)
            self._sessions[peer_id] = attrs.evolve(session, host=host)
            self._execute(self._server.closed.rehost_session(session.id, host))

    def session_lost(self, peer_id: str) -> None:
        """Its credential and its allocations end in a while."""
        session = self._forget_session(peer_id)
        self._execute(self._server.closed.lose_session(session.id, time.monotonic()))
        self._announce_deadline()

    def session_revoked(self, peer_id: str) -> None:
        """Its credential and its allocations end now."""
        self._execute(self._server.closed.revoke_session(self._forget_session(peer_id).id))

    def _forget_session(self, peer_id: str) -> _Session:
        session = self._sessions.pop(peer_id)
        self._server.limiter.disconnected(session.host)
        return session

    def statistics(self) -> RelayStatistics:
        """The figures now; zeros before `run`. After it, packets that the kernel dropped are not counted any more."""
        if self._data_path is None:
            data_path = DataPathStatistics(Traffic(), {str(reason): 0 for reason in Drop})
        else:
            data_path = self._data_path.statistics()
        return RelayStatistics(
            allocations=len(self._server.allocations),
            packets_from_clients=data_path.traffic.packets_from_clients,
            bytes_from_clients=data_path.traffic.bytes_from_clients,
            packets_to_clients=data_path.traffic.packets_to_clients,
            bytes_to_clients=data_path.traffic.bytes_to_clients,
            drops={**data_path.drops, "malformed_request": self._server.counters.malformed},
            control_drops=data_path.drops[Drop.CONTROL_QUEUE_FULL],
            unauthenticated_answers=self._server.counters.unauthenticated + data_path.challenges,
            unauthenticated_suppressed=self._server.counters.suppressed,
            rejected_credentials=self._server.counters.rejected,
            usage=self._usage.usage(),
        )

    def _traffic(self) -> Traffic:
        return Traffic() if self._data_path is None else self._data_path.statistics().traffic

    async def _serve_control(self, data_path: DataPath) -> None:
        pause_s = _CONTROL_PAUSE_S if self.chosen_data_path.name == "python" else 0
        while True:
            await data_path.wait_control_packets()
            while self._serve_batch(data_path):  # noqa: ASYNC110 - it waits for no event, it makes room
                await trio.sleep(pause_s)

    def _serve_batch(self, data_path: DataPath) -> bool:
        """Whether its time ended it, and not the last packet."""
        now = time.monotonic()
        ends_at = now + _CONTROL_BATCH_S
        unix_time_s = self._wall_clock()
        with together(data_path):
            while now < ends_at and (packet := data_path.take_control_packet(now)) is not None:
                self._execute(self._server.receive(packet.data, packet.five_tuple, now, unix_time_s))
                now = time.monotonic()
        self._announce_deadline()
        return now >= ends_at

    async def _serve_timers(self) -> None:
        while True:
            self._execute(self._server.handle_timer(time.monotonic()))
            self._deadline_moved = trio.Event()
            self._sleeping_until = self._server.next_deadline()
            # trio's clock has another zero than time.monotonic, so only the difference is told to it.
            wait_s = float("inf") if self._sleeping_until is None else self._sleeping_until - time.monotonic()
            with trio.move_on_after(max(0.0, wait_s)):
                await self._deadline_moved.wait()

    def _announce_deadline(self) -> None:
        deadline = self._server.next_deadline()
        if deadline is not None and (self._sleeping_until is None or deadline < self._sleeping_until):
            self._deadline_moved.set()

    async def _refresh_addresses(self) -> None:
        while True:
            await trio.sleep(_ADDRESS_REFRESH_S)
            try:
                self._local_addresses = interface_addresses()
            except OSError as error:  # no free file descriptor, say: those of before hold, and `is_local` is asked too
                _log.warning("interfaces cannot be read, their former addresses hold: %s", error)
                continue
            self._execute(self._server.set_local_addresses(self._local_addresses))

    def _execute_and_time(self, effects: Iterable[Effect]) -> None:
        self._execute(effects)
        self._announce_deadline()

    def _execute(self, effects: Iterable[Effect]) -> None:
        assert self._data_path is not None
        for effect in effects:
            if isinstance(effect, OpenRelaySocket):
                self._execute(self._open_relay(effect))  # what follows from it comes next; ports are tried a few times
            elif isinstance(effect, AddFlow | AddRelayedAddress):
                family = AddressFamily.IPV6 if ":" in effect.relayed_address[0] else AddressFamily.IPV4
                relay = None if effect.shared else self._opened.pop((effect.flow_id, family))
                self._data_path.add_relay(effect, relay)
            else:
                self._data_path.submit(effect)

    def _open_relay(self, effect: OpenRelaySocket) -> list[Effect]:
        assert self._data_path is not None
        family, advertised = effect.family, self._server.advertised[effect.family]
        try:
            relay = open_relay_socket(family, effect.port, advertised, self._local_addresses)
            try:
                self._data_path.watch(relay)
            except OSError:
                relay.close()
                raise
        except OSError:
            return self._server.relay_failed(effect.flow_id, time.monotonic())
        self._opened[effect.flow_id, family] = relay
        return self._server.relay_opened(effect.flow_id, time.monotonic())

"""The door of every TCP port: tells TLS, STUN, WebSocket signaling and HTTP apart, whichever port it is."""

from __future__ import annotations

import logging
import math
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import attrs
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from starlette.types import ASGIApp

from tavern.addresses import SocketAddress, source_key
from tavern.logs import log_event
from tavern.metrics import Metrics
from tavern.setting_values import IPNetwork
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.web.handshake import TlsSide, begins_stun
from tavern.web.heads import MAX_HEAD_BYTES, Head, Refused, answer, check_upgrade, read_first, read_head
from tavern.web.heartbeat import Heartbeat
from tavern.web.origins import is_allowed
from tavern.web.poller import Poller, PythonPoller
from tavern.web.proxies import client_host, is_trusted, names_a_proxy
from tavern.web.streams import AnyStream, LentStream, close_after_reading, tcp_socket
from tavern.web.websocket import Origin, Serve, WebSocketLimits, serve_websocket

HEAD_TIMEOUT_S = 5.0
HTTP_TIMEOUT_S = 30.0
"""For one whole HTTP exchange: the page's largest file to a slow phone."""
SOURCES_THAT_FIT = 4
"""At least so many addresses can be served at once, whatever one of them does."""
SEND_TIMEOUT_S = 20.0
"""Above the heartbeat's default 15 s, which finds a WebSocket client that stopped reading first."""

UNSENT_BYTES = 16 * 1024
"""What the kernel takes of a TURN client's media ahead of what it sends: more would arrive late instead of never."""

ServeStun = Callable[[trio.abc.Stream, bytes, FiveTuple], Awaitable[None]]
"""Serves a STUN client: its stream, what was read of it already, its addresses. Does not close the stream."""

_log = logging.getLogger("tavern.web")


def _hypercorn_config() -> Config:
    config = Config()
    config.include_server_header = False
    # One request for each connection: a kept-alive one could ask for an upgrade behind the door's back.
    config.keep_alive_max_requests = 1
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.read_timeout = int(HTTP_TIMEOUT_S)
    config.accesslog = None
    config.errorlog = logging.getLogger("tavern.http")
    return config


@attrs.define(eq=False)
class Door:
    """Serves connections. Each has its own wall: whatever fails in one is logged, counted, and ends only that one."""

    app: ASGIApp
    serve_peer: Serve
    serve_stun: ServeStun
    metrics: Metrics
    limits: WebSocketLimits
    trusted_proxies: tuple[IPNetwork, ...]
    max_connections: int
    """Beyond it new ones are closed at once: file descriptors are left for the relay and the database."""
    max_per_source: int = 0
    """Of these from one IPv4 address or IPv6 /64; 0: a part of them, see SOURCES_THAT_FIT."""
    domain: str = "localhost"
    origins: tuple[str, ...] = ()
    """Web pages that may open a WebSocket here, besides the server's own and the desktop apps; none: all may."""
    poller: Poller = attrs.field(factory=PythonPoller)
    """Reads from all WebSockets; the door runs it."""
    tls: TlsSide | None = None
    """With it HTTP and WebSocket are served over TLS only."""
    head_timeout_s: float = HEAD_TIMEOUT_S
    _connections: int = attrs.field(default=0, init=False)
    _by_source: Counter[str] = attrs.field(factory=Counter, init=False)
    """Open connections by source_key."""
    _by_client: Counter[str] = attrs.field(factory=Counter, init=False)
    """Open WebSockets by source_key of who is behind them, also behind a proxy."""
    _heartbeat: Heartbeat = attrs.field(init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _http: set[LentStream] = attrs.field(factory=set, init=False)
    _websockets: int = attrs.field(default=0, init=False)
    _no_websockets: trio.Event = attrs.field(factory=trio.Event, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _refusal_logged_at: float = attrs.field(default=-math.inf, init=False)
    _hypercorn: Config = attrs.field(factory=_hypercorn_config, init=False)
    _context: WorkerContext = attrs.field(factory=lambda: WorkerContext(None), init=False)

    def __attrs_post_init__(self) -> None:
        self._heartbeat = Heartbeat(self.limits.ping_interval_s, self.limits.pong_timeout_s)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """What all WebSockets share: who reads them, their heartbeat, tasks for what a client does not take at once.

        Until cancelled; connections can be served once it is started.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._heartbeat.run)
            nursery.start_soon(self.poller.run)
            task_status.started()
            await trio.sleep_forever()

    def _start(self, job: Callable[[], Awaitable[None]]) -> None:
        assert self._nursery is not None, "connections are served while the door runs"
        self._nursery.start_soon(job)

    async def handle(self, connection: trio.SocketStream) -> None:
        """Serves one accepted connection and closes it. Cancelled, it closes at once."""
        try:
            peer_host = _peer_host(connection)
        except OSError:
            peer_host = ""  # gone before it was accepted
        refusal = self._refusal(peer_host) if peer_host else ""
        if refusal is not None:
            self._log_refusal(peer_host, refusal)
            await trio.aclose_forcefully(connection)
            return
        source = source_key(peer_host)
        self._connections += 1
        self._by_source[source] += 1
        stream: AnyStream = connection
        try:
            stream = await self._secure(connection)
            await self._serve(stream)
            await close_after_reading(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as broken:  # ssl.SSLError is an OSError
            log_event(_log, logging.DEBUG, "connection-broken", error=broken.exceptions[0])
        except* Exception as failed:  # noqa: BLE001  the wall of the connection
            _log.error("connection failed", exc_info=failed)
            self.metrics.failures["connection"] += 1
        finally:
            self._connections -= 1
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]
            await trio.aclose_forcefully(stream)

    def drain(self) -> None:
        """WebSockets are refused from now on; HTTP is answered still, so that health checks see the 503."""
        self._draining = True

    def abort(self) -> None:
        """HTTP exchanges end now. Cancelling alone does not: hypercorn shields its sends, also to who never reads."""
        for stream in tuple(self._http):
            stream.abort()

    def _refusal(self, peer_host: str) -> str | None:
        """Why there is no place for one more connection from here, or None.

        One source has a part of all places, so that it cannot take them all; a trusted proxy stands for many.
        """
        if self._connections >= self.max_connections:
            return f"all {self.max_connections} places are taken"
        places = self._places_of_one
        if self._by_source[source_key(peer_host)] < places or is_trusted(peer_host, self.trusted_proxies):
            return None
        return f"this address has its {places} places; if it is a proxy, add it to TAVERN_TRUSTED_PROXIES"

    @property
    def _places_of_one(self) -> int:
        return self.max_per_source or max(self.max_connections // SOURCES_THAT_FIT, 1)

    def _log_refusal(self, peer_host: str, reason: str) -> None:
        self.metrics.refused_connections += 1
        now = trio.current_time()
        if reason and now - self._refusal_logged_at >= 1.0:  # who floods us does not fill the disk, too
            self._refusal_logged_at = now
            log_event(_log, logging.WARNING, "connection-refused", client=peer_host, reason=reason)

    async def wait_no_websockets(self) -> None:
        """Returns when every WebSocket that is open now has been closed."""
        while self._websockets:
            self._no_websockets = trio.Event()
            await self._no_websockets.wait()

    async def _secure(self, connection: trio.SocketStream) -> AnyStream:
        return connection if self.tls is None else await self.tls.secure(connection)

    async def _serve(self, stream: AnyStream) -> None:
        try:
            ends_at = trio.current_time() + self.head_timeout_s
            first = await read_first(stream, ends_at)
            if begins_stun(first):
                await self._serve_stun(stream, first)
                return
            head = await read_head(stream, first, ends_at)
            if head is None:
                return
            if head.wants_websocket:
                check_upgrade(head)
                if self._draining:
                    raise Refused("503 Service Unavailable", "The server is shutting down.")
                await self._serve_websocket(stream, head)
            else:
                await self._serve_http(stream, head)
        except Refused as refused:
            log_event(_log, logging.DEBUG, "request-refused", status=refused.status, reason=refused.line)
            with trio.move_on_after(SEND_TIMEOUT_S):
                await stream.send_all(answer(refused))

    async def _serve_stun(self, stream: AnyStream, first: bytes) -> None:
        tcp = tcp_socket(stream)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        transport = Transport.TLS if isinstance(stream, trio.SSLStream) else Transport.TCP
        five_tuple = FiveTuple(transport, _socket_address(tcp.getpeername()), _socket_address(tcp.getsockname()))
        log_event(_log, logging.DEBUG, "stun-stream", client=five_tuple.client[0], transport=transport.value)
        await self.serve_stun(stream, first, five_tuple)

    async def _serve_websocket(self, stream: AnyStream, head: Head) -> None:
        """Raises Refused for who may not open one."""
        host_values = head.values(b"host")
        host_header = host_values[0].decode("latin-1") if host_values else ""
        if not is_allowed(head.values(b"origin"), self.origins, host_header, self.domain):
            raise Refused("403 Forbidden", "This page may not use this server (TAVERN_ORIGINS).")
        client = client_host(_peer_host(stream), head.headers, self.trusted_proxies)
        source = source_key(client)
        if self._by_client[source] >= self._places_of_one:
            self._log_refusal(client, f"this address has its {self._places_of_one} places")
            raise Refused("429 Too Many Requests", "Too many connections from your address.")
        self._websockets += 1
        self._by_client[source] += 1
        try:
            await serve_websocket(
                stream,
                head.values(b"sec-websocket-key")[0],
                head.rest,
                self.serve_peer,
                origin=Origin(
                    client_host=client,
                    host_header=host_header,
                    direct_tls=isinstance(stream, trio.SSLStream) and not names_a_proxy(head.headers),
                    query=head.target.partition(b"?")[2].decode("latin-1"),
                ),
                limits=self.limits,
                heartbeat=self._heartbeat,
                poller=self.poller,
                start=self._start,
            )
        finally:
            self._by_client[source] -= 1
            if not self._by_client[source]:
                del self._by_client[source]
            self._websockets -= 1
            if not self._websockets:
                self._no_websockets.set()

    async def _serve_http(self, stream: AnyStream, head: Head) -> None:
        lent = LentStream(stream, _plain_request(head), send_timeout_s=SEND_TIMEOUT_S)
        # The annotation asks for an SSLStream; what it uses is receive_some, send_all, aclose and `socket`.
        served = cast("trio.SSLStream[trio.SocketStream]", lent)
        app = ASGIWrapper(cast("ASGIFramework", self.app))
        self._http.add(lent)
        try:
            with trio.move_on_after(HTTP_TIMEOUT_S):
                await TCPServer(app, self._hypercorn, self._context, {}, served)
        finally:
            self._http.discard(lent)


def _peer_host(stream: AnyStream) -> str:
    """Raises OSError if the peer is gone already."""
    host: str = tcp_socket(stream).getpeername()[0]
    return host


def _socket_address(name: tuple[Any, ...]) -> SocketAddress:
    """An address of a socket; that of a link-local one has its interface's number as the zone, `fe80::1%2`."""
    scope = name[3] if len(name) == 4 else 0
    return f"{name[0]}%{scope}" if scope else name[0], name[1]


# No resource here takes a body, and no other protocol is switched to: hypercorn would answer `Upgrade: h2c`.
_NOT_PASSED_ON = frozenset(
    {b"connection", b"content-length", b"expect", b"http2-settings", b"keep-alive", b"transfer-encoding", b"upgrade"}
)


def _plain_request(head: Head) -> bytes:
    """The request as hypercorn gets it: alone on its connection and without a body."""
    if head.method == b"PRI":
        raise Refused("505 HTTP Version Not Supported", "HTTP/1.1 is spoken here.")
    lines = [head.method + b" " + head.target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in head.headers if name not in _NOT_PASSED_ON]
    if not head.values(b"host"):
        lines.append(b"host: localhost")  # HTTP/1.0, which load balancers' probes speak, has none
    return b"\r\n".join([*lines, b"connection: close", b"", b""])

"""The data path in C, driven from trio: commands go in as bytes, control packets come out. Linux."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Iterator
from ctypes import byref
from functools import lru_cache

import attrs
import trio

from tavern.addresses import SocketAddress
from tavern.relay.control_queue import ControlPacket
from tavern.relay.data_path import DataPathStatistics
from tavern.relay.native.encoding import (
    CONTROL_PACKET,
    NO_SOCKET,
    CommandEncoder,
    pack_address,
    pack_answer,
    pack_stream_client,
    pack_together,
    pack_udp_client,
)
from tavern.relay.native.library import Address, Client, CoreConfig, CTraffic, Drops, load_library
from tavern.relay.native.links import NativeLinks
from tavern.relay.sockets import Listener, five_tuple_of, route
from tavern.relay.stream_links import PythonStreamLink
from tavern.turn.commands import AddFlow, AddRelayedAddress, CloseClient, Command, SendToClient
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Traffic
from tavern.turn.indications import SockAddr
from tavern.turn.limiter import BURST_S

_STOP_TIMEOUT_S = 5.0  # far beyond what a turn of the loop takes; a thread that hangs is left behind
_MAX_CONTROL_SIZE = 2048  # of control packets: what the data path lets through
# Clients whose names are kept in both forms, those of the last seconds: a handshake needs them four times. 1 MB; forged
# addresses push others out, which costs those a few microseconds.
_MAX_CLIENTS = 1024


class NativeDataPath:
    """`DataPath` as a thread that runs compiled code without the interpreter's lock."""

    def __init__(
        self,
        listeners: list[Listener],
        own_hosts: frozenset[str],
        *,
        user_bytes_per_s: int = 0,
        bytes_per_s: int = 0,
    ) -> None:
        """To be made inside trio. Takes the listeners over. The rates are `Meter`'s; 0: unlimited.

        Raises NoNativeDataPath, or OSError, and then takes nothing over.
        """
        self._library = load_library()
        self._path = self._open(listeners, own_hosts, user_bytes_per_s, bytes_per_s)
        self._listeners = listeners
        self._encoder = CommandEncoder()
        self._links = NativeLinks(self._library, self._path, self._submit)
        self._generations: dict[int, int] = {}
        """By descriptors that are watched and not added yet."""
        self._together: list[bytes] | None = None
        """The encoded commands of a block of `together`."""
        self._packet = ctypes.create_string_buffer(CONTROL_PACKET.size + _MAX_CONTROL_SIZE)
        self._packet_at = ctypes.addressof(self._packet)
        self._data_at = self._packet_at + CONTROL_PACKET.size
        self._five_tuple_of = lru_cache(_MAX_CLIENTS)(self._five_tuple)
        self._udp_client = lru_cache(_MAX_CLIENTS)(self._pack_client)
        self._control_ready = trio.Event()
        self._last_statistics: DataPathStatistics | None = None
        self._stopping = False
        self._error: BaseException | None = None
        self._ended = trio.Event()
        self._notice_task_ended = trio.Event()
        self._trio_token = trio.lowlevel.current_trio_token()
        # A daemon: one that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name="relay data path", daemon=True)

    def _open(
        self, listeners: list[Listener], own_hosts: frozenset[str], user_bytes_per_s: int, bytes_per_s: int
    ) -> int:
        hosts = b"".join(pack_address((host, 0)) for host in own_hosts)
        ports = sorted({listener.port for listener in listeners})
        packed_hosts = ctypes.create_string_buffer(hosts, len(hosts) or 1)
        packed_ports = (ctypes.c_uint16 * len(ports))(*ports)
        config = CoreConfig(
            own_hosts=ctypes.cast(packed_hosts, ctypes.c_void_p),
            own_host_count=len(own_hosts),
            listener_ports=ctypes.cast(packed_ports, ctypes.c_void_p),
            listener_port_count=len(ports),
            user_bytes_per_s=user_bytes_per_s,
            bytes_per_s=bytes_per_s,
        )
        path = self._library.tavern_open(byref(config))
        if not path:
            raise _last_error()
        for listener in listeners:
            family = 6 if listener.family == socket.AF_INET6 else 4
            if self._library.tavern_add_listener(path, listener.sock.fileno(), family, listener.has_local) < 0:
                error = _last_error()
                self._library.tavern_give_back_listeners(path)
                self._library.tavern_close(path)
                raise error
        return int(path)

    def start(self) -> None:
        """See DataPath."""
        trio.lowlevel.spawn_system_task(self._notice, name="relay data path's notices")
        self._thread.start()

    def answer_challenges(self, nonce_key: bytes, realm: bytes, rate_per_s: float) -> bool:
        """Whether Allocates without credentials are answered here from now on, so many a second for each source.

        With the nonces of `Nonces(nonce_key)`; to be called before `start`. False where the realm is too long.
        """
        burst = rate_per_s * BURST_S
        sizes = len(nonce_key), len(realm)
        return bool(
            self._library.tavern_set_challenge(self._path, nonce_key, sizes[0], realm, sizes[1], rate_per_s, burst)
        )

    def open_shared(self, address: SocketAddress, relay_socket: socket.socket) -> None:
        """See DataPath."""
        if self._library.tavern_open_shared(self._path, pack_address(address), relay_socket.fileno()) < 0:
            raise _last_error()
        relay_socket.detach()

    def watch(self, relay_socket: socket.socket) -> None:
        """See DataPath."""
        if self._has_ended:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        generation = self._library.tavern_watch(self._path, relay_socket.fileno())
        if generation == 0:
            raise _last_error()
        self._generations[relay_socket.fileno()] = generation

    def add_relay(self, command: AddFlow | AddRelayedAddress, relay_socket: socket.socket | None) -> None:
        """See DataPath."""
        relay = NO_SOCKET
        if relay_socket is not None:
            fd = relay_socket.detach()
            relay = fd, self._generations.pop(fd)
        if isinstance(command, AddFlow):
            self._submit(self._encoder.add_flow(command, self._client(command.five_tuple), relay))
        else:
            self._submit(self._encoder.add_relayed_address(command, relay))

    def submit(self, command: Command) -> None:
        """See DataPath."""
        if isinstance(command, SendToClient):
            if command.five_tuple.transport is Transport.UDP:
                self._submit(pack_answer(self._udp_client(command.five_tuple), command.data))
            else:
                self._links.answer(command)
        elif isinstance(command, CloseClient):
            self._links.answer(command)
        else:
            assert not isinstance(command, AddFlow | AddRelayedAddress)
            self._submit(self._encoder.encode(command))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """See `data_paths.together`: one call and one wake-up of the thread for all of them."""
        assert self._together is None
        commands: list[bytes] = []
        self._together = commands
        try:
            yield
        finally:
            self._together = None
            if commands and not self._has_ended:
                packed = pack_together(commands)
                self._library.tavern_submit_all(self._path, packed, len(packed))

    def open_stream(self, five_tuple: FiveTuple) -> PythonStreamLink:
        """See DataPath."""
        return self._links.queues.open(five_tuple)

    def take_control_packet(self, now: float) -> ControlPacket | None:
        """See DataPath."""
        if self._has_ended or not self._library.tavern_take_control(self._path, now, self._packet_at, self._data_at):
            return None
        client, received_at, size, _ = CONTROL_PACKET.unpack_from(self._packet)
        data = ctypes.string_at(self._data_at, size)
        return ControlPacket(data, self._five_tuple_of(client), received_at)

    def statistics(self) -> DataPathStatistics:
        """See DataPath."""
        if self._last_statistics is not None:
            return self._last_statistics
        traffic, drops, challenges = CTraffic(), Drops(), ctypes.c_uint64()
        self._library.tavern_statistics(self._path, byref(traffic), byref(drops), byref(challenges))
        return DataPathStatistics(
            traffic=Traffic(**{field.name: getattr(traffic, field.name) for field in attrs.fields(Traffic)}),
            drops={str(reason): count for reason, count in zip(Drop, drops, strict=True)},
            challenges=challenges.value,
        )

    async def wait_control_packets(self) -> None:
        """See DataPath."""
        await self._control_ready.wait()
        self._control_ready = trio.Event()

    async def wait_ended(self) -> None:
        """See DataPath."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """See DataPath."""
        if self._last_statistics is not None:
            return
        self._stopping = True
        with trio.CancelScope(shield=True):
            if self._thread.ident is not None:
                self._library.tavern_stop(self._path)
                os.eventfd_write(self._library.tavern_notice_fd(self._path), 1)
                with trio.move_on_after(_STOP_TIMEOUT_S) as limit:
                    await self._ended.wait()
                    await self._notice_task_ended.wait()
                if limit.cancelled_caught:
                    return
                self._thread.join()
        self._last_statistics = self.statistics()
        for listener in self._listeners:
            listener.sock.detach()
        self._links.end()
        self._library.tavern_close(self._path)

    @property
    def _has_ended(self) -> bool:
        """Whether there is nothing behind `_path` any more: streams may end later than the relay."""
        return self._last_statistics is not None

    def _submit(self, command: bytes) -> None:
        if self._together is not None:
            self._together.append(command)
        elif not self._has_ended:
            self._library.tavern_submit(self._path, command, len(command))

    def _five_tuple(self, packed: bytes) -> FiveTuple:
        """Whom a `struct client` over UDP names."""
        client = Client.from_buffer_copy(packed)
        listener = self._listeners[client.listener]
        local = b""
        if listener.has_local:
            local = bytes(client.local[:4] if listener.family == socket.AF_INET else client.local)
        return five_tuple_of(listener, _sockaddr(client.address), local)

    def _client(self, five_tuple: FiveTuple) -> bytes:
        if five_tuple.transport is not Transport.UDP:
            return pack_stream_client(self._links.number(five_tuple))
        return self._udp_client(five_tuple)

    def _pack_client(self, five_tuple: FiveTuple) -> bytes:
        """The `struct client` of one over UDP."""
        listener, client, local = route(self._listeners, five_tuple)
        scope = client[3] if len(client) == 4 else 0
        return pack_udp_client(self._listeners.index(listener), client[:2], scope, local)

    async def _notice(self) -> None:
        """Tells those who wait of what the thread has for them, until `stop`."""
        fd = self._library.tavern_notice_fd(self._path)
        while not self._stopping:
            await trio.lowlevel.wait_readable(fd)
            self._library.tavern_notice_seen(self._path)
            self._links.take_events()
            self._control_ready.set()
        self._notice_task_ended.set()

    def _main(self) -> None:
        number = self._library.tavern_run(self._path)
        if number:
            self._error = OSError(number, f"the relay's data path ended: {os.strerror(number)}")
        with contextlib.suppress(trio.RunFinishedError):  # nobody is left to be told
            self._trio_token.run_sync_soon(self._ended.set)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _sockaddr(address: Address) -> SockAddr:
    if address.family == 4:
        return socket.inet_ntop(socket.AF_INET, bytes(address.ip[:4])), address.port
    return socket.inet_ntop(socket.AF_INET6, bytes(address.ip)), address.port, 0, address.scope

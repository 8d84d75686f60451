"""The data path in Python: a thread with epoll and non-blocking sockets; what it relays never touches trio. Linux."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

import trio

from tavern.addresses import SocketAddress
from tavern.relay.client_sockets import AT_ONCE, ClientSocket, UdpClient
from tavern.relay.control_queue import ControlPacket, ControlQueue
from tavern.relay.data_path import DataPathStatistics
from tavern.relay.endpoints import AddRelay, Endpoint
from tavern.relay.relay_sockets import RelaySockets
from tavern.relay.sockets import Listener, dropped_packets, five_tuple_of, route
from tavern.relay.stream_links import FromStream, PythonStreamLink, PythonStreamLinks, ToStream
from tavern.turn.commands import (
    AddFlow,
    AddOwnHost,
    AddRelayedAddress,
    BindChannel,
    CloseClient,
    Command,
    LearnPeer,
    RemoveFlow,
    RemoveOwnHost,
    RemoveRelayedAddress,
    RevokePermission,
    SendToClient,
    SetCircles,
    SetPermission,
    SetTransfer,
    UnbindChannel,
)
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow
from tavern.turn.forwarding import CONTROL, STUN_HEADER_SIZE, Forwarder, Output, Reply, Unfragmented
from tavern.turn.indications import SockAddr
from tavern.turn.metering import Meter

_LISTENER_DRAIN = 128  # all clients share a listener
_MAX_EVENTS = 64  # sockets served before commands are looked at again: at most 64 * 32 packets, some 15 ms
_MAX_COMMANDS = 2048  # at once, some 5 ms: a member that leaves may end 57,000 permissions of the others
_STOP_TIMEOUT_S = 5.0  # far beyond what a turn of the loop takes; a thread that hangs is left behind


class PythonDataPath:
    """`DataPath` as a supervised thread: what ends it is raised by `wait_ended`."""

    def __init__(self, listeners: list[Listener], own_hosts: frozenset[str], meter: Meter | None = None) -> None:
        """To be made inside trio. Takes the listeners over, and the meter, which nobody else may use."""
        self._listeners = listeners
        self._forwarder: Forwarder[Endpoint] = Forwarder(
            own_hosts, lambda: random.getrandbits(96), frozenset(listener.port for listener in listeners), meter
        )
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._relays = RelaySockets(self._forwarder, self._to_clients)
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Not bounded by itself: a control packet makes a few commands, and the control packets are.
        # What streams put here is bounded by their links.
        self._commands: deque[Command | AddRelay | FromStream | ToStream] = deque()
        self._wake_pending = False
        self._stopping = False
        self._control = ControlQueue()
        self._control_announced = False
        self._control_ready = trio.Event()
        self._streams = PythonStreamLinks(self._command, self._run_in_trio)
        self._closed_drops = 0
        # Held while flows come, go or are summed up: a total must not waver.
        self._counting = threading.Lock()
        self._trio_token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._error: BaseException | None = None
        # A daemon: one that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name="relay data path", daemon=True)
        self._client_sockets = [
            ClientSocket(listener, number, self._relays.count_unsent) for number, listener in enumerate(listeners)
        ]
        for sock in self._client_sockets:
            self._handlers[sock.listener.sock.fileno()] = self._listener_handler(sock)
            self._epoll.register(sock.listener.sock.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake_fd, select.EPOLLIN)

    # Control side: all of these run in trio's thread

    def open_shared(self, address: SocketAddress, relay_socket: socket.socket) -> None:
        """See DataPath."""
        self.watch(relay_socket)
        self._handlers[relay_socket.fileno()] = self._relays.open_shared(address, relay_socket)

    def start(self) -> None:
        """See DataPath."""
        self._thread.start()

    def watch(self, relay_socket: socket.socket) -> None:
        """See DataPath. Not left to the thread, where an error would end it for everybody."""
        self._epoll.register(relay_socket.fileno(), select.EPOLLIN)

    def add_relay(self, command: AddFlow | AddRelayedAddress, relay_socket: socket.socket | None) -> None:
        """See DataPath."""
        link = self._streams.find(command.five_tuple) if isinstance(command, AddFlow) else None
        self._command(AddRelay(command, relay_socket, link))

    def submit(self, command: Command) -> None:
        """See DataPath."""
        if isinstance(command, SendToClient | CloseClient) and command.five_tuple.transport is not Transport.UDP:
            self._streams.answer(command)
        else:
            self._command(command)

    def open_stream(self, five_tuple: FiveTuple) -> PythonStreamLink:
        """See DataPath."""
        return self._streams.open(five_tuple)

    def take_control_packet(self, now: float) -> ControlPacket | None:
        """See DataPath."""
        return self._control.take(now)

    def statistics(self) -> DataPathStatistics:
        """See DataPath."""
        drops = dict(self._forwarder.drops)
        kept = [*(listener.sock for listener in self._listeners), *self._relays.shared]
        drops[Drop.RECEIVE_BUFFER_FULL] += sum(map(dropped_packets, kept)) + self._closed_drops
        drops[Drop.CONTROL_QUEUE_FULL] += self._control.dropped
        with self._counting:
            traffic = self._forwarder.traffic()
        return DataPathStatistics(traffic=traffic, drops=drops)

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
        self._stopping = True
        self._wake()
        with trio.move_on_after(_STOP_TIMEOUT_S, shield=True):
            if self._thread.ident is not None:
                await self._ended.wait()
                self._thread.join()
            self._close()

    def _command(self, command: Command | AddRelay | FromStream | ToStream) -> None:
        self._commands.append(command)
        self._wake()

    def _wake(self) -> None:
        # The thread clears the flag before it looks at the queue, so what was appended before this check is seen.
        if not self._wake_pending:
            self._wake_pending = True
            os.eventfd_write(self._wake_fd, 1)

    def _close(self) -> None:
        for flow in list(self._forwarder):
            for relay in flow.handle.relays:
                relay.close()
        for command in self._commands:
            if isinstance(command, AddRelay) and command.relay is not None:
                command.relay.close()
        for relay in self._relays.shared:
            relay.close()
        for listener in self._listeners:
            listener.sock.close()
        self._epoll.close()
        os.close(self._wake_fd)

    # The thread

    def _main(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 - it is raised again in trio
            self._error = error
        with contextlib.suppress(trio.RunFinishedError):  # nobody is left to be told
            self._trio_token.run_sync_soon(self._ended.set)

    def _loop(self) -> None:
        handlers = self._handlers
        poll = self._epoll.poll
        monotonic = time.monotonic
        wake_fd = self._wake_fd
        error = select.EPOLLERR
        while not self._stopping:
            woken = False
            events = poll(-1, _MAX_EVENTS)
            now = monotonic()
            # Before the packets: who was told that somebody left must find him gone.
            if self._commands:
                self._execute_commands(now)
            for fd, mask in events:
                if fd == wake_fd:
                    woken = True
                elif handler := handlers.get(fd):  # else its socket went with a command, or comes with one
                    if mask & error:
                        self._relays.report_errors(fd, now)
                    handler(now)
            self._relays.last_turn = now
            self._finish(now)
            if woken:
                os.eventfd_read(wake_fd)
                self._wake_pending = False
                self._execute_commands(now)
                if self._commands:
                    self._wake()  # the rest after the sockets
                self._finish(now)  # what came from streams
            self._streams.thread_announce()

    def _listener_handler(self, sock: ClientSocket) -> Callable[[float], None]:
        receive = sock.receive
        from_client = self._forwarder.from_client

        def drain(now: float) -> None:
            self._finish(now)  # it waits no longer than for itself
            for _ in range(_LISTENER_DRAIN // AT_ONCE):
                packets = receive()
                outputs: list[Output[Endpoint] | Unfragmented[Endpoint]] = []
                for key, data in packets:
                    # The address is read only where it may be asked for.
                    client = sock.read_key(key)[0] if len(data) == STUN_HEADER_SIZE else None
                    output = from_client(data, key, now, client)
                    if isinstance(output, tuple):  # first what is most
                        outputs.append(output)
                    elif output is CONTROL:
                        self._to_control(sock, data, key, now)
                    elif isinstance(output, Reply):
                        sock.send(output.data, *sock.read_key(key))
                    elif output is not None:
                        outputs.append(output)
                self._send_all(outputs)
                if len(packets) < AT_ONCE:
                    break

        return drain

    def _send_all(self, outputs: list[Output[Endpoint] | Unfragmented[Endpoint]]) -> None:
        """What clients sent; many at once, since kernel and interpreter push each other out of the CPU's caches."""
        for output in outputs:
            if isinstance(output, Unfragmented):
                self._relays.send_unfragmented(output)
                continue
            flow, data, peer = output
            if peer is None:
                self._to_clients([output])
                continue
            endpoint = flow.handle
            relay = endpoint.relay_ipv4 if len(peer) == 2 else endpoint.relay_ipv6
            try:
                relay.sendto(data, peer)
            except OSError as error:
                self._relays.send_again(relay.sendto, data, peer, error)

    def _to_clients(self, outputs: list[Output[Endpoint]]) -> None:
        for flow, data, _ in outputs:
            client = flow.handle.client
            if isinstance(client, UdpClient):
                client.socket.put(client, data)
            elif not self._streams.thread_put_media(client, data):
                self._forwarder.drops[Drop.STREAM_OUTBOX_FULL] += 1

    def _finish(self, now: float) -> None:
        """What was received goes on, and what is gathered for clients."""
        self._relays.decide(now)
        for sock in self._client_sockets:
            if sock.waiting:
                sock.flush()

    def _to_control(self, sock: ClientSocket, data: bytes, key: bytes, now: float) -> None:
        five_tuple = five_tuple_of(sock.listener, *sock.read_key(key))
        if not self._control.put(ControlPacket(data, five_tuple, now), has_flow=self._forwarder.has_flow(key)):
            return
        if not self._control_announced:
            self._control_announced = True
            self._run_in_trio(self._announce_control)

    def _run_in_trio(self, function: Callable[[], None]) -> None:
        try:
            self._trio_token.run_sync_soon(function)
        except trio.RunFinishedError:
            self._stopping = True

    def _announce_control(self) -> None:
        self._control_announced = False
        self._control_ready.set()

    # Commands, in the thread

    def _execute_commands(self, now: float) -> None:
        commands = self._commands
        # Those that come meanwhile have woken the next turn: streams that flood must not keep the sockets waiting.
        for _ in range(min(len(commands), _MAX_COMMANDS)):
            command = commands.popleft()
            if isinstance(command, FromStream):
                self._from_stream(command, now)
            elif isinstance(command, ToStream):
                self._streams.thread_execute(command)
            elif isinstance(command, AddRelay):
                self._add_relay(command)
            elif isinstance(command, SendToClient):
                self._send_to_client(command)
            elif isinstance(command, RemoveFlow):
                self._remove_flow(command)
            elif isinstance(command, SetCircles):
                self._forwarder.set_circles(command)
            elif isinstance(command, RemoveRelayedAddress):
                self._remove_relayed_address(command)
            elif isinstance(command, SetPermission):
                self._forwarder.set_permission(command)
            elif isinstance(command, BindChannel):
                self._forwarder.bind_channel(command)
            elif isinstance(command, RevokePermission):
                self._forwarder.revoke_permission(command)
            elif isinstance(command, SetTransfer):
                self._forwarder.set_transfer(command)
            elif isinstance(command, AddOwnHost):
                self._forwarder.add_own_host(command)
            elif isinstance(command, RemoveOwnHost):
                self._forwarder.remove_own_host(command)
            elif isinstance(command, LearnPeer):
                self._forwarder.learn_peer(command)
            else:
                assert isinstance(command, UnbindChannel), command
                self._forwarder.unbind_channel(command)

    def _from_stream(self, command: FromStream, now: float) -> None:
        five_tuple = command.link.five_tuple
        self._streams.thread_took(command.link, command.size)
        outputs = [self._forwarder.from_client(frame, five_tuple, now) for frame in command.frames]
        self._send_all([output for output in outputs if isinstance(output, tuple | Unfragmented)])

    def _add_relay(self, new: AddRelay) -> None:
        command = new.command
        relay = self._relays.shared_at(command.relayed_address) if new.relay is None else new.relay
        if isinstance(command, AddFlow):
            flow = self._add_flow(command, relay, new.link)
        else:
            known = self._forwarder.add_relayed_address(command)
            if known is None:
                if new.relay is not None:
                    relay.close()
                return
            known.handle.add(relay)
            flow = known
        if new.relay is not None:
            self._handlers[relay.fileno()] = self._relays.add(flow, relay)

    def _add_flow(self, command: AddFlow, relay: socket.socket, link: PythonStreamLink | None) -> Flow[Endpoint]:
        way: UdpClient | PythonStreamLink
        if link is not None:
            client_key: Hashable = command.five_tuple
            way = link
        else:
            sock, client, local = self._route(command.five_tuple)
            client_key = sock.key(client, local)
            way = sock.client(client, local)
        with self._counting:
            return self._forwarder.add_flow(command, client_key, Endpoint(relay, relay, way))

    def _remove_flow(self, command: RemoveFlow) -> None:
        with self._counting:
            flow = self._forwarder.remove_flow(command)
        if flow is None:
            return
        for relay in flow.handle.relays:
            self._close_relay(relay)

    def _remove_relayed_address(self, command: RemoveRelayedAddress) -> None:
        flow = self._forwarder.remove_relayed_address(command)
        if flow is not None:
            family = socket.AF_INET6 if ":" in command.relayed_address[0] else socket.AF_INET
            self._close_relay(flow.handle.remove(family))

    def _close_relay(self, relay: socket.socket) -> None:
        if relay in self._relays.shared:
            return
        self._closed_drops += dropped_packets(relay)
        self._epoll.unregister(relay.fileno())
        del self._handlers[relay.fileno()]
        self._relays.forget(relay)
        relay.close()

    def _send_to_client(self, command: SendToClient) -> None:
        sock, client, local = self._route(command.five_tuple)
        sock.send(command.data, client, local)

    def _route(self, five_tuple: FiveTuple) -> tuple[ClientSocket, SockAddr, bytes]:
        listener, client, local = route(self._listeners, five_tuple)
        return self._client_sockets[self._listeners.index(listener)], client, local

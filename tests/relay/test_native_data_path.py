"""The compiled data path by itself: its thread, its ends, what waits for it and for the control side."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing

from tavern.errors import StartupError
from tavern.relay import data_paths
from tavern.relay.native import library
from tavern.relay.native.data_path import NativeDataPath
from tavern.relay.native.library import NoNativeDataPath, load_library
from tavern.relay.sockets import Listener, open_listeners
from tavern.relay.stream_links import MAX_INBOX_BYTES, MAX_INBOXES_BYTES, PACKET_SIZE, SOURCES_THAT_FIT
from tavern.stun.message import AttributeType, MessageClass, Method, encode
from tavern.turn.commands import AddFlow, SetCircles
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tests.prerequisites import native_or_skip
from tests.relay.test_relay import open_descriptors
from tests.relay.test_streams import CHANNEL, on_channel, open_stream
from tests.twin import TwinForwarder

if TYPE_CHECKING:
    from tavern.addresses import SocketAddress
    from tavern.relay.stream_links import PythonStreamLinks
    from tests.relay.conftest import Connect, Running, Start


@pytest.fixture(autouse=True)
def _native() -> None:
    native_or_skip()


async def flood(
    running: Running, nursery: trio.Nursery, *, streams: int, sources: int
) -> tuple[PythonStreamLinks, list[trio.SocketStream]]:
    """So many streams, from so many addresses, on each of which more waits than may be taken; and their ends."""
    data_path = running.relay._data_path
    assert isinstance(data_path, NativeDataPath)
    ends = []
    for number in range(streams):
        ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
        client = FiveTuple(Transport.TCP, (f"127.0.1.{number % sources}", 1024 + number), ("127.0.0.1", running.port))
        nursery.start_soon(running.relay.serve_stream, theirs, on_channel(b"") * 4000, client)
        ends += [ours, theirs]
    await trio.testing.wait_all_tasks_blocked(0.05)
    return data_path._links.queues, ends


async def test_what_ends_the_thread_ends_the_relay(start_native: Start, connect_client: Connect) -> None:
    before = open_descriptors()
    with trio.fail_after(5), pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with start_native() as running, connect_client(running) as client:
            await client.allocate()
            data_path = running.relay._data_path
            assert isinstance(data_path, NativeDataPath)
            data_path._submit(b"\xff what no command begins with")
            await trio.sleep_forever()
    assert open_descriptors() == before


async def test_sockets_that_came_with_commands_are_closed_though_nothing_was_executed() -> None:
    before = open_descriptors()
    listeners = open_listeners(("127.0.0.1",), 0)
    path = NativeDataPath(listeners, frozenset())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
        relay.bind(("127.0.0.1", 0))
        path.watch(relay)
        client = FiveTuple(Transport.UDP, ("127.0.0.1", 9), listeners[0].address)
        path.add_relay(AddFlow(1, client, relay.getsockname(), user="bob", circles=None), relay)
    await path.stop()
    assert open_descriptors() == before


def added(flow_id: int, listeners: list[Listener], relayed: SocketAddress) -> AddFlow:
    client = FiveTuple(Transport.UDP, ("127.0.0.1", flow_id), listeners[0].address)
    return AddFlow(flow_id, client, relayed, user="bob", circles=None)


async def test_it_is_closed_though_several_commands_cannot_be_read() -> None:
    before = open_descriptors()
    path = NativeDataPath(open_listeners(("127.0.0.1",), 0), frozenset())
    for _ in range(3):
        path._submit(b"\xff what no command begins with")
    path.start()
    with pytest.raises(OSError, match=os.strerror(errno.EBADMSG)):
        await path.wait_ended()
    await path.stop()
    assert open_descriptors() == before


@pytest.mark.parametrize("wrong", ["none", "unwatched", "twice"])
async def test_a_flow_without_a_socket_of_its_own_ends_it(wrong: str) -> None:
    """Our own bug: nothing is written or closed that is another one's."""
    before = open_descriptors()
    listeners = open_listeners(("127.0.0.1",), 0)
    path = NativeDataPath(listeners, frozenset())
    path.start()
    relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    relay.bind(("127.0.0.1", 0))
    path.watch(relay)
    address, fd = relay.getsockname(), relay.fileno()
    path.add_relay(added(1, listeners, address), relay)
    client = path._client(added(2, listeners, address).five_tuple)
    descriptor = {"none": -1, "unwatched": 1 << 30, "twice": fd}[wrong]
    path._submit(path._encoder.add_flow(added(2, listeners, ("127.0.0.1", 9)), client, (descriptor, 7)))
    with trio.fail_after(5), pytest.raises(OSError, match=os.strerror(errno.EBADMSG)):
        await path.wait_ended()
    await path.stop()
    assert open_descriptors() == before


async def test_circles_that_are_not_all_there_end_it() -> None:
    listeners = open_listeners(("127.0.0.1",), 0)
    path = NativeDataPath(listeners, frozenset())
    path.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
        relay.bind(("127.0.0.1", 0))
        path.watch(relay)
        path.add_relay(added(1, listeners, relay.getsockname()), relay)
    command = path._encoder.encode(SetCircles(1, frozenset({"a", "b"})))
    path._submit(command[:-1])
    with trio.fail_after(5), pytest.raises(OSError, match=os.strerror(errno.EBADMSG)):
        await path.wait_ended()
    await path.stop()


async def test_one_that_is_opened_later_changes_nothing_for_the_others() -> None:
    """What flows are found by is the process's, and they are in use."""
    forwarder = TwinForwarder[str](frozenset(), lambda: 7)
    client = FiveTuple(Transport.UDP, ("127.0.0.1", 9), ("127.0.0.1", 3478))
    forwarder.add_flow(AddFlow(1, client, ("127.0.0.1", 50000), user="bob", circles=None), "bob", "")
    path = NativeDataPath(open_listeners(("127.0.0.1",), 0), frozenset())
    await path.stop()
    forwarder.from_client(b"\x40\0\0\0", "bob", 0.0)
    assert forwarder.drops[Drop.NO_CHANNEL] == 1


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS])
async def test_the_largest_frames_of_a_stream_cost_no_other_ones(start_native: Start, transport: Transport) -> None:
    """A frame may be larger than any datagram: it goes nowhere, is counted, and what follows it passes."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        await peer.bind(("127.0.0.1", 0))
        async with start_native() as running, open_stream(running, transport=transport) as client:
            await client.allocate()
            await client.bind(CHANNEL, peer.getsockname())
            largest = encode(Method.SEND, MessageClass.INDICATION, bytes(12), [(AttributeType.DATA, bytes(65528))])
            await client.send(on_channel(bytes(65535)) + b"\0" + largest + on_channel(b"after"))
            with trio.fail_after(5):
                assert await peer.recv(100) == b"after"
            drops = running.relay.statistics().drops
            assert drops[Drop.WOULD_FRAGMENT] == 1
            assert drops[Drop.MALFORMED] == 1


async def test_nothing_is_taken_over_where_a_listener_cannot_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    listeners = open_listeners(("127.0.0.1", "127.0.0.2"), 0)
    listeners[1].sock.close()
    before = open_descriptors()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        NativeDataPath(listeners, frozenset())
    assert open_descriptors() == before
    assert listeners[0].sock.fileno() >= 0
    listeners[0].sock.getsockname()
    listeners[0].sock.close()


async def test_relay_sockets_that_cannot_be_watched(start_native: Start, connect_client: Connect) -> None:
    async with start_native() as running, connect_client(running) as client:
        data_path = running.relay._data_path
        assert isinstance(data_path, NativeDataPath)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as watched:
            data_path.watch(watched)
            with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
                data_path.watch(watched)
        await client.allocate()


async def test_what_a_batch_of_requests_leads_to_is_one_call(
    start_native: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = load_library()
    calls: list[str] = []

    def count(name: str) -> None:
        real = getattr(library, name)

        def counted(*arguments: object) -> object:
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(library, name, counted)

    async with start_native() as running, connect_client(running) as client:
        count("tavern_submit")
        count("tavern_submit_all")
        await client.allocate()  # a 401; then AddFlow and the answer
        monkeypatch.undo()
        assert calls == ["tavern_submit_all"] * 2


async def test_requests_beyond_the_control_queue_are_dropped_and_counted(
    start_native: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While trio does nothing, one source has 128 places."""
    async with start_native() as running, connect_client(running) as client:
        request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), [(AttributeType.SOFTWARE, b"x")])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.connect(("127.0.0.1", running.port))
            for _ in range(400):
                flood.send(request)
            deadline = trio.current_time() + 5
            while running.relay.statistics().control_drops < 400 - 128 and trio.current_time() < deadline:
                pass  # without a checkpoint
            assert running.relay.statistics().control_drops == 400 - 128
        await trio.testing.wait_all_tasks_blocked()
        await client.allocate()


async def test_requests_that_waited_too_long_are_not_answered(start_native: Start) -> None:
    async with start_native() as running:
        data_path = running.relay._data_path
        assert isinstance(data_path, NativeDataPath)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", running.port))
            client.send(encode(Method.BINDING, MessageClass.REQUEST, bytes(12), [(AttributeType.SOFTWARE, b"x")]))
            packet = None
            while packet is None:
                packet = data_path.take_control_packet(0.0)
            client.send(packet.data)
            while data_path.statistics().drops[Drop.CONTROL_QUEUE_FULL] == 0:
                assert data_path.take_control_packet(packet.received_at + 10) is None


async def test_a_flood_waits_with_its_sender(start_native: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the data path does not get on, the process does not hold what clients send."""
    monkeypatch.setattr(NativeDataPath, "start", lambda _self: None)
    least = MAX_INBOX_BYTES // (PACKET_SIZE + 4)
    async with start_native() as running, trio.open_nursery() as nursery:
        links, ends = await flood(running, nursery, streams=1, sources=1)
        waiting = links._all.bytes_put // (PACKET_SIZE + 4)
        assert least <= waiting < least + 40
        nursery.cancel_scope.cancel()
        for end in ends:
            end.socket.close()


@pytest.mark.parametrize(
    ("sources", "bound"),
    [
        (1, MAX_INBOXES_BYTES // SOURCES_THAT_FIT),
        (2, MAX_INBOXES_BYTES // SOURCES_THAT_FIT * 2),
        (8, MAX_INBOXES_BYTES),
    ],
)
async def test_floods_have_a_bound_for_each_source_and_all(
    start_native: Start, monkeypatch: pytest.MonkeyPatch, sources: int, bound: int
) -> None:
    monkeypatch.setattr(NativeDataPath, "start", lambda _self: None)
    async with start_native() as running, trio.open_nursery() as nursery:
        links, ends = await flood(running, nursery, streams=2 * MAX_INBOXES_BYTES // MAX_INBOX_BYTES, sources=sources)
        assert bound <= links._all.bytes_put < bound + sources * 32 * (PACKET_SIZE + 4)
        nursery.cancel_scope.cancel()
        for end in ends:
            end.socket.close()


def test_a_data_path_that_is_asked_for_and_not_there_is_a_startup_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "no.so")
    monkeypatch.setattr(data_paths, "load_library", library.load_library.__wrapped__)
    chosen = data_paths.choose_data_path("auto")
    assert chosen.name == "python"
    assert "not compiled" in chosen.reason
    with pytest.raises(StartupError, match=r"TAVERN_TURN_DATA_PATH=native: .*not compiled"):
        data_paths.choose_data_path("native")


@pytest.mark.parametrize(("attribute", "value"), [("ABI", library.ABI + 1), ("Drop", ["other", "reasons"])])
def test_a_library_of_another_version_is_not_used(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: object
) -> None:
    monkeypatch.setattr(library, attribute, value)
    with pytest.raises(NoNativeDataPath, match="install Tavern again"):
        library.load_library.__wrapped__()


def test_a_file_that_is_no_library_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not ELF")
    monkeypatch.setattr(library, "LIBRARY", broken)
    with pytest.raises(NoNativeDataPath, match="cannot be loaded"):
        library.load_library.__wrapped__()


async def test_many_ready_relay_sockets_do_not_starve_the_clients() -> None:
    """More than the kernel tells of at once; all that the clients sent is one of these sockets' turn in each round."""
    clients_share = 0.3  # of the time that all takes: a packet in each round would be half of it
    listeners = open_listeners(("127.0.0.1",), 0)
    path = NativeDataPath(listeners, frozenset())
    peer, client = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    client.setsockopt(socket.SOL_SOCKET, 35, 1)  # Linux: SO_TIMESTAMPNS
    request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12))
    with peer, client:
        for number in range(100):
            relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            relay.bind(("127.0.0.1", 0))
            address = relay.getsockname()
            path.watch(relay)
            five_tuple = FiveTuple(Transport.UDP, ("127.0.0.1", 1024 + number), listeners[0].address)
            path.add_relay(AddFlow(number, five_tuple, address, user="bob", circles=None), relay)
            for _ in range(150):
                peer.sendto(b"x", address)
        for _ in range(150):
            client.sendto(request, listeners[0].address)
        started = time.time()
        path.start()
        with trio.fail_after(10):
            while path.statistics().drops[Drop.NO_PERMISSION] < 100 * 150:
                await trio.lowlevel.checkpoint()
        ended = time.time()
        client.settimeout(5)
        for _ in range(150):
            _, [(_, _, stamp)], _, _ = client.recvmsg(100, 100)
        await path.stop()
    seconds, nanoseconds = struct.unpack("=qq", stamp)
    assert seconds + nanoseconds / 1e9 - started < clients_share * (ended - started)

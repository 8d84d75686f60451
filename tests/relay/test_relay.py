"""The relay on real loopback sockets: start, addresses, forwarding, supervision, the end."""

from __future__ import annotations

import errno
import os
import socket
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from tavern.errors import StartupError
from tavern.relay import control_queue, sockets
from tavern.relay.addresses import interface_addresses, primary_ipv4, primary_ipv6
from tavern.relay.config import RelayConfig
from tavern.relay.service import Relay
from tavern.stun.attributes import decode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode, parse
from tavern.turn.forwarding import Forwarder
from tests.relay.namespaces import has_ipv6, needs_ipv6

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Start

DELETE = (AttributeType.LIFETIME, bytes(4))
IPV6 = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x02\0\0\0")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, not paths


async def test_replies_leave_from_the_address_that_the_request_came_to(
    start_relay: Start, connect_client: Connect
) -> None:
    async with start_relay(hosts=()) as running:
        for host in ("127.0.0.1", "127.0.0.2"):
            async with connect_client(running, host) as client:
                answer = await client.binding()  # the client checks the sender of everything it receives
                value = answer.get(AttributeType.XOR_MAPPED_ADDRESS)
                assert value is not None
                mapped = decode_xor_address(value, answer.transaction_id)
                assert mapped == (ip_address("127.0.0.1"), client.sock.getsockname()[1])
                relayed = await client.allocate()
                await client.permit(("127.0.0.1", 9))
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                    peer.bind(("127.0.0.1", 0))
                    peer.sendto(b"down", relayed)
                assert parse(await client.receive()).get(AttributeType.DATA) == b"down"


async def test_all_interfaces_are_one_listener_per_family(start_relay: Start) -> None:
    async with start_relay(hosts=()) as running:
        assert running.addresses[0][0] == "0.0.0.0"
        assert [host for host, _ in running.addresses[1:]] == (["::"] if has_ipv6() else [])
        assert len({port for _, port in running.addresses}) == 1


async def test_a_machine_without_ipv6_still_starts(
    start_relay: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sockets._open_listener

    def without_ipv6(host: str, port: int) -> sockets.Listener:
        if ":" in host:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(host, port)

    monkeypatch.setattr(sockets, "_open_listener", without_ipv6)
    async with start_relay(hosts=()) as running:
        assert [host for host, _ in running.addresses] == ["0.0.0.0"]
        async with connect_client(running) as client:
            assert (await client.binding()).message_class is MessageClass.SUCCESS


async def test_data_passes_both_ways_with_permission_and_with_channel(
    start_relay: Start, connect_client: Connect
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        async with start_relay() as running, connect_client(running) as client:
            relayed = await client.allocate()
            await client.permit(peer.getsockname())
            await client.send_indication(b"up", peer.getsockname())
            assert await trio.to_thread.run_sync(peer.recvfrom, 100) == (b"up", relayed)
            await client.bind(0x4001, peer.getsockname())
            await client.send(b"\x40\x01\x00\x02UP")
            assert await trio.to_thread.run_sync(peer.recvfrom, 100) == (b"UP", relayed)
            peer.sendto(b"down", relayed)
            assert await client.receive() == b"\x40\x01\x00\x04down"
            statistics = running.relay.statistics()
            assert statistics.allocations == 1
            assert (statistics.packets_from_clients, statistics.bytes_from_clients) == (2, 4)
            assert (statistics.packets_to_clients, statistics.bytes_to_clients) == (1, 4)
            assert statistics.unauthenticated_answers == 1


@pytest.mark.clause("8656 §7.2: IPv6 clients and relayed addresses")
@needs_ipv6
async def test_ipv6_client_and_ipv6_relayed_address(start_relay: Start, connect_client: Connect) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind(("::1", 0))
        peer.settimeout(5)
        address = peer.getsockname()[:2]
        async with start_relay(hosts=("::1",)) as running:
            client_type = connect_client(running, "::1")
            async with client_type as client:
                client.server = ("::1", running.port)
                relayed = await client.allocate(IPV6)
                assert relayed[0] == "::1"
                await client.permit(address)
                await client.send_indication(b"up", address)
                assert (await trio.to_thread.run_sync(peer.recvfrom, 100))[0] == b"up"
                peer.sendto(b"down", relayed)
                message = parse(await client.receive())
                assert message.get(AttributeType.DATA) == b"down"


@pytest.mark.clause("8656 §11, §12: two peers on one relay, behind a NAT too")
async def test_relay_to_relay_is_handed_over_inside_the_process(start_relay: Start, connect_client: Connect) -> None:
    # An advertised address that this machine does not have: a packet sent to it could not come back, as behind a NAT.
    changes = {"advertised_addresses": (ip_address("192.0.2.77"),), "allow_peers": ()}
    async with (
        start_relay(**changes) as running,
        connect_client(running) as one,
        connect_client(running) as two,
    ):
        address_one, address_two = await one.allocate(), await two.allocate()
        for client, peer in ((one, address_two), (two, address_one)):
            assert (await client.permit(peer)).message_class is MessageClass.SUCCESS
        await one.send_indication(b"hello", address_two)
        message = parse(await two.receive())
        assert message.get(AttributeType.DATA) == b"hello"
        value = message.get(AttributeType.XOR_PEER_ADDRESS)
        assert value is not None
        host, port = decode_xor_address(value, message.transaction_id)
        assert (str(host), port) == address_one
        await two.bind(0x4000, address_one)
        await two.send(b"\x40\x00\x00\x02hi")
        assert parse(await one.receive()).get(AttributeType.DATA) == b"hi"


@pytest.mark.clause("8656 §8: LIFETIME 0 deletes, and the port is free")
async def test_deleting_an_allocation_frees_its_port(start_relay: Start, connect_client: Connect) -> None:
    async with start_relay() as running, connect_client(running) as client:
        _, port = await client.allocate()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(OSError, match="in use"):
                sock.bind(("127.0.0.1", port))
            assert (await client.request(Method.REFRESH, DELETE)).message_class is MessageClass.SUCCESS
            sock.bind(("127.0.0.1", port))
        assert running.relay.statistics().allocations == 0


async def test_sockets_go_while_their_events_are_pending(start_relay: Start, connect_client: Connect) -> None:
    stop = threading.Event()
    target: list[tuple[str, int]] = []

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.3", 0))
            while not stop.is_set():
                for address in target[-1:]:
                    peer.sendto(b"flood", address)

    async with start_relay() as running, connect_client(running) as client, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, flood)
        try:
            for _ in range(100):
                target.append(await client.allocate())
                assert (await client.request(Method.REFRESH, DELETE)).message_class is MessageClass.SUCCESS
        finally:
            stop.set()
    assert running.relay.statistics().allocations == 0


@pytest.mark.clause("8656 §8: an allocation ends at its time")
async def test_expired_allocations_go_without_any_packet(
    start_relay: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tavern.turn.allocation.DEFAULT_LIFETIME_S", 0)
    monkeypatch.setattr("tavern.turn.allocate.granted_lifetime_s", lambda _asked: 0)
    async with start_relay() as running, connect_client(running) as client:
        _, port = await client.allocate()
        with trio.fail_after(5):
            while True:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    try:
                        sock.bind(("127.0.0.1", port))
                    except OSError:
                        await trio.lowlevel.checkpoint()
                    else:
                        break
        assert running.relay.statistics().allocations == 0


async def test_a_port_in_use_is_a_startup_error_that_says_what_to_do(start_relay: Start) -> None:
    before = open_descriptors()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        for hosts in (("127.0.0.1",), ("127.0.0.2", "127.0.0.1"), ()):
            with pytest.RaisesGroup(pytest.RaisesExc(StartupError, match=f":{port} is in use: .*TAVERN_TURN_PORT")):
                async with start_relay(hosts=hosts, port=port):
                    pass
    assert open_descriptors() == before


async def test_an_address_that_is_not_ours_is_a_startup_error(start_relay: Start) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(StartupError, match="192.0.2.99:.*TAVERN_HOST")):
        async with start_relay(hosts=("192.0.2.99",)):
            pass


async def test_cancelling_joins_the_thread_and_closes_every_socket(start_relay: Start, connect_client: Connect) -> None:
    before = open_descriptors()
    with trio.fail_after(5):
        async with start_relay() as running, connect_client(running) as client:
            _, relay_port = await client.allocate()
            port = running.port
            assert any(one.name == "relay data path" for one in threading.enumerate())
    assert not any(one.name == "relay data path" for one in threading.enumerate())
    assert open_descriptors() == before
    for freed in (port, relay_port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", freed))


async def test_a_crash_of_the_thread_crashes_the_relay(
    start_python: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OurBugError(Exception):
        pass

    def crash(*_: object) -> None:
        raise OurBugError

    before = open_descriptors()
    monkeypatch.setattr(Forwarder, "from_client", crash)
    with trio.fail_after(5), pytest.RaisesGroup(OurBugError, flatten_subgroups=True):
        async with start_python() as running, connect_client(running) as client:
            await client.send(b"anything")
            await trio.sleep_forever()
    assert open_descriptors() == before


async def test_a_crash_of_the_control_side_ends_the_thread(
    start_relay: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OurBugError(Exception):
        pass

    def crash(*_: object) -> None:
        raise OurBugError

    before = open_descriptors()
    monkeypatch.setattr("tavern.relay.service.TurnServer.receive", crash)
    with trio.fail_after(5), pytest.RaisesGroup(OurBugError, flatten_subgroups=True):
        async with start_relay() as running, connect_client(running) as client:
            await client.send(encode(Method.REFRESH, MessageClass.REQUEST, bytes(12)))
            await trio.sleep_forever()
    assert open_descriptors() == before


async def test_requests_beyond_the_control_queue_are_dropped_and_counted(
    start_python: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_queue, "_MAX_BYTES", 0)
    async with start_python() as running, connect_client(running) as client:
        await client.send(encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12)))
        with trio.fail_after(5):
            while running.relay.statistics().control_drops != 1:
                await trio.lowlevel.checkpoint()
        monkeypatch.setattr(control_queue, "_MAX_BYTES", 100_000)
        await client.allocate()


async def test_many_requests_at_once_are_all_answered(start_relay: Start, connect_client: Connect) -> None:
    async with start_relay() as running, connect_client(running) as client:
        transactions = {os.urandom(12) for _ in range(150)}
        for number, transaction_id in enumerate(transactions):  # half of them plain, answered by the data path
            await client.send(
                encode(Method.BINDING, MessageClass.REQUEST, transaction_id, [(0x8022, b"us")][number % 2 :])
            )
        assert {parse(await client.receive()).transaction_id for _ in transactions} == transactions


async def test_a_flood_through_one_allocation_does_not_starve_another(
    start_relay: Start, connect_client: Connect
) -> None:
    async with start_relay() as running, connect_client(running) as loud, connect_client(running) as quiet:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            to_loud, to_quiet = await loud.allocate(), await quiet.allocate()
            for client in (loud, quiet):
                await client.permit(peer.getsockname())
            stop = trio.Event()

            async def flood() -> None:
                while not stop.is_set():
                    for _ in range(100):
                        peer.sendto(b"flood" * 40, to_loud)
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                for number in range(100):
                    peer.sendto(b"%d" % number, to_quiet)
                    assert f"{number}".encode() in await quiet.receive()
                stop.set()


async def test_garbage_on_the_port_changes_nothing(start_relay: Start, connect_client: Connect) -> None:
    async with start_relay() as running, connect_client(running) as client:
        for data in (b"", b"x", b"\xff" * 1200, b"\x00\x01\x00\x00", b"\x00\x03\xff\xff\x21\x12\xa4\x42" + bytes(12)):
            await client.send(data)
        await client.allocate()
        statistics = running.relay.statistics()
        assert statistics.drops["malformed"] + statistics.drops["malformed_request"] == 5


async def test_signaling_addresses_have_a_bucket_of_their_own(start_relay: Start, connect_client: Connect) -> None:
    async with start_relay(unauthenticated_rate=1) as running, connect_client(running) as client:
        request = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12))
        for _ in range(50):
            await client.send(request)
        with trio.fail_after(5):
            while running.relay.statistics().unauthenticated_suppressed < 40:
                await trio.lowlevel.checkpoint()
        running.relay.session_opened("ada", "127.0.0.1")
        before = running.relay.statistics().unauthenticated_answers
        await client.send(request)
        with trio.fail_after(5):
            while running.relay.statistics().unauthenticated_answers == before:
                await trio.lowlevel.checkpoint()
        running.relay.session_lost("ada")


def test_statistics_before_the_start_are_zero() -> None:
    config = RelayConfig(
        port=0,
        min_relay_port=50000,
        max_relay_port=50001,
        realm="localhost",
        secrets=("north",),
        advertised_addresses=(ip_address("127.0.0.1"),),
        user_quota=1,
        address_quota=1000,
        max_allocations=1000,
        max_permissions=512,
        max_channels=512,
        unauthenticated_rate=1,
    )
    statistics = Relay(config).statistics()
    assert not any(statistics.drops.values())
    assert statistics.allocations == statistics.packets_to_clients == 0
    assert "north" not in repr(config)
    assert attrs.evolve(config).hosts == ()


def test_this_machines_addresses() -> None:
    assert ip_address("127.0.0.1") in interface_addresses()
    assert primary_ipv4() in interface_addresses()
    ipv6 = primary_ipv6()
    assert ipv6 is None or ipv6 in interface_addresses()

"""Shared relay ports on real sockets: many allocations on few, and each packet reaches its own."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio

from tavern.errors import StartupError
from tavern.relay import service
from tavern.relay.native.data_path import NativeDataPath
from tavern.relay.service import Relay
from tavern.relay.sockets import open_relay_socket
from tavern.relay.thread import PythonDataPath
from tavern.stun.attributes import decode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode, parse
from tavern.turn.drops import Drop
from tavern.turn.shared_ports import SharedPortsMode
from tests.relay.conftest import config
from tests.relay.namespaces import needs_ipv6

if TYPE_CHECKING:
    from tavern.addresses import SocketAddress
    from tavern.relay.data_paths import DataPathName
    from tests.relay.conftest import Connect, Conversation, Start, TurnClient

ALWAYS = SharedPortsMode.ALWAYS
IPV6: Attribute = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x02\0\0\0")
MANY = 60
families = pytest.mark.parametrize(
    ("host", "attributes"), [("127.0.0.1", ()), pytest.param("::1", (IPV6,), marks=needs_ipv6)]
)


def ports(count: int) -> dict[str, int]:
    """So few that each must be free, and stay so: below those that the kernel gives to clients and peers."""
    for first in random.sample(range(20_000, 32_000), 100):
        if all(map(is_free, range(first, first + count))):
            return {"min_relay_port": first, "max_relay_port": first + count - 1}
    raise AssertionError("no ports are free below 32000")


def is_free(port: int) -> bool:
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


@contextmanager
def peers(host: str, count: int) -> Iterator[list[socket.socket]]:
    """Sockets that wait five seconds for a packet."""
    sockets = [
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)
    ]
    try:
        for sock in sockets:
            sock.bind((host, 0))
            sock.settimeout(5)
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def address_of(sock: socket.socket) -> SocketAddress:
    host, port = sock.getsockname()[:2]
    return host, port


def check(asked: str, own: str) -> bytes:
    name = (AttributeType.USERNAME, f"{asked}:{own}".encode())
    return encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12), [name])


def data_in(packet: bytes) -> bytes:
    """What a client got: of ChannelData or of a Data indication."""
    if packet[0] >= 0x40:
        return packet[4 : 4 + int.from_bytes(packet[2:4], "big")]
    return parse(packet).get(AttributeType.DATA) or b""


async def received(client: Conversation) -> bytes:
    return data_in(await client.receive())


@families
async def test_many_allocations_on_two_ports_hear_their_own_peers(
    start_relay: Start, connect_client: Connect, host: str, attributes: tuple[Attribute, ...]
) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(start_relay(shared_ports=ALWAYS, user_quota=MANY, **ports(2)))
        sockets = stack.enter_context(peers(host, MANY))
        clients: list[TurnClient] = []
        relayed: list[SocketAddress] = []
        for index, peer in enumerate(sockets):
            client = await stack.enter_async_context(connect_client(running))
            clients.append(client)
            relayed.append(await client.allocate(*attributes))
            if index % 3 == 0:
                answer = await client.bind(0x4000, address_of(peer))
            else:
                answer = await client.permit(address_of(peer) if index % 3 == 1 else (host, 0))
            assert answer.message_class is MessageClass.SUCCESS
            await client.send_indication(b"out %d" % index, address_of(peer))
        assert len(set(relayed)) == 2
        for index, peer in enumerate(sockets):
            data, source = await trio.to_thread.run_sync(peer.recvfrom, 100)
            assert (data, source[:2]) == (b"out %d" % index, relayed[index])
        for index in reversed(range(MANY)):
            sockets[index].sendto(b"in %d" % index, relayed[index])
        for index, client in enumerate(clients):
            assert await received(client) == b"in %d" % index
        statistics = running.relay.statistics()
        assert (statistics.packets_from_clients, statistics.packets_to_clients) == (MANY, MANY)
        assert statistics.allocations == MANY
        assert not any(statistics.drops.values())


@families
async def test_unknown_sources_are_found_by_fragments_or_counted(
    start_relay: Start, connect_client: Connect, host: str, attributes: tuple[Attribute, ...]
) -> None:
    async with (
        start_relay(shared_ports=ALWAYS, **ports(1)) as running,
        connect_client(running) as ada,
        connect_client(running) as ben,
    ):
        with peers(host, 3) as (known, mapped, stranger):
            for client, name in ((ada, "ada"), (ben, "ben")):
                relayed = await client.allocate(*attributes)
                await client.permit((host, 0))
                await client.send_indication(check("peer", name), address_of(known))
            await trio.to_thread.run_sync(known.recvfrom, 200)
            stranger.sendto(b"who is this for", relayed)
            stranger.sendto(check("nobody", "peer"), relayed)
            asked = check("ben", "peer")
            mapped.sendto(asked, relayed)
            assert await received(ben) == asked
            mapped.sendto(b"media", relayed)
            assert await received(ben) == b"media"
            known.sendto(b"for who was first", relayed)
            assert await received(ada) == b"for who was first"
            drops = running.relay.statistics().drops
            assert (drops[Drop.UNKNOWN_SOURCE], drops[Drop.PEER_OF_ANOTHER]) == (2, 1)


async def test_two_allocations_on_one_port_reach_each_other(start_relay: Start, connect_client: Connect) -> None:
    async with (
        start_relay(shared_ports=ALWAYS, **ports(1)) as running,
        connect_client(running) as ada,
        connect_client(running) as ben,
    ):
        relayed = await ada.allocate()
        assert await ben.allocate() == relayed
        for client in (ada, ben):
            assert (await client.bind(0x4000, relayed)).message_class is MessageClass.SUCCESS
        await ada.send_indication(check("ben", "ada"), relayed)
        asked = check("ada", "ben")
        await ben.send_indication(asked, relayed)
        assert await received(ada) == asked
        await ada.send_indication(b"media", relayed)
        assert await received(ben) == b"media"


async def test_an_end_closes_no_shared_socket(start_relay: Start, connect_client: Connect) -> None:
    with peers("127.0.0.1", 1) as (peer,):
        async with (
            start_relay(shared_ports=ALWAYS, **ports(1)) as running,
            connect_client(running) as ada,
            connect_client(running) as ben,
        ):
            relayed = await ada.allocate()
            await ben.allocate()
            assert (await ada.bind(0x4000, address_of(peer))).message_class is MessageClass.SUCCESS
            assert (await ben.permit(address_of(peer))).message_class is MessageClass.ERROR
            await ada.request(Method.REFRESH, (AttributeType.LIFETIME, bytes(4)))
            assert (await ben.bind(0x4000, address_of(peer))).message_class is MessageClass.SUCCESS
            peer.sendto(b"in", relayed)
            assert await received(ben) == b"in"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(relayed)  # it ended with the relay


@needs_ipv6
async def test_half_of_a_dual_allocation_ends_alone(start_relay: Start, connect_client: Connect) -> None:
    both = (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02\0\0\0")
    with peers("::1", 1) as (peer,):
        async with start_relay(shared_ports=ALWAYS, **ports(1)) as running, connect_client(running) as client:
            relayed = await client.allocate(both)
            first = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x01\0\0\0")
            await client.request(Method.REFRESH, first, (AttributeType.LIFETIME, bytes(4)))
            assert (await client.bind(0x4000, address_of(peer))).message_class is MessageClass.SUCCESS
            peer.sendto(b"in", ("::1", relayed[1]))
            assert await received(client) == b"in"


async def test_auto_opens_sockets_of_their_own_first(start_relay: Start, connect_client: Connect) -> None:
    async with AsyncExitStack() as stack:
        settings = {"shared_ports": SharedPortsMode.AUTO, **ports(4)}
        running = await stack.enter_async_context(start_relay(**settings))
        [peer] = stack.enter_context(peers("127.0.0.1", 1))
        relayed = []
        for _ in range(6):
            client = await stack.enter_async_context(connect_client(running))
            relayed.append(await client.allocate())
            await client.permit(("127.0.0.1", 0))
            await client.send_indication(b"out", address_of(peer))
        assert len(set(relayed[:-3])) == 3
        assert {port for _, port in relayed[-3:]} == {settings["max_relay_port"]}
        sources = {(await trio.to_thread.run_sync(peer.recvfrom, 100))[1] for _ in range(4)}
        assert sources == set(relayed)
        assert running.relay.statistics().drops[Drop.PEER_OF_ANOTHER] == 2


async def test_icmp_on_a_shared_port_reaches_whose_peer_it_is(start_relay: Start, connect_client: Connect) -> None:
    async with (
        start_relay(shared_ports=ALWAYS, **ports(1)) as running,
        connect_client(running) as ada,
        connect_client(running) as ben,
    ):
        with peers("127.0.0.1", 1) as (gone,):
            dead = address_of(gone)
        for client in (ada, ben):
            await client.allocate()
            await client.permit(("127.0.0.1", 0))
        await ben.send_indication(b"x", dead)
        message = parse(await ben.receive())
        peer = message.get(AttributeType.XOR_PEER_ADDRESS)
        assert message.get(AttributeType.ICMP) is not None
        assert peer is not None
        assert decode_xor_address(peer, message.transaction_id) == (ip_address("127.0.0.1"), dead[1])
        await ada.binding()  # the next that it hears: nothing of that was for it


# What is in the way


async def test_ports_of_other_programs_are_skipped(
    start_relay: Start, connect_client: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ports(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", settings["min_relay_port"]))
        addresses = (ip_address("127.0.0.1"),)
        async with (
            start_relay(shared_ports=ALWAYS, advertised_addresses=addresses, **settings) as running,
            connect_client(running) as ada,
            connect_client(running) as ben,
        ):
            assert await ada.allocate() == await ben.allocate() == ("127.0.0.1", settings["max_relay_port"])
    assert "shared-ports-skipped" in caplog.text


async def test_without_any_shared_port_it_does_not_start(start_relay: Start) -> None:
    settings = ports(1)
    addresses = (ip_address("127.0.0.1"),)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", settings["min_relay_port"]))
        relay = Relay(config(shared_ports=ALWAYS, advertised_addresses=addresses, **settings))
        with pytest.raises(StartupError, match=r"TAVERN_TURN_MIN_PORT.*TAVERN_TURN_MAX_PORT"):
            await relay.run()
        async with start_relay(
            shared_ports=SharedPortsMode.AUTO, advertised_addresses=addresses, **settings
        ) as running:
            assert running.port


async def test_a_kernel_that_watches_no_more_sockets_leaves_none_open(
    data_path: DataPathName, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[socket.socket] = []
    real = open_relay_socket

    def record(*arguments: object, **more: object) -> socket.socket:
        opened.append(real(*arguments, **more))  # type: ignore[arg-type]
        return opened[-1]

    def full(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(service, "open_relay_socket", record)
    monkeypatch.setattr(PythonDataPath, "watch", full)
    monkeypatch.setattr(NativeDataPath, "open_shared", full)
    relay = Relay(config(shared_ports=ALWAYS, data_path=data_path, **ports(2)))
    with pytest.raises(StartupError):
        await relay.run()
    assert opened
    assert all(sock.fileno() == -1 for sock in opened)


async def test_what_a_full_shared_socket_loses_is_counted(start_relay: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for data_path in (PythonDataPath, NativeDataPath):
        monkeypatch.setattr(data_path, "start", lambda _self: None)  # nobody reads
    range_ = ports(1)
    async with start_relay(shared_ports=ALWAYS, **range_) as running:
        before = running.relay.statistics().drops[Drop.RECEIVE_BUFFER_FULL]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(2000):
                peer.sendto(bytes(1000), ("127.0.0.1", range_["min_relay_port"]))
        lost = running.relay.statistics().drops[Drop.RECEIVE_BUFFER_FULL] - before
        assert 0 < lost < 2000

"""Whom a running relay sends to: what is this machine's own is nobody's peer."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio

from tavern.relay import service
from tavern.relay.addresses import interface_addresses
from tavern.stun.message import AttributeType, MessageClass

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Start


async def test_this_machines_own_services_are_no_peers(start_relay: Start, connect_client: Connect) -> None:
    async with start_relay(allow_peers=()) as running, connect_client(running) as client:
        await client.allocate()
        for address in [address for address in interface_addresses() if address.version == 4]:
            answer = await client.permit((str(address), 80))
            assert answer.get(AttributeType.ERROR_CODE) is not None


@pytest.mark.parametrize("who", ["is_local", "interface_addresses"])
async def test_the_routing_table_and_the_interfaces_say_what_is_this_machines(
    start_relay: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    own = ip_address("1.1.1.1")
    answers = {"is_local": lambda address: address == own, "interface_addresses": lambda: frozenset({own})}
    monkeypatch.setattr(service, "is_local", lambda _: False)
    monkeypatch.setattr(service, who, answers[who])
    async with start_relay(allow_peers=()) as running, connect_client(running) as client:
        await client.allocate()
        assert (await client.permit(("1.1.1.2", 80))).message_class is MessageClass.SUCCESS
        assert (await client.permit((str(own), 80))).message_class is MessageClass.ERROR


async def test_the_relay_itself_is_no_peer_though_its_address_is_allowed(
    start_relay: Start, connect_client: Connect
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        async with start_relay() as running, connect_client(running) as client:
            await client.allocate()
            listener = ("127.0.0.1", running.port)
            assert (await client.bind(0x4000, listener)).message_class is MessageClass.ERROR
            assert (await client.permit(listener)).message_class is MessageClass.SUCCESS  # for other ports of the host
            await client.send_indication(b"to the listener", listener)
            await client.send_indication(b"to the peer", peer.getsockname())
            assert (await trio.to_thread.run_sync(peer.recvfrom, 100))[0] == b"to the peer"
            statistics = running.relay.statistics()
            assert statistics.packets_from_clients == 1
            assert statistics.drops["malformed"] == 0, "it came to the listener"


async def test_a_new_interface_address_is_no_peer_any_more(
    start_relay: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_ADDRESS_REFRESH_S", 0.0)
    changes = {"allow_peers": (), "advertised_addresses": (ip_address("127.0.0.1"),)}
    async with start_relay(**changes) as running, connect_client(running) as client:
        await client.allocate()
        assert (await client.permit(("1.1.1.1", 80))).message_class is MessageClass.SUCCESS
        monkeypatch.setattr(service, "interface_addresses", lambda: frozenset({ip_address("1.1.1.1")}))
        with trio.fail_after(5):
            while (await client.permit(("1.1.1.1", 80))).message_class is MessageClass.SUCCESS:
                pass


async def test_interfaces_that_cannot_be_read_end_nothing(
    start_relay: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = trio.Event()

    def no_descriptor() -> NoReturn:
        tried.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(service, "_ADDRESS_REFRESH_S", 0.0)
    async with start_relay() as running, connect_client(running) as client:
        monkeypatch.setattr(service, "interface_addresses", no_descriptor)
        with trio.fail_after(5):
            await tried.wait()
        await client.allocate()
    assert "interfaces cannot be read" in caplog.text

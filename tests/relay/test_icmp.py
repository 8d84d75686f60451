"""ICMP errors on real sockets (RFC 8656 §11.5): what a closed port answers, and that nobody else loses a packet."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio

from tavern.relay.icmp import read_icmp_errors, report_icmp_errors
from tavern.stun.attributes import decode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, parse
from tests.relay.namespaces import needs_ipv6

if TYPE_CHECKING:
    from tavern.addresses import SocketAddress
    from tests.relay.conftest import Connect, Start, TurnClient

IPV6: Attribute = (AttributeType.REQUESTED_ADDRESS_FAMILY, b"\x02\0\0\0")
PACKETS = 200


def closed_port(host: str) -> SocketAddress:
    """Where nobody listens, a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return str(sock.getsockname()[0]), int(sock.getsockname()[1])


async def icmp_to(client: TurnClient) -> tuple[SocketAddress, bytes]:
    """The next ICMP error that the client hears of: about which peer, and what."""
    message = parse(await client.receive())
    assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
    assert message.get(AttributeType.DATA) is None
    peer, icmp = message.get(AttributeType.XOR_PEER_ADDRESS), message.get(AttributeType.ICMP)
    assert peer is not None
    assert icmp is not None
    address, port = decode_xor_address(peer, message.transaction_id)
    return (str(address), port), icmp


@pytest.mark.clause("8656 §11.5: ICMP from a peer -> Data indication with XOR-PEER-ADDRESS and ICMP, without DATA")
@pytest.mark.parametrize(
    ("host", "attributes", "unreachable"),
    [
        ("127.0.0.1", (), b"\0\0\x06\x03\0\0\0\0"),
        pytest.param("::1", (IPV6,), b"\0\0\x02\x04\0\0\0\0", marks=needs_ipv6),
    ],
)
async def test_a_closed_port_is_told_to_the_client(
    start_relay: Start, connect_client: Connect, host: str, attributes: tuple[Attribute, ...], unreachable: bytes
) -> None:
    async with start_relay() as running, connect_client(running) as client:
        await client.allocate(*attributes)
        dead = closed_port(host)
        await client.permit(dead)
        await client.send_indication(b"anybody?", dead)
        assert await icmp_to(client) == (dead, unreachable)
        await client.bind(0x4000, dead)
        await client.send(b"\x40\0\0\x02hi")
        assert await icmp_to(client) == (dead, unreachable)


@pytest.mark.clause("8656 §11.5: an ICMP error about one peer costs no packet of another")
async def test_a_dead_peer_costs_the_live_one_no_packet(start_relay: Start, connect_client: Connect) -> None:
    """The kernel tells an error of one peer at the next send or receive, whomever that is for."""
    peer = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await peer.bind(("127.0.0.1", 0))
    with peer:
        async with start_relay() as running, connect_client(running) as client:
            relayed = await client.allocate()
            dead, live = closed_port("127.0.0.1"), peer.getsockname()
            await client.bind(0x4000, dead)
            await client.bind(0x4001, live)
            down: list[bytes] = []
            told = 0
            for n in range(PACKETS):
                payload = n.to_bytes(2, "big")
                await client.send(b"\x40\x00\x00\x02" + payload)
                await client.send(b"\x40\x01\x00\x02" + payload)
                with trio.fail_after(5):
                    assert await peer.recv(100) == payload
                await peer.sendto(payload, relayed)
                while len(down) <= n:
                    data = await client.receive()
                    if data[:2] == b"\x40\x01":
                        down.append(data[4:])
                    else:
                        told += 1
            assert down == [n.to_bytes(2, "big") for n in range(PACKETS)]
            while told < PACKETS:
                assert (await icmp_to(client))[0] == dead
                told += 1
            statistics = running.relay.statistics()
            assert statistics.drops["send_failed"] == 0
            assert statistics.packets_from_clients == 2 * PACKETS


async def test_a_burst_of_errors_costs_nothing_and_ends(start_relay: Start, connect_client: Connect) -> None:
    """Errors and packets come mixed, and then the thread sleeps."""
    peer = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    await peer.bind(("127.0.0.1", 0))
    with peer:
        async with start_relay() as running, connect_client(running) as client:
            await client.allocate()
            await client.bind(0x4000, closed_port("127.0.0.1"))
            await client.bind(0x4001, peer.getsockname())
            for _ in range(PACKETS):
                await client.send(b"\x40\x00\x00\x02hi")
                await client.send(b"\x40\x01\x00\x02hi")
            for _ in range(PACKETS):
                with trio.fail_after(5):
                    assert await peer.recv(100) == b"hi"
            assert running.relay.statistics().drops["send_failed"] == 0
            [thread] = [one for one in threading.enumerate() if one.name == "relay data path"]
            assert thread.ident is not None
            clock = time.pthread_getcpuclockid(thread.ident)
            with trio.fail_after(5):
                used_s = 1.0
                while used_s > 0.01:
                    before = time.clock_gettime(clock)
                    await trio.sleep(0.1)
                    used_s = time.clock_gettime(clock) - before


def test_the_error_queue_is_read_in_bounded_steps_and_is_clear_then() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        report_icmp_errors(sock)
        dead = closed_port("127.0.0.1")
        for _ in range(40):
            with contextlib.suppress(ConnectionRefusedError):
                sock.sendto(b"x", dead)
        counts: list[int] = []
        while not counts or counts[-1]:
            errors = list(read_icmp_errors(sock))
            assert all((one.peer, one.icmp_type, one.code) == (dead, 3, 3) for one in errors)
            counts.append(len(errors))
        assert max(counts) == 16
        assert sum(counts) >= 20
        assert not select.select([], [], [sock], 0)[2]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_this_hosts_own_errors_are_not_icmp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        report_icmp_errors(sock)
        with pytest.raises(OSError, match="too long"):
            sock.sendto(bytes(65508), ("127.0.0.1", 9))
        assert list(read_icmp_errors(sock)) == []

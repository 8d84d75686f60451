"""Bursts: what leaves together arrives packet by packet, whole and in order, however it was handed to the kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import tavern
from tests.relay.namespaces import in_namespace, needs_ipv6, needs_namespaces

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Running, Start, TurnClient

# Equal ones, of which the last is shorter; empty ones; longer than a segment may be; longer than an Ethernet frame.
# Fewer than a socket's buffer holds, should nobody read meanwhile.
SIZES = [120] * 40 + [60] + [120] * 3 + [0, 0] + [1350] * 8 + [1401] * 3 + [3000] * 2 + [1, 2, 3, 4] + [160] * 30
NUMBER_SIZE = 2


def burst(sizes: list[int]) -> list[bytes]:
    return [number.to_bytes(NUMBER_SIZE, "big")[:size].ljust(size, b".") for number, size in enumerate(sizes)]


async def up_and_down(running: Running, client: TurnClient, host: str) -> None:
    """One burst from a client to a peer by its channel, and one back."""
    packets = burst(SIZES)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as peer:
        await peer.bind((host, 0))
        asked = [(0x0017, b"\x02\0\0\0")] if ":" in host else []
        relayed = await client.allocate(*asked)
        await client.bind(0x4000, peer.getsockname()[:2])
        for packet in packets:
            await client.send(b"\x40\x00" + len(packet).to_bytes(2, "big") + packet)
        with trio.fail_after(10):
            assert [bytes(await peer.recv(65535)) for _ in packets] == packets
        for packet in packets:
            await peer.sendto(packet, relayed)
        heard = [await client.receive() for _ in packets]
        assert [data[4:] for data in heard] == packets
        assert {data[:2] for data in heard} == {b"\x40\x00"}
    drops = running.relay.statistics().drops
    assert not any(drops.values()), drops


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
@pytest.mark.parametrize("listen", [("127.0.0.1",), ()], ids=["one address", "all addresses"])
async def test_a_burst_arrives_packet_by_packet(
    start_relay: Start, connect_client: Connect, host: str, listen: tuple[str, ...]
) -> None:
    async with start_relay(hosts=listen) as running, connect_client(running) as client:
        await up_and_down(running, client, host)


PROGRAM = """
import sys, trio
from tests.relay.conftest import TurnClient, start
from tests.relay.test_bursts import up_and_down

async def main():
    async with start(data_path=sys.argv[1]) as running:
        client = await TurnClient.connect(running)
        await up_and_down(running, client, "127.0.0.1")
        client.close()

trio.run(main)
"""


@needs_namespaces
def test_through_an_interface_that_takes_no_such_segments(data_path: str) -> None:
    """Packets beyond its size leave in fragments, as they would one by one."""
    paths = os.pathsep.join([str(Path(tavern.__file__).parents[1]), str(Path(__file__).parents[2])])
    command = in_namespace("ip link set lo mtu 1000", sys.executable, "-c", PROGRAM, data_path)
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr

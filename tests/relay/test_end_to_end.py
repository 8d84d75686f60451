"""Clients that we did not write, against a running relay: coturn's tools and aioice."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.prerequisites import skip_unless
from tests.relay.conftest import static_credential

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.relay.conftest import Running, Start

pytestmark = pytest.mark.end_to_end

missing = [tool for tool in ("turnutils_uclient", "turnutils_stunclient", "turnutils_peer") if not shutil.which(tool)]
needs_coturn = skip_unless(
    not missing, f"NOT TESTED AGAINST COTURN'S CLIENTS: {', '.join(missing)} missing; apt-get install coturn"
)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


HOSTS = ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1",)


@pytest.fixture
async def running(start_relay: Start) -> AsyncIterator[Running]:
    async with start_relay(hosts=HOSTS) as running:
        yield running


async def output_of(*command: str) -> str:
    """What it prints; it has 30 seconds."""
    with trio.fail_after(30):
        done = await trio.run_process([*command], capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace")


@needs_coturn
@pytest.mark.parametrize("host", HOSTS)
async def test_stunclient_sees_its_address(running: Running, host: str) -> None:
    output = await output_of("turnutils_stunclient", "-p", str(running.port), host)
    assert f"UDP reflexive addr: {host}:" in output.replace("[", "").replace("]", "")


@needs_coturn
async def test_uclients_reach_their_peers_and_each_other_without_loss(running: Running) -> None:
    with peers(*HOSTS) as ports:
        await run_all(running, ports)
    assert running.relay.statistics().packets_from_clients >= 8 * 10


async def run_all(running: Running, ports: dict[str, str]) -> None:
    async with trio.open_nursery() as nursery:
        for host, port in ports.items():
            family = ["-x"] if ":" in host else []
            for extra in ("", "-s", "-G", "-D", "-l 1200", "-m 5"):
                options = ["-e", host, "-r", port, *family, *extra.split()]
                nursery.start_soon(expect_no_loss, running, host, *options)
        for extra in ("", "-s"):
            nursery.start_soon(expect_no_loss, running, "127.0.0.1", "-y", *extra.split())


@needs_coturn
@pytest.mark.clause(
    "8656 §7.2: port pairs (EVEN-PORT with R, RESERVATION-TOKEN) and DONT-FRAGMENT, with coturn's client"
)
async def test_uclients_get_port_pairs_and_packets_that_are_not_fragmented(running: Running) -> None:
    """Without `-c` it asks for a port for RTP, and uses the reserved next one for RTCP."""
    with peers("127.0.0.1") as ports:
        login = ["-W", "north", "-u", "bob", "-p", str(running.port), "-n", "10", "-z", "5"]
        to_peer = ["-e", "127.0.0.1", "-r", ports["127.0.0.1"]]
        outputs: list[str] = []

        async def run(*options: str) -> None:
            outputs.append(await output_of("turnutils_uclient", *login, *options, *to_peer, "127.0.0.1"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            nursery.start_soon(run, "-s")
            nursery.start_soon(run, "-g", "-s", "-c")
    assert len(outputs) == 3
    for output in outputs:
        assert "lost packets 0 (0.000000%), total send dropped 0 (0.000000%)" in output, output
    assert running.relay.statistics().drops["would_fragment"] == 0


@contextmanager
def peers(*hosts: str) -> Iterator[dict[str, str]]:
    """An echoing `turnutils_peer` on each host; their ports by host."""
    ports = {}
    with contextlib.ExitStack() as stack:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((host, 0))
                ports[host] = str(sock.getsockname()[1])
            peer = stack.enter_context(subprocess.Popen(["turnutils_peer", "-L", host, "-p", ports[host]]))
            stack.callback(peer.kill)
        yield ports


async def expect_no_loss(running: Running, host: str, *options: str) -> None:
    login = ["-W", "north", "-u", "bob", "-p", str(running.port)]
    output = await output_of("turnutils_uclient", *login, "-n", "10", "-z", "5", "-c", *options, host)
    assert "lost packets 0 (0.000000%), total send dropped 0 (0.000000%)" in output, (options, output)


AIOICE = """
import asyncio, sys
import aioice

port, username, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]

def connection(controlling):
    return aioice.Connection(
        ice_controlling=controlling, components=1, turn_server=("127.0.0.1", port), turn_username=username,
        turn_password=password, transport_policy=aioice.TransportPolicy.RELAY,
    )

async def main():
    one, two = connection(True), connection(False)
    for mine, other in ((one, two), (two, one)):
        await mine.gather_candidates()
        assert {candidate.type for candidate in mine.local_candidates} == {"relay"}, mine.local_candidates
        for candidate in mine.local_candidates:
            await other.add_remote_candidate(candidate)
        await other.add_remote_candidate(None)
        other.remote_username, other.remote_password = mine.local_username, mine.local_password
    await asyncio.gather(one.connect(), two.connect())
    for number in range(50):
        message = b"message %d" % number
        await one.send(message)
        assert await two.recv() == message
        await two.send(message)
        assert await one.recv() == message
    await one.close()
    await two.close()
    print("exchanged 100")

asyncio.run(asyncio.wait_for(main(), 25))
"""


async def test_two_aioice_clients_talk_relay_to_relay(running: Running) -> None:
    credential = static_credential("aioice")
    port = str(running.port)
    output = await output_of(
        sys.executable, "-W", "ignore", "-c", AIOICE, port, credential.username, credential.password
    )
    assert "exchanged 100" in output, output
    assert running.relay.statistics().allocations == 0  # they said goodbye with LIFETIME 0

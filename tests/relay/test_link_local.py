"""Clients on a link without any router: their addresses mean something only with an interface."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tavern
from tests.relay.namespaces import in_namespace, needs_namespaces

# Two interfaces, so that a reply without the client's zone has no right way to go.
NAMESPACE = """
for name in v0 w0; do
    ip link add $name type veth peer name ${name}peer
    sysctl -qw net.ipv6.conf.$name.addr_gen_mode=1
    ip link set $name up
    ip link set ${name}peer up
    ip addr add fe80::7/64 dev $name nodad
done
"""
CLIENTS = """
import socket
from ipaddress import ip_address
import trio
from tavern.stun.message import MessageClass
from tests.relay.conftest import TurnClient, start, static_credential

async def main():
    async with start(hosts=("::",), advertised_addresses=(ip_address("127.0.0.1"),)) as running:
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.bind(("127.0.0.1", 0))
        for name in ("v0", "w0"):
            scope = socket.if_nametoindex(name)
            sock = trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            await sock.bind(("fe80::7", 0, 0, scope))
            client = TurnClient(sock, ("fe80::7", running.port, 0, scope), static_credential(name))
            assert (await client.binding()).message_class is MessageClass.SUCCESS
            relayed = await client.allocate()
            assert (await client.bind(0x4000, peer.getsockname())).message_class is MessageClass.SUCCESS
            await client.send(b"\\x40\\0\\0\\2up")
            assert (await trio.to_thread.run_sync(peer.recvfrom, 100)) == (b"up", relayed)
            peer.sendto(b"down", relayed)
            assert await client.receive() == b"\\x40\\0\\0\\4down"
            sock.close()
        peer.close()

trio.run(main)
"""


@needs_namespaces
def test_a_link_local_client_is_answered_through_its_interface() -> None:
    source = Path(tavern.__file__).parents[1]
    paths = os.pathsep.join([str(source), str(Path(__file__).parents[2])])
    command = in_namespace(NAMESPACE, sys.executable, "-c", CLIENTS)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr

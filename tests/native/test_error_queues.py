"""What one client's packets cause on a port that he shares: the kernel keeps errors where it keeps others' packets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tavern
from tests.prerequisites import native_or_skip
from tests.relay.namespaces import in_namespace, needs_namespaces

PROGRAM = """
import os, socket, time
from ipaddress import ip_address
import trio
from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode
from tavern.turn.shared_ports import SharedPortsMode
from tests.relay.conftest import TurnClient, free_range, start

PACKETS = 1000
HOST = "127.0.0.1"

async def flood(running, sink):
    '''Packets that must not be fragmented, and are larger than what the interface takes.'''
    client = await TurnClient.connect(running, user="mallory")
    await client.allocate()
    await client.permit(sink)
    peer = AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(HOST), sink[1], bytes(12))
    attributes = [peer, (AttributeType.DATA, bytes(1480)), (AttributeType.DONT_FRAGMENT, b"")]
    large = encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes)
    with socket.socket(fileno=os.dup(client.sock.fileno())) as sock:
        sock.connect((HOST, running.port))
        sock.setblocking(True)
        child = os.fork()
        while not child:
            sock.send(large)
    return child

async def main():
    port = free_range(1)[0]
    shared = {"shared_ports": SharedPortsMode.ALWAYS, "min_relay_port": port, "max_relay_port": port}
    addresses = (ip_address(HOST),)
    async with start(data_path="native", advertised_addresses=addresses, **shared) as running:
        peer = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await peer.bind((HOST, 0))
        victim = await TurnClient.connect(running, user="ann")
        relayed = await victim.allocate()
        await victim.bind(0x4000, peer.getsockname())
        child = await flood(running, (HOST, 9))
        try:
            while running.relay.statistics().drops["would_fragment"] < 1000:
                await trio.sleep(0.01)
            heard = 0
            for n in range(PACKETS):
                await peer.sendto(n.to_bytes(2, "big"), relayed)
                with trio.move_on_after(0.002):
                    while await victim.sock.recv(100):
                        heard += 1
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert heard > PACKETS * 0.9, (heard, running.relay.statistics().drops)

trio.run(main)
"""


@needs_namespaces
def test_packets_that_cannot_leave_cost_others_on_the_port_nothing() -> None:
    native_or_skip()
    source = Path(tavern.__file__).parents[1]
    paths = os.pathsep.join([str(source), str(Path(__file__).parents[2])])
    command = in_namespace("ip link set lo mtu 1500", sys.executable, "-c", PROGRAM)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=40
    )
    assert done.returncode == 0, done.stderr

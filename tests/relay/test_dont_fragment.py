"""DONT-FRAGMENT on the wire (RFC 8656 §11.2), where an interface is narrow enough to see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tavern
from tests.relay.namespaces import in_namespace, needs_ipv6, needs_namespaces

NAMESPACE = "ip link set lo mtu 1500"
PROGRAM = """
import os, socket, struct, sys
from ipaddress import ip_address
import trio
from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode
from tests.relay.conftest import TurnClient, start

host = sys.argv[1]
ipv6 = ":" in host
family = socket.AF_INET6 if ipv6 else socket.AF_INET
asked = ((AttributeType.REQUESTED_ADDRESS_FAMILY, b"\\x02\\0\\0\\0"),) if ipv6 else ()
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD if ipv6 else 0x0800))
wire.settimeout(5)

def df_bits(peer_port):
    '''The DF bits of the packets to the peer up to now; IPv6 has none.'''
    seen = []
    while True:
        wire.setblocking(False)
        try:
            packet = wire.recv(65535)
        except BlockingIOError:
            return seen
        if packet[9] == 17 and packet[22:24] == peer_port.to_bytes(2, "big"):
            seen.append(bool(packet[6] & 0x40))

async def main():
    async with start() as running:
        client = await TurnClient.connect(running)
        peer = trio.socket.socket(family, socket.SOCK_DGRAM)
        await peer.bind((host, 0))
        at = peer.getsockname()[:2]
        await client.allocate((AttributeType.DONT_FRAGMENT, b""), *asked)
        assert (await client.permit(at)).message_class is MessageClass.SUCCESS

        async def send(payload, *extra):
            transaction_id = os.urandom(12)
            value = encode_xor_address(ip_address(host), at[1], transaction_id)
            attributes = [(AttributeType.XOR_PEER_ADDRESS, value), (AttributeType.DATA, payload), *extra]
            await client.send(encode(Method.SEND, MessageClass.INDICATION, transaction_id, attributes))

        async def arrives(payload):
            with trio.fail_after(5):
                assert await peer.recv(65535) == payload

        whole = (AttributeType.DONT_FRAGMENT, b"")
        await send(b"a" * 1000, whole)
        await arrives(b"a" * 1000)
        await send(b"b" * 1000)
        await arrives(b"b" * 1000)
        if not ipv6:
            assert df_bits(at[1]) == [True, False]
        await send(b"c" * 3000, whole)  # dropped
        await send(b"d" * 3000)  # in fragments
        await arrives(b"d" * 3000)
        assert running.relay.statistics().drops["would_fragment"] == 1
        assert running.relay.statistics().drops["send_failed"] == 0
        peer.close()
        client.close()

trio.run(main)
"""


@needs_namespaces
@pytest.mark.clause("8656 §11.2: with DONT-FRAGMENT the DF bit is set and what does not fit is dropped, else not")
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_what_must_not_be_fragmented_has_df_or_is_dropped_and_counted(host: str) -> None:
    source = Path(tavern.__file__).parents[1]
    paths = os.pathsep.join([str(source), str(Path(__file__).parents[2])])
    command = in_namespace(NAMESPACE, sys.executable, "-c", PROGRAM, host)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr

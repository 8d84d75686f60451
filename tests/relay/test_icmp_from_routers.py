"""What routers say of packets to peers (RFC 8656 §11.5), sent here by a raw socket in a namespace of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tavern
from tests.relay.namespaces import in_namespace, needs_ipv6, needs_namespaces

PROGRAM = """
import os, socket, struct, sys
from ipaddress import ip_address
import trio
from tavern.stun.attributes import decode_xor_address, encode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode, parse
from tests.relay.conftest import TurnClient, start

host = sys.argv[1]
ipv6 = ":" in host
family = socket.AF_INET6 if ipv6 else socket.AF_INET
asked = ((AttributeType.REQUESTED_ADDRESS_FAMILY, b"\\x02\\0\\0\\0"),) if ipv6 else ()
router = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if ipv6 else socket.IPPROTO_ICMP)
address = socket.inet_pton(family, host)

def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def says(kind, code, rest, source_port, peer_port, to=address):
    '''An ICMP error about a packet from the relayed address to the peer.'''
    udp = struct.pack(">HHHH", source_port, peer_port, 28, 0)
    if ipv6:
        packet = struct.pack(">IHBB", 0x60000000, 28, 17, 64) + address + to + udp + bytes(20)
        router.sendto(struct.pack(">BBHI", kind, code, 0, rest) + packet, (host, 0))  # the kernel sums ICMPv6 up
        return
    header = struct.pack(">BBHHHBBH", 0x45, 0, 48, 0, 0x4000, 64, 17, 0) + address + to
    header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    error = struct.pack(">BBHI", kind, code, 0, rest) + header + udp + bytes(20)
    router.sendto(error[:2] + checksum(error).to_bytes(2, "big") + error[4:], (host, 0))

async def main():
    async with start() as running:
        client = await TurnClient.connect(running)
        peer = trio.socket.socket(family, socket.SOCK_DGRAM)
        await peer.bind((host, 0))
        at = peer.getsockname()[:2]
        _, relayed_port = await client.allocate(*asked)
        assert (await client.permit(at)).message_class is MessageClass.SUCCESS

        async def hears():
            message = parse(await client.receive())
            value = message.get(AttributeType.XOR_PEER_ADDRESS)
            where = decode_xor_address(value, message.transaction_id)
            assert (str(where[0]), where[1]) == at
            return message.get(AttributeType.ICMP)

        async def indicate(payload, *extra):
            transaction_id = os.urandom(12)
            value = encode_xor_address(ip_address(host), at[1], transaction_id)
            attributes = [(AttributeType.XOR_PEER_ADDRESS, value), (AttributeType.DATA, payload), *extra]
            await client.send(encode(Method.SEND, MessageClass.INDICATION, transaction_id, attributes))

        async def hear(payload):
            with trio.fail_after(5):
                assert await peer.recv(65535) == payload

        async def send(payload, *extra):
            await indicate(payload, *extra)
            await hear(payload)

        too_big, mtu, exceeded = ((2, 0), 1300, (3, 0)) if ipv6 else ((3, 4), 1300, (11, 0))
        says(*too_big, mtu, relayed_port, at[1])
        assert await hears() == struct.pack(">HHI", 0, too_big[0] << 9 | too_big[1], mtu)
        says(*exceeded, 0, relayed_port, at[1])
        assert await hears() == struct.pack(">HHI", 0, exceeded[0] << 9 | exceeded[1], 0)
        # Neither costs a packet, believed or not: larger ones arrive, and those that must not be fragmented, too.
        await send(bytes(3000))
        await send(bytes(1400), (AttributeType.DONT_FRAGMENT, b""))
        # A flood about somebody without a permission is not heard of, and data passes meanwhile.
        stranger = socket.inet_pton(family, "::5" if ipv6 else "9.9.9.9")
        for n in range(3000):
            says(*exceeded, 0, relayed_port, at[1], stranger)
            if n % 100 == 0:
                await send(b"%d" % n)
        # Nor do errors cost packets that leave as they come.
        for n in range(300):
            for _ in range(10):
                await indicate(b"%d" % n)
                says(*(exceeded if n % 2 else too_big), mtu, relayed_port, at[1], stranger)
            for _ in range(10):
                await hear(b"%d" % n)
        heard = None
        while heard is None:  # again where the flood left no room for it
            says(*too_big, mtu, relayed_port, at[1])
            with trio.move_on_after(0.2):
                heard = await hears()
        assert heard == struct.pack(">HHI", 0, too_big[0] << 9 | too_big[1], mtu)
        assert running.relay.statistics().drops["no_permission"] > 0
        drops = running.relay.statistics().drops
        assert drops["send_failed"] == drops["would_fragment"] == 0, drops
        peer.close()
        client.close()

trio.run(main)
"""


@needs_namespaces
@pytest.mark.clause("8656 §11.5: ICMP 3 and 11, ICMPv6 1, 2 and 3, with the MTU where a packet was too big")
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_what_routers_say_reaches_the_client_and_costs_no_packet(host: str) -> None:
    source = Path(tavern.__file__).parents[1]
    paths = os.pathsep.join([str(source), str(Path(__file__).parents[2])])
    command = in_namespace("", sys.executable, "-c", PROGRAM, host)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=40
    )
    assert done.returncode == 0, done.stderr

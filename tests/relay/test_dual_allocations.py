"""A dual allocation on real sockets (RFC 8656 §7, §8.1): one client, relayed addresses of both families."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

from tavern.stun.attributes import decode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, parse
from tests.relay.namespaces import needs_ipv6

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Start

UDP = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
BOTH = (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\x02\x00\x00\x00")
END = (AttributeType.LIFETIME, bytes(4))
HOSTS = ("127.0.0.1", "::1")


def family(number: int) -> tuple[int, bytes]:
    return AttributeType.REQUESTED_ADDRESS_FAMILY, bytes([number, 0, 0, 0])


async def peer_socket(host: str) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind((host, 0))
    return sock


@needs_ipv6
@pytest.mark.clause("8656 §7.2: both relayed addresses of a dual allocation carry data both ways")
async def test_data_of_both_families_both_ways_until_their_half_ends(
    start_relay: Start, connect_client: Connect
) -> None:
    async with start_relay() as running, connect_client(running) as client:
        answer = await client.request(Method.ALLOCATE, UDP, BOTH)
        values = answer.get_all(AttributeType.XOR_RELAYED_ADDRESS)
        relayed = [decode_xor_address(value, answer.transaction_id) for value in values]
        assert [str(address) for address, _ in relayed] == list(HOSTS)
        peers = [await peer_socket(host) for host in HOSTS]
        with peers[0], peers[1]:
            for index, peer in enumerate(peers):
                at = peer.getsockname()[:2]
                assert (await client.permit(at)).message_class is MessageClass.SUCCESS
                await client.send_indication(b"up", at)
                with trio.fail_after(5):
                    data, sender = await peer.recvfrom(100)
                assert (data, sender[1]) == (b"up", relayed[index][1])
                await peer.sendto(b"down", sender)
                indication = parse(await client.receive())
                value = indication.get(AttributeType.XOR_PEER_ADDRESS)
                assert value is not None
                address, port = decode_xor_address(value, indication.transaction_id)
                assert (str(address), port) == at
                assert indication.get(AttributeType.DATA) == b"down"
            ended = await client.request(Method.REFRESH, family(1), END)
            assert ended.message_class is MessageClass.SUCCESS
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", relayed[0][1]))  # the port is free again
            await client.send_indication(b"more", peers[1].getsockname()[:2])
            with trio.fail_after(5):
                assert await peers[1].recv(100) == b"more"
            assert (await client.request(Method.REFRESH, END)).message_class is MessageClass.SUCCESS
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                sock.bind(("::1", relayed[1][1]))
        assert running.relay.statistics().allocations == 0

"""Empty datagrams on real sockets (RFC 8656 §11, §12): they are data as any."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

from tavern.stun.message import AttributeType, parse

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Start


@pytest.mark.clause("8656 §11, §12: zero-length data passes both ways, in indications and over channels")
async def test_empty_datagrams_pass_both_ways(start_relay: Start, connect_client: Connect) -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        await peer.bind(("127.0.0.1", 0))
        async with start_relay() as running, connect_client(running) as client:
            relayed = await client.allocate()
            await client.permit(peer.getsockname())
            with trio.fail_after(5):
                await client.send_indication(b"", peer.getsockname())
                assert await peer.recvfrom(100) == (b"", relayed)
                await peer.sendto(b"", relayed)
                assert parse(await client.receive()).get(AttributeType.DATA) == b""
                await client.bind(0x4000, peer.getsockname())
                await client.send(b"\x40\x00\x00\x00")
                assert await peer.recvfrom(100) == (b"", relayed)
                await peer.sendto(b"", relayed)
                assert await client.receive() == b"\x40\x00\x00\x00"

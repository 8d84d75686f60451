"""Any byte stream, cut anywhere: the server answers or ends it, its allocation goes, and nobody else notices."""

from __future__ import annotations

import os
import random
import struct
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio
import trio.testing

from tavern.stun.attributes import encode_xor_address
from tavern.stun.framing import StreamFramer
from tavern.stun.integrity import long_term_key
from tavern.stun.message import MAGIC_COOKIE, Attribute, AttributeType, MessageClass, Method, encode, parse
from tavern.turn.five_tuple import FiveTuple, Transport
from tests.relay.conftest import UDP, static_credential

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Running, Start

STREAMS = 300
PEER = ("127.0.0.1", 9)
CHALLENGED = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), [UDP])


class AnyStream:
    """One client over a stream, which begins like a real one."""

    def __init__(self, running: Running, number: int) -> None:
        self.running = running
        self.chance = random.Random(number)  # noqa: S311 - the same in every run
        self.five_tuple = FiveTuple(Transport.TCP, ("127.0.0.1", 20_000 + number), ("127.0.0.1", running.port))
        self.credential = static_credential("eve")
        self.stream, self.served = trio.testing.memory_stream_pair()
        self.framer = StreamFramer()

    async def serve(self) -> None:
        try:
            await self.running.relay.serve_stream(self.served, CHALLENGED, self.five_tuple)
        except* trio.BrokenResourceError:
            pass  # the client has gone without a word
        await self.served.aclose()

    async def receive(self) -> bytes | None:
        """The next frame; None at the end."""
        while (frame := self.framer.take()) is None:
            data = bytes(await self.stream.receive_some())
            if not data:
                assert not self.framer.unfinished, "an answer is cut"
                return None
            self.framer.feed(data)
        return frame

    async def run(self) -> list[tuple[int, MessageClass]]:
        """Sends anything, and half-closes or goes; what was answered."""
        challenge = await self.receive()
        assert challenge is not None
        nonce = parse(challenge).get(AttributeType.NONCE)
        assert nonce is not None
        sent = b"".join(self._piece(nonce) for _ in range(self.chance.randrange(12)))
        sent = sent[: len(sent) - self.chance.choice((0, 0, 1, 7))]
        try:
            while sent:
                size = self.chance.choice((1, 3, 20, 1000, 100_000))
                await self.stream.send_all(sent[:size])
                sent = sent[size:]
            if self.chance.random() < 0.2:
                await self.stream.aclose()
                return []
            await self.stream.send_eof()
        except trio.BrokenResourceError:
            pass  # the server has had enough
        answers: list[tuple[int, MessageClass]] = []
        while (frame := await self.receive()) is not None:
            message = parse(frame)
            if message.method != Method.DATA:  # ICMP says that nobody is there
                assert message.message_class in {MessageClass.SUCCESS, MessageClass.ERROR}
                answers.append((message.method, message.message_class))
        return answers

    def _piece(self, nonce: bytes) -> bytes:
        kind = self.chance.random()
        noise = self.chance.randbytes(self.chance.randrange(60))
        if kind < 0.5:
            return self._request(nonce)
        if kind < 0.7:
            return struct.pack(">HH", self.chance.choice((0x4000, 0x4001)), len(noise)) + noise + bytes(-len(noise) % 4)
        if kind < 0.8:
            return struct.pack(">HH", 0x0016, len(noise) & ~3) + MAGIC_COOKIE + bytes(12) + noise[: len(noise) & ~3]
        if kind < 0.9:
            return encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12))
        return self.chance.choice((noise, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x00" * 20))

    def _request(self, nonce: bytes) -> bytes:
        transaction_id = self.chance.randbytes(12)
        method = self.chance.choice((Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND))
        username = self.credential.username.encode()
        attributes: list[Attribute] = [
            (AttributeType.USERNAME, username),
            (AttributeType.REALM, b"localhost"),
            (AttributeType.NONCE, nonce),
            UDP,
            (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(PEER[0]), PEER[1], transaction_id)),
            (AttributeType.CHANNEL_NUMBER, b"\x40\x00\0\0"),
        ]
        if self.chance.random() < 0.2:
            attributes.append((self.chance.randrange(0x8000), self.chance.randbytes(7)))
        key = long_term_key(username, b"localhost", self.credential.password.encode())
        return encode(method, MessageClass.REQUEST, transaction_id, attributes, integrity_key=key)


async def test_any_stream_cut_anywhere(start_relay: Start, connect_client: Connect) -> None:
    async with start_relay(unauthenticated_rate=10_000) as running, connect_client(running) as other:
        await other.allocate()
        answers: Counter[tuple[int, MessageClass]] = Counter()
        for number in range(STREAMS):
            client = AnyStream(running, number)
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.serve)
                    answers.update(await client.run())
            assert running.relay.statistics().allocations == 1, "what came over the stream outlives it"
        for method in (Method.BINDING, Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
            assert answers[method, MessageClass.SUCCESS] > 10
            assert method == Method.BINDING or answers[method, MessageClass.ERROR] > 10
        assert (await other.request(Method.REFRESH)).message_class is MessageClass.SUCCESS

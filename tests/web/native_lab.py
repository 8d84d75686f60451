"""The compiled poller on pairs of sockets, turn by turn: tests are the clients, and what Python would be."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate

import attrs

from tavern.signaling.transport import Membership
from tavern.web.frames import FrameReader
from tavern.web.native.poller import NativePoller

MASK = b"\x11\x22\x33\x44"


def masked(payload: bytes, mask: bytes = MASK, first: int = 0x81) -> bytes:
    """A client's frame."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 2**16:
        head = bytes((first, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + length.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def unframed(data: bytes) -> list[bytes]:
    """The payloads of text frames from the server; there must be nothing else."""
    found = []
    while data:
        assert data[0] == 0x81, data[:40]
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        assert length < 2**16
        assert len(data) >= start + length
        found.append(data[start : start + length])
        data = data[start + length :]
    return found


class Seen:
    """What the poller says that it did."""

    def __init__(self) -> None:
        self.count = 0
        self.announced: list[tuple[object, object, bytes]] = []

    def passed_on(self, count: int) -> None:
        self.count += count

    def address_announced(self, sender: object, receiver: object, address: bytes) -> None:
        self.announced.append((sender, receiver, address))


class Member:
    """A connection, both of its ends."""

    def __init__(self, poller: NativePoller, name: str) -> None:
        self.name = name
        self.client, self.server = socket.socketpair()
        self.client.setblocking(False)
        self.server.setblocking(False)
        self.watched = poller.watch(self.server.fileno(), self)
        self.watched.message_limit(1_000_000)
        self.handed: list[bytes] = []
        self.rest = b""
        self.rest_under_way = False
        self.aborted = False
        self.reader: FrameReader | None = None
        """Set: what is handed over is read with it, and the poller goes on at the next message."""
        self.events: list[object] = []
        self.watched.listen(self._receive)

    def _receive(self, data: bytes) -> None:
        self.handed.append(data)
        if self.reader is not None:
            self.events += self.reader.feed(data)
            if self.reader.between_messages:
                self.watched.release()

    def write_rest(self, data: bytes, *, under_way: bool) -> None:
        assert not self.rest
        self.rest, self.rest_under_way = data, under_way

    def abort(self) -> None:
        self.aborted = True

    def heard(self) -> list[bytes]:
        """The messages that have arrived at the client: whole ones, with the rest that somebody else is to send."""
        data = b""
        with suppress(BlockingIOError):
            while more := self.client.recv(1_000_000):
                data += more
        rest, self.rest = self.rest, b""
        found = unframed(data + rest)
        if rest:
            ends = list(accumulate(4 + len(one) if len(one) > 125 else 2 + len(one) for one in found))
            assert self.rest_under_way == (len(data) not in (0, *ends))
        return found

    def close(self) -> None:
        self.watched.close()
        self.client.close()
        self.server.close()


@attrs.define
class Channel:
    """What memberships name."""

    tavern: str = "t"
    channel: str = "c"

    def __hash__(self) -> int:
        return id(self)


class Lab:
    """A poller and its connections."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.poller = NativePoller(self.seen)
        self.members: list[Member] = []
        self.now = 1000.0

    def connect(self, name: str) -> Member:
        member = Member(self.poller, name)
        self.members.append(member)
        return member

    def join(self, member: Member, channel: Channel, key: str | None = None, raw: bytes | None = None) -> None:
        member.watched.set_membership(
            Membership(
                member=member.name,
                group=channel,
                raw_tavern_id=f'"{channel.tavern}"'.encode(),
                raw_channel_id=f'"{channel.channel}"'.encode(),
                raw_address=raw if raw is not None else f'"{key or member.name}"'.encode(),
            )
        )
        member.watched.release()

    def turn(self) -> None:
        self.poller.turn(self.now)


@contextmanager
def open_lab(*names: str) -> Iterator[tuple[Lab, list[Member]]]:
    """Those of these names are in one channel, and read."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    lab = Lab()
    channel = Channel()
    for name in names:
        lab.join(lab.connect(name), channel)
    try:
        yield lab, lab.members
    finally:
        for member in lab.members:
            member.close()
        lab.poller.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

"""What waits for the control side: clients with a flow first, and nobody's share grows beyond its bound."""

from __future__ import annotations

from array import array
from collections import deque

import attrs

from tavern.addresses import source_key
from tavern.turn.five_tuple import FiveTuple

_MAX_AGE_S = 0.5  # RFC 8489 §6.2.1: a client sends again after 0.5 s; what is older is asked twice, or answered late
_MAX_BYTES = 1 << 20  # of clients with a flow, and again of those without: some 1,500 requests, 150 ms of work or more
_PACKET_SIZE = 500  # bytes that a packet takes beyond its data
_MAX_SHARE = 128  # packets of one source: four browsers behind a NAT that each join a mesh of 8 at once
_SHARES = 1024  # 8 KiB for each count; sources that collide share a share
_OTHERS_TURN = 4  # each fourth packet is of a client without a flow: a client with one must not lock new ones out


@attrs.frozen
class ControlPacket:
    """A datagram from a client that the data path does not decide on: requests, mostly."""

    data: bytes
    five_tuple: FiveTuple
    received_at: float
    """By `time.monotonic`."""


def _counters() -> array[int]:
    return array("Q", [0]) * _SHARES


@attrs.define(eq=False)
class _Lane:
    """A queue of bounded bytes, of which each source has a share. Each figure has one writer, so no lock is needed."""

    packets: deque[ControlPacket] = attrs.field(factory=deque)
    bytes_put: int = 0
    bytes_taken: int = 0
    put_by_source: array[int] = attrs.field(factory=_counters)
    taken_by_source: array[int] = attrs.field(factory=_counters)

    def put(self, packet: ControlPacket) -> bool:
        size = len(packet.data) + _PACKET_SIZE
        share = _share_of(packet)
        if self.bytes_put - self.bytes_taken + size > _MAX_BYTES:
            return False
        if self.put_by_source[share] - self.taken_by_source[share] >= _MAX_SHARE:
            return False
        self.bytes_put += size  # before the packet can be taken, as the next
        self.put_by_source[share] += 1
        self.packets.append(packet)
        return True

    def take(self) -> ControlPacket:
        packet = self.packets.popleft()
        self.bytes_taken += len(packet.data) + _PACKET_SIZE
        self.taken_by_source[_share_of(packet)] += 1
        return packet


class ControlQueue:
    """From one thread that puts to one that takes; neither waits.

    A source without a flow can be forged or anybody, so its packets wait behind those of clients that have one. The
    loudest source, whichever kind it is of, leaves most places to the others.
    """

    def __init__(self) -> None:
        self._with_flow = _Lane()
        self._without_flow = _Lane()
        self._refused = 0
        self._outdated = 0
        self._turn = 0

    @property
    def dropped(self) -> int:
        """Packets since the start that found no place or waited too long."""
        return self._refused + self._outdated

    def put(self, packet: ControlPacket, *, has_flow: bool) -> bool:
        """Whether `packet` waits now; else it is counted. For the one thread that puts."""
        queued = (self._with_flow if has_flow else self._without_flow).put(packet)
        self._refused += not queued
        return queued

    def take(self, now: float) -> ControlPacket | None:
        """The next packet that is not too old; None if there is none. For the one thread that takes."""
        while (lane := self._next_lane()) is not None:
            packet = lane.take()
            if now - packet.received_at <= _MAX_AGE_S:
                return packet
            self._outdated += 1
        return None

    def _next_lane(self) -> _Lane | None:
        self._turn += 1
        first, second = self._with_flow, self._without_flow
        if self._turn % _OTHERS_TURN == 0:
            first, second = second, first
        return first if first.packets else second if second.packets else None


def _share_of(packet: ControlPacket) -> int:
    # Seeded for each process: collisions cannot be planned.
    return hash(source_key(packet.five_tuple.client[0])) % _SHARES

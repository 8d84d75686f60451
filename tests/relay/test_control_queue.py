"""Whose request is next, and what finds no place."""

from __future__ import annotations

import pytest

from tavern.relay import control_queue
from tavern.relay.control_queue import ControlPacket, ControlQueue
from tavern.turn.five_tuple import FiveTuple, Transport


def packet(host: str = "192.0.2.1", data: bytes = b"request", received_at: float = 0.0) -> ControlPacket:
    return ControlPacket(data, FiveTuple(Transport.UDP, (host, 1000), ("192.0.2.9", 3478)), received_at)


def taken(queue: ControlQueue, now: float = 0.0) -> list[bytes]:
    found = []
    while (one := queue.take(now)) is not None:
        found.append(one.data)
    return found


def test_clients_with_a_flow_go_first_and_cannot_lock_out_the_others() -> None:
    queue = ControlQueue()
    for _ in range(2):
        assert queue.put(packet(data=b"new"), has_flow=False)
    for _ in range(7):
        assert queue.put(packet(data=b"flow"), has_flow=True)
    assert taken(queue) == [b"flow"] * 3 + [b"new"] + [b"flow"] * 3 + [b"new"] + [b"flow"]


def test_the_order_of_one_kind_is_that_of_arrival() -> None:
    queue = ControlQueue()
    for number in range(10):
        queue.put(packet(data=b"%d" % number), has_flow=False)
    assert taken(queue) == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("has_flow", [True, False])
def test_a_source_has_a_share_and_gets_it_back(has_flow: bool) -> None:
    queue = ControlQueue()
    for _ in range(2):
        for _ in range(128):
            assert queue.put(packet(), has_flow=has_flow)
        assert not queue.put(packet(), has_flow=has_flow)
        assert len(taken(queue)) == 128
    assert queue.dropped == 2


@pytest.mark.parametrize("has_flow", [True, False])
def test_a_loud_source_leaves_places(has_flow: bool) -> None:
    queue = ControlQueue()
    while queue.put(packet(), has_flow=has_flow):
        pass
    others = [queue.put(packet(f"198.51.100.{number}"), has_flow=has_flow) for number in range(20)]
    assert sum(others) >= 19  # one may collide with the loud one
    assert queue.put(packet(), has_flow=not has_flow)


def test_an_ipv6_network_is_one_source() -> None:
    queue = ControlQueue()
    places = [queue.put(packet(f"2001:db8::{number:x}"), has_flow=False) for number in range(200)]
    assert sum(places) == 128


@pytest.mark.parametrize("has_flow", [True, False])
def test_memory_is_bounded_in_bytes_and_places_come_back(has_flow: bool) -> None:
    queue = ControlQueue()
    for _ in range(2):
        data = bytes(2000)
        places = 0
        while queue.put(packet(f"10.0.{places >> 8}.{places & 255}", data), has_flow=has_flow):
            places += 1
        assert (places + 1) * 2500 > 1 << 20 >= places * 2500
        assert len(taken(queue)) == places


def test_a_place_that_the_bytes_refused_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = ControlQueue()
    monkeypatch.setattr(control_queue, "_MAX_BYTES", 0)
    for _ in range(200):
        assert not queue.put(packet(), has_flow=False)
    monkeypatch.undo()
    assert queue.put(packet(), has_flow=False)


@pytest.mark.parametrize("has_flow", [True, False])
def test_what_waited_too_long_is_dropped_and_counted(has_flow: bool) -> None:
    queue = ControlQueue()
    queue.put(packet(data=b"old", received_at=9.4), has_flow=has_flow)
    queue.put(packet(data=b"young", received_at=9.5), has_flow=has_flow)
    assert taken(queue, now=10.0) == [b"young"]
    assert queue.dropped == 1

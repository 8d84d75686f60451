"""The load generator sees what a bad relay does to its packets."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.relay.loadgen import Counts, Way, open_load
from benchmarks.relay.servers import Server
from tests.prerequisites import skip_unless

pytestmark = skip_unless(shutil.which("cc") is not None, "no C compiler")

Address = tuple[str, int]
Relay = Callable[[int, Address, list[Address]], list[Address]]
"""Of the n-th packet, from there, with all clients so far: to whom it goes."""


@contextmanager
def relaying(relay: Relay) -> Iterator[int]:
    """An echo that sends packets where `relay` says; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

        def serve() -> None:
            clients: list[Address] = []
            number = 0
            while True:
                data, sender = sock.recvfrom(2048)
                if not data:
                    return
                if sender not in clients:
                    clients.append(sender)
                for target in relay(number, sender, clients):
                    sock.sendto(data, target)
                number += 1

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", ("127.0.0.1", port))
            thread.join(10)


def counts_of(relay: Relay, *, packets_per_s: int) -> Counts:
    process = subprocess.Popen([sys.executable, "-c", ""], text=True)
    process.wait()
    with relaying(relay) as port, open_load(Server("echo", process, port), clients=4, peers=0) as load:
        return load.talk(Way.ECHO, 0.2, packets_per_s=packets_per_s)


both_speeds = pytest.mark.parametrize("packets_per_s", [0, 500])


@both_speeds
def test_a_good_one(packets_per_s: int) -> None:
    counts = counts_of(lambda _number, sender, _clients: [sender], packets_per_s=packets_per_s)
    assert counts.sent > 0
    assert (counts.lost, counts.misdelivered, counts.duplicated, counts.foreign) == (0, 0, 0, 0)
    assert counts.latency_p50_ns <= counts.latency_p99_ns <= counts.latency_max_ns
    assert bool(counts.latency_p50_ns) == bool(packets_per_s)


@both_speeds
def test_one_that_loses_packets(packets_per_s: int) -> None:
    lost = 0

    def relay(number: int, sender: Address, _clients: list[Address]) -> list[Address]:
        nonlocal lost
        lost += number % 40 == 7
        return [] if number % 40 == 7 else [sender]

    counts = counts_of(relay, packets_per_s=packets_per_s)
    assert lost > 0
    assert (counts.lost, counts.misdelivered, counts.duplicated) == (lost, 0, 0)


@both_speeds
def test_one_that_sends_packets_twice(packets_per_s: int) -> None:
    counts = counts_of(lambda _number, sender, _clients: [sender, sender], packets_per_s=packets_per_s)
    assert counts.lost == 0
    assert counts.duplicated > 0


@both_speeds
def test_one_that_sends_packets_to_another_client(packets_per_s: int) -> None:
    counts = counts_of(
        lambda number, sender, clients: [clients[0] if number % 16 == 9 else sender], packets_per_s=packets_per_s
    )
    assert counts.misdelivered > 0
    assert counts.lost >= counts.misdelivered

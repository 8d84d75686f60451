"""What a server must bear beside a call: `python -m benchmarks.signaling.hostile PORT KIND`, until it is ended."""

from __future__ import annotations

import itertools
import socket
import sys
import time
from collections.abc import Callable

from benchmarks.signaling.clients import UPGRADE, Client, Crowd, frame, join_frame

HALF_OPEN = 1000
STUCK = 8


def half_open(port: int) -> None:
    """A thousand connections that say nothing, or half a request; those that are dropped are opened again."""
    connections: list[socket.socket] = []
    for number in itertools.count():
        if len(connections) >= HALF_OPEN:
            connections.pop(0).close()
            time.sleep(0.005)
        connection = socket.create_connection(("127.0.0.1", port))
        if number % 2:
            connection.send(UPGRADE[: len(UPGRADE) // 2])
        connections.append(connection)


def slow_sender(port: int) -> None:
    """Some that send one byte at a time, of requests and of frames."""
    data = UPGRADE + frame(b'{"type":"get-tavern-info","tavernId":"' + b"x" * 50 + b'"}') * 100
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for index in itertools.count():
        for number, connection in enumerate(connections):
            try:
                connection.send(data[index % len(data) : index % len(data) + 1])
            except OSError:
                connections[number] = socket.create_connection(("127.0.0.1", port))
        time.sleep(0.01)


def flooder(port: int) -> None:
    """Sends as fast as it is let, comes back when it is closed: messages, pings, and frames without an end."""
    kinds = (
        frame(b'{"type":"dance"}') * 200,
        b"\x89\x80\0\0\0\0" * 1000,
        b"\x01\x80\0\0\0\0" + b"\0\x80\0\0\0\0" * 1000,
    )
    for data in itertools.cycle(kinds):
        connection = socket.create_connection(("127.0.0.1", port))
        try:
            connection.sendall(UPGRADE)
            for _ in range(50):
                connection.sendall(data)
        except OSError:
            pass
        connection.close()
        time.sleep(0.02)  # on one core with whoever measures: it is to flood the server, not him


def stuck_reader(port: int) -> None:
    """Channels in which one does not read what the others send him without a pause."""
    with Crowd(port) as crowd:
        clients = crowd.open(2 * STUCK)
        pairs: list[tuple[Client, bytes]] = []
        for sender, reader in zip(clients[:STUCK], clients[STUCK:], strict=True):
            where = crowd.create_tavern(sender)
            sender.on_message = reader.on_message = lambda _payload: None
            for number, member in enumerate((sender, reader)):
                member.key = f"{id(member):032x}{number:032x}"
                member.send(join_frame(where, member.key))
            text = b'{"type":"offer","sdp":"' + b"v=0 " * 10_000 + b'","target":"' + reader.key.encode() + b'"}'
            pairs.append((sender, frame(text)))
        time.sleep(0.5)
        while True:
            for sender, message in pairs:
                sender.send(message)
            time.sleep(1 / 25)  # below the rate that a connection has


KINDS: dict[str, Callable[[int], None]] = {
    "half-open": half_open,
    "slow-sender": slow_sender,
    "flooder": flooder,
    "stuck-reader": stuck_reader,
}

if __name__ == "__main__":
    KINDS[sys.argv[2]](int(sys.argv[1]))

"""Many clients in one process, as cheap as Python can: raw sockets, one epoll, frames that are made beforehand."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.lacks import ServerFailed

ANSWER_TIMEOUT_S = 30.0
SOURCES = 200
"""Loopback addresses to connect from: one has some 28,000 ports, and limits may count by address."""

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
_PING, _CLOSE = 0x89, 0x88


def frame(payload: bytes) -> bytes:
    """A text frame of a client, masked with zeros: to undo that costs the server as much as any mask."""
    length = len(payload)
    head = bytes((0x81, 0x80 | length)) if length < 126 else b"\x81\xfe" + length.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


def message_frame(message: dict[str, Any]) -> bytes:
    return frame(json.dumps(message, separators=(",", ":")).encode())


class Client:
    """One WebSocket. `on_message` gets each text message's payload."""

    __slots__ = ("buffer", "key", "on_message", "socket", "upgraded")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.buffer = b""
        self.upgraded = False
        self.on_message: Callable[[bytes], None] = lambda _payload: None
        self.key = ""

    def send(self, data: bytes) -> None:
        """All of it; waits where the server does not read fast enough."""
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                select.select([], [self.socket], [], ANSWER_TIMEOUT_S)

    def received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        if not self.upgraded:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self.buffer = head
                return
            if b" 101 " not in head:
                raise ServerFailed(f"upgrade refused: {head[:200]!r}")
            self.upgraded = True
        offset, available = 0, len(data)
        while available - offset >= 2:
            length, start = data[offset + 1], offset + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[offset + 2 : start], "big")
            elif length == 127:
                start += 8
                length = int.from_bytes(data[offset + 2 : start], "big")
            if available < start + length:
                break
            first = data[offset]
            offset = start + length
            if first == _CLOSE:
                raise ServerFailed(f"a client was closed: {data[start:offset]!r}")
            if first == _PING:
                self.send(b"\x8a" + bytes((0x80 | length,)) + b"\0\0\0\0" + data[start:offset])
            else:
                self.on_message(data[start:offset])
        self.buffer = data[offset:]


class Crowd:
    """Clients of one server, and the loop that reads for all of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self._opened = 0

    def close(self) -> None:
        self.drop(list(self.clients.values()))
        self._epoll.close()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def open(self, count: int, *, at_once: int = 100) -> list[Client]:
        """So many more clients, connected and upgraded."""
        opened: list[Client] = []
        while len(opened) < count:
            batch = [self._connect() for _ in range(min(at_once, count - len(opened)))]
            self.run_until(lambda batch=batch: all(client.upgraded for client in batch))  # type: ignore[misc]
            opened += batch
        return opened

    def drop(self, clients: Iterable[Client]) -> None:
        for client in clients:
            self._epoll.unregister(client.socket)
            del self.clients[client.socket.fileno()]
            client.socket.close()

    def poll(self, timeout_s: float) -> None:
        """Reads what has come."""
        for descriptor, _events in self._epoll.poll(timeout_s, 256):
            client = self.clients[descriptor]
            data = client.socket.recv(65536)
            if not data:
                raise ServerFailed("the server closed a connection")
            client.received(data)

    def run_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while not done():
            self.poll(0.05)
            if time.monotonic() > deadline:
                raise ServerFailed(f"no answer within {ANSWER_TIMEOUT_S:.0f} s")

    def join(self, clients: list[Client], *, size: int = 8) -> list[list[Client]]:
        """All of them in channels of `size`; the clients by channel."""
        channels = [clients[start : start + size] for start in range(0, len(clients), size)]
        heard = 0
        expected = sum(len(members) * (len(members) + 1) // 2 for members in channels)
        for members in channels:
            where = self.create_tavern(members[0])
            for member in members:
                member.key = os.urandom(32).hex()

                def note(payload: bytes) -> None:
                    nonlocal heard
                    heard += payload.startswith((b'{"type":"channel-joined"', b'{"type":"peer-joined-channel"'))

                member.on_message = note
                member.send(join_frame(where, member.key))
        self.run_until(lambda: heard == expected)
        return channels

    def create_tavern(self, client: Client) -> dict[str, str]:
        """`{tavernId, channelId}` of a new one."""
        answers: list[bytes] = []
        client.on_message = answers.append
        client.send(message_frame({"type": "create-tavern", "name": "Benchmark"}))
        self.run_until(lambda: bool(answers))
        answer = json.loads(answers[0])
        if answer["type"] != "tavern-created":
            raise ServerFailed(f"no tavern was made: {answer}")
        return {"tavernId": answer["tavern"]["id"], "channelId": answer["tavern"]["channels"][0]["id"]}

    def _connect(self) -> Client:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._opened += 1
        connection.bind((f"127.0.1.{self._opened % SOURCES + 1}", 0))
        connection.connect(("127.0.0.1", self._port))
        connection.setblocking(False)
        client = Client(connection)
        self.clients[connection.fileno()] = client
        self._epoll.register(connection, select.EPOLLIN)
        client.send(UPGRADE)
        return client


def join_frame(where: dict[str, str], key: str) -> bytes:
    identity = {"publicKeyHex": key, "tag": f"TVN-{key[:4]}-{key[4:8]}", "displayName": "Somebody"}
    return message_frame({"type": "join-channel", **where, "identity": identity})

"""Who uses the server in the container, with the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import struct
from typing import Any


def get_health(port: int) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/health")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def create_tavern(port: int) -> Any:
    """The answer to `create-tavern`, over a WebSocket by hand: there is only the standard library."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock, sock.makefile("rb") as reader:
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = reader.readline()
        if b" 101 " not in status:
            raise RuntimeError(f"no upgrade: {status!r}")
        while reader.readline().strip():
            pass
        payload = json.dumps({"type": "create-tavern", "name": "The Stand-in"}).encode()
        sock.sendall(bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload)  # a mask of zeros
        while True:
            first, length = reader.read(2)
            if length == 126:
                (length,) = struct.unpack("!H", reader.read(2))
            content = reader.read(length)
            if first & 0x0F == 1:
                return json.loads(content)

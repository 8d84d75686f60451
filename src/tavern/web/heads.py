"""The first request on a connection: read with its limits, and judged as far as it is a WebSocket's."""

from __future__ import annotations

import re

import attrs
import h11
import trio

from tavern.web.streams import AnyStream

MAX_HEAD_BYTES = 8 * 1024
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class Refused(Exception):
    """The request cannot be served; answered with this status and line."""

    def __init__(self, status: str, line: str, extra_header: str = "") -> None:
        super().__init__(line)
        self.status = status
        self.line = line
        self.extra_header = extra_header


@attrs.frozen
class Head:
    """One request's head, and what was read after it (`rest`)."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    rest: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def tokens(self, name: bytes) -> list[bytes]:
        """The members of a comma-separated header, in lower case."""
        return [token.strip().lower() for value in self.values(name) for token in value.split(b",")]

    @property
    def wants_websocket(self) -> bool:
        return b"websocket" in self.tokens(b"upgrade")


async def read_first(stream: AnyStream, ends_at: float) -> bytes:
    """What comes first, its first byte at least; nothing if the client sent nothing. Raises Refused if it waits."""
    with trio.move_on_at(ends_at):
        return bytes(await stream.receive_some(MAX_HEAD_BYTES))
    raise _too_slow()


async def read_head(stream: AnyStream, first: bytes, ends_at: float) -> Head | None:
    """The first request's head, which begins with `first`; None if the client ended before.

    Raises Refused for what is no HTTP, too large or too slow.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    data = first
    size_bytes = 0
    with trio.move_on_at(ends_at):
        while data:
            size_bytes += len(data)
            try:
                parser.receive_data(data)
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                if error.error_status_hint == 431:
                    raise _too_large() from None
                raise Refused("400 Bad Request", "This port speaks HTTP and WebSocket; that was neither.") from None
            if isinstance(event, h11.Request):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                rest = bytes(parser.trailing_data[0])
                if size_bytes - len(rest) > MAX_HEAD_BYTES:
                    raise _too_large()
                return Head(bytes(event.method), bytes(event.target), headers, rest)
            data = bytes(await stream.receive_some(MAX_HEAD_BYTES))
        return None
    raise _too_slow()


def check_upgrade(head: Head) -> None:
    """Raises Refused for a WebSocket handshake that cannot succeed (RFC 6455 section 4.2.1)."""
    if head.method != b"GET":
        raise Refused("405 Method Not Allowed", "A WebSocket is opened with GET.", "Allow: GET")
    if b"upgrade" not in head.tokens(b"connection"):
        raise Refused("400 Bad Request", "Connection: Upgrade is missing.")
    if head.values(b"sec-websocket-version") != [b"13"]:
        raise Refused("426 Upgrade Required", "WebSocket version 13 is spoken here.", "Sec-WebSocket-Version: 13")
    keys = head.values(b"sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise Refused("400 Bad Request", "Sec-WebSocket-Key must be 16 bytes in base64.")


def _too_slow() -> Refused:
    return Refused("408 Request Timeout", "The request took too long.")


def _too_large() -> Refused:
    return Refused("431 Request Header Fields Too Large", f"A request has at most {MAX_HEAD_BYTES} bytes of headers.")


def answer(refused: Refused) -> bytes:
    return text_answer(refused.status, refused.line.encode() + b"\n", refused.extra_header)


def text_answer(status: str, body: bytes, extra_header: str = "") -> bytes:
    extra = extra_header + "\r\n" if extra_header else ""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + body

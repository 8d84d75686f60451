"""What a TLS client asks for in its first message (RFC 8446 section 4.1.2). Pure."""

from __future__ import annotations

RECORD_HEADER_BYTES = 5
MAX_RECORD_BYTES = RECORD_HEADER_BYTES + 2**14
_CLIENT_HELLO = 1
_VERSION_AND_RANDOM_BYTES = 2 + 32
_ALPN = 16


def record_bytes(header: bytes) -> int:
    """How long the record is that begins with these RECORD_HEADER_BYTES; MAX_RECORD_BYTES at most, whatever it says."""
    return min(RECORD_HEADER_BYTES + int.from_bytes(header[3:5], "big"), MAX_RECORD_BYTES)


def alpn_protocols(record: bytes) -> tuple[bytes, ...]:
    """The protocols that the ClientHello in one TLS record offers (RFC 7301); none where it is malformed or cut off."""
    hello = _Reader(record[RECORD_HEADER_BYTES:])
    if hello.number(1) != _CLIENT_HELLO:
        return ()
    hello.number(3)  # its length: what is cut off ends the reading anyway
    hello.take(_VERSION_AND_RANDOM_BYTES)
    hello.block(1)  # session id
    hello.block(2)  # cipher suites
    hello.block(1)  # compression methods
    extensions = _Reader(hello.block(2))
    while extensions:
        kind = extensions.number(2)
        content = extensions.block(2)
        if kind == _ALPN:
            return _names(_Reader(_Reader(content).block(2)))
    return ()


def _names(entries: _Reader) -> tuple[bytes, ...]:
    names = []
    while entries:
        names.append(entries.block(1))
    return tuple(name for name in names if name)


class _Reader:
    """Takes fields off the front. What is not there is empty, or zero: a hello that ends early offers nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, size_bytes: int) -> bytes:
        taken, self._data = self._data[:size_bytes], self._data[size_bytes:]
        return taken

    def number(self, size_bytes: int) -> int:
        return int.from_bytes(self.take(size_bytes), "big")

    def block(self, length_bytes: int) -> bytes:
        """A field behind its length, which takes so many bytes; nothing where it is longer than what is left."""
        length = self.number(length_bytes)
        content = self.take(length)
        return content if len(content) == length else b""

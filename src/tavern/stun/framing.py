"""STUN messages and ChannelData out of a byte stream (RFC 8489 §6.2.2, RFC 8656 §12.5). Pure."""

from __future__ import annotations

from tavern.stun.message import HEADER_SIZE, MAGIC_COOKIE, MalformedMessage

_LENGTH_SIZE = 4  # both kinds of frame name their length within the first four bytes
_CHANNEL_DATA = 0x40
_RESERVED = 0x80


class StreamFramer:
    """Cuts what a client sends over TCP or TLS into frames.

    Holds what was fed and not taken yet: once `take` has said None, one unfinished frame, 64 KiB at most.
    """

    def __init__(self) -> None:
        self._data = b""
        self._offset = 0

    @property
    def unfinished(self) -> bool:
        """Whether there are bytes that were not taken."""
        return self._offset < len(self._data)

    def feed(self, data: bytes) -> None:
        """`data` follows what was fed before."""
        self._data = self._data[self._offset :] + data
        self._offset = 0

    def take(self) -> bytes | None:
        """The next frame, without the padding of ChannelData; None until more is fed.

        Raises MalformedMessage, now and ever after, where the next bytes can begin neither kind of frame.
        """
        data, offset = self._data, self._offset
        left = len(data) - offset
        if left < _LENGTH_SIZE:
            if left and data[offset] >= _RESERVED:
                raise MalformedMessage("a frame begins with neither STUN's nor ChannelData's bits")
            return None
        size, padded = _frame_size(data, offset)
        if left < padded:
            return None
        self._offset = offset + padded
        return data[offset : offset + size]


def _frame_size(data: bytes, offset: int) -> tuple[int, int]:
    """The size of the frame that begins here, without and with its padding."""
    first = data[offset]
    length = data[offset + 2] << 8 | data[offset + 3]
    if first >= _RESERVED:
        raise MalformedMessage("a frame begins with neither STUN's nor ChannelData's bits")
    if first >= _CHANNEL_DATA:
        size = _LENGTH_SIZE + length
        return size, (size + 3) & ~3
    if length % 4 or not MAGIC_COOKIE.startswith(data[offset + 4 : offset + 8]):
        raise MalformedMessage("a frame is no STUN message")
    return HEADER_SIZE + length, HEADER_SIZE + length

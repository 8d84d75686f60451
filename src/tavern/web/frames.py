"""Counting WebSocket frames in a byte stream (RFC 6455 section 5.2), below whatever library reads them. Pure.

A message limit does not see what never becomes a message: pings, and fragments without an end. A frame costs some 15
microseconds and six bytes to send, so one client could take the whole server.
"""

from __future__ import annotations

_MASK_SIZE = 4
_LENGTH_MASK = 0x7F
_OPCODE_MASK = 0x0F
_FIRST_CONTROL_OPCODE = 0x8
_FINAL = 0x80
_EXTENDED = {126: 2, 127: 8}


class FrameCounter:
    """Counts the frames that begin in what a client sends, wherever the stream is cut. Judges nothing else."""

    def __init__(self) -> None:
        self.fragments = 0
        """Frames of the message that is under way, none of them its last."""
        self._skip = 0
        """Bytes of the current frame that are still to come."""
        self._head = b""
        """The beginning of a frame whose size is not known yet."""

    def feed(self, data: bytes) -> int:
        """How many frames `data` has the size of: each frame is counted once, when its size is known."""
        count = 0
        offset = 0
        while offset < len(data):
            if self._skip:
                skipped = min(self._skip, len(data) - offset)
                self._skip -= skipped
                offset += skipped
                continue
            self._head += data[offset : offset + 1]
            offset += 1
            size = _frame_size(self._head)
            if size is not None:
                self._skip = size - len(self._head)
                self._note_fragment(self._head[0])
                self._head = b""
                count += 1
        return count

    def _note_fragment(self, first: int) -> None:
        if first & _OPCODE_MASK < _FIRST_CONTROL_OPCODE:
            self.fragments = 0 if first & _FINAL else self.fragments + 1


def _frame_size(head: bytes) -> int | None:
    """The size of the frame that begins with `head`, its header included; None if `head` does not tell yet."""
    if len(head) < 2:
        return None
    length = head[1] & _LENGTH_MASK
    extended = _EXTENDED.get(length, 0)
    if len(head) < 2 + extended:
        return None
    if extended:
        length = int.from_bytes(head[2 : 2 + extended], "big")
    return 2 + extended + (_MASK_SIZE if head[1] & ~_LENGTH_MASK else 0) + length

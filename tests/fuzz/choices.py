"""Decisions read from the bytes that a fuzzer makes, so that a changed byte is a changed decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Reads from the front; where no bytes are left, every choice is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def left(self) -> bool:
        """Whether there is anything to be decided."""
        return self._offset < len(self._data)

    def byte(self) -> int:
        return self.number(1)

    def number(self, size: int) -> int:
        """One of `size` bytes."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big")

    def of(self, options: Sequence[T]) -> T:
        """One of 256 options at most."""
        return options[self.byte() % len(options)]

    def take(self, size: int) -> bytes:
        """So many, or what is left."""
        taken = self._data[self._offset : self._offset + size]
        self._offset += size
        return taken

    def chunk(self, most: int = 64) -> bytes:
        """As long as one byte says."""
        return self.take(self.byte() % (most + 1))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

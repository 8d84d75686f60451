"""Many datagrams with one system call: recvmmsg and sendmmsg, which Python's sockets do not have. Linux.

A call through ctypes costs 0.6 us more than one of a socket's methods, and a datagram in it 0.6 us less: half of what
the methods take is for the call and for addresses as Python has them. Here they stay as the kernel writes them.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Protocol

from tavern.relay.sockaddrs import sockaddr_size

MAX_DATAGRAM = 65535
# Not a power of two: the beginnings of all slots would compete for the same few lines of the CPU's cache.
_SLOT = MAX_DATAGRAM + 1 + 192


class Destination(Protocol):
    """Where a datagram goes, as the kernel takes it: an address, and ancillary data, or none."""

    @property
    def name(self) -> bytes: ...
    @property
    def control(self) -> bytes: ...


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (("header", _Header), ("size", ctypes.c_uint))


class _Calls:
    """libc's two functions."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.receive = library.recvmmsg
        self.receive.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
        self.send = library.sendmmsg
        self.send.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


@cache
def batch_calls() -> _Calls | None:
    """None where this machine lacks one of them: not all that run Linux programs have what Linux has."""
    try:
        calls = _Calls()
    except (OSError, AttributeError):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        none = _Message * 1
        works = all(
            call(probe.fileno(), ctypes.byref(none()), 0, socket.MSG_DONTWAIT, *more) == 0
            for call, more in ((calls.receive, (None,)), (calls.send, ()))
        )
    return calls if works else None


class _Slots:
    """Memory for `count` messages with their addresses, ancillary data and datagrams."""

    def __init__(self, family: socket.AddressFamily, count: int, tag: bytes, control_size: int) -> None:
        """`tag` follows each address in memory."""
        self.name_size = sockaddr_size(family)
        self.name_stride = self.name_size + len(tag)
        self.names = ctypes.create_string_buffer((bytes(self.name_size) + tag) * count, self.name_stride * count)
        self.controls = ctypes.create_string_buffer(control_size * count)
        # Of 64 KiB for each, nearly all is never touched: ctypes would fill it with zeros, the kernel waits with that.
        room = mmap.mmap(-1, _SLOT * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.data = (ctypes.c_char * _SLOT * count).from_buffer(room)
        self.vectors = (_IoVec * count)()
        self.messages = (_Message * count)()
        for at in range(count):
            vector, header = self.vectors[at], self.messages[at].header
            vector.base = ctypes.addressof(self.data) + at * _SLOT
            vector.size = MAX_DATAGRAM
            header.name = ctypes.addressof(self.names) + at * self.name_stride
            header.name_size = self.name_size
            header.vectors = ctypes.addressof(vector)
            header.vector_count = 1
            if control_size:
                header.control = ctypes.addressof(self.controls) + at * control_size
                header.control_size = control_size


class ReceiveBatch:
    """Receives from any sockets of one family; what it returns is copied out of its memory."""

    def __init__(
        self, family: socket.AddressFamily, count: int, *, tag: bytes = b"", local: tuple[int, slice] | None = None
    ) -> None:
        """`local`: how much ancillary data comes with each datagram, and where in it the local address is."""
        calls = batch_calls()
        assert calls is not None
        self._receive = calls.receive
        control_size, where = local if local is not None else (0, slice(0, 0))
        self._slots = slots = _Slots(family, count, tag, control_size)
        self._names = memoryview(slots.names).cast("B")
        self._name_stride = slots.name_stride
        self._read_names = struct.Struct(f"{slots.name_stride}s").iter_unpack
        self._controls = memoryview(slots.controls).cast("B")
        self._control_size = control_size
        self._read_locals = struct.Struct(f"{where.start}x{where.stop - where.start}s{control_size - where.stop}x")
        self._data: list[Any] = [slots.data[at] for at in range(count)]  # not copies; a slice of one is bytes
        self._messages = memoryview(slots.messages).cast("B")
        self._messages_at = ctypes.addressof(slots.messages)
        self._fresh = bytes(self._messages)
        size = ctypes.sizeof(ctypes.c_uint)
        self._sizes = self._messages.cast("I")[_Message.size.offset // size :: ctypes.sizeof(_Message) // size]

    def receive(self, descriptor: int, most: int) -> list[tuple[bytes, bytes]]:
        """Up to `most` datagrams that wait, each after its sender's address with the tag and the local address.

        Fewer where no more wait, or the socket has an error.
        """
        # The kernel wrote into the headers what it had of the room that they offer.
        used = most * ctypes.sizeof(_Message)
        self._messages[:used] = self._fresh[:used]
        count = self._receive(descriptor, self._messages_at, most, socket.MSG_DONTWAIT, None)
        if count <= 0:
            return []
        names = self._read_names(self._names[: count * self._name_stride])
        if not self._control_size:
            return [(name, data[:size]) for (name,), data, size in zip(names, self._data, self._sizes, strict=False)]
        places = self._read_locals.iter_unpack(self._controls[: count * self._control_size])
        return [
            (name + local, data[:size])
            for (name,), (local,), data, size in zip(names, places, self._data, self._sizes, strict=False)
        ]


class SendBatch:
    """Sends through any sockets of one family."""

    def __init__(self, family: socket.AddressFamily, count: int, *, control_size: int = 0) -> None:
        """At most `count` at once, each with ancillary data of that size."""
        calls = batch_calls()
        assert calls is not None
        self._send = calls.send
        self._slots = slots = _Slots(family, count, b"", control_size)
        self._names = memoryview(slots.names).cast("B")
        self._controls = memoryview(slots.controls).cast("B")
        self._control_size = control_size
        self._data = memoryview(slots.data).cast("B")
        self._data_at = ctypes.addressof(slots.data)
        vectors = memoryview(slots.vectors).cast("B").cast("L")
        self._bases, self._sizes = vectors[0::2], vectors[1::2]
        self._messages_at = ctypes.addressof(slots.messages)

    def send(self, descriptor: int, packets: Sequence[tuple[Destination, bytes]]) -> list[tuple[int, int]]:
        """Which of these were not sent is returned, with their errno."""
        count = len(packets)
        payloads = [payload for _, payload in packets]
        sizes = array("L", map(len, payloads))
        self._sizes[:count] = memoryview(sizes)
        self._bases[:count] = memoryview(array("L", accumulate(sizes[:-1], initial=self._data_at)))
        _fill(self._data, payloads)
        _fill(self._names, [to.name for to, _ in packets])
        if self._control_size:
            _fill(self._controls, [to.control for to, _ in packets])
        failed: list[tuple[int, int]] = []
        done = 0
        while done < count:
            at = self._messages_at + done * ctypes.sizeof(_Message)
            sent = self._send(descriptor, at, count - done, socket.MSG_DONTWAIT)
            if sent > 0:
                done += sent
            else:  # the first one's; what stops a later one is said when that is the first
                failed.append((done, ctypes.get_errno()))
                done += 1
        return failed


def _fill(memory: memoryview, parts: list[bytes]) -> None:
    """One after the other, from the beginning."""
    joined = b"".join(parts)
    memory[: len(joined)] = joined

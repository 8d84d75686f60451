"""The load generator, which is C, as Python drives it: sockets, handshakes and packets. See native/loadgen.h."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import hmac
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from typing import ClassVar

from benchmarks.lacks import Lacking, ServerFailed
from benchmarks.relay.build import build_generator
from benchmarks.relay.servers import REALM, SECRET, Server

PAYLOAD_BYTES = 120
WINDOW_PACKETS = 96
"""On their way at most: more than these fill the buffer that coturn gives to a relay socket."""
HANDSHAKE_WINDOW = 64
CHANNEL = 0x4000
_KEY_SIZE = 16
_USERNAME_SIZE = 64
_CREDENTIAL_LIFETIME_S = 86_400


class Step(IntEnum):
    """What clients ask for."""

    ALLOCATE = 0
    BIND_PEER = 1
    BIND_PARTNER = 2
    REFRESH_ZERO = 3


class Way(IntEnum):
    """Which way packets take; up is from client to peer."""

    CHANNEL_UP = 0
    CHANNEL_DOWN = 1
    INDICATION_UP = 2
    INDICATION_DOWN = 3
    PARTNERS = 4
    ECHO = 5


class _Fields(ctypes.Structure):
    _names: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in self._names)


class Handshakes(_Fields):
    """How requests ended."""

    _names = ("done", "failed", "repeated", "error_code")
    _fields_: ClassVar = [
        ("done", ctypes.c_uint64),
        ("failed", ctypes.c_uint64),
        ("repeated", ctypes.c_uint64),
        ("elapsed_ns", ctypes.c_uint64),
        ("error_code", ctypes.c_uint32),
    ]
    done: int
    failed: int
    repeated: int
    elapsed_ns: int
    error_code: int


class _Talk(ctypes.Structure):
    _fields_: ClassVar = [
        ("way", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("stride", ctypes.c_int32),
        ("payload_size", ctypes.c_uint32),
        ("window", ctypes.c_uint32),
        ("packets_per_s", ctypes.c_uint32),
        ("spins", ctypes.c_uint32),
        ("duration_ns", ctypes.c_uint64),
    ]


class Counts(_Fields):
    """What became of a run's packets."""

    _names = ("sent", "delivered", "misdelivered", "duplicated", "foreign", "unsent", "skipped")
    _fields_: ClassVar = [
        (name, ctypes.c_uint64)
        for name in (*_names, "elapsed_ns", "latency_p50_ns", "latency_p99_ns", "latency_max_ns")
    ]
    sent: int
    delivered: int
    misdelivered: int
    duplicated: int
    foreign: int
    unsent: int
    skipped: int
    elapsed_ns: int
    latency_p50_ns: int
    latency_p99_ns: int
    latency_max_ns: int

    @property
    def lost(self) -> int:
        return self.sent - self.delivered


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_generator()), use_errno=True)
    library.load_open.restype = ctypes.c_void_p
    library.load_open.argtypes = [ctypes.c_uint16, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p]
    library.load_close.restype = None
    library.load_close.argtypes = [ctypes.c_void_p]
    library.load_client_fd.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.load_request.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * 4, ctypes.POINTER(Handshakes)]
    library.load_talk.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Talk), ctypes.POINTER(Counts)]
    library.load_drain.restype = ctypes.c_uint64
    library.load_drain.argtypes = [ctypes.c_void_p]
    return library


class Load:
    """Clients of one server with their peers. Every call returns when it is done, and holds no lock meanwhile."""

    def __init__(self, server: Server, handle: int, clients: int) -> None:
        self.server = server
        self.clients = clients
        self._handle = handle

    def request(self, step: Step, first: int = 0, count: int | None = None) -> Handshakes:
        """Has `count` clients from `first` on (all without) ask for this. Raises ServerFailed if one is refused."""
        result = Handshakes()
        asking = self.clients - first if count is None else count
        window = min(HANDSHAKE_WINDOW, asking)
        if _library().load_request(self._handle, step, first, asking, window, ctypes.byref(result)) != 0:
            raise _error("handshakes")
        if result.failed:
            reason = f"error {result.error_code}" if result.error_code else "no answer"
            raise ServerFailed(f"{self.server.name}: {result.failed} of {asking} {step.name} failed ({reason})")
        return result

    def talk(
        self,
        way: Way,
        duration_s: float,
        *,
        first: int = 0,
        count: int | None = None,
        stride: int = 1,
        packets_per_s: int = 0,
        spins: bool = True,
    ) -> Counts:
        """Sends for `duration_s`, each of `count` clients in turn (all without), and counts what arrives.

        At full speed with WINDOW_PACKETS on their way, or `packets_per_s` of them, evenly spaced.
        """
        talk = _Talk(
            way=way,
            first=first,
            count=self.clients - first if count is None else count,
            stride=stride,
            payload_size=PAYLOAD_BYTES,
            window=WINDOW_PACKETS,
            packets_per_s=packets_per_s,
            spins=spins,
            duration_ns=int(duration_s * 1e9),
        )
        counts = Counts()
        if _library().load_talk(self._handle, ctypes.byref(talk), ctypes.byref(counts)) != 0:
            raise _error("packets")
        return counts

    def send(self, client: int, data: bytes) -> None:
        """One datagram from this client to the server."""
        os.write(_library().load_client_fd(self._handle, client), data)

    def drain(self) -> int:
        """How many packets waited at any socket; they are gone."""
        return int(_library().load_drain(self._handle))


@contextmanager
def open_load(server: Server, clients: int, peers: int) -> Iterator[Load]:
    """Sockets for clients and peers; client i's peer is i % `peers`. They are closed with the block."""
    expiry = int(time.time()) + _CREDENTIAL_LIFETIME_S
    usernames = [f"{expiry}:client-{index}".encode() for index in range(clients)]
    names = b"".join(username.ljust(_USERNAME_SIZE, b"\0") for username in usernames)
    realm = REALM if server.name == "coturn" else "localhost"
    keys = b"".join(_long_term_key(username, realm.encode()) for username in usernames)
    handle = _library().load_open(server.turn_port, clients, peers, names, keys)
    if handle is None:
        raise _error(f"{clients} sockets of clients and {2 * peers} of peers")
    try:
        yield Load(server, handle, clients)
    finally:
        _library().load_close(handle)


def _long_term_key(username: bytes, realm: bytes) -> bytes:
    """As the TURN REST API and RFC 8489 §9.2.2 have it."""
    password = base64.b64encode(hmac.digest(SECRET.encode(), username, "sha1"))
    key = hashlib.md5(b":".join((username, realm, password)), usedforsecurity=False).digest()
    assert len(key) == _KEY_SIZE
    return key


def _error(what: str) -> Lacking:
    return Lacking(f"more than this machine gives, for {what}: {os.strerror(ctypes.get_errno())}")

"""The compiled data path as Python calls it; `export.h` is its contract. Linux."""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_int,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from pathlib import Path
from typing import Any

from tavern.errors import TavernError
from tavern.turn.drops import Drop

ABI = 3
"""What this module was written for; the library says its own."""

LIBRARY = Path(__file__).with_name("libtavernrelay.so")


class NoNativeDataPath(TavernError):
    """There is no compiled data path here that can be used; the text says why."""


class Address(Structure):
    """`struct address`: an IP address with a port. The first four bytes are those of an IPv4 address."""

    _fields_ = (("ip", ctypes.c_uint8 * 16), ("scope", c_uint32), ("port", c_uint16), ("family", c_uint16))


class Client(Structure):
    """`struct client`: how a client is known."""

    _fields_ = (
        ("address", Address),
        ("local", ctypes.c_uint8 * 16),
        ("listener", c_uint32),
        ("link", c_uint32),
    )


class CoreConfig(Structure):
    """`struct core_config`."""

    _fields_ = (
        ("own_hosts", c_void_p),
        ("own_host_count", c_uint32),
        ("listener_ports", c_void_p),
        ("listener_port_count", c_uint32),
        ("user_bytes_per_s", c_uint64),
        ("bytes_per_s", c_uint64),
    )


class CTraffic(Structure):
    """`struct traffic`; the fields are those of `tavern.turn.flows.Traffic`."""

    _fields_ = (
        ("packets_from_clients", c_uint64),
        ("bytes_from_clients", c_uint64),
        ("packets_to_clients", c_uint64),
        ("bytes_to_clients", c_uint64),
        ("packets_handed_over", c_uint64),
        ("bytes_handed_over", c_uint64),
    )


Drops = c_uint64 * len(Drop)
"""Counters in the order of `Drop`."""

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tavern_open": (c_void_p, (POINTER(CoreConfig),)),
    "tavern_close": (None, (c_void_p,)),
    "tavern_add_listener": (c_int, (c_void_p, c_int, c_int, c_int)),
    "tavern_give_back_listeners": (None, (c_void_p,)),
    "tavern_open_shared": (c_int, (c_void_p, c_char_p, c_int)),
    "tavern_run": (c_int, (c_void_p,)),
    "tavern_stop": (None, (c_void_p,)),
    "tavern_watch": (c_uint32, (c_void_p, c_int)),
    "tavern_submit": (None, (c_void_p, c_char_p, c_size_t)),
    "tavern_submit_all": (None, (c_void_p, c_char_p, c_size_t)),
    "tavern_notice_fd": (c_int, (c_void_p,)),
    "tavern_notice_seen": (None, (c_void_p,)),
    "tavern_take_control": (c_int, (c_void_p, c_double, c_void_p, c_void_p)),
    "tavern_open_link": (c_void_p, (c_void_p, c_uint32)),
    "tavern_link_taken": (None, (c_void_p, c_uint64)),
    "tavern_close_link": (None, (c_void_p, c_void_p)),
    "tavern_take_events": (c_size_t, (c_void_p, c_void_p, c_size_t)),
    "tavern_set_challenge": (c_int, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_double, c_double)),
    "tavern_statistics": (None, (c_void_p, POINTER(CTraffic), POINTER(Drops), POINTER(c_uint64))),
}


@cache
def load_library() -> ctypes.CDLL:
    """The library, its functions with their signatures. Raises NoNativeDataPath, which says why there is none."""
    if not LIBRARY.exists():
        raise NoNativeDataPath("it was not compiled when Tavern was installed")
    try:
        library = ctypes.CDLL(str(LIBRARY), use_errno=True)
        abi = int(library.tavern_abi())
    except (OSError, AttributeError) as error:
        raise NoNativeDataPath(f"it cannot be loaded: {error}") from error
    if abi != ABI:
        raise NoNativeDataPath(f"it is of another version ({abi} instead of {ABI}): install Tavern again")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)  # cached there, as indexing is not
        function.restype, function.argtypes = result, arguments
    _check_drops(library)
    return library


def _check_drops(library: ctypes.CDLL) -> None:
    name = library.tavern_drop_name
    name.restype, name.argtypes = c_char_p, (c_uint32,)
    names = [name(number) for number in range(len(Drop) + 1)]
    if names != [*(str(reason).encode() for reason in Drop), None]:
        raise NoNativeDataPath("it counts other things than this version does: install Tavern again")

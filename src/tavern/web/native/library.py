"""The compiled poller as Python calls it; `export.h` is its contract. Linux."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_double, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from tavern.errors import TavernError

ABI = 1
"""What this module was written for; the library says its own."""

LIBRARY = Path(__file__).with_name("libtavernweb.so")

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tavern_web_open": (c_void_p, ()),
    "tavern_web_close": (None, (c_void_p,)),
    "tavern_web_fd": (c_int, (c_void_p,)),
    "tavern_web_turn": (c_uint64, (c_void_p, c_double)),
    "tavern_web_events": (c_void_p, (c_void_p,)),
    "tavern_web_open_group": (c_void_p, (c_char_p, c_size_t, c_char_p, c_size_t)),
    "tavern_web_close_group": (None, (c_void_p,)),
    "tavern_web_add": (c_void_p, (c_int, c_uint64)),
    "tavern_web_remove": (None, (c_void_p, c_void_p)),
    "tavern_web_listen": (c_int, (c_void_p, c_void_p, c_int)),
    "tavern_web_hold": (None, (c_void_p, c_int)),
    "tavern_web_block": (None, (c_void_p, c_int)),
    "tavern_web_move": (c_int, (c_void_p, c_void_p, c_char_p, c_size_t)),
    "tavern_web_limit": (None, (c_void_p, c_uint32)),
    "tavern_web_allow": (c_int, (c_void_p, c_double)),
}


class NoNativePoller(TavernError):
    """There is no compiled poller here that can be used; the text says why."""


@cache
def load_library() -> ctypes.PyDLL:
    """The library, its functions with their signatures. Raises NoNativePoller, which says why there is none.

    Its calls are short and wait for nothing: they keep the interpreter's lock, which is cheaper than to have it taken.
    """
    if not LIBRARY.exists():
        raise NoNativePoller("it was not compiled when Tavern was installed")
    try:
        library = ctypes.PyDLL(str(LIBRARY), use_errno=True)
        abi = int(library.tavern_web_abi())
    except (OSError, AttributeError) as error:
        raise NoNativePoller(f"it cannot be loaded: {error}") from error
    if abi != ABI:
        raise NoNativePoller(f"it is of another version ({abi} instead of {ABI}): install Tavern again")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)  # cached there, as indexing is not
        function.restype, function.argtypes = result, arguments
    return library

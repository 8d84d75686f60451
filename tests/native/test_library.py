"""The installed library, called. Also on arm64 (scripts/test-arm64), where it comes out of the cross-built wheel."""

from __future__ import annotations

import ctypes
from pathlib import Path

import tavern.relay
from tests.prerequisites import lacking


def test_it_loads_and_says_its_version() -> None:
    library = Path(tavern.relay.__file__).with_name("native") / "libtavernrelay.so"
    if not library.exists():
        lacking(f"{library} was not compiled: TAVERN_NATIVE=require pip install, or python hatch_build.py")
    assert ctypes.CDLL(str(library)).tavern_relay_abi() >= 0

"""The installed library, called. Also on arm64 (scripts/test-arm64), where it comes out of the cross-built wheel."""

from __future__ import annotations

from tavern.relay.native.library import ABI, load_library
from tests.prerequisites import native_or_skip


def test_it_loads_and_says_its_version() -> None:
    native_or_skip()
    assert load_library().tavern_abi() == ABI

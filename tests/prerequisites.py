"""What tests need from the machine: as root it is to be had (scripts/test installs it), so its lack is a failure."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

from tavern.relay.native.library import NoNativeDataPath, load_library

_SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"


def find_program(name: str) -> str | None:
    """Its path, also of those for administrators, which other users' PATH lacks."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + _SBIN)


def program(name: str, package: str) -> str:
    """The path of a program that Debian's `package` brings."""
    return find_program(name) or lacking(f"{name} is not installed (apt-get install {package})")


def lacking(what: str) -> NoReturn:
    """Fails the test as root, and skips it as anybody else, who may be unable to mend it."""
    if os.geteuid() == 0:
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def skip_unless(there: bool, what: str) -> pytest.MarkDecorator:
    """As `lacking`, for a whole test or module: as root the test runs, and fails by what is not there."""
    return pytest.mark.skipif(not there and os.geteuid() != 0, reason=what)


def has_native() -> bool:
    """Whether there is a compiled data path. Fails as root where not, unless it is left out (TAVERN_NATIVE=off)."""
    try:
        load_library()
    except NoNativeDataPath as error:
        if os.geteuid() == 0 and os.environ.get("TAVERN_NATIVE") != "off":
            pytest.fail(f"the data path in C: {error}", pytrace=False)
        return False
    return True


def native_or_skip() -> None:
    """As `has_native`; the test is skipped where there is none."""
    if not has_native():
        pytest.skip("the data path in C was not compiled")

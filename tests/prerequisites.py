"""What tests need from the machine: as root it is to be had (scripts/test installs it), so its lack is a failure."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

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

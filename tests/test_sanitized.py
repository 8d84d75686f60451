"""The compiled libraries under AddressSanitizer and UndefinedBehaviorSanitizer: fuzzed, and on real sockets.

What they find ends the process that runs these tests, with their report.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hatch_build
import pytest

import tavern
from tests.prerequisites import native_or_skip

ROOT = Path(__file__).parents[1]
SANITIZERS = ("libasan.so", "libubsan.so")
FLAGS = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with libraries that were compiled so."""
    native_or_skip()
    source = tmp_path_factory.mktemp("sanitized")
    shutil.copytree(
        Path(tavern.__file__).parent, source / "tavern", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    # The sanitizers' own library defines what is left undefined here.
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": "-Wl,-z,undefs"}
    for library in hatch_build.LIBRARIES:
        hatch_build.compile_library(ROOT, library, source / library.relative_to("src"), environment)
    return source


def preloaded() -> str:
    """Where the compiler has the sanitizers: Python was not linked with them."""
    compiler = hatch_build.find_compiler(os.environ)
    paths = [
        subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in SANITIZERS
    ]
    return " ".join(path.strip() for path in paths)


@pytest.mark.parametrize(
    "selection",
    [
        ["tests/fuzz/test_targets.py"],
        ["tests/turn/test_forwarding.py", "tests/turn/test_shared_flows.py", "tests/turn/test_metering.py"],
        ["tests/relay", "-k", "native and not python and (relay.py or shared_ports or bursts or data_path or icmp.py)"],
        ["tests/web/test_native_poller.py", "tests/web/test_websocket.py"],
    ],
    ids=["fuzz", "decisions", "sockets", "signaling"],
)
@pytest.mark.timeout(240)
def test_nothing_is_found(sanitized: Path, selection: list[str]) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(sanitized),
        "LD_PRELOAD": preloaded(),
        # Python itself leaves memory behind at its end.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", *selection]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert " passed" in done.stdout

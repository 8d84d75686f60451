"""Compiles the load generator and the echo server, each once for the text that it is made of."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.lacks import Lacking

_SOURCES = Path(__file__).parent / "native"
_BUILD = Path(__file__).parent / "build"
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-D_GNU_SOURCE")
_GENERATOR = ("sockets.c", "handshake.c", "lanes.c", "traffic.c", "stun.c", "sha1.c")


def build_generator() -> Path:
    """The load generator as a shared library. Raises Lacking without a compiler."""
    return _build("loadgen.so", _GENERATOR, ("-shared", "-fPIC"))


def build_echo() -> Path:
    """The echo server as a program. Raises Lacking without a compiler."""
    return _build("echo", ("echo.c",), ())


def _build(name: str, sources: tuple[str, ...], flags: tuple[str, ...]) -> Path:
    digest = hashlib.sha256(repr((sources, flags, _FLAGS, os.uname().machine)).encode())
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.read_bytes())
    built = _BUILD / f"{digest.hexdigest()[:16]}-{name}"
    if not built.exists():
        _compile(built, sources, flags)
    return built


def _compile(built: Path, sources: tuple[str, ...], flags: tuple[str, ...]) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Lacking("a C compiler, for the load generator (Debian: apt-get install gcc libc6-dev)")
    built.parent.mkdir(exist_ok=True)
    unfinished = built.with_name(f"{built.name}.{os.getpid()}")
    command = [compiler, *_FLAGS, *flags, "-o", str(unfinished), *(str(_SOURCES / source) for source in sources)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise Lacking(f"a C compiler that works: {' '.join(command)}\n{done.stderr}")
    unfinished.rename(built)

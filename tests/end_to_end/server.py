"""The real program as a subprocess, for tests that talk to it as its users do."""

from __future__ import annotations

import json
import os
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import attrs

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
LINE_TIMEOUT_S = 30.0


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that was free a moment ago, for a server that must be started again on the same one."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lasting_port() -> int:
    """A port, of TCP and UDP, for a server that is started again on it: none that the kernel gives to anybody else."""
    for _ in range(100):
        port = random.randrange(20_000, 32_000)  # noqa: S311  below what it gives to clients
        with ExitStack() as stack:
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    stack.enter_context(socket.socket(socket.AF_INET, kind)).bind(("", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free below 32000")


@attrs.define
class RunningServer:
    """A started `tavern serve`: its ports as it announced them, and all lines that it printed so far."""

    process: subprocess.Popen[str]
    http_port: int
    turn_port: int
    lines: list[str]
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.http_port}/"

    @property
    def ws_url(self) -> str:
        return f"{self.scheme.replace('http', 'ws')}://127.0.0.1:{self.http_port}/"

    def get_json(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as response:
            answer: dict[str, object] = json.load(response)
            return answer

    def wait_for_line(self, word: str) -> str:
        """The first line with this word that it prints, now or soon."""
        ends_at = time.monotonic() + LINE_TIMEOUT_S
        while True:
            for line in tuple(self.lines):
                if word in line:
                    return line
            assert time.monotonic() < ends_at, "".join(self.lines)
            assert self.process.poll() is None, "".join(self.lines)
            time.sleep(0.01)  # its lines are read by another thread

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Ends it; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(STOP_TIMEOUT_S)


def environment(tmp: Path | None = None, **settings: str) -> dict[str, str]:
    """The settings of a server for a test: memory store, any free ports, nothing from this machine's own settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAVERN_") and name != "PORT"}
    defaults = {
        "PORT": "0",
        "TAVERN_TURN_PORT": "0",
        "TAVERN_TURNS_PORT": "0",
        "TAVERN_TURN_MIN_PORT": "50000",
        "TAVERN_TURN_MAX_PORT": "59999",
        "TAVERN_STORE": "memory",
        "PYTHONUNBUFFERED": "1",
    }
    if tmp is not None:
        defaults |= {"TAVERN_STORE": "sqlite", "TAVERN_DB_PATH": str(tmp / "tavern.db")}
    return {**clean, **defaults, **settings}


@contextmanager
def running_server(
    settings: Mapping[str, str] | None = None, *, tmp: Path | None = None, inside: Sequence[str] = ()
) -> Iterator[RunningServer]:
    """A server that is up, and is ended with the block. `settings` are environment variables of the program.

    `inside` are words before its command, such as those that enter a namespace; they end by becoming it.
    """
    process = subprocess.Popen(
        [*inside, sys.executable, "-m", "tavern", "serve"],
        env=environment(tmp, **(settings or {})),
        stdin=subprocess.DEVNULL,  # as under a supervisor, also where the suite runs in a terminal
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    arrived: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read_lines, args=(process, lines, arrived), daemon=True)
    reader.start()
    try:
        http_port = turn_port = 0
        while not turn_port:
            line = arrived.get(timeout=START_TIMEOUT_S)
            assert line is not None, f"the server ended at once ({process.wait()}):\n" + "".join(lines)
            if match := re.match(r" +listening +.*?:(\d+)\b", line):
                http_port = int(match[1])
            if match := re.match(r" +STUN and TURN +.*?:(\d+)\b", line):
                turn_port = int(match[1])
        secured = settings and (settings.get("TAVERN_TLS_CERT") or settings.get("TAVERN_ACME"))
        scheme = "https" if secured else "http"
        yield RunningServer(process, http_port, turn_port, lines, scheme)
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(5)
        assert process.stdout is not None
        process.stdout.close()


def _read_lines(process: subprocess.Popen[str], lines: list[str], arrived: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        arrived.put(line)
    arrived.put(None)

"""The servers that are compared: how each is started, what CPU time and memory its process took, and its end."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import attrs

from benchmarks.lacks import Lacking, ServerFailed
from benchmarks.machine import cpu_s, pinned, resident_bytes
from benchmarks.relay.build import build_echo

ServerName = Literal["native", "python", "native-shared", "coturn", "echo"]
SERVERS: tuple[ServerName, ...] = ("native", "python", "native-shared", "coturn", "echo")
SECRET = "benchmark-of-the-relay"  # noqa: S105 - it lives for as long as the benchmark
REALM = "bench"
SHARED_PORTS = 64
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
_ROOT = Path(__file__).parents[2]
_PLENTY = str(1_000_000)


@attrs.define
class Server:
    """One that is up. CPU time and memory are those of its whole process, with all its threads."""

    name: ServerName
    process: subprocess.Popen[str]
    turn_port: int
    said: tuple[str, ...] = ()
    """The lines that it printed before it was up."""

    def cpu_s(self) -> float:
        """User and system time so far. The kernel counts it in nanoseconds."""
        try:
            return cpu_s(self.process.pid)
        except OSError:
            raise ServerFailed(f"{self.name} ended while it was measured ({self.process.poll()})") from None

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        return resident_bytes(self.process.pid)


def coturn_program() -> str | None:
    return shutil.which("turnserver", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/bin")


def coturn_version() -> str | None:
    """None where it is not installed."""
    program = coturn_program()
    if program is None:
        return None
    done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=10)
    return done.stdout.strip() or "unknown version"


@contextmanager
def running(
    name: ServerName, cpus: set[int], ports: range, *, busy_ms: tuple[int, int] | None = None
) -> Iterator[Server]:
    """The server, up, on `cpus`, with relayed addresses from `ports`; it is ended with the block.

    `busy_ms`: its main thread (ours only) computes so long of every so long. Raises ServerFailed, or Lacking for a
    program that is not installed.
    """
    if name == "native-shared":
        ports = ports[:SHARED_PORTS]
    if name == "coturn":
        command, environment, port = _coturn(ports)
    elif name == "echo":
        command, environment, port = [str(build_echo())], dict(os.environ), None
    else:
        module = ["tavern", "serve"] if busy_ms is None else ["benchmarks.relay.busy_server", *map(str, busy_ms)]
        command, environment, port = [sys.executable, "-m", *module], _tavern_environment(name, ports), None
    with pinned(cpus):
        process = _start(name, command, environment)
    output = _Output(process)
    try:
        up_port = output.wait_for_port(name) if port is None else _wait_for_coturn(process, port)
        yield Server(name, process, up_port, tuple(output.lines))
    finally:
        _end(process)
        output.close()


def _start(name: ServerName, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command, env=environment, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise ServerFailed(f"{name} does not start: {error}") from None


def _coturn(ports: range) -> tuple[Sequence[str], dict[str, str], int]:
    program = coturn_program()
    if program is None:
        raise Lacking("coturn (Debian: apt-get install coturn)")
    port = _free_port()
    command = [
        program, "-n", "--use-auth-secret", f"--static-auth-secret={SECRET}", f"--realm={REALM}",
        "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}", "--allow-loopback-peers",
        "--no-tls", "--no-dtls", "--no-cli", "-m", "1", f"--min-port={ports[0]}", f"--max-port={ports[-1]}",
        "--user-quota=0", "--total-quota=0", "--no-stdout-log", "--log-file=/dev/null", "--simple-log",
        f"--pidfile={build_echo().with_name('coturn.pid')}",
    ]  # fmt: skip
    return command, dict(os.environ), port


def _tavern_environment(name: ServerName, ports: range) -> dict[str, str]:
    """All settings are said here: nothing of this machine's own counts."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TAVERN_") and key != "PORT"}
    settings = {
        "PORT": "0",
        "TAVERN_HOST": "127.0.0.1",
        "TAVERN_STORE": "memory",
        "TAVERN_DOMAIN": "localhost",
        "TAVERN_EXTERNAL_IP": "127.0.0.1",
        "TAVERN_TURN_PORT": "0",
        "TAVERN_TURN_SECRET": SECRET,
        "TAVERN_TURN_MIN_PORT": str(ports[0]),
        "TAVERN_TURN_MAX_PORT": str(ports[-1]),
        "TAVERN_TURN_ALLOW_PEERS": "127.0.0.0/8",
        "TAVERN_TURN_USER_QUOTA": _PLENTY,
        "TAVERN_TURN_ADDRESS_QUOTA": _PLENTY,
        "TAVERN_TURN_401_RATE": _PLENTY,
        "TAVERN_TURN_DATA_PATH": "python" if name == "python" else "native",
        "PYTHONUNBUFFERED": "1",
    }
    if name == "native-shared":
        settings["TAVERN_TURN_SHARED_PORTS"] = "always"
    return {**clean, **settings}


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_coturn(process: subprocess.Popen[str], port: int) -> int:
    """Until it answers a Binding request: it does not say that it is up."""
    deadline = time.monotonic() + START_TIMEOUT_S
    request = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + os.urandom(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.1)
        probe.connect(("127.0.0.1", port))
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError):
                probe.send(request)
                if probe.recv(2048)[:2] == b"\x01\x01":
                    return port
            time.sleep(0.05)
    raise ServerFailed(f"coturn does not answer on port {port} (exit code {process.poll()})")


class _Output:
    """What a server prints, read so that it never waits for a reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process = process
        self._pipe = process.stdout
        self.lines: list[str] = []
        self._arrived: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self._pipe,), daemon=True)
        self._reader.start()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._arrived.put(line)
        self._arrived.put(None)

    def wait_for_port(self, name: ServerName) -> int:
        """The port that the server says it listens on. Raises ServerFailed with what it said instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                line = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ServerFailed(f"{name} does not start: it said {self.lines!r}") from None
            if line is None:
                raise ServerFailed(f"{name} does not start: {''.join(self.lines).strip() or 'it says nothing'}")
            self.lines.append(line)
            self._check_settings(name, line)
            if match := re.match(r" +STUN and TURN +.*?:(\d+)\b|(\d+)$", line):
                return int(match[1] or match[2])

    def _check_settings(self, name: ServerName, line: str) -> None:
        match = re.search(r"(TAVERN_TURN_\w+) is not a setting", line)
        if match and name != "python":
            raise ServerFailed(f"{name} does not start: this checkout has no {match[1]}")

    def close(self) -> None:
        self._reader.join(5)
        self._pipe.close()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    if process.poll() is None:
        process.kill()
        process.wait()

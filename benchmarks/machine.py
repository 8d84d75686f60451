"""The machine that a benchmark runs on: which CPUs are whose, how many descriptors there are, and what it is."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import attrs

import tavern

WANTED_DESCRIPTORS = 65536
FIRST_RELAY_PORT = 10_000
_ROOT = Path(__file__).parents[1]
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@attrs.frozen
class Cpus:
    """Which CPUs the servers and the load generator have. `spare` is one more for the servers, where there is one."""

    server: int
    generator: int
    spare: int | None

    @property
    def are_apart(self) -> bool:
        return self.server != self.generator


def choose_cpus() -> Cpus:
    """CPUs of different cores, where this process may use such; with a single CPU everything shares it."""
    allowed = sorted(os.sched_getaffinity(0))
    by_core = {_siblings(cpu): cpu for cpu in reversed(allowed)}
    first_of_cores = sorted(by_core.values())
    chosen = first_of_cores + [cpu for cpu in allowed if cpu not in first_of_cores]
    # CPU 0 serves most interrupts: it is the generator's.
    generator, server = chosen[0], chosen[min(1, len(chosen) - 1)]
    return Cpus(server, generator, chosen[2] if len(chosen) > 2 else None)


def _siblings(cpu: int) -> str:
    try:
        return Path(_SIBLINGS.format(cpu)).read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


@contextmanager
def pinned(cpus: set[int]) -> Iterator[None]:
    """Within the block this thread, and what it starts, run on `cpus` only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, counted in nanoseconds. Raises OSError if it is gone."""
    return time.clock_gettime((~pid << 3) | 2)  # Linux: how clock_getcpuclockid makes a clock of a pid


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert match is not None, status
    return int(match[1]) * 1024


def raise_descriptor_limit() -> int:
    """As many descriptors as may be had, up to what the largest part wants; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS
    for limits in ((max(soft, wanted), max(hard, wanted)), (min(hard, max(soft, wanted)), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (ValueError, OSError):
            continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def relay_ports() -> range:
    """Ports that the kernel gives to nobody who asks for any: clients and peers have those."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    first_given = int(text.split()[0])
    if first_given <= FIRST_RELAY_PORT + 5000:
        return range(40_000, 65_000)
    return range(FIRST_RELAY_PORT, first_given)


def describe(peer: tuple[str, str]) -> list[tuple[str, str]]:
    """What this machine is, as pairs of a name and a value; `peer` is the other server's."""
    return [
        ("CPU", f"{_cpu_model()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} CPUs used at most"),
        ("Memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"),
        ("Kernel", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        peer,
        ("Tavern", _tavern()),
        ("Date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return platform.machine()


def _tavern() -> str:
    """Which one was measured: this interpreter's, which may be another one than the checkout's."""
    in_checkout = Path(tavern.__file__).is_relative_to(_ROOT / "src")
    return f"{tavern.__version__}, {'from' if in_checkout else 'as installed, beside'} checkout {_revision()}"


def _revision() -> str:
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--tags"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"

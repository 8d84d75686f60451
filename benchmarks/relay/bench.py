"""What the parts of the benchmark share: its options, servers that are up with their clients, and one measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import attrs

from benchmarks.lacks import Lacking, ServerFailed
from benchmarks.machine import Cpus, relay_ports
from benchmarks.relay.figures import Figures
from benchmarks.relay.loadgen import Counts, Load, Step, Way, open_load
from benchmarks.relay.servers import Server, ServerName, running

PACED_PER_S = 20_000
_WARM_UP_S = 0.2
_WAIT_S = 0.05
"""What a server does after answering has an end before its CPU time is read."""


@attrs.frozen
class Options:
    """How much is measured."""

    servers: tuple[ServerName, ...]
    parts: frozenset[str]
    rounds: int
    seconds: float
    """How long each measurement sends."""
    sizes: tuple[int, ...] = (1, 100, 1000)
    """Numbers of allocations."""
    allocations: int = 4000
    """How many are made to find their rate."""
    held: tuple[int, int] = (1000, 10_000)
    idle: int = 1200
    """How many allocations stay silent beside `talking` ones on shared ports."""
    talking: int = 560

    @property
    def few(self) -> tuple[int, ...]:
        """The sizes for what is measured with few allocations."""
        return self.sizes[:2]


@attrs.define
class Bench:
    """The benchmark while it runs."""

    options: Options
    cpus: Cpus
    descriptors: int
    say: Callable[[str], None]
    figures: Figures = attrs.field(factory=Figures)
    round_number: int = 0
    _missing: set[ServerName] = attrs.field(factory=set)
    """Servers that did not start once: they are not tried again."""

    def servers(self, *, but: Sequence[ServerName] = ()) -> list[ServerName]:
        """Those that are there, each round another one first: none is always the one after a certain other."""
        known = [name for name in self.options.servers if name not in self._missing and name not in but]
        first = self.round_number % len(known) if known else 0
        return known[first:] + known[:first]

    @contextmanager
    def loads(
        self,
        names: Sequence[ServerName],
        clients: int,
        peers: int,
        steps: Sequence[Step],
    ) -> Iterator[list[Load]]:
        """All these servers, up on one CPU at once, so that each is measured right after the other: one sleeps while
        the other is. Those that do not start, or refuse a step, are left out and noted."""
        ports = relay_ports()
        share = len(ports) // max(1, len(names))
        with ExitStack() as stack:
            loads = []
            for index, name in enumerate(names):
                with self.noting(name):
                    server = self.start(stack, name, ports[index * share : (index + 1) * share])
                    load = stack.enter_context(open_load(server, clients, peers))
                    for step in steps if name != "echo" else ():
                        load.request(step)
                    loads.append(load)
            yield loads

    def start(
        self,
        stack: ExitStack,
        name: ServerName,
        ports: range,
        *,
        cpus: set[int] | None = None,
        busy_ms: tuple[int, int] | None = None,
    ) -> Server:
        """The server, until the stack is closed. One that does not start is not tried again."""
        try:
            server = stack.enter_context(running(name, cpus or {self.cpus.server}, ports, busy_ms=busy_ms))
        except (ServerFailed, Lacking):
            self._missing.add(name)
            raise
        for line in server.said:
            if "data path" in line.lower():
                self.note(f"{name} says: {line.strip()}")
        return server

    @contextmanager
    def noting(self, name: ServerName) -> Iterator[None]:
        """What fails within the block is noted, and the benchmark goes on without it."""
        try:
            yield
        except ServerFailed as error:
            self.note(str(error))
        except Lacking as error:
            self.note(f"{name} is left out: it needs {error}")

    def note(self, text: str) -> None:
        if text not in self.figures.notes:
            self.say(f"NOTE {text}")
        self.figures.notes[text] = None

    def record(self, measure: str, load: Load, value: float, unit: str, more: str = "") -> None:
        name = load.server.name
        self.figures.add(measure, name, self.round_number, value)
        self.say(f"{measure:22} {name:14} {value:9.2f} {unit}{more}")

    def cost(
        self,
        measure: str,
        load: Load,
        way: Way,
        *,
        count: int | None = None,
        stride: int = 1,
        packets_per_s: int = 0,
    ) -> Counts:
        """Records the microseconds of CPU that the server took for each packet that it delivered."""
        if load.server.name == "echo":
            way = Way.ECHO

        def talk(duration_s: float) -> Counts:
            return load.talk(way, duration_s, count=count, stride=stride, packets_per_s=packets_per_s)

        talk(min(_WARM_UP_S, self.options.seconds / 2))
        time.sleep(_WAIT_S)
        before_s = load.server.cpu_s()
        counts = talk(self.options.seconds)
        cpu_s = load.server.cpu_s() - before_s
        self.figures.tallies[measure, load.server.name].add(counts)
        if counts.delivered == 0:
            raise ServerFailed(f"{load.server.name} delivered none of {counts.sent} packets ({measure})")
        share = cpu_s / max(counts.elapsed_ns, 1) * 1e9
        if not packets_per_s:
            self.figures.add(f"share-{measure}", load.server.name, self.round_number, share)
        more = f"   (server busy {share:4.0%}"
        more += f", lost {counts.lost})" if counts.lost else ")"
        self.record(measure, load, cpu_s / counts.delivered * 1e6, "us", more)
        return counts

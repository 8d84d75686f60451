"""The parts of the benchmark: each measures one round of what it is about, for all servers that are there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.lacks import ServerFailed
from benchmarks.machine import relay_ports
from benchmarks.relay.bench import PACED_PER_S, Bench
from benchmarks.relay.loadgen import CHANNEL, Load, Step, Way, open_load
from benchmarks.relay.servers import ServerName
from tavern.stun.message import AttributeType, MessageClass, Method, encode

CHANNELS = (Step.ALLOCATE, Step.BIND_PEER)
BUSY_MS = (5, 10)
WARM_UP_ALLOCATIONS = 16
HELD_PEERS = 1000
_RESERVED_DESCRIPTORS = 64  # as the server reserves them: it gives half of the others to allocations
_CHECK_PAUSE_S = 0.05
_SETTLE_S = 0.3


def measure_packets(bench: Bench) -> None:
    """ChannelData at full speed and paced, indications: with each number of allocations, all servers side by side."""
    wanted = bench.options.parts
    for size in bench.options.sizes:
        ways: list[tuple[str, Way, int]] = []
        if "packets" in wanted:
            ways += [("up", Way.CHANNEL_UP, 0), ("down", Way.CHANNEL_DOWN, 0)]
        if "paced" in wanted and size in bench.options.few:
            ways += [("paced", Way.CHANNEL_UP, PACED_PER_S)]
        if "indications" in wanted and size in bench.options.few:
            ways += [("indication-up", Way.INDICATION_UP, 0), ("indication-down", Way.INDICATION_DOWN, 0)]
            if "packets" not in wanted:  # what they are compared with
                ways = [("up", Way.CHANNEL_UP, 0), ("down", Way.CHANNEL_DOWN, 0), *ways]
        if not ways:
            continue
        with bench.loads(bench.servers(), size, size, CHANNELS) as loads:
            for name, way, packets_per_s in ways:
                for load in loads:
                    _measure_way(bench, load, f"{name}/{size}", way, packets_per_s)


def _measure_way(bench: Bench, load: Load, measure: str, way: Way, packets_per_s: int) -> None:
    if load.server.name == "echo" and way in {Way.INDICATION_UP, Way.INDICATION_DOWN}:
        return
    with bench.noting(load.server.name):
        if way is Way.INDICATION_DOWN:  # each peer is made known by a packet to it
            load.talk(Way.INDICATION_UP, 0.2)
        counts = bench.cost(measure, load, way, packets_per_s=packets_per_s)
        if packets_per_s:
            bench.record(f"p50-{measure}", load, counts.latency_p50_ns / 1e3, "us")
            bench.record(f"p99-{measure}", load, counts.latency_p99_ns / 1e3, "us")


def measure_partners(bench: Bench) -> None:
    """Both sides relayed: every client's channel leads to another client's relayed address."""
    for size in sorted({max(2, size) for size in bench.options.few}):
        steps = (Step.ALLOCATE, Step.BIND_PARTNER)
        with bench.loads(bench.servers(but=("echo",)), size, 0, steps) as loads:
            for load in loads:
                _send_checks(load)
            for load in loads:
                with bench.noting(load.server.name):
                    bench.cost(f"partners/{size}", load, Way.PARTNERS)


def _send_checks(load: Load) -> None:
    """What ICE agents send first: where ports are shared, it says which allocation a packet is for."""
    for _ in range(2):
        for client in range(load.clients):
            username = f"fragment{client ^ 1}:fragment{client}".encode()
            check = encode(
                Method.BINDING,
                MessageClass.REQUEST,
                os.urandom(12),
                [
                    (AttributeType.USERNAME, username),
                    (AttributeType.PRIORITY, (1 << 24).to_bytes(4, "big")),
                    (AttributeType.ICE_CONTROLLED if client % 2 else AttributeType.ICE_CONTROLLING, os.urandom(8)),
                ],
                integrity_key=b"nobody verifies this one",
                fingerprint=True,
            )
            load.send(client, CHANNEL.to_bytes(2, "big") + len(check).to_bytes(2, "big") + check)
        time.sleep(_CHECK_PAUSE_S)
    load.drain()


def measure_allocations(bench: Bench) -> None:
    """Whole handshakes, from the first Allocate to the success response: their rate, and the CPU time of one."""
    for name in bench.servers(but=("echo",)):
        with bench.noting(name), ExitStack() as stack:
            server = bench.start(stack, name, relay_ports())
            warm = stack.enter_context(open_load(server, WARM_UP_ALLOCATIONS, 1))
            warm.request(Step.ALLOCATE)
            load = stack.enter_context(open_load(server, bench.options.allocations, 1))
            before_s = server.cpu_s()
            result = load.request(Step.ALLOCATE)
            cpu_s = server.cpu_s() - before_s
            busy = f"   (server busy {cpu_s / result.elapsed_ns * 1e9:4.0%})"
            bench.record("allocations", load, result.done / result.elapsed_ns * 1e9, "/s", busy)
            bench.record("allocation-cpu", load, cpu_s / result.done * 1e6, "us")
            load.request(Step.REFRESH_ZERO)


def measure_held(bench: Bench) -> None:
    """Memory of idle allocations, and the cost of packets of all of them in turn while very many are held."""
    few, wanted = bench.options.held
    many = min(wanted, (bench.descriptors - _RESERVED_DESCRIPTORS) // 2 - WARM_UP_ALLOCATIONS)
    if many <= few:
        bench.note(f"held allocations are left out: {bench.descriptors} descriptors are too few (ulimit -n)")
        return
    if many < wanted:
        bench.note(
            f"{many} allocations are held instead of {wanted}: this machine allows {bench.descriptors} descriptors"
        )
    for name in bench.servers(but=("echo", "native-shared")):
        with bench.noting(name), ExitStack() as stack:
            server = bench.start(stack, name, relay_ports())
            warm = stack.enter_context(open_load(server, WARM_UP_ALLOCATIONS, 1))
            warm.request(Step.ALLOCATE)
            load = stack.enter_context(open_load(server, many, min(few, HELD_PEERS)))
            for label, first, count in (("few", 0, few), ("many", few, many - few)):
                before_bytes = server.resident_bytes()
                load.request(Step.ALLOCATE, first, count)
                time.sleep(_SETTLE_S)
                grown_bytes = server.resident_bytes() - before_bytes
                bench.record(f"memory-{label}", load, grown_bytes / count / 1024, "KiB", f"   ({first + count} held)")
                load.request(Step.BIND_PEER, first, count)
                bench.cost(f"held-up-{label}", load, Way.CHANNEL_UP, count=first + count)
                bench.cost(f"held-down-{label}", load, Way.CHANNEL_DOWN, count=first + count)


def measure_shared(bench: Bench) -> None:
    """Silent and talking allocations on few ports: nothing is lost, and nothing arrives anywhere else."""
    if "native-shared" not in bench.servers():
        return
    talking = bench.options.talking
    clients = talking + bench.options.idle
    with bench.loads(["native-shared"], clients, clients, CHANNELS) as loads:
        for load in loads:
            with bench.noting(load.server.name):
                load.drain()
                for measure, way in (("shared-up", Way.CHANNEL_UP), ("shared-down", Way.CHANNEL_DOWN)):
                    bench.cost(measure, load, way, count=talking, stride=clients // talking)
                    if strayed := load.drain():
                        bench.figures.tallies[measure, load.server.name].misdelivered += strayed


def measure_busy(bench: Bench) -> None:
    """How much later packets are (p99) while the server's main thread computes half of the time."""
    cpus = bench.cpus
    two = {cpus.server, cpus.generator if cpus.spare is None else cpus.spare}
    names: list[ServerName] = [name for name in bench.servers() if name in {"native", "python"}]
    for label, allowed, spins in (("free", two, cpus.spare is not None), ("one", {cpus.server}, True)):
        for name in names:
            with bench.noting(name):
                idle = _paced_p99_us(bench, name, allowed, spins, None)
                busy = _paced_p99_us(bench, name, allowed, spins, BUSY_MS)
                bench.figures.add(f"idle-p99-{label}", name, bench.round_number, idle)
                bench.figures.add(f"busy-p99-{label}", name, bench.round_number, busy)
                bench.figures.add(f"added-p99-{label}", name, bench.round_number, busy - idle)
                bench.say(f"{f'added-p99-{label}':22} {name:14} {busy - idle:9.2f} us   ({idle:.0f} -> {busy:.0f})")


def _paced_p99_us(
    bench: Bench, name: ServerName, cpus: set[int], spins: bool, busy_ms: tuple[int, int] | None
) -> float:
    size = bench.options.few[-1]
    with ExitStack() as stack:
        server = bench.start(stack, name, relay_ports(), cpus=cpus, busy_ms=busy_ms)
        load = stack.enter_context(open_load(server, size, size))
        for step in CHANNELS:
            load.request(step)
        load.talk(Way.CHANNEL_UP, bench.options.seconds / 4, packets_per_s=PACED_PER_S, spins=spins)
        counts = load.talk(Way.CHANNEL_UP, bench.options.seconds, packets_per_s=PACED_PER_S, spins=spins)
    if counts.delivered == 0:
        raise ServerFailed(f"{name} delivered none of {counts.sent} packets beside a busy thread")
    return counts.latency_p99_ns / 1e3


PARTS: dict[str, tuple[str, Callable[[Bench], None]]] = {
    "packets": ("ChannelData at full speed, up and down", measure_packets),
    "paced": (f"{PACED_PER_S} packets/s: cost and latency", measure_packets),
    "indications": ("Send and Data indications", measure_packets),
    "partners": ("both sides relayed", measure_partners),
    "allocations": ("how many a second", measure_allocations),
    "held": ("memory and cost with very many allocations", measure_held),
    "shared": ("silent and talking allocations on few ports", measure_shared),
    "busy": ("latency beside a busy main thread", measure_busy),
}
"""By name: what people are told of it, and what measures it."""

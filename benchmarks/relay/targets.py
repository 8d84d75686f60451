"""What the relay must reach, and whether it did. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from benchmarks.relay.figures import Figures

US_OF_A_MS = 1000.0


@attrs.frozen
class Target:
    """One figure with its limit."""

    text: str
    limit: float
    measured: float | None
    """None where it was not measured."""
    at_least: bool = False
    unit: str = ""

    @property
    def is_reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def targets(figures: Figures) -> Iterator[Target]:
    """All of them, in the order in which people read of them."""

    def against(measure: str, to: str, server: str = "native") -> float | None:
        return figures.ratio(measure, server, measure, to)

    for size, limit in ((1, 0.70), (100, 0.85), (1000, 0.85)):
        for way in ("up", "down"):
            measure = f"{way}/{size}"
            yield Target(f"native, ChannelData {way}, N={size}: CPU to coturn's", limit, against(measure, "coturn"))
    yield Target("native, 20,000 packets/s, N=100: CPU to coturn's", 0.80, against("paced/100", "coturn"))
    yield Target("native, 20,000 packets/s, N=100: p99 to coturn's", 1.00, against("p99-paced/100", "coturn"))
    yield from _indications(figures)
    yield Target("native, both sides relayed: CPU to coturn's", 0.40, against("partners/100", "coturn"))
    for way in ("up", "down"):
        value = against(f"{way}/1000", "coturn", "native-shared")
        yield Target(f"native-shared, ChannelData {way}, N=1000: CPU to coturn's", 0.70, value)
    yield Target("native-shared, silent and talking: packets lost or astray", 0, _astray(figures))
    for way in ("up", "down"):
        yield Target(f"native, ChannelData {way}, N=1: CPU to the echo's", 1.15, against(f"{way}/1", "echo"))
    yield Target("native, allocations: rate to coturn's", 1.00, against("allocations", "coturn"), at_least=True)
    yield from _held(figures)
    added_us = figures.median("added-p99-free", "native")
    added_ms = None if added_us is None else added_us / US_OF_A_MS
    yield Target("native, beside a busy main thread, a core free: p99 later by", 1.0, added_ms, unit=" ms")
    for size in (1, 100, 1000):
        for way in ("up", "down"):
            value = against(f"{way}/{size}", "coturn", "python")
            yield Target(f"python, ChannelData {way}, N={size}: CPU to coturn's", 1.25, value)


def _indications(figures: Figures) -> Iterator[Target]:
    for server in ("native", "python"):
        for size in (1, 100):
            for way in ("up", "down"):
                value = figures.ratio(f"indication-{way}/{size}", server, f"{way}/{size}", server)
                yield Target(f"{server}, indications {way}, N={size}: CPU to its own ChannelData's", 1.30, value)


def _held(figures: Figures) -> Iterator[Target]:
    for label, text in (("few", "the first ones"), ("many", "further ones")):
        value = figures.median(f"memory-{label}", "native")
        yield Target(f"native, memory of an idle allocation, {text}", 8.0, value, unit=" KiB")
    for way in ("up", "down"):
        value = figures.ratio(f"held-{way}-many", "native", f"held-{way}-few", "native")
        yield Target(f"native, ChannelData {way}, very many allocations: CPU to that with few", 1.50, value)


def _astray(figures: Figures) -> float | None:
    tallies = [figures.tallies.get((measure, "native-shared")) for measure in ("shared-up", "shared-down")]
    known = [tally for tally in tallies if tally is not None]
    return float(sum(tally.lost + tally.misdelivered + tally.duplicated for tally in known)) if known else None

"""What was measured, by round: medians, and ratios between what was measured in the same round. Pure."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Protocol

import attrs


class PacketCounts(Protocol):
    """Of one run of packets."""

    @property
    def sent(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def misdelivered(self) -> int: ...
    @property
    def duplicated(self) -> int: ...
    @property
    def skipped(self) -> int: ...


@attrs.define
class Tally:
    """All packets of one measure of one server, in all rounds."""

    sent: int = 0
    delivered: int = 0
    misdelivered: int = 0
    duplicated: int = 0
    skipped: int = 0
    """The load generator had no time for them."""

    @property
    def lost(self) -> int:
        return self.sent - self.delivered

    def add(self, counts: PacketCounts) -> None:
        for field in attrs.fields(Tally):
            setattr(self, field.name, getattr(self, field.name) + getattr(counts, field.name))


@attrs.define
class Figures:
    """By measure (such as "up/100": its name and the number of allocations), server and round."""

    _values: defaultdict[tuple[str, str], dict[int, float]] = attrs.field(factory=lambda: defaultdict(dict))
    tallies: defaultdict[tuple[str, str], Tally] = attrs.field(factory=lambda: defaultdict(Tally))
    notes: dict[str, None] = attrs.field(factory=dict)
    """What readers must know, each once: servers that did not start, and the like."""

    def add(self, measure: str, server: str, round_number: int, value: float) -> None:
        self._values[measure, server][round_number] = value

    def measures(self, prefix: str) -> list[str]:
        """Those that begin with this, in the order in which they came."""
        return list(dict.fromkeys(measure for measure, _ in self._values if measure.startswith(prefix)))

    def servers(self, *measures: str) -> list[str]:
        """Those with a value in any of these measures, in the order in which they came."""
        return list(dict.fromkeys(server for measure, server in self._values if measure in measures))

    def median(self, measure: str, server: str) -> float | None:
        """Over all rounds; None where there is no value."""
        values = self._values.get((measure, server))
        return median(values.values()) if values else None

    def ratio(self, measure: str, server: str, to_measure: str, to_server: str) -> float | None:
        """The median of the ratios of each round; None where no round has both."""
        values = self._values.get((measure, server), {})
        others = self._values.get((to_measure, to_server), {})
        ratios = [values[number] / others[number] for number in values.keys() & others.keys() if others[number]]
        return median(ratios) if ratios else None

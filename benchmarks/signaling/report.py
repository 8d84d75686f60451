"""The results as a page of Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import attrs

Rounds = Mapping[str, Mapping[str, Sequence[float]]]
"""Of each server, of each figure: what was measured in each round."""


@attrs.frozen
class Bar:
    """What is to be reached: ours divided by the other's is at most this, or ours itself where `own`."""

    figure: str
    at_most: float
    own: bool = False


BARS = (
    Bar("CPU us, 1500 B", 1.0),
    Bar("CPU us, 200 B", 1.0),
    Bar("KB, connected", 1.0),
    Bar("KB, in a channel", 1.0),
    Bar("storm s", 1.0),
    Bar("times", 1.3, own=True),
    Bar("added ms, half-open", 5.0, own=True),
    Bar("added ms, slow-sender", 5.0, own=True),
    Bar("added ms, flooder", 5.0, own=True),
    Bar("added ms, stuck-reader", 5.0, own=True),
)
_MORE_IS_BETTER = ("messages/s", "connects/s")


def report(rounds: Rounds, machine: Sequence[tuple[str, str]]) -> str:
    """Medians, ratios by round, and whether the bars were reached."""
    lines = ["## Targets", "", "| Figure | At most | Measured | |", "|---|---|---|---|"]
    lines += [_bar_line(bar, rounds) for bar in BARS]
    lines += ["", "## All figures", "", "Medians; in brackets the least and the most of the rounds.", ""]
    lines += ["| Figure | Tavern | Node.js `ws` | Ratio |", "|---|---|---|---|"]
    for figure, ours in rounds["tavern"].items():
        theirs = rounds["node"].get(figure, ())
        lines.append(f"| {figure} | {_shown(ours)} | {_shown(theirs)} | {_shown(_ratios(ours, theirs))} |")
    lines += ["", "## Machine", "", *(f"- {name}: {value}" for name, value in machine), ""]
    return "\n".join(lines)


def _bar_line(bar: Bar, rounds: Rounds) -> str:
    ours, theirs = rounds["tavern"].get(bar.figure, ()), rounds["node"].get(bar.figure, ())
    values = ours if bar.own else _ratios(ours, theirs)
    limit = f"{bar.at_most:.1f}" if bar.own else f"{bar.at_most:.1f} times Node's"
    if not values:
        return f"| {bar.figure} | {limit} | not measured | |"
    verdict = "reached" if median(values) <= bar.at_most else "missed"
    return f"| {bar.figure} | {limit} | {_shown(values)} | {verdict} |"


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of what was measured in the same round."""
    return [one / other for one, other in zip(ours, theirs, strict=False) if other]


def _shown(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

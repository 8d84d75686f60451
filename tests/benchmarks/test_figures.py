"""Medians, ratios and targets."""

from __future__ import annotations

import pytest

from benchmarks.relay.bench import Options
from benchmarks.relay.figures import Figures
from benchmarks.relay.report import report
from benchmarks.relay.targets import targets

OPTIONS = Options(servers=("native", "coturn"), parts=frozenset({"packets"}), rounds=3, seconds=1.0)


def measured(native: list[float], coturn: list[float]) -> Figures:
    figures = Figures()
    for server, values in (("native", native), ("coturn", coturn)):
        for number, value in enumerate(values):
            figures.add("up/1", server, number, value)
            figures.add("down/1", server, number, value)
    return figures


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    figures = measured([1.0, 2.0, 30.0], [2.0, 8.0, 40.0])  # 0.5, 0.25, 0.75; the medians' ratio is 0.25
    assert figures.median("up/1", "native") == 2.0
    assert figures.ratio("up/1", "native", "up/1", "coturn") == 0.5


def test_a_round_without_one_of_the_two_does_not_count() -> None:
    figures = measured([1.0, 2.0], [2.0])
    assert figures.ratio("up/1", "native", "up/1", "coturn") == 0.5
    assert figures.ratio("up/1", "echo", "up/1", "coturn") is None


@pytest.mark.parametrize(("native_us", "outcome"), [(6.9, True), (7.1, False)])
def test_a_target_is_reached_or_not(native_us: float, outcome: bool) -> None:
    figures = measured([native_us], [10.0])
    reached = {target.text: target.is_reached for target in targets(figures)}
    assert reached["native, ChannelData up, N=1: CPU to coturn's"] is outcome
    assert reached["native, ChannelData up, N=100: CPU to coturn's"] is None


def test_the_report_shows_figures_with_their_ratios_and_what_was_missed() -> None:
    text = report(measured([7.1], [10.0]), OPTIONS, [("CPU", "a fast one")])
    assert "7.10 / 7.10 (0.71 / 0.71)" in text
    row = next(line for line in text.splitlines() if "native, ChannelData up, N=1:" in line)
    assert [cell.strip() for cell in row.split("|")][2:5] == ["<= 0.7", "0.71", "MISSED"]
    assert "- CPU: a fast one" in text

"""The signaling benchmark's command runs to its last table. What it measures is not looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.signaling.report import report

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.signaling", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55)


@pytest.mark.end_to_end
def test_a_quick_run_fills_its_tables() -> None:
    done = run("--quick")
    assert done.returncode == 0, done.stderr
    for figure in ("CPU us, 1500 B", "KB, connected", "storm s", "times", "added ms, flooder", "connects/s"):
        [row] = re.findall(rf"^\| {re.escape(figure)} \| [^|]*\d", done.stdout.partition("## All")[2], re.MULTILINE)
        assert "not measured" not in row
    assert re.search(r"- Peer: Node.js v\d+.*, ws 8\.", done.stdout)
    assert re.search(r"- Date: \d{4}-\d\d-\d\d", done.stdout)


@pytest.mark.parametrize("arguments", [("--only", "everything"), ("--rounds", "0"), ("--rounds", "x")])
def test_what_it_does_not_know_is_refused(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_bars_are_judged_by_the_median_of_the_rounds_ratios() -> None:
    text = report(
        {
            "tavern": {"CPU us, 200 B": [10.0, 40.0, 11.0], "times": [1.4, 1.2, 1.1]},
            "node": {"CPU us, 200 B": [20.0, 20.0, 10.0], "times": [9.0]},
        },
        [("CPU", "one")],
    )
    assert "| CPU us, 200 B | 1.0 times Node's | 1.10 (0.50 to 2.00) | missed |" in text
    assert "| times | 1.3 | 1.20 (1.10 to 1.40) | reached |" in text
    assert "| storm s | 1.0 times Node's | not measured | |" in text

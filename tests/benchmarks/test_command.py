"""The benchmark's command runs, from the first packet to the last table. What it measures is not looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prerequisites import program

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.relay", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)


@pytest.mark.end_to_end
def test_a_quick_run_fills_its_tables() -> None:
    program("cc", "build-essential")
    done = run("--quick", "--servers", "python", "--only", "packets,indications,partners,allocations")
    assert done.returncode == 0, done.stderr
    tables = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", done.stdout, re.MULTILINE | re.DOTALL))
    for title in ("CPU per relayed packet", "Send and Data indications", "Both sides relayed", "Allocations"):
        row = next(line for line in tables[title].splitlines() if "ours, Python data path" in line)
        assert re.search(r"\d", row), row
        assert "| - " not in row
    assert "not measured" in tables["Targets"]
    assert not re.search(r"\d+ (misdelivered|duplicated)", tables["Losses and limits"])
    assert re.search(r"- Date: \d{4}-\d\d-\d\d", tables["Machine"])
    assert "round 1 of 1: packets, indications" in done.stderr


@pytest.mark.parametrize("arguments", [("--only", "everything"), ("--servers", ""), ("--rounds", "0")])
def test_what_it_does_not_know_is_refused(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert f"argument {arguments[0]}" in done.stderr

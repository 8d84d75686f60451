"""What the README says of the program is what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tavern.config import SETTINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("document", ["README.md", "docs/self-hosting.md"])
def test_the_table_of_settings_is_the_programs_own(document: str) -> None:
    rows = [f"| `{setting.variable}` | {setting.default} | {setting.text} |" for setting in SETTINGS]
    assert "\n".join(["|---|---|---|", *rows, ""]) in (ROOT / document).read_text()


def test_what_the_guide_calls_the_doctors_findings_are_some() -> None:
    guide = (ROOT / "docs" / "self-hosting.md").read_text().partition("## Troubleshooting")[2]
    named = {
        " ".join(name.split())
        for group in re.findall(r"\(doctor: ([^)]*)\)", guide)
        for name in re.findall(r"\*([^*]+)\*", group)
    }
    assert len(named) > 5
    said = "".join(path.read_text() for path in (ROOT / "src" / "tavern" / "doctor").glob("*.py"))
    assert {name for name in named if name.split(" over ")[0] not in said} == set()


def test_what_the_guide_links_to_is_there() -> None:
    for document in ("README.md", "docs/self-hosting.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", (ROOT / document).read_text()):
            assert ((ROOT / document).parent / target).exists(), target


def test_the_files_that_it_points_to_exist() -> None:
    for name in ("scripts/serve", "scripts/test", "compose/.env.example", "docs/architecture.md", "docs/page.png"):
        assert name in README
        assert (ROOT / name).exists()


def test_ci_runs_its_test_line() -> None:
    assert "\n    scripts/test\n" in README
    shown = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_the_bot_is_valid_and_well_typed(tmp_path: Path) -> None:
    bot = tmp_path / "bot.py"
    bot.write_text(README.partition("```python\n")[2].partition("```")[0])
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(bot)],
        env={"MYPYPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout

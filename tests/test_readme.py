"""What the README says of the program is what the program does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tavern.config import SETTINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_the_programs_own() -> None:
    rows = [f"| `{setting.variable}` | {setting.default} | {setting.text} |" for setting in SETTINGS]
    assert "\n".join(["|---|---|---|", *rows, ""]) in README


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

"""What is decided at start, and the command line around it: every fault of the machine is one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"


def run_python(
    code: str, *, output: int = subprocess.PIPE, errors: int = subprocess.PIPE, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), **variables},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        text=True,
        timeout=20,
    )


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    ended = run_python(
        "import sys; from tavern import cli\n"
        "cli._parser = lambda: sys.exit(cli._say('kept in /K\\u00f6ln/\\udcff'))\n"
        "cli.main([])",
        PYTHONIOENCODING="ascii",
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "kept in /K\\xf6ln/\\udcff\n", "")


def test_a_full_disk_behind_the_output_is_told_once_and_ends_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_python(
            "import sys; from tavern import cli\ncli._say('one'); cli._say('two'); sys.exit(7)", output=full.fileno()
        )
    assert ended.stderr == "tavern: cannot write to standard output (No space left on device): serving without it\n"
    assert ended.returncode == 7


def test_a_full_disk_behind_the_complaints_keeps_the_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_python(
            "import sys; from tavern.cli import main; sys.exit(main(['serve', '--port=x']))", errors=full.fileno()
        )
    assert ended.returncode == 2


def test_no_output_at_all_ends_nothing() -> None:
    ended = run_python(
        "import os, sys; sys.stdout = None; from tavern import cli\n"
        "cli._parser = lambda: sys.exit(cli._say('one'))\n"
        "cli.main([])"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_ctrl_c_while_modules_load_ends_quietly(tmp_path: Path) -> None:
    """The first of the slow imports is a stand-in that is interrupted."""
    for name in ("trio", "attrs", "cattrs"):
        (tmp_path / f"{name}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    for arguments in (["serve"], ["--help"]):
        ended = run_python(
            f"import sys; from tavern.cli import main; sys.exit(main({arguments}))",
            PYTHONPATH=f"{tmp_path}{os.pathsep}{SOURCE}",
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_inside_a_nursery_ends_quietly() -> None:
    ended = run_python(
        "import sys; from tavern import cli\n"
        "def serve(environment): raise BaseExceptionGroup('nursery', [KeyboardInterrupt()])\n"
        "cli._serve = serve; sys.exit(cli.main(['serve']))"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")

"""scripts/serve: when it makes its virtual environment, and when anew (Python and pip are stand-ins); scripts/test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# A Python whose programs, as pip's do, work only where they were installed, and only with the version that did it.
STAND_IN = """\
#!/bin/sh
case "$1 $2" in
"-c "*version*) cat "$PYTHON_VERSION" ;;
"-c "*) ;;
"-m venv")
    echo "made $3" >> "$DONE"
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg" ;;
"-m pip")
    if [ -e "$FAIL" ]; then exit 1; fi
    echo "installed" >> "$DONE"
    bin=$(dirname "$0")
    native=$bin/../lib/python3/site-packages/tavern/relay/native
    rm -rf "$native"
    if "$CC" 2>/dev/null; then mkdir -p "$native" && touch "$native/libtavernrelay.so"; fi
    printf '#!/bin/sh\\nexec "%s" tavern "$@"\\n' "$PWD/$bin/python" > "$bin/tavern" && chmod +x "$bin/tavern" ;;
"tavern "*)
    shift
    echo "served $*" >> "$DONE"
    env | grep '^TAVERN_' >> "$DONE" || true ;;
esac
"""


class Checkout:
    """One that nothing has been installed into yet."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "x1"
        self.done_path, self.failing, self.version = (directory / name for name in ("done", "failing", "version"))
        self.version.write_text("3.11\n")
        self.python = directory / "python"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        shutil.copytree(REPOSITORY / "scripts", self.path / "scripts")
        (self.path / "src").mkdir()
        for name in ("src/tavern.py", "src/tavern.c", "pyproject.toml", "hatch_build.py", "README.md"):
            (self.path / name).write_text(name)
        self.environment = {"CC": "true"}
        self.said = ""

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command or [self.path / "scripts" / "serve", "--port=1"],
            cwd=cwd or self._directory,
            env={
                "PATH": os.environ["PATH"],
                "TAVERN_PYTHON": str(self.python),
                "DONE": str(self.done_path),
                "FAIL": str(self.failing),
                "PYTHON_VERSION": str(self.version),
                **self.environment,
            },
            capture_output=True,
            text=True,
            timeout=20,
        )

    def serve(self, *command: str | Path, cwd: Path | None = None) -> list[str]:
        """What was done until it served."""
        self.done_path.unlink(missing_ok=True)
        ended = self.run(*command, cwd=cwd)
        assert ended.returncode == 0, ended.stderr
        self.said = ended.stderr
        return self.done_path.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


ANEW = ["made .venv", "installed", "served serve --port=1"]
AS_IT_IS = ["served serve --port=1"]


def test_it_installs_once_for_each_version_of_the_source(checkout: Checkout) -> None:
    assert checkout.serve() == ANEW
    assert checkout.serve() == AS_IT_IS
    for name in ("src/tavern.py", "src/tavern.c", "hatch_build.py"):
        (checkout.path / name).write_text("changed")
        assert checkout.serve() == ["installed", *AS_IT_IS]
        assert checkout.serve() == AS_IT_IS
    (checkout.path / "src" / "libtavernrelay.so").write_text("what a build for development leaves there")
    assert checkout.serve() == AS_IT_IS


def test_without_a_compiler_it_says_what_to_install_and_compiles_when_that_is_there(checkout: Checkout) -> None:
    checkout.environment["CC"] = "no-such-compiler"
    assert checkout.serve() == ANEW
    assert "install gcc and libc6-dev, and start again" in checkout.said
    assert checkout.serve() == AS_IT_IS
    assert checkout.said.count("\n") == 1
    checkout.environment["CC"] = "true"
    assert checkout.serve() == ["installed", *AS_IT_IS]
    assert "The relay runs on Python" not in checkout.said
    checkout.environment["CC"] = "no-such-compiler"  # it was only needed once
    assert checkout.serve() == AS_IT_IS
    assert checkout.said == ""


def test_a_compiler_that_fails_is_said_and_the_failure_can_be_seen(checkout: Checkout) -> None:
    checkout.environment["CC"] = "false"
    assert checkout.serve() == ANEW
    assert checkout.said.endswith("did not compile. TAVERN_NATIVE=require scripts/serve says why.\n")
    assert checkout.serve() == AS_IT_IS
    checkout.environment["TAVERN_NATIVE"] = "require"
    assert checkout.serve() == ["installed", *AS_IT_IS]  # and pip, which is a stand-in here, fails


def test_without_the_compiled_part_on_request_nothing_is_said(checkout: Checkout) -> None:
    checkout.environment |= {"CC": "false", "TAVERN_NATIVE": "off"}
    assert checkout.serve() == ANEW
    assert (
        checkout.serve() == AS_IT_IS
    )  # and TAVERN_NATIVE, which is no setting of the server, is not in its environment
    assert checkout.said == ""


def test_a_checkout_that_moved_is_installed_anew(checkout: Checkout) -> None:
    checkout.serve()
    checkout.path = checkout.path.rename(checkout.path.with_name("x 2"))
    assert checkout.serve() == ANEW
    assert checkout.serve() == AS_IT_IS


def test_a_copied_checkout_does_not_use_the_other_ones(checkout: Checkout) -> None:
    checkout.serve()
    checkout.path = Path(shutil.copytree(checkout.path, checkout.path.with_name("x3")))
    assert checkout.serve() == ANEW


def test_another_version_of_python_is_installed_for_anew(checkout: Checkout) -> None:
    checkout.serve()
    checkout.version.write_text("3.12\n")  # the system was upgraded: the packages are in the old one's directory
    assert checkout.serve() == ANEW
    assert checkout.serve() == AS_IT_IS


def test_a_python_that_is_gone_is_replaced(checkout: Checkout) -> None:
    checkout.serve()
    (checkout.path / ".venv" / "bin" / "python").unlink()
    assert checkout.serve() == ANEW


def test_what_an_interrupted_start_left_is_made_anew(checkout: Checkout) -> None:
    (checkout.path / ".venv" / "bin").mkdir(parents=True)
    (checkout.path / ".venv" / "pyvenv.cfg").touch()
    (checkout.path / ".venv" / "half").touch()
    assert checkout.serve() == ANEW
    assert not (checkout.path / ".venv" / "half").exists()


def test_an_installation_that_failed_is_tried_again(checkout: Checkout) -> None:
    checkout.serve()
    old = (checkout.path / "src" / "tavern.py").read_text()
    (checkout.path / "src" / "tavern.py").write_text("changed")
    checkout.failing.touch()
    ended = checkout.run()
    assert ended.returncode == 2
    assert "could not install into .venv" in ended.stderr
    checkout.failing.unlink()
    (checkout.path / "src" / "tavern.py").write_text(old)  # as it was installed once; what is there now is unknown
    assert checkout.serve() == ["installed", *AS_IT_IS]


def test_a_directory_that_is_no_virtual_environment_is_left_alone(checkout: Checkout) -> None:
    (checkout.path / ".venv").mkdir()
    assert checkout.serve() == ANEW  # an empty one is as good as none
    shutil.rmtree(checkout.path / ".venv")
    (checkout.path / ".venv").mkdir()
    (checkout.path / ".venv" / "diary").touch()
    ended = checkout.run()
    assert ended.returncode == 2
    assert f"{checkout.path}/.venv is no virtual environment" in ended.stderr.splitlines()[-1]
    assert (checkout.path / ".venv" / "diary").exists()


@pytest.mark.parametrize("target", ["x1/scripts/serve", "{checkout}/scripts/serve"])
def test_it_runs_through_links(checkout: Checkout, tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target.format(checkout=checkout.path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tavern-serve").symlink_to("../link")
    assert checkout.serve(tmp_path / "bin" / "tavern-serve", "--port=1") == ANEW
    assert checkout.serve("bin/tavern-serve", "--port=1") == AS_IT_IS
    assert checkout.serve("./tavern-serve", "--port=1", cwd=tmp_path / "bin") == AS_IT_IS
    assert checkout.serve("sh", "scripts/serve", "--port=1", cwd=checkout.path) == AS_IT_IS
    (tmp_path / "same").symlink_to(checkout.path)
    assert checkout.serve("same/scripts/serve", "--port=1") == AS_IT_IS  # one checkout, however it is named


def test_a_test_that_hangs_fails(tmp_path: Path) -> None:
    (tmp_path / "test_hang.py").write_text("import trio\nasync def test_hang():\n    await trio.sleep_forever()\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", REPOSITORY / "pyproject.toml", "-o", "timeout=0.5", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ended.returncode not in {0, 5}  # 5: it found no test
    assert "Timeout" in ended.stdout + ended.stderr
    assert "Stack of MainThread" in ended.stdout + ended.stderr

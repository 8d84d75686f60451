"""The native libraries in the package: compiled by every kind of build where it can be, left out where not."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from hatch_build import FLAGS, LIBRARIES, NotCompiled, compile_library, find_compiler, platform_of

from tests.prerequisites import program

REPOSITORY = Path(__file__).parents[1]
INSTALLED = [library.relative_to("src") for library in LIBRARIES]
NO_ISOLATION = ("--no-build-isolation", "--no-deps", "--no-index")

NOT_OURS = {"CC", "CFLAGS", "LDFLAGS", "TAVERN_NATIVE", "PYTHONPATH"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in NOT_OURS}

LOADER = """
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **words) {
    if (count < 2 || dlopen(words[1], RTLD_NOW)) return count < 2;
    puts(dlerror());
    return 1;
}
"""


def run(*command: str | Path, **environment: str) -> tuple[int, str]:
    """The exit code, and all that it said."""
    ran = subprocess.run(
        command,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    return ran.returncode, ran.stdout


def must_run(*command: str | Path, **environment: str) -> str:
    code, said = run(*command, **environment)
    assert code == 0, said
    return said


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a clone has, as far as a build reads it, and a library of another time and machine in it."""
    target = tmp_path / "checkout"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(REPOSITORY / "src", target / "src", ignore=unwanted)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "CHANGELOG.md", ".gitignore"):
        shutil.copy2(REPOSITORY / name, target / name)
    for library in LIBRARIES:
        (target / library).write_bytes(b"old")
    return target


@pytest.fixture(scope="module", autouse=True)
def compiler() -> str:
    return program("cc", "gcc libc6-dev")


@pytest.fixture
def nothing(tmp_path: Path) -> str:
    """A PATH with no programs."""
    (tmp_path / "nothing").mkdir()
    return str(tmp_path / "nothing")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A compiler that does not like our code."""
    path = tmp_path / "broken-cc"
    path.write_text("#!/bin/sh\necho 'what is this?' >&2\nexit 1\n")
    path.chmod(0o755)
    return str(path)


def pip_install(checkout: Path, target: Path, **environment: str) -> tuple[int, str]:
    command = (sys.executable, "-m", "pip", "install", "-v", *NO_ISOLATION, "--target", target, checkout)
    return run(*command, **environment)


def build(checkout: Path, output: Path, **environment: str) -> Path:
    """The wheel that comes of the sdist that comes of the checkout."""
    must_run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, checkout, **environment)
    [wheel] = output.glob("*.whl")
    return wheel


def load(python: Path | str, library: Path, **environment: str) -> None:
    """It can be loaded, with everything that it calls."""
    must_run(python, "-c", f"import ctypes, os; ctypes.CDLL({str(library)!r}, os.RTLD_NOW)", **environment)


def test_pip_compiles_it(checkout: Path, tmp_path: Path) -> None:
    code, said = pip_install(checkout, tmp_path / "target", TAVERN_NATIVE="require")
    assert code == 0, said
    for library in INSTALLED:
        load(sys.executable, tmp_path / "target" / library)
    assert not [*(tmp_path / "target").rglob("*.c"), *(tmp_path / "target").rglob("*.h")]
    for library in LIBRARIES:
        assert (checkout / library).read_bytes() == b"old"  # the checkout is not touched


@pytest.mark.parametrize("why", ["no compiler", "no such compiler", "broken", "off"])
def test_without_it_the_package_is_pure_and_the_build_says_why(
    checkout: Path, tmp_path: Path, nothing: str, broken: str, why: str
) -> None:
    environment, words = {
        "no compiler": ({"PATH": nothing}, "there is no C compiler (gcc and libc6-dev, or CC)"),
        "no such compiler": ({"CC": "no-such-cc -m64"}, "there is no no-such-cc"),
        "broken": ({"CC": broken}, "the C compiler failed"),
        "off": ({"TAVERN_NATIVE": "off"}, "TAVERN_NATIVE=off"),
    }[why]
    code, said = pip_install(checkout, tmp_path / "target", **environment)
    assert code == 0, said
    assert f"NOT COMPILED, Python does its work: {words}\n" in said
    assert ("what is this?" in said) == (why == "broken")
    assert not any((tmp_path / "target" / library).exists() for library in INSTALLED)
    [about] = (tmp_path / "target").glob("tavern-*.dist-info/WHEEL")
    assert "Tag: py3-none-any\n" in about.read_text()
    assert "Root-Is-Purelib: true\n" in about.read_text()


@pytest.mark.parametrize("why", ["no compiler", "broken", "no sources"])
def test_where_it_is_required_the_build_ends(
    checkout: Path, tmp_path: Path, nothing: str, broken: str, why: str
) -> None:
    environment = {"no compiler": {"PATH": nothing}, "broken": {"CC": broken}, "no sources": {}}[why]
    if why == "no sources":
        shutil.rmtree(checkout / LIBRARIES[1].parent)
    code, said = pip_install(checkout, tmp_path / "target", TAVERN_NATIVE="require", **environment)
    assert code != 0
    assert "NOT COMPILED, and TAVERN_NATIVE=require: there " in said or "what is this?" in said
    assert "Traceback" not in said
    assert not (tmp_path / "target" / "tavern").exists()


def test_a_word_that_it_does_not_know_ends_the_build(checkout: Path, tmp_path: Path) -> None:
    code, said = pip_install(checkout, tmp_path / "target", TAVERN_NATIVE="required")
    assert code != 0
    assert "TAVERN_NATIVE is 'required': it can be off, require, or empty" in said


def test_the_wheel_of_the_sdist_is_for_this_kind_of_machine_and_needs_no_compiler(
    checkout: Path, tmp_path: Path, nothing: str
) -> None:
    wheel = build(checkout, tmp_path / "dist", TAVERN_NATIVE="require")
    [sdist] = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hatch_build.py", ".gitignore"} <= names
    for library in LIBRARIES:
        assert {str(path.relative_to(checkout)) for path in (checkout / library.parent).glob("*.[ch]")} <= names
        assert str(library) not in names
    assert wheel.name.endswith(f"-py3-none-{platform_of(Path(sys.executable).resolve())}.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    must_run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, PATH=nothing)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    for library in INSTALLED:
        load(python, packages / library, PATH=nothing)


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_two_builds_are_the_same_wherever_the_checkout_is(checkout: Path, tmp_path: Path, library: Path) -> None:
    one, two = tmp_path / "one.so", tmp_path / "elsewhere" / "two.so"
    shutil.copytree(checkout, tmp_path / "elsewhere")
    compile_library(checkout, library, one, ENVIRONMENT)
    compile_library(tmp_path / "elsewhere", library, two, ENVIRONMENT)
    assert one.read_bytes() == two.read_bytes()


def test_an_editable_installation_in_isolation_has_it_beside_the_source(checkout: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--no-deps", "-e", checkout)
    must_run(*install, TAVERN_NATIVE="require")
    for library in LIBRARIES:
        load(python, checkout / library)
    found = must_run(python, "-c", "import tavern; print(tavern.__path__[0])")
    assert Path(found.strip()) == checkout / "src" / "tavern"


def test_an_editable_wheel_without_it_takes_the_old_one_away(checkout: Path, tmp_path: Path) -> None:
    script = (
        "import os, sys, hatchling.build; os.chdir(sys.argv[1]); print(hatchling.build.build_editable(sys.argv[2]))"
    )
    said = must_run(sys.executable, "-c", script, checkout, tmp_path, TAVERN_NATIVE="off")
    assert said.endswith("-py3-none-any.whl\n")
    assert not any((checkout / library).exists() for library in LIBRARIES)


def test_a_cross_compiler_makes_the_other_machines_wheel(checkout: Path, tmp_path: Path) -> None:
    cross = program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    qemu = program("qemu-aarch64", "qemu-user")
    wheel = build(checkout, tmp_path / "dist", TAVERN_NATIVE="require", CC=cross)
    assert wheel.name.endswith("-py3-none-linux_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [archive.extract(str(library), tmp_path) for library in INSTALLED]
    (tmp_path / "loader.c").write_text(LOADER)
    must_run(cross, tmp_path / "loader.c", "-o", tmp_path / "loader")
    for library in libraries:
        must_run(qemu, "-L", "/usr/aarch64-linux-gnu", tmp_path / "loader", library)


def test_it_compiles_without_a_warning(checkout: Path, tmp_path: Path) -> None:
    for compiler in filter(shutil.which, ("gcc", "clang", "aarch64-linux-gnu-gcc")):
        environment = {**ENVIRONMENT, "CC": compiler, "CFLAGS": "-Werror"}
        for library in LIBRARIES:
            assert compile_library(checkout, library, tmp_path / "library.so", environment) == ""


def test_as_a_program_it_compiles_for_the_checkout(checkout: Path, tmp_path: Path, broken: str) -> None:
    must_run(sys.executable, checkout / "hatch_build.py", CFLAGS="-O0 -g -U_FORTIFY_SOURCE")
    for library in LIBRARIES:
        load(sys.executable, checkout / library)
        assert not list((checkout / library.parent).glob(".*"))  # what was unfinished
    code, said = run(sys.executable, checkout / "hatch_build.py", CC=broken)
    assert code == 1
    assert said.startswith("the C compiler failed\n")


def test_the_environments_flags_come_after_ours(checkout: Path, tmp_path: Path) -> None:
    recorder = tmp_path / "recorder"
    recorder.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/command\nexit 1\n')
    recorder.chmod(0o755)
    environment = {"CC": f"{recorder} -m64", "CFLAGS": "-O3 '-DA=a b'", "LDFLAGS": "-lm", "PATH": os.defpath}
    with pytest.raises(NotCompiled, match="the C compiler failed"):
        compile_library(checkout, LIBRARIES[0], tmp_path / "library.so", environment)
    command = (tmp_path / "command").read_text()
    assert command.startswith(f"-m64 {' '.join(FLAGS)} -O3 -DA=a b {LIBRARIES[0].parent}/")
    assert command.endswith(" -lm\n")


def test_the_compiler_is_cc_from_the_environment_or_the_first_that_is_there(tmp_path: Path) -> None:
    for name in ("clang", "gcc"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    path = str(tmp_path)
    assert find_compiler({"PATH": path}) == ["gcc"]
    assert find_compiler({"PATH": path, "CC": ""}) == ["gcc"]
    assert find_compiler({"PATH": path, "CC": "clang -m32"}) == ["clang", "-m32"]
    with pytest.raises(NotCompiled, match="there is no cc"):
        find_compiler({"PATH": path, "CC": "cc"})


@pytest.mark.parametrize(
    ("bits", "machine", "platform"), [(2, 62, "linux_x86_64"), (2, 183, "linux_aarch64"), (1, 3, "linux_i686")]
)
def test_the_platform_is_read_from_the_library(tmp_path: Path, bits: int, machine: int, platform: str) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(b"\x7fELF" + bytes([bits]) + bytes(13) + struct.pack("<H", machine) + bytes(100))
    assert platform_of(library) == platform


def test_a_platform_that_it_does_not_know_is_pythons_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PYTHON_HOST_PLATFORM", "linux-riscv64")
    (tmp_path / "library.so").write_bytes(b"\x7fELF" + bytes([2]) + bytes(13) + struct.pack("<H", 243))
    assert platform_of(tmp_path / "library.so") == "linux_riscv64"

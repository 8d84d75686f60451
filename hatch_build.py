"""Compiles the native parts of the package, where there is a C compiler. Hatchling runs it in every build.

The environment decides: `CC`, `CFLAGS` and `LDFLAGS` as everywhere, and `TAVERN_NATIVE`, which is `require` where a
package without them would be an error, and `off` where none is wanted. As a program, `python hatch_build.py` compiles
into the source directories, where an editable installation has its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilderConfig

LIBRARIES = (Path("src/tavern/relay/native/libtavernrelay.so"), Path("src/tavern/web/native/libtavernweb.so"))
"""The relay's data path, and what passes signaling messages on: each of the C files that are beside it."""

FLAGS = shlex.split(
    "-O2 -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -fPIC -shared -pthread -fvisibility=hidden"
    # What can be had for nothing: checks where the size of a buffer is known, a guard in functions that have arrays,
    # no function pointers that a stray write could turn. A symbol that nobody defines is found here, not by users.
    " -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong"
    " -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,-z,defs"
)
PLATFORMS = {(2, 62): "linux_x86_64", (2, 183): "linux_aarch64", (1, 3): "linux_i686"}
"""By an ELF file's class and machine."""

NOT_COMPILED = "Tavern: its native parts are NOT COMPILED"
INSTEAD = "Python does its work"


class NotCompiled(Exception):
    """There is no library; why, in a line, and what the compiler said below."""


def find_compiler(environment: Mapping[str, str]) -> list[str]:
    """The command of the C compiler: what CC says, or else the first that there is."""
    named = shlex.split(environment.get("CC", ""))
    for command in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0], path=environment.get("PATH")):
            return command
    raise NotCompiled(f"there is no {named[0]}" if named else "there is no C compiler (gcc and libc6-dev, or CC)")


def compile_library(root: Path, library: Path, output: Path, environment: Mapping[str, str]) -> str:
    """`output` is this one of LIBRARIES, of the checkout at `root`; returns what the compiler said."""
    if not sys.platform.startswith("linux"):
        raise NotCompiled("it is for Linux")
    compiler = find_compiler(environment)
    sources = sorted(str(path.relative_to(root)) for path in (root / library.parent).glob("*.c"))
    if not sources:
        raise NotCompiled(f"there are no C files in {root / library.parent}")
    # Where a running server has the library mapped, it keeps the old one: no file is written over.
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    flags = [*FLAGS, *shlex.split(environment.get("CFLAGS", ""))]
    command = [*compiler, *flags, *sources, "-o", str(unfinished), *shlex.split(environment.get("LDFLAGS", ""))]
    try:
        # Relative names, from the root: what is compiled is the same wherever the checkout is.
        ran = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="replace")  # noqa: S603, PLW1510
        if ran.returncode:
            raise NotCompiled(f"the C compiler failed\n{shlex.join(command)}\n{ran.stderr}")
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return ran.stderr


def platform_of(library: Path) -> str:
    """The wheel's platform: what was compiled for, which is not this machine's kind where CC is a cross compiler."""
    header = library.read_bytes()[:20]
    found = PLATFORMS.get((header[4], *struct.unpack_from("<H", header, 18)))
    return found or sysconfig.get_platform().replace("-", "_").replace(".", "_")


class NativeBuildHook(BuildHookInterface[WheelBuilderConfig]):
    """The library goes into the wheel, which is for one platform then; an editable one finds it beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        self._scratch = tempfile.TemporaryDirectory()
        editable = version == "editable"
        outputs = {
            library: (root / library if editable else Path(self._scratch.name) / library.name) for library in LIBRARIES
        }
        if editable:
            for output in outputs.values():
                output.unlink(missing_ok=True)  # an old one would go on being used where none is compiled now
        if self._compile(root, outputs) and not editable:
            for library, output in outputs.items():
                build_data["force_include"][str(output)] = str(library.relative_to("src"))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_of(outputs[LIBRARIES[0]])}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        self._scratch.cleanup()

    def _compile(self, root: Path, outputs: Mapping[Path, Path]) -> bool:
        """Whether there are all libraries now. Ends the build where they are required and are not there."""
        wanted = os.environ.get("TAVERN_NATIVE", "")
        if wanted not in {"", "off", "require"}:
            raise SystemExit(f"TAVERN_NATIVE is {wanted!r}: it can be off, require, or empty")
        if wanted == "off":
            self.app.display_info(f"{NOT_COMPILED}, {INSTEAD}: TAVERN_NATIVE=off")
            return False
        try:
            said = [compile_library(root, library, output, os.environ) for library, output in outputs.items()]
        except NotCompiled as error:
            for output in outputs.values():
                output.unlink(missing_ok=True)
            if wanted == "require":
                raise SystemExit(f"{NOT_COMPILED}, and TAVERN_NATIVE=require: {error}") from error
            self.app.display_warning(f"{NOT_COMPILED}, {INSTEAD}: {error}")
            return False
        for text in filter(None, said):
            self.app.display_warning(text)
        return True


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    try:
        for one in LIBRARIES:
            sys.stderr.write(compile_library(here, one, here / one, os.environ))
    except NotCompiled as failure:
        sys.exit(str(failure))

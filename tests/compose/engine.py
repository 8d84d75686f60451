"""A stand-in for a container engine, run as a program: builds the image's stages step by step and runs the result.

Each stage is an overlay over this machine's own root, with this test's Python where the base image has its own
(`/usr/local`). The steps are the Dockerfile's own, executed in it with chroot. Then the last stage is started as the
compose file says (user, read-only root, tmpfs, volume, no capabilities, no new privileges), in a network namespace of
its own, where its default ports are free.

It must be root in fresh mount and PID namespaces (`unshare --mount --pid --fork --kill-child --mount-proc`): what it
mounts and starts ends with it. Reads a `Plan` as JSON on stdin; writes a report as JSON on stdout, progress on stderr.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import string
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tests.compose.visitor import create_tavern, get_health

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STEP_LIMIT_S = 240.0
"""pip on a slow mirror; a step that hangs must not hang the suite."""
HEALTHY_LIMIT_S = 20.0
"""The health check's own start period."""

CLONE_NEWNET = 0x40000000
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

libc = ctypes.CDLL(None, use_errno=True)


@attrs.frozen(kw_only=True)
class Plan:
    """What the test read from the compose file, and where things are."""

    context: str
    dockerfile: str
    work: str
    environment: dict[str, str]
    healthcheck: list[str]
    tmpfs: list[str]
    volumes: list[str]
    read_only: bool
    cap_drop_all: bool
    no_new_privileges: bool
    stop_grace_s: float


@attrs.define
class Stage:
    """One stage of the build: its root, and what its instructions have set so far."""

    root: Path
    name: str
    environment: dict[str, str] = attrs.field(factory=lambda: {"PATH": BASE_PATH})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = attrs.field(factory=list)
    command: list[str] = attrs.field(factory=list)
    healthcheck: list[str] = attrs.field(factory=list)
    volumes: list[str] = attrs.field(factory=list)
    stop_signal: str = "SIGTERM"

    def expanded(self, text: str) -> str:
        return string.Template(text).safe_substitute(self.environment)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, stdout=sys.stderr)


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, with continued lines joined and comments dropped."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = lines.replace("\\\n", " ")
    return [
        (word.upper(), rest.strip())
        for line in joined.splitlines()
        if line.strip()
        for word, _, rest in [line.strip().partition(" ")]
    ]


def make_root(work: Path, number: int) -> Path:
    """The base image's stand-in."""
    parts = {name: work / f"{name}{number}" for name in ("upper", "inner", "root")}
    for part in parts.values():
        part.mkdir()
    mount(
        "-t", "overlay", "overlay", "-o",
        f"lowerdir=/,upperdir={parts['upper']},workdir={parts['inner']}", str(parts["root"]),
    )  # fmt: skip
    furnish(parts["root"])
    # A Python built as a shared library would find this machine's own libpython instead; the base image does the same.
    subprocess.run(["chroot", parts["root"], "/sbin/ldconfig"], check=True, stdout=sys.stderr)
    return parts["root"]


def furnish(root: Path) -> None:
    """What an engine, or the base image, puts into a container."""
    mount("--rbind", "/dev", str(root / "dev"))
    mount("--rbind", "/proc", str(root / "proc"))
    if sys.base_prefix != "/usr":
        mount("--rbind", sys.base_prefix, str(root / "usr/local"))


def inside(root: Path, workdir: str, user: str, *, confined: Plan | None = None) -> Callable[[], None]:
    """For a child between fork and exec: move into the root and become the user."""
    uid, gid = user_ids(root, user)

    def enter() -> None:
        os.chroot(root)
        os.chdir(workdir)
        if confined is not None and confined.cap_drop_all:
            for capability in range(64):
                libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        if confined is not None and confined.no_new_privileges and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            os._exit(125)

    return enter


def user_ids(root: Path, user: str) -> tuple[int, int]:
    name, _, group = user.partition(":")
    if name.isdigit():
        return int(name), int(group or 0)
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2]), int(group or fields[3])
    raise ValueError(f"USER {user}: the image has no such user")


def registry_environment() -> dict[str, str]:
    """How this machine reaches a package index; an engine's build would get it from its own configuration."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "SSL_CERT_")) or name.lower().endswith("_proxy")
    }


def run_step(stage: Stage, argument: str) -> None:
    command = json.loads(argument) if argument.startswith("[") else ["/bin/sh", "-c", argument]
    subprocess.run(
        command,
        check=True,
        timeout=STEP_LIMIT_S,
        stdout=sys.stderr,
        env={**registry_environment(), **stage.environment, "HOME": "/root"},
        preexec_fn=inside(stage.root, stage.workdir, stage.user),
    )


def copy_step(stage: Stage, argument: str, context: Path, stages: list[Stage]) -> None:
    words = shlex.split(stage.expanded(argument))
    source_root = context
    while words[0].startswith("--"):
        option, _, value = words.pop(0).partition("=")
        if option != "--from":
            raise ValueError(f"COPY {option} is not known to this stand-in")
        source_root = next(each.root for each in stages if each.name == value)
    *sources, target = words
    destination = stage.root / os.path.join(stage.workdir, target).lstrip("/")  # noqa: PTH118  - target may be absolute
    into_directory = target.endswith("/") or len(sources) > 1
    for source in sources:
        path = source_root / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, destination, symlinks=True, dirs_exist_ok=True)
            continue
        (destination if into_directory else destination.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, destination)
        copied = destination / path.name if destination.is_dir() else destination
        os.chown(copied, 0, 0)


def json_or_shell(argument: str) -> list[str]:
    if argument.startswith("["):
        return [str(word) for word in json.loads(argument)]
    return ["/bin/sh", "-c", argument]


def build(plan: Plan) -> Stage:
    """Execute every instruction; one that is not known here is an error, so that none is skipped unseen."""
    stages: list[Stage] = []
    work, context = Path(plan.work), Path(plan.context)
    for word, argument in instructions(Path(plan.dockerfile).read_text()):
        say(f"{word} {argument}")
        if word == "FROM":
            _, _, name = argument.partition(" AS ")
            stages.append(Stage(make_root(work, len(stages)), name))
            continue
        stage = stages[-1]
        match word:
            case "RUN":
                run_step(stage, argument)
            case "COPY":
                copy_step(stage, argument, context, stages)
            case "ENV":
                for pair in shlex.split(argument):
                    name, _, value = pair.partition("=")
                    stage.environment[name] = stage.expanded(value)
            case "WORKDIR":
                stage.workdir = stage.expanded(argument)
                (stage.root / stage.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                stage.user = argument
            case "ENTRYPOINT":
                stage.entrypoint = json_or_shell(argument)
            case "CMD":
                stage.command = json_or_shell(argument)
            case "VOLUME":
                stage.volumes += json.loads(argument) if argument.startswith("[") else argument.split()
            case "STOPSIGNAL":
                stage.stop_signal = argument
            case "HEALTHCHECK":
                stage.healthcheck = json_or_shell(argument.partition("CMD ")[2])
            case "EXPOSE":
                pass  # documentation: the compose file publishes
            case _:
                raise ValueError(f"{word} is not known to this stand-in")
    return stages[-1]


def container_root(plan: Plan, image: Stage) -> Path:
    """The image's root as a container sees it: read-only if the plan says so, with its volumes and tmpfs."""
    root = Path(plan.work) / "container"
    root.mkdir()
    mount("--bind", str(image.root), str(root))
    furnish(root)
    if plan.read_only:
        mount("-o", "remount,bind,ro", str(root))
    for entry in plan.tmpfs:
        directory, _, options = entry.partition(":")
        mount("-t", "tmpfs", "-o", options or "mode=1777", "tmpfs", str(root / directory.lstrip("/")))
    for number, directory in enumerate(plan.volumes):
        if directory not in image.volumes:
            raise ValueError(f"the compose file mounts {directory}, the image declares {image.volumes}")
        inner = image.root / directory.lstrip("/")
        volume = Path(plan.work) / f"volume{number}"
        shutil.copytree(inner, volume)  # a new volume starts with the image's content, owner and mode
        about = inner.stat()
        os.chown(volume, about.st_uid, about.st_gid)
        volume.chmod(stat.S_IMODE(about.st_mode))
        mount("--bind", str(volume), str(root / directory.lstrip("/")))
    return root


def own_network() -> None:
    """A network namespace with nothing but a loopback."""
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


class Container:
    """The last stage, running."""

    def __init__(self, plan: Plan, image: Stage, root: Path, log: Path) -> None:
        self._plan, self._image = plan, image
        self._environment = {**image.environment, **plan.environment, "HOME": self._home(root)}
        self._enter = inside(root, image.workdir, image.user, confined=plan)
        self._log = log
        with log.open("wb") as output:
            self._process = self._start([*image.entrypoint, *image.command], output)

    def _home(self, root: Path) -> str:
        uid, _ = user_ids(root, self._image.user)
        lines = (root / "etc/passwd").read_text().splitlines()
        return next((line.split(":")[5] for line in lines if line.split(":")[2] == str(uid)), "/")

    def _start(self, command: list[str], output: Any) -> subprocess.Popen[bytes]:
        say(f"starting {command}")
        return subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=self._enter,  # noqa: PLW1509  - this program has no threads
        )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_healthy(self) -> None:
        """What an engine does: the health check's command inside the container, again and again."""
        deadline = time.monotonic() + HEALTHY_LIMIT_S
        while True:
            check = self._start(self._plan.healthcheck, subprocess.PIPE)
            said, _ = check.communicate(timeout=10)
            if check.returncode == 0:
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"never healthy: {said.decode()}\n{self.log()}")
            time.sleep(0.1)

    def status(self) -> dict[str, str]:
        """The kernel's view of the process."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def stop(self) -> tuple[int, float]:
        """The image's signal; the exit code, and the seconds that it took."""
        started = time.monotonic()
        self._process.send_signal(signal.Signals[self._image.stop_signal])
        code = self._process.wait(timeout=self._plan.stop_grace_s)
        return code, time.monotonic() - started


def listing(directory: Path) -> dict[str, list[int]]:
    """Mode and owner of everything below, the directory itself as `.`."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        about = path.lstat()
        found[str(path.relative_to(directory))] = [stat.S_IMODE(about.st_mode), about.st_uid]
    return found


def load_native(image: Stage) -> str:
    """What Python in the image, as its user, says of loading the relay's compiled part: nothing if it is there."""
    program = "import ctypes, tavern.relay as it; ctypes.CDLL(f'{it.__path__[0]}/native/libtavernrelay.so')"
    loading = subprocess.run(
        ["python3", "-c", program],
        env=image.environment,
        capture_output=True,
        text=True,
        preexec_fn=inside(image.root, "/", image.user),
    )
    return loading.stdout + loading.stderr


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    mount("-t", "tmpfs", "tmpfs", plan.work)  # an overlay's upper part cannot itself be on one
    image = build(plan)
    root = container_root(plan, image)
    own_network()
    report: dict[str, Any] = {
        "image_healthcheck": image.healthcheck,
        "root_is_read_only": bool(os.statvfs(root).f_flag & os.ST_RDONLY),
        "entrypoint": image.entrypoint + image.command,
        "native": load_native(image),
        "runs": [],
    }
    port = int(plan.environment["PORT"])
    for number in range(2):
        container = Container(plan, image, root, Path(plan.work) / f"log{number}")
        container.wait_until_healthy()
        run: dict[str, Any] = {"health": get_health(port), "status": container.status()}
        if number == 0:
            run["created"] = create_tavern(port)
        run["exit_code"], run["stop_s"] = container.stop()
        run["log"] = container.log()
        report["runs"].append(run)
    report["data"] = listing(root / plan.volumes[0].lstrip("/"))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()

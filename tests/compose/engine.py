"""A Docker engine of the suite's own, with Compose, and a stand-in for the base image that nobody can pull here.

Nothing of the machine's own Docker is touched: data, socket and pid file are in a directory of the tests, and the
machine's firewall is left alone. So containers have no network but what is published; builds use the machine's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.prerequisites import program

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache" / "docker"
"""Kept between runs, as pip's is: the base image and Compose are some 150 MB."""

SUITE = "bookworm"
PACKAGES = "ca-certificates,nginx-light,python3,python3-venv"
"""Of the one system that stands in for each image from elsewhere: to make another takes half a minute."""

COMPOSE_SUITE = "trixie"
"""The first Debian that has Compose v2."""

MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
START_LIMIT_S = 20.0
COMMAND_LIMIT_S = 240.0


class NoEngine(Exception):
    """No Docker engine can run on this machine; the text says why."""


@attrs.frozen
class Engine:
    """One that runs; ended by `running_engine`."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What makes `docker` speak with this one, and build as it is described."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TAVERN_", "DOCKER_"))},
            "DOCKER_HOST": f"unix://{self.directory}/docker.sock",
            "DOCKER_CONFIG": str(self.directory / "config"),
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
        }

    def docker(
        self, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
    ) -> bytes:
        """What `docker ...` printed. An AssertionError with all that it said where it failed."""
        ran = subprocess.run(
            ["docker", *arguments],
            env={**self.environment, **(environment or {})},
            input=stdin,
            capture_output=True,
            timeout=COMMAND_LIMIT_S,
        )
        assert ran.returncode == 0, f"docker {' '.join(arguments)}\n{ran.stdout.decode()}\n{ran.stderr.decode()}"
        return ran.stdout

    def inspect(self, name: str) -> Any:
        [found] = json.loads(self.docker("inspect", name))
        return found


@attrs.frozen
class Stack:
    """What one directory with a compose file describes, on ports of its own."""

    engine: Engine
    files: tuple[Path, ...]
    settings: dict[str, str]

    def compose(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """`docker compose ...`, as a user types it beside the file."""
        files = [part for file in self.files for part in ("-f", str(file))]
        return self.engine.docker("compose", *files, *arguments, stdin=stdin, environment=self.settings)

    def container(self) -> Any:
        """What the engine says of the running service."""
        return self.engine.inspect(self.compose("ps", "-q", "signaling").decode().strip())

    def log(self) -> str:
        return self.compose("logs", "--no-color", "--no-log-prefix", "signaling").decode()


@contextmanager
def running_engine(directory: Path) -> Iterator[Engine]:
    """An engine whose data is in `directory`, with Compose; ended, with all containers, at the block's end.

    Raises NoEngine where none can run.
    """
    if os.geteuid():
        raise NoEngine("this needs root")
    _install_plugins(directory / "config" / "cli-plugins")
    log = directory / "dockerd.log"
    command = [
        *(program("dockerd", "docker.io"), "-H", f"unix://{directory}/docker.sock"),
        *("--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")),
        *("--pidfile", str(directory / "docker.pid")),
        *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none"),
    ]
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PATH": path})
    engine = Engine(directory, process)
    try:
        _wait_until_up(engine, log)
        yield engine
    finally:
        _end(engine)


def _wait_until_up(engine: Engine, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        if subprocess.run(["docker", "info"], env=engine.environment, capture_output=True).returncode == 0:
            return
        if engine.process.poll() is not None or time.monotonic() > deadline:
            raise NoEngine(f"dockerd does not start here: {log.read_text(errors='replace')[-600:]}")
        time.sleep(0.1)


def _end(engine: Engine) -> None:
    if engine.process.poll() is None:
        listed = subprocess.run(["docker", "ps", "-aq"], env=engine.environment, capture_output=True, text=True)
        if containers := listed.stdout.split():
            subprocess.run(["docker", "rm", "-fv", *containers], env=engine.environment, capture_output=True)
        # Their bridges are the machine's, and would stay.
        subprocess.run(["docker", "network", "prune", "-f"], env=engine.environment, capture_output=True)
        engine.process.send_signal(signal.SIGTERM)
        engine.process.wait(30)
    for line in Path("/proc/mounts").read_text().splitlines():
        where = line.split()[1]
        if where.startswith(f"{engine.directory}/"):
            subprocess.run(["umount", "-l", where], capture_output=True)
    shutil.rmtree(engine.directory / "data", ignore_errors=True)


def base_names(dockerfile: Path) -> set[str]:
    """The images that the Dockerfile begins from."""
    return set(re.findall(r"^FROM (\S+)", dockerfile.read_text(), re.MULTILINE))


def import_base(engine: Engine, name: str) -> None:
    """A Debian with Python under the name that the Dockerfile begins with. It has the machine's certificates."""
    _import(engine, name)


def import_nginx(engine: Engine, name: str) -> None:
    """A Debian with nginx, which it starts, as the official image does."""
    _import(engine, name, "--change", 'CMD ["nginx", "-g", "daemon off;"]')


def _import(engine: Engine, name: str, *options: str) -> None:
    with _base_archive().open("rb") as stream:
        command = ["docker", "import", *options, "-", name]
        subprocess.run(command, env=engine.environment, stdin=stream, check=True, timeout=120)


def _base_archive() -> Path:
    key = hashlib.sha256(f"{SUITE} {PACKAGES} {CERTIFICATES.read_bytes()!r}".encode()).hexdigest()[:16]
    archive = CACHE / f"base-{key}.tar"
    if not archive.exists():
        _say("making the base image")
        root, unfinished = CACHE / f"root-{os.getpid()}", CACHE / f".base-{os.getpid()}"
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            debootstrap = program("debootstrap", "debootstrap")
            command = [debootstrap, "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), MIRROR]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=COMMAND_LIMIT_S)
            shutil.copy(CERTIFICATES, root / "etc/ssl/certs/ca-certificates.crt")
            for package in (root / "var/cache/apt/archives").glob("*.deb"):
                package.unlink()
            subprocess.run(["tar", "-C", root, "-cf", unfinished, "."], check=True, timeout=120)
            unfinished.rename(archive)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            unfinished.unlink(missing_ok=True)
    return archive


def _install_plugins(target: Path) -> None:
    """Compose and buildx, which this Debian lacks: those of the next one, unpacked where `docker` looks for them."""
    kept = CACHE / f"plugins-{COMPOSE_SUITE}"
    if not kept.exists():
        _say("fetching Compose")
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = CACHE / f"apt-{os.getpid()}"
        try:
            _fetch_plugins(scratch)
            (scratch / "unpacked/usr/libexec/docker/cli-plugins").rename(kept)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(kept, target)


def _fetch_plugins(scratch: Path) -> None:
    for directory in ("lists/partial", "cache/archives/partial", "unpacked"):
        (scratch / directory).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {COMPOSE_SUITE} main\n")
    settings = {
        "Dir::Etc::SourceList": f"{scratch}/sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State": f"{scratch}",
        "Dir::State::status": f"{scratch}/status",
        "Dir::Cache": f"{scratch}/cache",
        "APT::Sandbox::User": "root",
    }
    options = ["-qq", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]
    for command in (["update"], ["download", "docker-compose", "docker-buildx"]):
        subprocess.run(["apt-get", *options, *command], cwd=scratch, check=True, timeout=COMMAND_LIMIT_S)
    for package in scratch.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, scratch / "unpacked"], check=True, timeout=60)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

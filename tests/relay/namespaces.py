"""Network namespaces of a test's own: its interfaces and routes are nobody else's."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def in_namespace(setup: str, *command: str) -> list[str]:
    """`command` after the shell lines `setup`, as root of a new namespace with a loopback."""
    return [
        "unshare",
        "--map-root-user",
        "--net",
        "sh",
        "-ec",
        f'ip link set lo up\n{setup}\nexec "$@"',
        "sh",
        *command,
    ]


def _permitted() -> bool:
    if not all(map(shutil.which, ("unshare", "ip", "sysctl"))):
        return False
    setup = "ip link add v0 type veth peer name v1"
    return subprocess.run(in_namespace(setup, "true"), capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(
    not _permitted(), reason="NETWORK NAMESPACES ARE NOT PERMITTED HERE: AnyIP, anycast, link-local are not tested"
)

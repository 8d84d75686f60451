"""What tests need of the machine: network namespaces whose interfaces and routes are nobody else's, and IPv6."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest

from tests.prerequisites import skip_unless


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


needs_namespaces = skip_unless(
    _permitted(), "NETWORK NAMESPACES ARE NOT PERMITTED HERE: AnyIP, anycast, link-local are not tested"
)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="THIS MACHINE HAS NO IPv6 LOOPBACK: not tested here")

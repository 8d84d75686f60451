"""What the kernel calls this machine's own, on loopback and in a network namespace of the test's own."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import pytest

import tavern
from tavern.relay.routes import is_local
from tests.relay.namespaces import in_namespace, needs_namespaces

NAMESPACE = """
ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
sysctl -qw net.ipv6.conf.all.forwarding=1
ip addr add 2600:db8:1::5/64 dev v0 nodad
ip addr add 203.0.113.7/24 dev v0
ip route add local 198.51.100.0/24 dev lo
ip route add local 198.18.0.0/24 dev lo src 203.0.113.7
ip -6 route add local 2600:db8:9::/48 dev lo
ip route add blackhole 9.9.9.0/24
"""
ASK = """
import sys
from ipaddress import ip_address
from tavern.relay.routes import is_local
print(*(is_local(ip_address(text)) for text in sys.argv[1:]))
"""
OWN = {
    "203.0.113.7": "an interface's",
    "203.0.113.255": "broadcast",
    "198.51.100.9": "AnyIP",
    "198.18.0.3": "AnyIP that answers from another source",
    "127.9.9.9": "loopback",
    "2600:db8:1::5": "an interface's",
    "2600:db8:1::": "anycast of the subnet's routers",
    "2600:db8:9::77": "AnyIP",
    "::1": "loopback",
}
FOREIGN = {
    "203.0.113.8": "a neighbour",
    "2600:db8:1::6": "a neighbour",
    "8.8.8.8": "no route",
    "9.9.9.9": "a black hole",
    "2620:fe::9": "no route",
}


@needs_namespaces
def test_what_no_interface_lists_is_this_machines_own() -> None:
    addresses = [*OWN, *FOREIGN]
    environment = {**os.environ, "PYTHONPATH": str(Path(tavern.__file__).parents[1])}
    command = in_namespace(NAMESPACE, sys.executable, "-c", ASK, *addresses)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    answers = dict(zip(addresses, done.stdout.split(), strict=True))
    assert answers == dict.fromkeys(OWN, "True") | dict.fromkeys(FOREIGN, "False")


def test_loopback_is_this_machine() -> None:
    assert is_local(ip_address("127.0.0.1"))


def test_what_cannot_be_asked_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", no_descriptor)
    assert is_local(ip_address("8.8.8.8"))

"""A little internet of a test's own, in network namespaces: two homes behind NAT, and a server that all can reach.

Nothing of it has a name that it could leave behind: a namespace lives as long as the process that holds it, and that
ends when its standard input does, however the tests end.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs

from tests.prerequisites import lacking, program

STEP_TIMEOUT_S = 10

SERVER = "5.0.0.1"
"""A global address, as peers of a relay must have; here it is nobody else's. One of several of its machine."""

_HOMES = ("5.0.1", "5.0.2")
_MOVED = 3
_LAN = "10.0.0"  # the same in both homes, as it is


@attrs.frozen
class Namespace:
    """A network of its own. `inside` are the words that make the command after them run there."""

    inside: tuple[str, ...]

    def run(self, *command: str) -> str:
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True, timeout=STEP_TIMEOUT_S)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout


@attrs.frozen
class Network:
    """Two clients, each alone in a home behind a NAT of its own, and the public machine between them."""

    server: Namespace
    clients: tuple[Namespace, Namespace]

    def move(self, number: int) -> None:
        """This client loses its address, and has another one a moment later."""
        ip = program("ip", "iproute2")
        client = self.clients[number]
        client.run(ip, "link", "set", "eth0", "down")
        client.run(ip, "addr", "flush", "dev", "eth0")
        client.run(ip, "addr", "add", f"{_LAN}.{_MOVED}/24", "dev", "eth0")
        client.run(ip, "link", "set", "eth0", "up")
        client.run(ip, "route", "add", "default", "via", f"{_LAN}.1")


@contextmanager
def _namespace() -> Iterator[Namespace]:
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo here && exec cat >/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        answer = holder.stdout.readline()
        if answer != "here\n":
            lacking(f"NETWORK NAMESPACES ARE NOT PERMITTED HERE, so nothing behind NAT is tested: {answer}")
        yield Namespace((program("nsenter", "util-linux"), f"--net=/proc/{holder.pid}/ns/net", "--"))
    finally:
        holder.stdin.close()
        holder.wait(STEP_TIMEOUT_S)
        holder.stdout.close()


@contextmanager
def two_homes(*, symmetric: bool) -> Iterator[Network]:
    """`symmetric`: a NAT gives each flow a port at random, so nobody can tell another where to send.

    Otherwise it keeps the port that the client chose, for all whom the client sends to.
    """
    iptables, ip = program("iptables", "iptables"), program("ip", "iproute2")
    with ExitStack() as stack:
        server, *others = [stack.enter_context(_namespace()) for _ in range(5)]
        server.run(ip, "addr", "add", f"{SERVER}/32", "dev", "lo")
        server.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        clients = []
        for home, nat, client in zip(_HOMES, others[:2], others[2:], strict=True):
            _join(server, home.replace(".", "-"), f"{home}.254/24", nat, "wan", f"{home}.1/24")
            _join(nat, "lan", f"{_LAN}.1/24", client, "eth0", f"{_LAN}.2/24")
            nat.run(ip, "route", "add", "default", "via", f"{home}.254")
            client.run(ip, "route", "add", "default", "via", f"{_LAN}.1")
            nat.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            mapping = ["--random-fully"] if symmetric else []
            nat.run(iptables, "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", "MASQUERADE", *mapping)
            # What nobody asked for ends here, as at every home: the port that it came to would be taken by it.
            known = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"]
            nat.run(iptables, "-w", "-A", "INPUT", "-i", "wan", *known, "-j", "ACCEPT")
            nat.run(iptables, "-w", "-A", "INPUT", "-i", "wan", "-j", "DROP")
            clients.append(client)
        yield Network(server, (clients[0], clients[1]))


def _join(one: Namespace, one_end: str, one_address: str, other: Namespace, other_end: str, other_address: str) -> None:
    """A cable between two namespaces. No IPv6 on it: its addresses are of use only seconds after they are made."""
    ip = program("ip", "iproute2")
    netns = other.inside[-2].removeprefix("--net=")
    one.run(ip, "link", "add", one_end, "type", "veth", "peer", "name", other_end)
    one.run(ip, "link", "set", other_end, "netns", netns)
    for end, name, address in ((one, one_end, one_address), (other, other_end, other_address)):
        end.run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        end.run(ip, "addr", "add", address, "dev", name)
        end.run(ip, "link", "set", name, "up")

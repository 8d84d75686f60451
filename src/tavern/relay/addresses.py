"""This machine's addresses: what its interfaces have, and which one it uses towards the world."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import ifaddr

from tavern.addresses import IPAddress, parse_address

# Documentation addresses: no packet leaves, the kernel only looks up the route.
_ANYWHERE_IPV4 = ("192.0.2.1", 9)
_ANYWHERE_IPV6 = ("2001:db8::1", 9)


def interface_addresses() -> frozenset[IPAddress]:
    """The addresses of all interfaces now, without zones. Loopback is among them where it is up."""
    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            found.add(parse_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]))
    return frozenset(found)


def default_gateways(routes: Path = Path("/proc/net")) -> frozenset[IPAddress]:
    """Where this machine's default routes lead; empty where there are none, or the kernel does not say (Linux does)."""
    found: set[IPAddress] = set()
    with suppress(OSError):
        for line in (routes / "route").read_text().splitlines()[1:]:
            _interface, destination, gateway = line.split()[:3]
            if int(destination, 16) == 0 and int(gateway, 16):
                found.add(IPv4Address(int(gateway, 16).to_bytes(4, sys.byteorder)))
    with suppress(OSError):
        for line in (routes / "ipv6_route").read_text().splitlines():
            fields = line.split()
            if int(fields[0], 16) == 0 and int(fields[1], 16) == 0 and int(fields[4], 16):
                found.add(IPv6Address(int(fields[4], 16)))
    return frozenset(found)


def primary_ipv4() -> IPv4Address:
    """The address this machine uses towards the world; 127.0.0.1 as the last resort."""
    address = _source_towards(socket.AF_INET, _ANYWHERE_IPV4)
    return address if isinstance(address, IPv4Address) else IPv4Address("127.0.0.1")


def primary_ipv6() -> IPv6Address | None:
    """The global or unique local address this machine uses towards the world; None where IPv6 leads nowhere."""
    address = _source_towards(socket.AF_INET6, _ANYWHERE_IPV6)
    if not isinstance(address, IPv6Address) or address.is_link_local or address.is_loopback:
        return None
    return address


def _source_towards(family: socket.AddressFamily, destination: tuple[str, int]) -> IPAddress | None:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(destination)
            return parse_address(sock.getsockname()[0])
    except OSError:
        return None

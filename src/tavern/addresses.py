"""IP addresses as this project compares, counts and prints them. Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

IPAddress = IPv4Address | IPv6Address

SocketAddress = tuple[str, int]
"""`(host, port)`; the host is a numeric address in the form that `ipaddress` prints."""


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv4-mapped one; any other address as it is."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_address(text: str) -> IPAddress:
    """`text` as an address, IPv4-mapped ones as IPv4, without a zone. Raises ValueError if it is none."""
    return unmapped(ip_address(text.partition("%")[0]))


@lru_cache(maxsize=4096)  # several times per request of a few clients; bounded, since sources can be forged
def without_zone(host: str) -> IPAddress:
    """`host`, which a socket named, as an address without its zone; an IPv4-mapped one stays as it is."""
    return ip_address(host.partition("%")[0])


@lru_cache(maxsize=4096)  # per packet and per message for the same few peers; bounded, since sources can be forged
def source_key(host: str) -> str:
    """What limits per source address count by: the IPv4 address, or the IPv6 /64 (one customer has at least that).

    A host that is no numeric address (a unix socket, a test's name) is its own key.
    """
    try:
        address = parse_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Address(int(address) >> 64 << 64)) + "/64"


def is_address(host: str) -> bool:
    """Whether it is a numeric address and no name."""
    try:
        parse_address(host)
    except ValueError:
        return False
    return True


def format_socket_address(host: str, port: int) -> str:
    """`host:port` with IPv6 in brackets, as in URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

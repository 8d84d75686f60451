"""The names by which clients reach a server, as a Host header has them. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tavern.addresses import parse_address


def is_loopback_name(host: str) -> bool:
    """Whether a Host header's name (no port) reaches only the machine that it is used on."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return parse_address(name).is_loopback
    except ValueError:
        return False


def port_in_host(host_header: str) -> int | None:
    """The port in a Host header; None where it names none, or is malformed."""
    if host_without_port(host_header) is None:
        return None
    try:
        return urlsplit(f"//{host_header}").port
    except ValueError:
        return None


def host_without_port(host_header: str) -> str | None:
    """The name or address in a Host header, IPv6 without brackets; None where it is missing or malformed."""
    if not host_header or len(host_header) > 300 or re.search(r"[\s/@\\?#,]", host_header):
        return None
    try:
        return urlsplit(f"//{host_header}").hostname
    except ValueError:
        return None

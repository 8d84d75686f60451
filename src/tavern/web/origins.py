"""Which web pages may open a WebSocket here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from tavern.addresses import parse_address

APPS = frozenset({"tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"})
"""The desktop apps' pages, by platform: they are in people's hands, whatever an operator lists."""


def is_allowed(given: Sequence[bytes], allowed: Sequence[str], host_header: str, domain: str) -> bool:
    """Whether a request with these Origin headers is. `allowed` is in lower case; empty: all are.

    Who sends none is no page, and nobody's browser is made to do anything by it.
    """
    if not allowed or not given:
        return True
    if len(given) > 1:
        return False
    origin = given[0].decode("latin-1").strip().lower()
    return origin in APPS or origin in allowed or _is_own(origin, host_header.lower(), domain)


def _is_own(origin: str, host_header: str, domain: str) -> bool:
    """A page that this very server gave out, under its name or an address.

    No other name counts because the request names it as well: anybody can have a name of his lead to us.
    """
    try:
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host:
        return False
    return host == domain or (parts.netloc == host_header and _is_no_name(host))


def _is_no_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        parse_address(host)
    except ValueError:
        return False
    return True

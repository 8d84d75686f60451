"""Whose connection it is: the client's own address, also behind a proxy that we trust. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tavern.addresses import IPAddress, parse_address
from tavern.setting_values import IPNetwork

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""

_PROXYS_HEADERS = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-real-ip"})
_MAX_HOPS = 32  # a longer chain is not a proxy's; each entry costs a parse


def client_host(peer_host: str, headers: Headers, trusted_proxies: Sequence[IPNetwork]) -> str:
    """The address that limits, log lines and answers count.

    From a trusted proxy: the rightmost address in X-Forwarded-For that is not a trusted proxy itself, else X-Real-IP
    (older guides' nginx sets only that). From anybody else, and where these hold no address: the socket's.

    A proxy may set one of the two and pass the other on as the client sent it (nginx X-Forwarded-For, Caddy
    X-Real-IP). So where both are there and contradict each other one is forged, nobody can tell which, and the
    proxy's own address is counted: forgers share one allowance and spend nobody else's.
    """
    peer = _address(peer_host)
    if peer is None or not _is_trusted(peer, trusted_proxies):
        return peer_host if peer is None else str(peer)
    chain = _forwarded_for(headers)
    real = [_address(value.decode("latin-1").strip()) for name, value in headers if name == b"x-real-ip"]
    if not chain:
        return str(real[0]) if len(real) == 1 and real[0] is not None else str(peer)
    client = _rightmost_untrusted(chain, trusted_proxies)
    # An X-Real-IP that a trusted proxy on the way set names the client or another of these proxies.
    vouched = (client, *chain[len(chain) - chain[::-1].index(client) :]) if client is not None else ()
    if client is None or any(address not in vouched for address in real):
        return str(peer)
    return str(client)


def names_a_proxy(headers: Headers) -> bool:
    """Whether the request says that a proxy passed it on. One that says nothing cannot be told from a client."""
    return any(name in _PROXYS_HEADERS for name, _ in headers)


def is_trusted(host: str, trusted_proxies: Sequence[IPNetwork]) -> bool:
    """Whether connections from this address are a trusted proxy's."""
    address = _address(host)
    return address is not None and _is_trusted(address, trusted_proxies)


def _forwarded_for(headers: Headers) -> list[IPAddress | None]:
    """The chain, nearest last; None for an entry that is no address."""
    values = (value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for")
    entries = [entry.strip() for value in values for entry in value.split(",")]
    return [_address(_without_port(entry)) for entry in entries[-_MAX_HOPS:]]


def _rightmost_untrusted(chain: list[IPAddress | None], trusted_proxies: Sequence[IPNetwork]) -> IPAddress | None:
    """None where all are trusted, or where the walk meets an entry that is no address: left of it all may be forged."""
    for address in reversed(chain):
        if address is None or not _is_trusted(address, trusted_proxies):
            return address
    return None


def _is_trusted(address: IPAddress, trusted_proxies: Sequence[IPNetwork]) -> bool:
    return any(address.version == network.version and address in network for network in trusted_proxies)


def _address(text: str) -> IPAddress | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def _without_port(entry: str) -> str:
    """Some proxies write `203.0.113.7:51234` or `[2001:db8::1]:51234`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry

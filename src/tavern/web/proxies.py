"""Whose connection it is: the client's own address, also behind a proxy that we trust. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tavern.addresses import IPAddress, parse_address
from tavern.config import IPNetwork

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""

_MAX_HOPS = 32  # a longer chain is not a proxy's; each entry costs a parse


def client_host(peer_host: str, headers: Headers, trusted_proxies: Iterable[IPNetwork]) -> str:
    """The address that limits, log lines and answers count.

    From a trusted proxy: the rightmost address in X-Forwarded-For that is not a trusted proxy itself, else X-Real-IP
    (the nginx of our guide sends only that). From anybody else, and where these hold no address: the socket's.
    """
    peer = _address(peer_host)
    if peer is None or not _is_trusted(peer, trusted_proxies):
        return peer_host if peer is None else str(peer)
    chains = (value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for")
    forwarded = [entry.strip() for chain in chains for entry in chain.split(",")]
    for entry in reversed(forwarded[-_MAX_HOPS:]):
        address = _address(_without_port(entry))
        if address is None:
            return str(peer)  # left of what nobody vouches for, anything may be forged
        if not _is_trusted(address, trusted_proxies):
            return str(address)
    if not forwarded:
        for name, value in headers:
            if name == b"x-real-ip" and (address := _address(value.decode("latin-1").strip())):
                return str(address)
    return str(peer)


def _is_trusted(address: IPAddress, trusted_proxies: Iterable[IPNetwork]) -> bool:
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

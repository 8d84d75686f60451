"""The addresses that the domain has: asked for at start, and again each minute, since they may change."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence

import trio

from tavern.addresses import IPAddress, parse_address

DNS_TIMEOUT_S = 5.0
ASK_INTERVAL_S = 60.0
"""What the providers of dynamic DNS have as their records' lifetime."""


async def resolve(domain: str) -> tuple[IPAddress, ...]:
    """All that the domain has, as its name server orders them; empty if there are none or no answer comes in time."""
    results: list[tuple[int, int, int, str, tuple[object, ...]]] = []
    with trio.move_on_after(DNS_TIMEOUT_S):
        try:
            results = list(await trio.socket.getaddrinfo(domain, None, type=socket.SOCK_DGRAM))
        except OSError:
            return ()
    return tuple(parse_address(str(address[0])) for *_, address in results)


def one_of_each_family(found: Iterable[IPAddress], current: Sequence[IPAddress] = ()) -> tuple[IPAddress, ...]:
    """One IPv4 and one IPv6 address of those found, as far as there are any: a current one, else the first.

    A name server that gives several gives them in another order each time.
    """
    chosen: dict[int, IPAddress] = {}
    for address in found:
        if address in current or address.version not in chosen:
            chosen[address.version] = address
    return tuple(chosen[version] for version in sorted(chosen))


async def watch_domain(
    domain: str, current: Callable[[], Sequence[IPAddress]], advertise: Callable[[tuple[IPAddress, ...]], None]
) -> None:
    """Each minute `advertise` gets what the domain has by then, unless that is nothing. Until cancelled."""
    while True:
        await trio.sleep(ASK_INTERVAL_S)
        if found := one_of_each_family(await resolve(domain), current()):
            advertise(found)

"""How many unauthenticated answers a source gets: token buckets in memory of fixed size. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

import attrs

from tavern.addresses import SocketAddress, source_key

BURST_S = 4  # 64/s gives 256: a browser that joins a mesh of 8 starts 28 Allocates at once, and several share a NAT
_SHARED_BUCKETS = 8192  # 128 KiB; forged sources collide in them and cannot make the table grow
_MAX_KNOWN_SOURCES = 65536  # more live signaling addresses than one process serves; later ones use the shared buckets
# What one port of a known address gets beyond that address's bucket. An Allocate is sent 7 times in 8 s (RFC 8489
# §6.2.1), so that one token in time is enough; and all buckets together give a flood no more than 8192 answers/s.
_PORT_RATE_PER_S = 1.0
_PORT_BURST = 8.0


class TokenBuckets:
    """Buckets by key, hashed into a fixed table: keys that collide share one, and no key makes it grow."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = array("d", [burst]) * _SHARED_BUCKETS
        self._updated_at = array("d", [0.0]) * _SHARED_BUCKETS

    def take(self, key: Hashable, now: float, count: int = 1) -> bool:
        """Whether the bucket of `key` held so many tokens, which are then gone."""
        slot = hash(key) % _SHARED_BUCKETS  # seeded for each process: collisions cannot be planned
        elapsed_s = max(0.0, now - self._updated_at[slot])
        tokens = min(self._burst, self._tokens[slot] + elapsed_s * self._rate_per_s)
        self._updated_at[slot] = now
        self._tokens[slot] = tokens - count if tokens >= count else tokens
        return tokens >= count


@attrs.define(eq=False)
class _KnownSource:
    tokens: float
    updated_at: float
    connections: int = 1


class UnauthenticatedLimiter:
    """Token buckets of `rate_per_s` that hold `BURST_S` seconds' worth, by IPv4 address or IPv6 /64.

    Sources are hashed into a fixed table, so a spoofer can empty buckets that others share. That must lock nobody
    out of a call, so an address with a live signaling connection has a bucket of its own; and since that address can
    be forged too, but not be told which port its owner sends from, each of its ports has a small one beside it.
    """

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = rate_per_s * BURST_S
        self._shared = TokenBuckets(rate_per_s, self._burst)
        self._ports = TokenBuckets(_PORT_RATE_PER_S, _PORT_BURST)
        self._known: dict[str, _KnownSource] = {}

    def connected(self, host: str) -> None:
        """One more signaling connection from `host` lives."""
        key = source_key(host)
        known = self._known.get(key)
        if known is not None:
            known.connections += 1
        elif len(self._known) < _MAX_KNOWN_SOURCES:
            self._known[key] = _KnownSource(self._burst, 0.0)

    def disconnected(self, host: str) -> None:
        """One signaling connection from `host` is gone; with the last one goes the bucket of its own."""
        key = source_key(host)
        known = self._known.get(key)
        if known is None:
            return
        known.connections -= 1
        if known.connections == 0:
            del self._known[key]

    def allows(self, client: SocketAddress, now: float, count: int = 1) -> bool:
        """Whether one more answer may go to `client`, which is then counted, for so many."""
        key = source_key(client[0])
        known = self._known.get(key)
        if known is None:
            return self._shared.take(key, now, count)
        elapsed_s = max(0.0, now - known.updated_at)
        known.tokens = min(self._burst, known.tokens + elapsed_s * self._rate_per_s)
        known.updated_at = now
        if known.tokens < count:
            return self._ports.take(client, now, count)
        known.tokens -= count
        return True

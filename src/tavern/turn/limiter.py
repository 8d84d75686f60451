"""How many unauthenticated answers a source gets: token buckets in memory of fixed size. Pure."""

from __future__ import annotations

from array import array

import attrs

from tavern.addresses import source_key

BURST_S = 4  # 64/s gives 256: a browser that joins a mesh of 8 starts 28 Allocates at once, and several share a NAT
_SHARED_BUCKETS = 8192  # 128 KiB; forged sources collide in them and cannot make the table grow
_MAX_KNOWN_SOURCES = 65536  # more live signaling addresses than one process serves; later ones use the shared buckets


@attrs.define(eq=False)
class _KnownSource:
    tokens: float
    updated_at: float
    connections: int = 1


class UnauthenticatedLimiter:
    """Token buckets of `rate_per_s` that hold `BURST_S` seconds' worth, by IPv4 address or IPv6 /64.

    Sources are hashed into a fixed table, so a spoofer can empty buckets that others share. That must lock nobody
    out of a call, so an address with a live signaling connection has a bucket of its own.
    """

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = rate_per_s * BURST_S
        self._tokens = array("d", [self._burst]) * _SHARED_BUCKETS
        self._updated_at = array("d", [0.0]) * _SHARED_BUCKETS
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

    def allows(self, host: str, now: float) -> bool:
        """Whether one more answer may go to `host`, which is then counted."""
        key = source_key(host)
        known = self._known.get(key)
        if known is not None:
            known.tokens = self._refilled(known.tokens, known.updated_at, now)
            known.updated_at = now
            if known.tokens < 1:
                return False
            known.tokens -= 1
            return True
        slot = hash(key) % _SHARED_BUCKETS  # seeded for each process: collisions cannot be planned
        tokens = self._refilled(self._tokens[slot], self._updated_at[slot], now)
        self._updated_at[slot] = now
        self._tokens[slot] = tokens - 1 if tokens >= 1 else tokens
        return tokens >= 1

    def _refilled(self, tokens: float, updated_at: float, now: float) -> float:
        return min(self._burst, tokens + max(0.0, now - updated_at) * self._rate_per_s)

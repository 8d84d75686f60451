"""What relayed data may take: token buckets for each user and for all, and the month's end. Pure.

Sizes are payload plus `HEADERS_SIZE`: what a network carries, and what costs, are packets.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs

from tavern.turn.drops import Drop

HEADERS_SIZE = 64
"""An estimate of what one packet takes beyond its payload: 46 bytes over IPv4 with a channel (14 Ethernet, 20 IP, 8
UDP, 4 ChannelData), 66 over IPv6, some 30 more where a Data indication or TLS wraps it. Without it, floods of empty
packets would count for nothing."""

BURST_S = 1.0
"""So much of its rate a bucket holds: a key frame or a shared screen comes as a burst of a fraction of a second, and
what is let through at once queues in front of everybody else's packets."""

_LEAST_BURST = 65_535 + HEADERS_SIZE  # or the largest datagram would never pass
# A user without allocations keeps his bucket among so many: with a new one for each new allocation, allocating again
# and again would fill it. Who has more names than that has more buckets anyway.
_MAX_IDLE_ACCOUNTS = 1024


class TokenBucket:
    """`rate_per_s` bytes pass each second, and a burst of `BURST_S` more; it starts full."""

    __slots__ = ("_burst", "_rate_per_s", "_tokens", "_updated_at")

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = max(rate_per_s * BURST_S, _LEAST_BURST)
        self._tokens = self._burst
        self._updated_at = 0.0

    @property
    def burst(self) -> float:
        """Bytes that pass at once after a silence."""
        return self._burst

    def holds(self, size: int, now: float) -> bool:
        """Whether `take(size)` may follow. A clock that goes back brings nothing."""
        if now > self._updated_at:
            self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate_per_s)
            self._updated_at = now
        return self._tokens >= size

    def take(self, size: int) -> None:
        """These bytes pass."""
        self._tokens -= size


@attrs.define(eq=False)
class Account:
    """One user's bucket, shared by all of his flows."""

    bucket: TokenBucket
    flows: int = 0


class Meter:
    """Decides whether a packet passes that everything else allows.

    `is_limiting` is False while it would refuse nothing: the data path then looks at nothing else.
    """

    def __init__(self, user_bytes_per_s: int, bytes_per_s: int) -> None:
        """Rates of one user and of all together, each direction counted; 0: unlimited."""
        self._user_bytes_per_s = user_bytes_per_s
        self._total = TokenBucket(bytes_per_s) if bytes_per_s else None
        self._accounts: dict[Hashable, Account] = {}
        self._idle: dict[Hashable, Account] = {}
        self._is_budget_spent = False
        self.is_limiting = self._has_rates

    @property
    def accounts_kept(self) -> int:
        """Of users with flows, and of some without."""
        return len(self._accounts) + len(self._idle)

    def set_budget_spent(self, is_spent: bool) -> None:
        """Whether nothing may pass, since the month's transfer is used up."""
        self._is_budget_spent = is_spent
        self.is_limiting = is_spent or self._has_rates

    def join(self, user: Hashable) -> Account | None:
        """The account of one more flow of `user`; None where users are unlimited."""
        if not self._user_bytes_per_s:
            return None
        account = self._accounts.get(user)
        if account is None:
            account = self._idle.pop(user, None) or Account(TokenBucket(self._user_bytes_per_s))
            self._accounts[user] = account
        account.flows += 1
        return account

    def leave(self, user: Hashable) -> None:
        """One flow of `user` is gone; with the last one, its account is soon forgotten."""
        account = self._accounts.get(user)
        if account is None:
            return
        account.flows -= 1
        if account.flows == 0:
            del self._accounts[user]
            self._idle[user] = account
            if len(self._idle) > _MAX_IDLE_ACCOUNTS:
                del self._idle[next(iter(self._idle))]

    def refusal(self, account: Account | None, payload_size: int, now: float, *, leaves: bool) -> Drop | None:
        """Why this packet does not pass; None if it does, which is then counted.

        `leaves`: it leaves the machine. One that is handed over to another flow does so there, and is asked about
        twice: each of the two users pays, and all together once. What is refused costs nobody anything.
        """
        if self._is_budget_spent:
            return Drop.OVER_BUDGET
        size = payload_size + HEADERS_SIZE
        if account is not None and not account.bucket.holds(size, now):
            return Drop.OVER_USER_RATE
        if leaves and self._total is not None:
            if not self._total.holds(size, now):
                return Drop.OVER_RATE
            self._total.take(size)
        if account is not None:
            account.bucket.take(size)
        return None

    @property
    def _has_rates(self) -> bool:
        return self._user_bytes_per_s > 0 or self._total is not None

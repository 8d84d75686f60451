"""Addresses that somebody says he has, until they speak for themselves: consent to be sent to (RFC 7675's idea). Pure.

Whoever announces a stranger's address would have the relay flood him. Until something came from the address that only
a party to this call can have sent, nothing but connectivity checks (RFC 8445 §7) leaves to it, and few of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import attrs

from tavern.turn.limiter import TokenBuckets

# Together at most 50 in any second: the burst, and what comes in during a second.
_CHECKS_PER_S = 40.0
_CHECK_BURST = 10.0
_MAX_CHECK_SIZE = 548  # RFC 8489 §6.1: what passes every path; a check has some 120 bytes, and could carry anything
_MAX_TRANSACTIONS = 128  # checks without an answer: those of more than two seconds

_HEADER_SIZE = 20
_COOKIE = b"\x21\x12\xa4\x42"
_BINDING_REQUEST = b"\x00\x01"
_BINDING_SUCCESS = b"\x01\x01"


class CheckLimiter:
    """How many checks may leave to one address, whatever each user's number of allocations; of fixed size."""

    def __init__(self) -> None:
        self._buckets = TokenBuckets(_CHECKS_PER_S, _CHECK_BURST)

    def take(self, user: Hashable, host: str, now: float) -> bool:
        """Whether one more check of this user may go to `host`, which is then counted."""
        return self._buckets.take((user, host), now)


@attrs.define(eq=False)
class Claim:
    """One allocation's claimed address, which has not spoken yet."""

    user: Hashable
    host: str
    limiter: CheckLimiter
    _transactions: OrderedDict[bytes, None] = attrs.field(factory=OrderedDict)

    def may_leave(self, payload: bytes, now: float) -> bool:
        """Whether `payload` is a connectivity check, and not one too many. One that leaves is remembered."""
        if len(payload) > _MAX_CHECK_SIZE or not _is_stun(payload, _BINDING_REQUEST):
            return False
        transaction_id = payload[8:20]
        if not self.limiter.take(self.user, self.host, now):
            return False
        self._transactions[transaction_id] = None
        if len(self._transactions) > _MAX_TRANSACTIONS:
            self._transactions.popitem(last=False)
        return True

    def is_proven_by(self, payload: bytes) -> bool:
        """Whether `payload`, which came from the address, shows that it is in the call: it checks, too, or answers."""
        if _is_stun(payload, _BINDING_SUCCESS):
            return payload[8:20] in self._transactions
        return _is_stun(payload, _BINDING_REQUEST)


def _is_stun(payload: bytes, message_type: bytes) -> bool:
    return (
        payload[:2] == message_type
        and payload[4:8] == _COOKIE
        and len(payload) >= _HEADER_SIZE
        and payload[2] << 8 | payload[3] == len(payload) - _HEADER_SIZE
    )

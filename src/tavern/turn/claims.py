"""Addresses that somebody says he has, until they speak for themselves: consent to be sent to (RFC 7675's idea). Pure.

Whoever announces a stranger's address would have the relay flood him. Until something came from the address that only
a party to this call can have sent, nothing but connectivity checks (RFC 8445 §7) leaves to it, and few of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import ip_address

import attrs

from tavern.addresses import source_key
from tavern.turn.checks import is_answer, is_check, is_signed
from tavern.turn.limiter import TokenBuckets
from tavern.turn.policy import embedded_addresses

# Together at most 50 in any second: the burst, and what comes in during a second.
_CHECKS_PER_S = 40.0
_CHECK_BURST = 10.0
# Of one user to all claimed addresses: else who announces a network floods it. A mesh of 8 whose members check every
# 50 ms (RFC 8445 §14.2) makes 140, and eight old clients behind one address are one user.
_USER_CHECKS_PER_S = 1000.0
_MAX_CHECK_SIZE = 548  # RFC 8489 §6.1: what passes every path; a check has some 120 bytes, and could carry anything
_ANSWER_S = 10.0  # no path is slower
_MAX_UNANSWERED = 65536  # checks of all users, 20 MB; the oldest go first, and who checks himself needs none


class CheckLimiter:
    """How many checks may leave to one address, whoever sends them, and which are not answered. Of bounded size."""

    def __init__(self) -> None:
        self._targets = TokenBuckets(_CHECKS_PER_S, _CHECK_BURST)
        self._users = TokenBuckets(_USER_CHECKS_PER_S, _USER_CHECKS_PER_S)
        self._unanswered: OrderedDict[tuple[int, bytes], float] = OrderedDict()
        self._last_claim = 0

    def new_claim(self) -> int:
        """A number for one more claim."""
        self._last_claim += 1
        return self._last_claim

    def take(self, user: Hashable, targets: tuple[str, ...], now: float) -> bool:
        """Whether one more check of this user may go to `targets`, which is then counted."""
        return self._users.take(user, now) and all(self._targets.take(target, now) for target in targets)

    def sent(self, claim: int, transaction_id: bytes, now: float) -> None:
        """A check left, whose answer would prove this claim for a while."""
        unanswered = self._unanswered
        unanswered[claim, transaction_id] = now + _ANSWER_S
        unanswered.move_to_end((claim, transaction_id))
        while len(unanswered) > _MAX_UNANSWERED or next(iter(unanswered.values())) <= now:
            unanswered.popitem(last=False)

    def is_awaited(self, claim: int, transaction_id: bytes) -> bool:
        """Whether such a check left lately."""
        return (claim, transaction_id) in self._unanswered


@attrs.define(eq=False)
class Claim:
    """One allocation's claimed address, which has not spoken yet."""

    user: Hashable
    host: str
    limiter: CheckLimiter
    _number: int = attrs.field(init=False)
    _targets: tuple[str, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._number = self.limiter.new_claim()
        self._targets = check_targets(self.host)

    def may_leave(self, payload: bytes, now: float) -> bool:
        """Whether `payload` is a connectivity check, and not one too many. One that leaves is remembered."""
        if len(payload) > _MAX_CHECK_SIZE or not is_check(payload):
            return False
        if not self.limiter.take(self.user, self._targets, now):
            return False
        self.limiter.sent(self._number, payload[8:20], now)
        return True

    def is_proven_by(self, payload: bytes) -> bool:
        """Whether `payload`, which came from the address, shows that it is in the call: it checks, too, or answers.

        An answer must be signed, as an ICE agent's is (RFC 8445 §7.3): a public STUN server answers everybody, and
        could be flooded. Servers send no requests.
        """
        if is_answer(payload):
            return self.limiter.is_awaited(self._number, payload[8:20]) and is_signed(payload)
        return is_check(payload)


def check_targets(host: str) -> tuple[str, ...]:
    """What checks to `host` are counted for: where they end up, by whatever address, and all of an IPv6 /64."""
    return tuple(dict.fromkeys(source_key(str(address)) for address in embedded_addresses(ip_address(host))))

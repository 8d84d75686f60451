"""Answers given lately, so that a request sent again gets the same one (RFC 8489 §6.3.1). Pure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from tavern.turn.five_tuple import FiveTuple

REMEMBERED_S = 40  # RFC 8489 §6.2.1: no retransmission comes later
_MAX_ANSWERS = 8192  # 200 requests/s for 40 s; only proven users have entries. Beyond: oldest go first.
# An answer has 280 bytes at most (a 420 that names as many attributes as a request has), so that all stay under 8 MB.
_DIGEST_SIZE = 16  # in place of the request, which may have 2 kB; whoever makes two collide gets an answer of their own


class AnswerMemory:
    """The answers to authenticated requests of the last 40 s, by five-tuple and transaction id."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[FiveTuple, bytes], tuple[float, bytes, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, five_tuple: FiveTuple, transaction_id: bytes, request: bytes, now: float) -> bytes | None:
        """The answer to the very same request. One that only shares the id is another request: it gets its own."""
        entry = self._answers.get((five_tuple, transaction_id))
        if entry is None or entry[0] <= now or entry[1] != _digest(request):
            return None
        return entry[2]

    def remember(self, five_tuple: FiveTuple, transaction_id: bytes, request: bytes, answer: bytes, now: float) -> None:
        """`request` got `answer`, for the next 40 s."""
        key = (five_tuple, transaction_id)
        self._answers.pop(key, None)
        self._answers[key] = (now + REMEMBERED_S, _digest(request), answer)
        while self._answers:
            oldest = next(iter(self._answers))
            if len(self._answers) <= _MAX_ANSWERS and self._answers[oldest][0] > now:
                break
            del self._answers[oldest]


def _digest(request: bytes) -> bytes:
    return hashlib.blake2b(request, digest_size=_DIGEST_SIZE).digest()

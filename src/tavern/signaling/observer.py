"""The seam to the relay: who is connected, who is with whom, and what they say of their addresses. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from tavern.addresses import IPAddress


class SessionObserver(Protocol):
    """Told of every connection's life, in the order in which it happens. Returns at once; raises nothing of its own."""

    def session_opened(self, peer_id: str, host: str) -> None:
        """A client connected from `host`."""

    def session_moved(self, peer_id: str, group: Hashable | None) -> None:
        """It is in this channel or legacy room now, with all others that are in it; None: it is in none."""

    def addresses_announced(self, peer_id: str, receiver_ids: Sequence[str], addresses: frozenset[IPAddress]) -> None:
        """It tells these others, who are with it, that it can be reached there."""

    def session_returned(self, peer_id: str, host: str) -> None:
        """Its client is back on another connection, from `host`. Where it is and what was given to it is as before."""

    def session_lost(self, peer_id: str) -> None:
        """Its connection ended. It is in no group, and nothing more is told of it."""

    def session_revoked(self, peer_id: str) -> None:
        """We ended it: what was given to it is not its own any more. Nothing more is told of it."""

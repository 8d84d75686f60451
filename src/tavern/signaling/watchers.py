"""Who watches which taverns, to see who is where before joining. Pure."""

from __future__ import annotations

from collections import defaultdict

from tavern.signaling.messages import SignalingError
from tavern.signaling.rooms import Peer

MAX_WATCHED = 16
"""Taverns that one connection watches: more than a person has on the screen."""

MAX_WATCHERS = 512
"""Of one tavern: each change in it is sent to all of them."""


class Watchers:
    """Peers by the taverns that they watch, in the order in which they came."""

    def __init__(self) -> None:
        self._of_tavern: defaultdict[str, dict[Peer, None]] = defaultdict(dict)
        self._of_peer: defaultdict[Peer, set[str]] = defaultdict(set)

    def watch(self, peer: Peer, tavern_id: str) -> None:
        """`peer` watches this tavern; twice is once. Raises SignalingError (`limit-reached`), changing nothing."""
        if tavern_id in self._of_peer.get(peer, ()):
            return
        if len(self._of_peer.get(peer, ())) >= MAX_WATCHED:
            raise SignalingError("limit-reached", f"A connection watches at most {MAX_WATCHED} taverns")
        if len(self._of_tavern.get(tavern_id, ())) >= MAX_WATCHERS:
            raise SignalingError("limit-reached", f"A tavern has at most {MAX_WATCHERS} watchers")
        self._of_tavern[tavern_id][peer] = None
        self._of_peer[peer].add(tavern_id)

    def unwatch(self, peer: Peer, tavern_id: str) -> None:
        """`peer` does not watch this tavern, whether it did or not."""
        watched = self._of_peer.get(peer)
        if watched is None or tavern_id not in watched:
            return
        watched.remove(tavern_id)
        if not watched:
            del self._of_peer[peer]
        watchers = self._of_tavern[tavern_id]
        del watchers[peer]
        if not watchers:
            del self._of_tavern[tavern_id]

    def forget(self, peer: Peer) -> None:
        """`peer` watches nothing."""
        for tavern_id in tuple(self._of_peer.get(peer, ())):
            self.unwatch(peer, tavern_id)

    def of_tavern(self, tavern_id: str) -> tuple[Peer, ...]:
        return tuple(self._of_tavern.get(tavern_id, ()))

    def is_watched(self, tavern_id: str) -> bool:
        return tavern_id in self._of_tavern

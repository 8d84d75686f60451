"""What an operator can ask a running server for, over its control socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

from tavern.control.messages import ControlRefused
from tavern.metrics import Metrics
from tavern.relay.service import Relay
from tavern.signaling.registry import Registry
from tavern.signaling.rooms import Channel, Peer
from tavern.store.base import Store

DEFAULT_LIFETIME_S = 86_400
MAX_LIFETIME_S = 30 * 86_400


@attrs.frozen
class Operations:
    """Each request is `{"command": ...}` with what it takes; `perform` answers it."""

    metrics: Metrics
    registry: Registry
    store: Store
    relay: Relay
    reload: Callable[[], bool]
    """Returns whether there was something to read again."""
    static_credentials: bool
    drain: Callable[[], None]

    def perform(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises ControlRefused."""
        commands: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "status": self._status,
            "kick": self._kick,
            "close-allocation": self._close_allocation,
            "mint": self._mint,
            "reload": self._reload,
            "drain": self._drain,
        }
        command = commands.get(str(request.get("command")))
        if command is None:
            raise ControlRefused(f"no such command; there are {', '.join(commands)}")
        return command(request)

    def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        statistics = self.relay.statistics()
        peers = list(self.registry.peers())
        return {
            "uptime_s": trio.current_time() - self.metrics.started_at,
            "peers": len(peers),
            "messages": self.metrics.messages.total,
            "errors": sum(self.metrics.errors.values()),
            "taverns": self.store.tavern_count(),
            "rooms": self._rooms(),
            "elsewhere": [_shown(peer) for peer in peers if peer.place is None],
            "allocations": self.relay.allocations(),
            "relayed_bytes": statistics.bytes_from_clients + statistics.bytes_to_clients,
            "relayed_packets": statistics.packets_from_clients + statistics.packets_to_clients,
            "dropped_packets": sum(statistics.drops.values()),
            "month_bytes": statistics.usage.used,
            "draining": self.registry.draining,
        }

    def _rooms(self) -> list[dict[str, Any]]:
        found = []
        for (kind, room_id), room in self.registry.presence.rooms.items():
            tavern = self.store.tavern(room_id) if kind == "tavern" else None
            names = {channel.id: channel.name for channel in self.store.channels(room_id)} if tavern else {}
            for place in room.places.values():
                channel = names.get(place.place_id, place.place_id) if isinstance(place, Channel) else ""
                found.append(
                    {
                        "id": room_id,
                        "name": tavern.name if tavern else room_id,
                        "channel": channel,
                        "peers": [_shown(peer) for peer in place.members.values()],
                    }
                )
        return found

    def _kick(self, request: dict[str, Any]) -> dict[str, Any]:
        peer = self.registry.find(str(request.get("peer")))
        if peer is None:
            raise ControlRefused("there is no such peer: tavern ctl status lists them")
        self.registry.expel(peer)
        return {}

    def _close_allocation(self, request: dict[str, Any]) -> dict[str, Any]:
        number = request.get("allocation")
        if not isinstance(number, int) or not self.relay.close_allocation(number):
            raise ControlRefused("there is no such allocation: tavern ctl status lists them")
        return {}

    def _mint(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self.static_credentials:
            raise ControlRefused(
                "credentials that belong to no call are refused here: set TAVERN_TURN_SECRET, and TAVERN_TURN_REST=on"
            )
        lifetime_s = request.get("lifetime_s", DEFAULT_LIFETIME_S)
        if not isinstance(lifetime_s, int) or not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise ControlRefused(f"a lifetime is 1 to {MAX_LIFETIME_S} seconds")
        try:
            credential = self.relay.static_credential(str(request.get("user", "")), lifetime_s)
        except ValueError as error:
            raise ControlRefused(str(error)) from None
        return {"username": credential.username, "credential": credential.password, "expires_at": credential.expires_at}

    def _reload(self, _request: dict[str, Any]) -> dict[str, Any]:
        if not self.reload():
            return {"reloaded": "nothing: there is no certificate, and settings are read at start"}
        return {"reloaded": "the certificate, for handshakes from now on; settings are read at start"}

    def _drain(self, _request: dict[str, Any]) -> dict[str, Any]:
        self.drain()
        return {}


def _shown(peer: Peer) -> dict[str, Any]:
    identity = peer.identity
    return {
        "peer": peer.peer_id,
        "name": identity.shown_name if identity else "",
        "key": identity.publicKeyHex if identity else "",
        "verified": peer.verified,
        "host": peer.host,
    }

"""Every connected peer and live room: executes what `rooms` decides, and supervises one task per live room."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import attrs
import trio

from tavern.errors import RemoteError
from tavern.logs import log_event
from tavern.metrics import Metrics
from tavern.signaling import messages
from tavern.signaling.candidates import announced_addresses
from tavern.signaling.messages import Relayed
from tavern.signaling.observer import SessionObserver
from tavern.signaling.rooms import (
    Channel,
    Close,
    Deliver,
    Effect,
    Effects,
    LegacyRoom,
    Moved,
    Peer,
    Presence,
    Room,
    RoomEmptied,
    RoomOpened,
)
from tavern.signaling.transport import Transport

CLOSE_GOING_AWAY = 1001
CLOSE_POLICY_VIOLATION = 1008
CLOSE_INTERNAL_ERROR = 1011

_log = logging.getLogger("tavern.rooms")


class RoomFailed(Exception):
    """Acting in a room ran into our own bug; the room's wall closes all its members."""


@attrs.define(eq=False)
class _Supervision:
    """What ends a room's task: the room is empty, or it failed."""

    over: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None


@attrs.define(eq=False)
class Registry:
    """Peers and rooms of this process. Everything but `run` is synchronous: a relayed message is a call, not a hop."""

    metrics: Metrics
    observer: SessionObserver
    presence: Presence = attrs.field(factory=Presence)
    _peers: set[Peer] = attrs.field(factory=set, init=False)
    _supervisions: dict[Room, _Supervision] = attrs.field(factory=dict, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _draining: bool = attrs.field(default=False, init=False)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervises the rooms until cancelled. Peers can connect once it is started."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def connect(self, transport: Transport) -> Peer:
        """A new peer, nowhere yet. While the server drains it is told so and closed at once."""
        peer = Peer(str(uuid4()), outlet=transport)
        self._peers.add(peer)
        self.observer.session_opened(peer.peer_id, transport.client_host)
        self.metrics.connected_peers = len(self._peers)
        if self._draining:
            self._say_goodbye(peer)
        return peer

    def disconnect(self, peer: Peer) -> None:
        """The peer is forgotten and those it was with know. Idempotent; never raises for a room's failure."""
        was_connected = peer in self._peers
        self._peers.discard(peer)
        self.metrics.connected_peers = len(self._peers)
        room = peer.place.room if peer.place else None
        with suppress(RoomFailed):  # the room's task has it
            self.act(room, lambda: self.presence.disconnect(peer))
        if was_connected:
            self.observer.session_lost(peer.peer_id)

    def is_connected(self, peer: Peer) -> bool:
        """Whether the peer may act still: neither has its connection ended nor was it told to."""
        return peer in self._peers

    def act(self, room: Room | None, decide: Callable[[], Effects]) -> None:
        """Decide and execute, at once and without a checkpoint, so that nothing comes between.

        Raises RemoteError (their fault) as it comes. Our own bug becomes the room's: its task ends with the error,
        and RoomFailed is raised here. Outside of a room it is the connection's, and raised as it is.
        """
        try:
            for effect in decide():
                self._execute(effect)
        except RemoteError:
            raise
        except Exception as error:  # the wall of the room
            supervision = self._supervisions.get(room) if room is not None else None
            if supervision is None:
                raise
            supervision.error = supervision.error or error
            supervision.over.set()
            raise RoomFailed(str(room)) from error

    def relay(self, peer: Peer, message: Relayed) -> None:
        """Passes an offer, answer or candidate on. Raises what `act` raises, and SignalingError (`target-busy`) where
        a target reads more slowly than it is sent to: whoever sends must not be able to have it closed for that.
        """
        busy: list[Peer] = []

        def decide() -> Effects:
            delivery = self.presence.relay(peer, message)
            busy.extend(target for target in delivery.recipients if target.outlet.congested)
            reached = tuple(target for target in delivery.recipients if target not in busy)
            # Before it is delivered: who hears of an address may ask the relay for it at once.
            if addresses := announced_addresses(message):
                self.observer.addresses_announced(peer.peer_id, [target.peer_id for target in reached], addresses)
            return [Deliver(reached, delivery.message)]

        self.act(peer.place.room if peer.place else None, decide)
        if busy:
            raise messages.target_busy()

    def broadcast(self, tavern_id: str, message: dict[str, Any]) -> tuple[Peer, ...]:
        """Send to every peer in the tavern's channels; answers who that was."""
        peers = self.presence.tavern_peers(tavern_id)
        self._execute(Deliver(peers, message))
        return peers

    def drain(self) -> None:
        """Everybody is told `server-shutdown` and closed with 1001; newcomers too from now on."""
        self._draining = True
        for peer in tuple(self._peers):
            self._say_goodbye(peer)

    def _say_goodbye(self, peer: Peer) -> None:
        self._execute(Deliver((peer,), {"type": "server-shutdown"}))
        self._execute(Close(peer, CLOSE_GOING_AWAY, "server shutdown"))

    def _execute(self, effect: Effect) -> None:
        match effect:
            case Deliver(recipients=recipients, message=message):
                data = messages.encode(message)
                for peer in recipients:
                    peer.outlet.send(data)
            case Close(peer=peer, code=code, reason=reason):
                if peer in self._peers:
                    self._peers.discard(peer)
                    self.observer.session_revoked(peer.peer_id)
                peer.outlet.close(code, reason)
            case Moved(peer=peer, place=place):
                self.observer.session_moved(peer.peer_id, place and _group(place))
            case RoomOpened(room=room):
                assert self._nursery is not None, "rooms open while the registry runs"
                self._supervisions[room] = _Supervision()
                self._nursery.start_soon(self._run_room, room, self._supervisions[room], name=f"room {room}")
            case RoomEmptied(room=room):
                # None where the room's task was cancelled first, since everything ends at once.
                if supervision := self._supervisions.get(room):
                    supervision.over.set()

    async def _run_room(self, room: Room, supervision: _Supervision) -> None:
        """The room's task: a bug met in the room ends the room and nothing else."""
        log_event(_log, logging.DEBUG, "room-opened", room=room)
        try:
            await supervision.over.wait()
            if supervision.error is not None:
                _log.error("room failed, its members are closed: %s", room, exc_info=supervision.error)
                self.metrics.failures["room"] += 1
                self._close_room(room)
        finally:
            self._supervisions.pop(room, None)
            log_event(_log, logging.DEBUG, "room-ended", room=room)

    def _close_room(self, room: Room) -> None:
        """Whatever state the bug left: no member stays in the room, and the room is not found again."""
        for peer in self.presence.discard_room(room):
            self.observer.session_moved(peer.peer_id, None)
            peer.outlet.close(CLOSE_INTERNAL_ERROR, "internal error")


def _group(place: Channel | LegacyRoom) -> tuple[str, str, str]:
    return place.room.kind, place.room.room_id, place.place_id

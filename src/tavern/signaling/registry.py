"""Every connected peer and live room: executes what `presence` decides, and supervises one task per live room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import attrs
import trio

from tavern.errors import RemoteError
from tavern.logs import log_event
from tavern.metrics import Metrics
from tavern.signaling import messages
from tavern.signaling.candidates import announced_addresses, read_address
from tavern.signaling.observer import SessionObserver
from tavern.signaling.presence import Presence
from tavern.signaling.relaying import membership, pass_on, relay
from tavern.signaling.requests import Relayed
from tavern.signaling.rooms import (
    Changed,
    Channel,
    Close,
    Deliver,
    Effect,
    Effects,
    LegacyRoom,
    Moved,
    Peer,
    Readdressed,
    Room,
    RoomEmptied,
    RoomOpened,
    peer_in_channel,
)
from tavern.signaling.timers import Timers
from tavern.signaling.transport import Transport
from tavern.signaling.watchers import Watchers

CLOSE_GOING_AWAY = 1001
CLOSE_POLICY_VIOLATION = 1008
CLOSE_INTERNAL_ERROR = 1011

PRESENCE_INTERVAL_S = 0.1
"""Watchers hear of a channel at most so often: who joins and leaves all the time does not flood them."""

_WATCHERS_AT_FULL_RATE = 64

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
    watchers: Watchers = attrs.field(factory=Watchers, init=False)
    timers: Timers = attrs.field(init=False)
    on_moved: Callable[[Peer], None] = attrs.field(default=lambda _peer: None, init=False)
    """Called when a peer came to be in another place, or nowhere, or goes by another identity."""
    _admitted: dict[Peer, bool] = attrs.field(factory=dict, init=False)
    """All peers that may act, and whether the relay knows of them."""
    _supervisions: dict[Room, _Supervision] = attrs.field(factory=dict, init=False)
    _changed: dict[tuple[str, str], None] = attrs.field(factory=dict, init=False)
    """Channels of watched taverns that watchers are to be told of, `(tavern_id, channel_id)`."""
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _draining: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.timers = Timers(self.metrics)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervises the rooms, and has the timers run, until cancelled. Peers can connect once it is started."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.timers.run)
            task_status.started()
            await trio.sleep_forever()

    @property
    def draining(self) -> bool:
        return self._draining

    def start(self, job: Callable[[], Any], name: str) -> None:
        """Runs a job (an async function) that outlives whose session began it. It has walls of its own."""
        assert self._nursery is not None, "sessions run while the registry runs"
        self._nursery.start_soon(job, name=name)

    def connect(self, transport: Transport) -> Peer:
        """A new peer, nowhere yet, and unknown to the relay. While the server drains it is told so and closed."""
        peer = Peer(str(uuid4()), outlet=transport, host=transport.client_host)
        self._admitted[peer] = False
        self.metrics.connected_peers = len(self._admitted)
        if self._draining:
            self._say_goodbye(peer)
        return peer

    def admit(self, peer: Peer) -> None:
        """The peer may use the server: the relay knows it from now on. Idempotent."""
        if self._admitted.get(peer) is False:
            self._admitted[peer] = True
            self.observer.session_opened(peer.peer_id, peer.host)

    def disconnect(self, peer: Peer) -> None:
        """The peer is forgotten and those it was with know. Idempotent; never raises for a room's failure."""
        room = peer.place.room if peer.place else None
        with suppress(RoomFailed):  # the room's task has it
            self.act(room, lambda: self.presence.disconnect(peer))
        self.absorb(peer)

    def peers(self) -> Iterator[Peer]:
        """All that are connected, or may come back."""
        return iter(self._admitted)

    def find(self, peer_id: str) -> Peer | None:
        """Who has this id, if he is connected. Looks through all: for operators."""
        return next((peer for peer in self._admitted if peer.peer_id == peer_id), None)

    def expel(self, peer: Peer) -> None:
        """The operator closes the peer's connection: it left everything, and those it was with know."""
        room = peer.place.room if peer.place else None
        with suppress(RoomFailed):  # the room's task has it
            self.act(room, lambda: self.presence.disconnect(peer))
        self._execute(Close(peer, CLOSE_POLICY_VIOLATION, "closed by the operator"))

    def is_connected(self, peer: Peer) -> bool:
        """Whether the peer may act still: neither has its connection ended nor was it told to."""
        return peer in self._admitted

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
        except Exception as error:  # noqa: BLE001  the wall of the room
            self._fail(room, error)

    def relay(self, peer: Peer, message: Relayed) -> None:
        """Passes an offer, answer or candidate on. Raises what `act` raises, and SignalingError (`target-busy`) where
        a target reads more slowly than it is sent to: whoever sends must not be able to have it closed for that.
        """
        try:
            delivery = relay(peer, message)
            reached = delivery.recipients
            busy = any(target.outlet.congested for target in reached)
            if busy:
                reached = tuple(target for target in reached if not target.outlet.congested)
            # Before it is delivered: who hears of an address may ask the relay for it at once.
            if addresses := announced_addresses(message.content):
                self.observer.addresses_announced(peer.peer_id, [target.peer_id for target in reached], addresses)
            data = messages.encode(delivery.message)
            for target in reached:
                target.outlet.send(data)
        except RemoteError:
            raise
        except Exception as error:  # noqa: BLE001  the wall of the room
            self._fail(peer.place.room if peer.place else None, error)
        if busy:
            raise messages.target_busy()

    def pass_on(self, peer: Peer, data: str) -> bool:
        """Does what `relay` does, if this is a message to one other member of the peer's channel who is not behind."""
        try:
            found = pass_on(peer, data)
            if found is None:
                return False
            target, message, content = found
            if target.outlet.congested:
                return False
            # Before it is delivered: who hears of an address may ask the relay for it at once.
            if addresses := announced_addresses(content):
                self.observer.addresses_announced(peer.peer_id, (target.peer_id,), addresses)
            target.outlet.send(message)
        except Exception as error:  # noqa: BLE001  the wall of the room
            self._fail(peer.place.room if peer.place else None, error)
        return True

    def passed_on(self, count: int) -> None:
        """See `transport.PassingObserver`."""
        self.metrics.messages.count(trio.current_time(), count)

    def address_announced(self, sender: object, receiver: object, address: bytes) -> None:
        """See `transport.PassingObserver`."""
        assert isinstance(sender, Peer)
        assert isinstance(receiver, Peer)
        if (announced := read_address(address)) is not None:
            self.observer.addresses_announced(sender.peer_id, (receiver.peer_id,), frozenset({announced}))

    def send(self, peers: Iterable[Peer], message: Mapping[str, Any]) -> None:
        """Outside of any room's wall: what is sent has been decided."""
        self._execute(Deliver(tuple(peers), message))

    def tell_tavern(self, tavern_id: str, message: Mapping[str, Any], *, old_ones: bool) -> set[Peer]:
        """Send to all in the tavern's channels and to its watchers, once to each; answers who that was.

        `old_ones`: also to clients that do not know the extensions.
        """
        inside = (peer for peer in self.presence.tavern_peers(tavern_id) if old_ones or peer.extended)
        told = dict.fromkeys((*inside, *self.watchers.of_tavern(tavern_id)))
        self.send(told, message)
        return set(told)

    def drain(self) -> None:
        """Everybody is told `server-shutdown` and closed with 1001; newcomers too from now on."""
        self._draining = True
        for peer in tuple(self._admitted):
            self._say_goodbye(peer)

    def absorb(self, newcomer: Peer) -> None:
        """`newcomer` is forgotten, which its client has no more use for: it goes on as another peer."""
        if self._forget(newcomer):
            self.observer.session_lost(newcomer.peer_id)

    def _forget(self, peer: Peer) -> bool:
        """Whether the relay knew it."""
        admitted = self._admitted.pop(peer, False)
        self.metrics.connected_peers = len(self._admitted)
        self.watchers.forget(peer)
        return admitted

    def _say_goodbye(self, peer: Peer) -> None:
        self._execute(Deliver((peer,), {"type": "server-shutdown"}))
        self._execute(Close(peer, CLOSE_GOING_AWAY, "server shutdown"))

    def _fail(self, room: Room | None, error: Exception) -> None:
        supervision = self._supervisions.get(room) if room is not None else None
        if supervision is None:
            raise error
        supervision.error = supervision.error or error
        supervision.over.set()
        raise RoomFailed(str(room)) from error

    def _execute(self, effect: Effect) -> None:
        match effect:
            case Deliver(recipients=recipients, message=message, extended=extended):
                data = messages.encode(message)
                extended_data = data if extended is None else messages.encode(extended)
                for peer in recipients:
                    peer.outlet.send(extended_data if peer.extended else data)
            case Close(peer=peer, code=code, reason=reason):
                if self._forget(peer):
                    self.observer.session_revoked(peer.peer_id)
                peer.outlet.close(code, reason)
            case Moved(peer=peer, place=place):
                if self._admitted.get(peer):
                    self.observer.session_moved(peer.peer_id, place and _group(place))
                peer.outlet.set_membership(membership(peer))
                self.on_moved(peer)
            case Readdressed(peer=peer):
                peer.outlet.set_membership(membership(peer))
            case Changed(tavern_id=tavern_id, channel_id=channel_id):
                self._note_changed(tavern_id, channel_id)
            case RoomOpened(room=room):
                assert self._nursery is not None, "rooms open while the registry runs"
                self._supervisions[room] = _Supervision()
                self._nursery.start_soon(self._run_room, room, self._supervisions[room], name=f"room {room}")
            case RoomEmptied(room=room):
                # None where the room's task was cancelled first, since everything ends at once.
                if supervision := self._supervisions.get(room):
                    supervision.over.set()

    def _note_changed(self, tavern_id: str, channel_id: str) -> None:
        if not self.watchers.is_watched(tavern_id) or (tavern_id, channel_id) in self._changed:
            return
        self._changed[tavern_id, channel_id] = None
        # The more there are the less often: a crowd of watchers must not make joins and leaves a flood of messages.
        interval_s = PRESENCE_INTERVAL_S * (1 + len(self.watchers.of_tavern(tavern_id)) // _WATCHERS_AT_FULL_RATE)
        when = trio.current_time() + interval_s
        self.timers.call_at(when, partial(self._tell_watchers, tavern_id, channel_id))

    def _tell_watchers(self, tavern_id: str, channel_id: str) -> None:
        del self._changed[tavern_id, channel_id]
        channel = self.presence.channel(tavern_id, channel_id)
        members = channel.members.values() if channel else ()
        self.send(
            self.watchers.of_tavern(tavern_id),
            {
                "type": "presence-changed",
                "tavernId": tavern_id,
                "channelId": channel_id,
                "peers": [peer_in_channel(peer, channel, extended=True) for peer in members if channel],
            },
        )

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

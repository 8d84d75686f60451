"""One client's signaling session: reads its messages, keeps its limits, answers."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import attrs
import trio

from tavern.addresses import source_key
from tavern.logs import TRACE, log_event
from tavern.signaling import messages
from tavern.signaling.ice import REFRESH_MARGIN_S, TURN_CREDENTIAL_LIFETIME_S, iso_utc
from tavern.signaling.limits import AddressLimit, Violations, WindowLimit
from tavern.signaling.messages import (
    Answer,
    CreateChannel,
    CreateTavern,
    GetIceServers,
    GetTavernInfo,
    IceCandidate,
    Join,
    JoinChannel,
    LeaveChannel,
    Message,
    Offer,
    SignalingError,
    UpdateIdentity,
)
from tavern.signaling.registry import CLOSE_INTERNAL_ERROR, CLOSE_POLICY_VIOLATION, Registry, RoomFailed
from tavern.signaling.rooms import Peer
from tavern.signaling.transport import ConnectionEnded, Transport
from tavern.store.base import (
    ChannelRecord,
    NoSuchTavern,
    Store,
    StoreBusy,
    StoreFull,
    TavernRecord,
    UnstorableText,
    WriteFailed,
)

_log = logging.getLogger("tavern.signaling")

MAX_WAITING = 64
"""Messages of one connection behind one that waits for the disk: two seconds of them, which is as long as the store
waits for it. Beyond, nothing more is read."""

IceServers = Callable[[Transport, str], dict[str, Any]]
"""`(transport, peer_id)` to the `ice-servers` message for that peer on this connection."""


@attrs.define(eq=False)
class Signaling:
    """What all sessions of the server share."""

    registry: Registry
    store: Store
    ice_servers: IceServers
    rate_messages: int
    """Messages in any second per connection."""
    create_limit: AddressLimit

    async def serve(self, transport: Transport) -> None:
        """Runs one client's session until its connection ended; its peer has left everything on return.

        Our own bugs are raised, for the connection's wall. Cancelled, it leaves as well.
        """
        peer = self.registry.connect(transport)
        log_event(_log, logging.INFO, "peer-connected", peer=peer.peer_id, client=transport.client_host)
        try:
            async with trio.open_nursery() as nursery:
                session = Session(self, transport, peer, nursery)
                await self._converse(session, transport)
                session.end()
                self.registry.disconnect(peer)  # at once; what it asked to be stored is stored still
        finally:
            self.registry.disconnect(peer)

    async def _converse(self, session: Session, transport: Transport) -> None:
        try:
            while True:
                await session.wait_for_room()
                session.handle(await transport.receive())
        except ConnectionEnded as ended:
            log_event(_log, logging.INFO, "peer-disconnected", peer=session.peer.peer_id, reason=ended)
        except RoomFailed:
            # Its members are closed by the room's wall; this one may not have become a member yet.
            transport.close(CLOSE_INTERNAL_ERROR, "internal error")


class Session:
    """One client's side of the protocol.

    Messages are dealt with in their order, and at once. While one of them waits for the disk those after it wait, too,
    but they have been read: so pings are answered and the connection's end is seen meanwhile.
    """

    def __init__(self, signaling: Signaling, transport: Transport, peer: Peer, nursery: trio.Nursery) -> None:
        self.peer = peer
        self._nursery = nursery
        self._waiting: deque[Message] = deque()
        self._room = trio.Event()
        self._signaling = signaling
        self._registry = signaling.registry
        self._presence = signaling.registry.presence
        self._store = signaling.store
        self._transport = transport
        self._messages = WindowLimit(signaling.rate_messages, window_s=1.0)
        self._violations = Violations()
        self._keeps_ice_servers_fresh = False
        self._refreshing = trio.CancelScope()

    async def wait_for_room(self) -> None:
        """Returns when another message may be read. Not a checkpoint where there is room."""
        while len(self._waiting) >= MAX_WAITING:
            self._room = trio.Event()
            await self._room.wait()

    def handle(self, data: str | bytes) -> None:
        """Answers one message: what it asks for, or an `error`. Raises RoomFailed, and our own bugs."""
        now = trio.current_time()
        self._registry.metrics.messages.count(now)
        if not self._messages.allow(now):
            self._violate(now)
            return
        try:
            message = messages.parse_message(data)
        except SignalingError as error:
            self._refuse(error)
            return
        log_event(_log, TRACE, "message", peer=self.peer.peer_id, type=type(message).__name__)
        if isinstance(message, CreateTavern) and not self._may_create(now):
            self._violate(now)
        elif self._waiting:
            self._waiting.append(message)
        elif isinstance(message, CreateTavern | CreateChannel):
            self._waiting.append(message)
            self._nursery.start_soon(self._work)
        else:
            self._answer(message)

    def _may_create(self, now: float) -> bool:
        return self._signaling.create_limit.allow(source_key(self._transport.client_host), now)

    async def _work(self) -> None:
        """Deals with what waits, the message that has to be stored first.

        When the connection is over only what is to be stored is done: nobody comes back, nobody is answered.
        """
        while self._waiting:
            message = self._waiting[0]
            if isinstance(message, CreateTavern | CreateChannel):
                await self._store_for(message)
            elif self._registry.is_connected(self.peer):
                try:
                    self._answer(message)
                except RoomFailed:
                    self._transport.close(CLOSE_INTERNAL_ERROR, "internal error")
            self._waiting.popleft()
            self._room.set()

    async def _store_for(self, message: CreateTavern | CreateChannel) -> None:
        try:
            with _store_errors():
                if isinstance(message, CreateTavern):
                    await self._create_tavern(message)
                else:
                    await self._create_channel(message)
        except SignalingError as error:
            self._refuse(error)

    def _answer(self, message: Message) -> None:
        try:
            self._dispatch(message)
        except SignalingError as error:
            self._refuse(error)

    def _dispatch(self, message: Message) -> None:
        peer = self.peer
        match message:
            case Offer() | Answer() | IceCandidate():
                self._registry.relay(peer, message)
            case JoinChannel():
                self._join_channel(message)
            case LeaveChannel():
                place = peer.place
                self._act(lambda: self._presence.leave_channel(peer, message.tavernId, message.channelId))
                if peer.place is not place:
                    self._log_life("left-channel", tavern=message.tavernId, channel=message.channelId)
            case UpdateIdentity():
                known = peer.identity
                self._act(lambda: self._presence.update_identity(peer, message.identity))
                if peer.identity is not known:
                    self._log_life("identity-updated", key=message.identity.publicKeyHex)
            case Join():
                self._act(lambda: self._presence.join_room(peer, message.room, message.identity))
                self._log_life("joined-room", room=message.room)
            case GetTavernInfo():
                self._send({"type": "tavern-info", "tavern": self._tavern_object(message.tavernId)})
            case GetIceServers():
                self._send_ice_servers()
                if not self._keeps_ice_servers_fresh:
                    self._keeps_ice_servers_fresh = True
                    self._nursery.start_soon(self._refresh_ice_servers)

    def _send_ice_servers(self) -> None:
        self._send(self._signaling.ice_servers(self._transport, self.peer.peer_id))

    async def _refresh_ice_servers(self) -> None:
        """New ones before those that the client has run out, for as long as it is connected."""
        with self._refreshing:
            while True:
                await trio.sleep(TURN_CREDENTIAL_LIFETIME_S - REFRESH_MARGIN_S)
                if self._registry.is_connected(self.peer):
                    self._send_ice_servers()

    def end(self) -> None:
        """Nothing is sent to the client of its own accord any more."""
        self._refreshing.cancel()

    def _act(self, decide: Callable[[], Any]) -> None:
        self._registry.act(self.peer.place.room if self.peer.place else None, decide)

    def _join_channel(self, message: JoinChannel) -> None:
        if self._store.tavern(message.tavernId) is None:
            raise messages.tavern_not_found()
        if all(channel.id != message.channelId for channel in self._store.channels(message.tavernId)):
            raise messages.channel_not_found()
        room = self._presence.rooms.get(("tavern", message.tavernId))
        self._registry.act(
            room,
            lambda: self._presence.join_channel(self.peer, message.tavernId, message.channelId, message.identity),
        )
        self._log_life(
            "joined-channel", tavern=message.tavernId, channel=message.channelId, key=message.identity.publicKeyHex
        )

    async def _create_tavern(self, message: CreateTavern) -> None:
        created_at = iso_utc(time.time())
        identity = self.peer.identity
        tavern = TavernRecord(
            id=str(uuid4()),
            name=message.name,
            icon=message.icon or "",
            creator_public_key=identity.publicKeyHex if identity else "",
            signaling_url="",
            created_at=created_at,
        )
        channel = ChannelRecord(id=str(uuid4()), tavern_id=tavern.id, name="General", created_at=created_at)
        await self._store.create_tavern(tavern, (channel,))
        self._log_life("created-tavern", tavern=tavern.id)
        self._send({"type": "tavern-created", "tavern": self._tavern_object(tavern.id)})

    async def _create_channel(self, message: CreateChannel) -> None:
        record = ChannelRecord(
            id=str(uuid4()), tavern_id=message.tavernId, name=message.name, created_at=iso_utc(time.time())
        )
        await self._store.create_channel(record)
        channel = {"id": record.id, "name": record.name, "peers": []}
        created = {"type": "channel-created", "tavernId": message.tavernId, "channel": channel}
        told = self._registry.broadcast(message.tavernId, created)
        # Existing clients append every channel-created that they get: the sender gets it once.
        if self.peer not in told:
            self._send(created)
        self._log_life("created-channel", tavern=message.tavernId, channel=record.id)

    def _tavern_object(self, tavern_id: str) -> dict[str, Any]:
        tavern = self._store.tavern(tavern_id)
        if tavern is None:
            raise messages.tavern_not_found()
        channels = []
        for record in self._store.channels(tavern_id):
            members = self._presence.channel_members(tavern_id, record.id)
            peers = [messages.peer_object(p.identity, tavern_id, record.id) for p in members if p.identity]
            channels.append({"id": record.id, "name": record.name, "peers": peers})
        answer: dict[str, Any] = {"id": tavern.id, "name": tavern.name}
        if tavern.icon:
            answer["icon"] = tavern.icon
        return {**answer, "channels": channels, "createdBy": tavern.creator_public_key, "createdAt": tavern.created_at}

    def _send(self, message: dict[str, Any]) -> None:
        self._transport.send(messages.encode(message))

    def _refuse(self, error: SignalingError) -> None:
        log_event(_log, logging.DEBUG, "refused", peer=self.peer.peer_id, code=error.code, message=error.message)
        self._send(messages.error_message(error))

    def _violate(self, now: float) -> None:
        self._send(messages.error_message(messages.rate_limited()))
        if self._violations.too_many(now):
            log_event(_log, logging.INFO, "rate-limited", peer=self.peer.peer_id, client=self._transport.client_host)
            self._transport.close(CLOSE_POLICY_VIOLATION, "rate-limited")

    def _log_life(self, event: str, **fields: object) -> None:
        log_event(_log, logging.INFO, event, peer=self.peer.peer_id, **fields)


@contextmanager
def _store_errors() -> Iterator[None]:
    """What the store refuses becomes an answer to the one who asked."""
    try:
        yield
    except NoSuchTavern:
        raise messages.tavern_not_found() from None
    except StoreFull as error:
        raise SignalingError("limit-reached", str(error)) from None
    except UnstorableText as error:
        raise SignalingError("bad-message", str(error)) from None
    except (StoreBusy, WriteFailed) as error:
        raise SignalingError("store-unavailable", str(error)) from None

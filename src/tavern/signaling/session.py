"""One client's session: what it asks for, in its order and within its limits."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

from tavern.addresses import source_key
from tavern.errors import RemoteError
from tavern.logs import TRACE, log_event
from tavern.signaling import messages
from tavern.signaling.entry import ENTRY_S, Entry, Rules
from tavern.signaling.ice import REFRESH_MARGIN_S, TURN_CREDENTIAL_LIFETIME_S
from tavern.signaling.limits import AddressLimit, Violations
from tavern.signaling.management import Management
from tavern.signaling.messages import Identity, SignalingError
from tavern.signaling.registry import CLOSE_INTERNAL_ERROR, CLOSE_POLICY_VIOLATION, Registry, RoomFailed
from tavern.signaling.requests import (
    OLD_TYPES,
    REQUEST_NAMES,
    CreateChannel,
    CreateTavern,
    GetIceServers,
    GetResumeToken,
    GetTavernInfo,
    Hello,
    Join,
    JoinChannel,
    LeaveChannel,
    ManagementRequest,
    Message,
    ProveIdentity,
    Relayed,
    Resume,
    UnwatchTavern,
    UpdateIdentity,
    WatchTavern,
    parse_message,
)
from tavern.signaling.resume_tokens import ResumeClaims
from tavern.signaling.resumption import Resumptions
from tavern.signaling.taverns import Taverns
from tavern.signaling.timers import Timer
from tavern.signaling.transport import ConnectionEnded, Transport

_log = logging.getLogger("tavern.signaling")

MAX_WAITING = 64
"""Messages of one connection behind one that waits for the disk: two seconds of them, which is as long as the store
waits for it. Beyond, nothing more is read."""

NONCE_BYTES = 32

_STORED = CreateTavern | CreateChannel | ManagementRequest

_OLD = tuple(kind for kind, name in REQUEST_NAMES.items() if name in OLD_TYPES)

IceServers = Callable[[Transport, str], dict[str, Any]]
"""`(transport, peer_id)` to the `ice-servers` message for that peer on this connection."""


@attrs.define(eq=False)
class Signaling:
    """What all sessions of the server share."""

    registry: Registry
    taverns: Taverns
    management: Management
    resumptions: Resumptions
    ice_servers: IceServers
    rate_messages: int
    """Messages in any second per connection."""
    create_limit: AddressLimit
    rules: Rules = attrs.field(factory=Rules)

    async def serve(self, transport: Transport) -> None:
        """Runs one client's session until its connection ended; then its peer has left everything, or is away.

        What it asked to be stored is stored still. Our own bugs are raised, for the connection's wall. Cancelled, it
        leaves as well.
        """
        session = Session(self, transport)
        log_event(_log, logging.INFO, "peer-connected", peer=session.peer.peer_id, client=transport.client_host)
        lost = False
        try:
            lost = await self._converse(session, transport)
        finally:
            session.end(lost=lost)

    async def _converse(self, session: Session, transport: Transport) -> bool:
        """Whether the connection was lost, and not ended by either side."""
        try:
            await transport.deliver(session.handle)
        except ConnectionEnded as ended:
            log_event(_log, logging.INFO, "peer-disconnected", peer=session.peer.peer_id, reason=ended)
            return not (transport.closed_by_client or session.peer.outlet is not transport)
        except RoomFailed:
            # Its members are closed by the room's wall; this one may not have become a member yet.
            transport.close(CLOSE_INTERNAL_ERROR, "internal error")
            return False


class Session:
    """One client's side of the protocol.

    Messages are dealt with in their order, and at once. While one of them waits for the disk those after it wait, too,
    but they have been read: so pings are answered and the connection's end is seen meanwhile.
    """

    __slots__ = (
        "_entry",
        "_entry_timer",
        "_ice_timer",
        "_messages",
        "_registry",
        "_room",
        "_signaling",
        "_transport",
        "_violations",
        "_waiting",
        "peer",
    )

    def __init__(self, signaling: Signaling, transport: Transport) -> None:
        self._signaling = signaling
        self._registry = signaling.registry
        self._transport = transport
        self._waiting: deque[Message] | None = None
        """Made when first needed: most connections store nothing, and there may be thousands."""
        self._room: trio.Event | None = None
        self._messages = transport.message_limit(signaling.rate_messages)
        self._violations: Violations | None = None
        self._ice_timer: Timer | None = None
        self._entry_timer: Timer | None = None
        self._entry = Entry(signaling.rules)
        self._entry.show_query(transport.query)
        self.peer = signaling.registry.connect(transport)
        self._admit()
        if not self._entry.is_admitted(self.peer):
            when = trio.current_time() + ENTRY_S
            self._entry_timer = self._registry.timers.call_at(when, self._refuse_entry)

    @property
    def closed(self) -> bool:
        """Whether we ended it, or its client went on elsewhere: it may not act any more."""
        return self.peer.outlet is not self._transport or not self._registry.is_connected(self.peer)

    def handle(self, data: str | bytes) -> trio.Event | None:
        """Answers one message: what it asks for, or an `error`. Raises RoomFailed, and our own bugs.

        The event that it returns is set when another message may be read; None: it may be now.
        """
        now = trio.current_time()
        self._registry.metrics.messages.count(now)
        if not self._messages.allow(now):
            self._violate(now)
        elif self._waiting or isinstance(data, bytes) or not self._registry.pass_on(self.peer, data):
            self._handle_any(data, now)
        if self._waiting is None or len(self._waiting) < MAX_WAITING:
            return None
        self._room = trio.Event()
        return self._room

    def _handle_any(self, data: str | bytes, now: float) -> None:
        try:
            message = parse_message(data)
        except SignalingError as error:
            self._refuse(error)
            return
        if not isinstance(message, Relayed):
            self._log(TRACE, "message", type=type(message).__name__)
            if not isinstance(message, _OLD):
                self.peer.extended = True
        if isinstance(message, CreateTavern) and not self._may_create(now):
            self._violate(now)
        elif self._waiting:
            self._waiting.append(message)
        elif _is_stored(message):
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append(message)
            self._transport.hold()
            self._registry.start(self._work, "session's work")
        else:
            self._answer(message)

    def end(self, *, lost: bool) -> None:
        """The connection is over. Where it was `lost` the peer may be kept for a client that comes back."""
        for timer in (self._ice_timer, self._entry_timer):
            if timer is not None:
                timer.cancel()
        peer, resumptions = self.peer, self._signaling.resumptions
        if peer.outlet is not self._transport:
            return  # its client goes on with it on another connection
        if lost and resumptions.keep_place(peer, self._transport):
            return
        resumptions.forget(peer)
        self._registry.disconnect(peer)

    def _may_create(self, now: float) -> bool:
        return self._signaling.create_limit.allow(source_key(self._transport.client_host), now)

    async def _work(self) -> None:
        """Deals with what waits, the message that has to be stored first.

        When the connection is over only what is to be stored is done: nobody comes back, nobody is answered. The wall
        of what it does: a bug of ours ends this connection.
        """
        try:
            while self._waiting:
                await self._work_on(self._waiting[0])
                self._waiting.popleft()
                if self._room is not None:
                    self._room.set()
            self._transport.release()
        except Exception:  # noqa: BLE001  the wall
            _log.exception("storing for a session failed")
            self._registry.metrics.failures["connection"] += 1
            self._transport.close(CLOSE_INTERNAL_ERROR, "internal error")

    async def _work_on(self, message: Message) -> None:
        if not _is_stored(message):
            if not self.closed:
                self._answer_safely(message)
            return
        try:
            self._entry.check(self.peer, message)
            answer = await self._store_for(message)
        except SignalingError as error:
            self._refuse(error)
            return
        if answer is not None:
            self._send(answer)
        if isinstance(message, JoinChannel) and not self.closed:
            self._answer_safely(message)

    async def _store_for(self, message: Message) -> dict[str, Any] | None:
        """The answer to what is to be stored, if there is one. Raises SignalingError."""
        taverns, peer = self._signaling.taverns, self.peer
        match message:
            case CreateTavern():
                self._entry.check_create(peer)
                return await taverns.create_tavern(peer, message)
            case CreateChannel():
                return await taverns.create_channel(peer, message)
            case JoinChannel():
                await taverns.redeem_invite(peer, message)
                return None
            case _:
                assert isinstance(message, ManagementRequest)
                return await self._signaling.management.perform(peer, message)

    def _answer_safely(self, message: Message) -> None:
        """As `_answer`, away from the connection's own task."""
        try:
            self._answer(message)
        except RoomFailed:
            self._transport.close(CLOSE_INTERNAL_ERROR, "internal error")

    def _answer(self, message: Message) -> None:
        try:
            if isinstance(message, Relayed):
                self._registry.relay(self.peer, message)
            else:
                self._entry.check(self.peer, message)
                self._dispatch(message)
        except SignalingError as error:
            self._refuse(error)

    def _dispatch(self, message: Message) -> None:
        peer, taverns = self.peer, self._signaling.taverns
        match message:
            case JoinChannel():
                taverns.check_join(peer, message.identity.publicKeyHex, message.tavernId, message.channelId)
                self._join_channel(message.tavernId, message.channelId, message.identity)
            case LeaveChannel():
                place = peer.place
                self._act(lambda: self._registry.presence.leave_channel(peer, message.tavernId, message.channelId))
                if peer.place is not place:
                    self._log(logging.INFO, "left-channel", tavern=message.tavernId, channel=message.channelId)
            case UpdateIdentity():
                self._update_identity(message)
            case Join():
                self._act(lambda: self._registry.presence.join_room(peer, message.room, message.identity))
                self._log(logging.INFO, "joined-room", room=message.room)
            case GetTavernInfo():
                self._send({"type": "tavern-info", "tavern": taverns.tavern_object(peer, message.tavernId)})
            case GetIceServers():
                self._send_ice_servers()
            case Hello():
                self._hello(message)
            case ProveIdentity():
                self._prove(message)
            case WatchTavern():
                self._send(taverns.watch(peer, message.tavernId))
            case UnwatchTavern():
                self._registry.watchers.unwatch(peer, message.tavernId)
                self._send(messages.done("unwatch-tavern"))
            case GetResumeToken():
                self._signaling.resumptions.take(peer)
            case Resume():
                self._resume(message)

    def _act(self, decide: Callable[[], Any]) -> None:
        self._registry.act(self.peer.place.room if self.peer.place else None, decide)

    def _join_channel(self, tavern_id: str, channel_id: str, identity: Identity, *, returning: bool = False) -> None:
        presence = self._registry.presence
        room = presence.rooms.get(("tavern", tavern_id))
        self._registry.act(
            room, lambda: presence.join_channel(self.peer, tavern_id, channel_id, identity, returning=returning)
        )
        self._signaling.taverns.note_used(tavern_id)
        self._log(logging.INFO, "joined-channel", tavern=tavern_id, channel=channel_id, key=identity.publicKeyHex)

    def _update_identity(self, message: UpdateIdentity) -> None:
        peer = self.peer
        known = peer.identity
        self._act(lambda: self._registry.presence.update_identity(peer, message.identity))
        if peer.identity is not known:
            self._signaling.resumptions.renew(peer)
            self._log(logging.INFO, "identity-updated", key=message.identity.publicKeyHex)

    def _hello(self, message: Hello) -> None:
        try:
            welcome = self._entry.hello(self.peer, message, trio.current_time(), secrets.token_bytes(NONCE_BYTES))
        except SignalingError as error:
            # A guess at the invite: so many, and no more.
            self._refuse(error)
            self._count_violation(trio.current_time())
            return
        self._admit()
        self._send(welcome)

    def _prove(self, message: ProveIdentity) -> None:
        self._entry.check_proof(self.peer, message, trio.current_time())
        self._act(lambda: self._registry.presence.prove(self.peer, message.publicKeyHex))
        self._admit()
        self._signaling.resumptions.renew(self.peer)
        self._send({"type": "identity-proven", "publicKeyHex": message.publicKeyHex})
        self._log(logging.INFO, "identity-proven", key=message.publicKeyHex)

    def _resume(self, message: Resume) -> None:
        resumptions = self._signaling.resumptions
        resumed = resumptions.resume(message.token, self.peer, self._transport)
        if isinstance(resumed, ResumeClaims):
            self._resume_after_restart(resumed)
        else:
            self.peer = resumed
        self._entry.invited = True  # it had come in
        if self._entry_timer is not None:
            self._entry_timer.cancel()
        self._log(logging.INFO, "resumed", continued=resumed is self.peer)

    def _resume_after_restart(self, claims: ResumeClaims) -> None:
        """Raises SignalingError (`resume-failed`) where it may not enter any more."""
        peer, taverns, resumptions = self.peer, self._signaling.taverns, self._signaling.resumptions
        identity = claims.identity
        proven_before = peer.proven_key
        if claims.verified:
            peer.proven_key = identity.publicKeyHex
        try:
            if self._entry.rules.require_identity and not peer.verified:
                raise messages.identity_required()
            taverns.check_join(peer, identity.publicKeyHex, claims.tavern_id, claims.channel_id)
            self._registry.admit(peer)
            self._join_channel(claims.tavern_id, claims.channel_id, identity, returning=True)
        except RemoteError:
            peer.proven_key = proven_before
            raise messages.resume_failed() from None
        self._send(resumptions.resumed_message(peer, continued=False))
        resumptions.take(peer)

    def _admit(self) -> None:
        if self._entry.is_admitted(self.peer):
            self._registry.admit(self.peer)
            if self._entry_timer is not None:
                self._entry_timer.cancel()

    def _refuse_entry(self) -> None:
        self._log(logging.INFO, "not-admitted", client=self._transport.client_host)
        self._transport.close(CLOSE_POLICY_VIOLATION, "not admitted")

    def _send_ice_servers(self) -> None:
        """Now, and new ones before those run out, for as long as it is connected."""
        self._send(self._signaling.ice_servers(self._transport, self.peer.peer_id))
        if self._ice_timer is not None:
            self._ice_timer.cancel()
        when = trio.current_time() + TURN_CREDENTIAL_LIFETIME_S - REFRESH_MARGIN_S
        self._ice_timer = self._registry.timers.call_at(when, self._refresh_ice_servers)

    def _refresh_ice_servers(self) -> None:
        if not self.closed:
            self._send_ice_servers()

    def _send(self, message: dict[str, Any]) -> None:
        self._transport.send(messages.encode(message))

    def _refuse(self, error: SignalingError) -> None:
        self._registry.metrics.errors[error.code] += 1
        self._log(logging.DEBUG, "refused", client=self._transport.client_host, code=error.code, message=error.message)
        self._send(messages.error_message(error))

    def _violate(self, now: float) -> None:
        self._refuse(messages.rate_limited())
        self._count_violation(now)

    def _count_violation(self, now: float) -> None:
        if self._violations is None:
            self._violations = Violations()
        if self._violations.too_many(now):
            self._log(logging.INFO, "rate-limited", client=self._transport.client_host)
            self._transport.close(CLOSE_POLICY_VIOLATION, "rate-limited")

    def _log(self, level: int, event: str, **fields: object) -> None:
        log_event(_log, level, event, peer=self.peer.peer_id, **fields)


def _is_stored(message: Message) -> bool:
    """Whether it waits for the disk."""
    return isinstance(message, _STORED) or (isinstance(message, JoinChannel) and message.invite is not None)

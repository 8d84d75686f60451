"""One connection to a Tavern server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from tavern.addresses import is_address
from tavern.client.events import (
    ChannelCreated,
    ChannelJoined,
    Done,
    ErrorReceived,
    Event,
    IceServers,
    IdentityProven,
    PeerList,
    Resumed,
    ResumeTokenReceived,
    TavernCreated,
    TavernInfo,
    TavernWatched,
    Welcome,
    parse_event,
)
from tavern.client.keys import Keypair
from tavern.client.management import Management
from tavern.client.objects import (
    Channel,
    Tavern,
)
from tavern.client.websocket import open_websocket
from tavern.errors import TavernError
from tavern.host_names import is_loopback_name
from tavern.signaling.messages import Identity, encode

ANSWER_TIMEOUT_S = 10.0
MAX_EVENTS = 1024
"""Undelivered events that are kept. A bot that reads none for longer than that is told so (`ConnectionLost`)."""

_CODES_OF_WHAT_IS_NOT_ANSWERED = frozenset(
    {"target-not-found", "target-busy", "not-in-room", "identity-in-use", "identity-fixed"}
)
_IDENTITY_CODES = frozenset({"identity-in-use", "identity-fixed"})
_MADE_WITH_AN_IDENTITY = (ChannelJoined, PeerList, IdentityProven)
"""Answers of requests that an identity may be wrong for; that of update-identity is not waited for."""

_T = TypeVar("_T", bound=Event)


class ServerError(TavernError):
    """The server answered a request with `error`; `code` is None from servers that have no codes."""

    def __init__(self, error: ErrorReceived) -> None:
        super().__init__(error.message)
        self.code = error.code
        self.message = error.message
        self.field = error.field


class ConnectionLost(TavernError):
    """The connection is over; `code` is the WebSocket's close code (1006 where none came)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code


class WrongServer(TavernError):
    """The server calls itself by another name than it was called by."""

    def __init__(self, server: str, host: str) -> None:
        super().__init__(f"the server at {host} calls itself {server}: its operator should set TAVERN_DOMAIN to {host}")


@asynccontextmanager
async def open_client(url: str, *, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    """Connected while the block runs; closed with 1000 at its end. `url` is `ws://host:port/` or `wss://...`.

    A close is a leave, also for who took a resume token: to keep the place, the connection must be lost.

    Raises what `open_websocket` raises. Errors of the block come out as they are, not in groups.
    """
    failed: Exception | None = None
    async with open_websocket(url, ssl_context=ssl_context) as websocket, trio.open_nursery() as nursery:
        client = Client(websocket, urlsplit(url).hostname or "")
        nursery.start_soon(client._read)
        try:
            yield client
        except Exception as error:  # noqa: BLE001  raised below, outside of the nursery that would wrap it
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


@attrs.define(eq=False)
class _Request:
    """What one request waits for."""

    answers: Callable[[Event], bool]
    with_identity: bool
    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: Event | None = None


class Client:
    """A Tavern server as seen by one peer. Methods that ask wait for the answer (`ServerError` where it is an error,
    `ConnectionLost` where none can come, `trio.TooSlowError` after 10 s); one asks at a time, others wait their turn.

    All that is not an answer is an event, in the order in which it came.
    """

    def __init__(self, socket: WebSocketConnection, host: str) -> None:
        self._socket = socket
        self._host = host
        self.resume_token: str | None = None
        """The newest one, once `get_resume_token` was called."""
        self._events_in, self.events = trio.open_memory_channel[Event](MAX_EVENTS)
        self._asking = trio.Lock()
        self._request: _Request | None = None
        self._lost: ConnectionLost | None = None
        """Set by the reader when nothing more can come."""

    async def hello(self, invite: str | None = None) -> Welcome:
        """What the server is, and asks for; `invite` is the server's own. Not needed before anything else."""
        return await self.ask({"type": "hello"} | ({"invite": invite} if invite is not None else {}), Welcome)

    async def prove_identity(self, keypair: Keypair, invite: str | None = None) -> None:
        """From now on this connection is known to hold the key, and goes by it alone.

        Raises WrongServer, having proven nothing, where the server calls itself by another name than it was called by:
        it could pass the proof on to the server of that name.
        """
        welcome = await self.hello(invite)
        if not is_called(welcome.server, self._host):
            raise WrongServer(welcome.server, self._host)
        signature = keypair.prove(welcome.server, welcome.connection, welcome.nonce)
        message = {"type": "prove-identity", "publicKeyHex": keypair.public_key_hex, "signature": signature}
        await self.ask(message, IdentityProven)

    def manage(self, tavern_id: str) -> Management:
        """What the tavern's owner and moderators may do."""
        return Management(self, tavern_id)

    async def watch_tavern(self, tavern_id: str) -> Tavern:
        """The tavern as it is; from now on PresenceChanged, and what changes about it, come as events."""
        return (await self.ask({"type": "watch-tavern", "tavernId": tavern_id}, TavernWatched)).tavern

    async def unwatch_tavern(self, tavern_id: str) -> None:
        await self.ask({"type": "unwatch-tavern", "tavernId": tavern_id}, Done)

    async def get_resume_token(self) -> str:
        """To be called in a channel. The server sends new ones by itself, see `resume_token`."""
        return (await self.ask({"type": "get-resume-token"}, ResumeTokenReceived)).token

    async def resume(self, token: str) -> Resumed:
        """Back in the channel that another connection was lost in, within 15 s or after a restart of the server.

        Raises ServerError (`resume-failed`) where that is over.
        """
        return await self.ask({"type": "resume", "token": token}, Resumed)

    async def create_tavern(self, name: str, icon: str | None = None) -> Tavern:
        message = {"type": "create-tavern", "name": name}
        if icon is not None:
            message["icon"] = icon
        return (await self.ask(message, TavernCreated)).tavern

    async def tavern_info(self, tavern_id: str) -> Tavern:
        return (await self.ask({"type": "get-tavern-info", "tavernId": tavern_id}, TavernInfo)).tavern

    async def create_channel(self, tavern_id: str, name: str) -> Channel:
        message = {"type": "create-channel", "tavernId": tavern_id, "name": name}
        # Everybody in the tavern is told of every channel: another one's is not the answer.
        created = await self.ask(
            message, ChannelCreated, lambda event: (event.tavernId, event.channel.name) == (tavern_id, name)
        )
        return created.channel

    async def join_channel(
        self, tavern_id: str, channel_id: str, identity: Identity, *, invite: str | None = None
    ) -> ChannelJoined:
        """`invite` is a token of the tavern, which makes a verified peer its member."""
        message: dict[str, Any] = {"type": "join-channel", "tavernId": tavern_id, "channelId": channel_id}
        if invite is not None:
            message["invite"] = invite
        return await self.ask({**message, "identity": attrs.asdict(identity)}, ChannelJoined)

    async def leave_channel(self, tavern_id: str, channel_id: str) -> None:
        await self.send({"type": "leave-channel", "tavernId": tavern_id, "channelId": channel_id})

    async def update_identity(self, identity: Identity) -> None:
        """Sent; the server answers only if it refuses (an `ErrorReceived` event)."""
        await self.send({"type": "update-identity", "identity": attrs.asdict(identity)})

    async def join_room(self, room: str, identity: Identity | None = None) -> PeerList:
        """The room of older clients, which is only a name."""
        message: dict[str, Any] = {"type": "join", "room": room}
        if identity is not None:
            message["identity"] = attrs.asdict(identity)
        return await self.ask(message, PeerList)

    async def ice_servers(self) -> IceServers:
        return await self.ask({"type": "get-ice-servers"}, IceServers)

    async def send_offer(self, sdp: str, target: str | None = None, **extra: Any) -> None:
        """To one peer of this channel or room, or to all others. `extra` goes through as it is."""
        await self.send({**extra, "type": "offer", "sdp": sdp} | ({"target": target} if target is not None else {}))

    async def send_answer(self, sdp: str, target: str, **extra: Any) -> None:
        await self.send({**extra, "type": "answer", "sdp": sdp, "target": target})

    async def send_ice_candidate(self, candidate: str, target: str, **extra: Any) -> None:
        await self.send({**extra, "type": "ice-candidate", "candidate": candidate, "target": target})

    async def send(self, message: dict[str, Any]) -> None:
        """Any message. Raises ConnectionLost. Cancelled half-way, the connection is of no more use."""
        try:
            await self._socket.send_message(encode(message).decode())
        except ConnectionClosed as closed:
            raise self._lost or _lost(closed) from None

    async def next_event(self) -> Event:
        """The next event. Raises ConnectionLost when no more can come."""
        try:
            return await self.events.receive()
        except trio.EndOfChannel:
            assert self._lost is not None
            raise self._lost from None

    async def ask(
        self, message: dict[str, Any], kind: type[_T], matches: Callable[[_T], bool] = lambda _event: True
    ) -> _T:
        """Sends any request; the first event of this kind that matches is its answer. Raises as all that ask do."""
        async with self._asking:
            if self._lost is not None:
                raise self._lost
            request = self._request = _Request(
                lambda event: isinstance(event, kind) and matches(event), issubclass(kind, _MADE_WITH_AN_IDENTITY)
            )
            try:
                with trio.fail_after(ANSWER_TIMEOUT_S):
                    await self.send(message)
                    await request.answered.wait()
            finally:
                self._request = None
        match request.answer:
            case ErrorReceived() as error:
                raise ServerError(error)
            case answer if isinstance(answer, kind):
                return answer
        raise self._why_lost()

    def _why_lost(self) -> ConnectionLost:
        return self._lost or ConnectionLost(1006, "")

    async def _read(self) -> None:
        try:
            with self._events_in:
                while True:
                    self._deliver(parse_event(await self._socket.get_message()))
        except ConnectionClosed as closed:
            self._lost = _lost(closed)
        except ValueError as error:
            self._lost = ConnectionLost(1006, str(error))
        except trio.WouldBlock:
            self._lost = ConnectionLost(1006, f"{MAX_EVENTS} events were not read")
        finally:
            if self._request is not None:
                self._request.answered.set()

    def _deliver(self, event: Event) -> None:
        request = self._request
        if isinstance(event, ResumeTokenReceived):
            self.resume_token = event.token
            if request is None or not request.answers(event):
                return  # of no interest but for its being the newest
        if request is not None and request.answer is None and (_may_refuse(event, request) or request.answers(event)):
            request.answer = event
            request.answered.set()
        else:
            self._events_in.send_nowait(event)


def _may_refuse(event: Event, request: _Request) -> bool:
    """Whether this is an error that may answer the request: those of offers answer what nobody waits for."""
    if not isinstance(event, ErrorReceived):
        return False
    if event.code in _IDENTITY_CODES:
        return request.with_identity
    return event.code not in _CODES_OF_WHAT_IS_NOT_ANSWERED


def is_called(server: str, host: str) -> bool:
    """Whether a server that calls itself `server` is the one at `host`. One without a name is at an address."""
    if server == host.lower().removesuffix("."):
        return True
    return is_loopback_name(server) and (is_loopback_name(host) or is_address(host))


def _lost(closed: ConnectionClosed) -> ConnectionLost:
    if closed.reason is None:
        return ConnectionLost(1006, "")
    return ConnectionLost(closed.reason.code, closed.reason.reason or "")

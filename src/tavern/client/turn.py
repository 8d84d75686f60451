"""A STUN and TURN client on trio (RFC 8489, RFC 8656): as much as it takes to see whether a relay works."""

from __future__ import annotations

import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import TypeVar

import trio

from tavern.addresses import SocketAddress
from tavern.errors import RemoteError
from tavern.stun.attributes import decode_error_code, decode_xor_address, encode_lifetime, encode_xor_address
from tavern.stun.framing import StreamFramer
from tavern.stun.integrity import long_term_key
from tavern.stun.message import Attribute, AttributeType, MalformedMessage, Message, MessageClass, Method, encode, parse

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUTS_S = (0.5, 1.0, 2.0)
"""RFC 8489 §6.2.1's first retransmissions over UDP; over streams the sum is waited for."""
MAX_ATTEMPTS = 3  # without a nonce, with the first one, with a fresh one
_UDP_TRANSPORT: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\0\0\0")
_MAX_DATAGRAM = 65535
_STALE_NONCE = 438
_MAX_WAITING = 64
"""Packets from peers that nobody has taken; more are dropped, as on any network."""


_T = TypeVar("_T")


class NoAnswer(RemoteError):
    """The server did not answer in time, or the connection to it is gone."""


class TurnRefused(RemoteError):
    """The server answered with an error; `code` is RFC 8489's or RFC 8656's."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code


class _Path(ABC):
    """How bytes get to the server. `receive` gives one whole STUN message or ChannelData."""

    @abstractmethod
    async def send(self, data: bytes) -> None: ...

    @abstractmethod
    async def receive(self) -> bytes: ...


class _DatagramPath(_Path):
    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await self.sock.send(data)

    async def receive(self) -> bytes:
        return bytes(await self.sock.recv(_MAX_DATAGRAM))


class _StreamPath(_Path):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.framer = StreamFramer()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self) -> bytes:
        try:
            while (frame := self.framer.take()) is None:
                data = await self.stream.receive_some()
                if not data:
                    raise NoAnswer("the server closed the connection")
                self.framer.feed(bytes(data))
        except MalformedMessage as error:
            raise NoAnswer(f"what answers there speaks no TURN: {error}") from error
        return frame


class TurnClient:
    """One conversation with a server. Requests raise NoAnswer and TurnRefused, and are to be made one at a time."""

    def __init__(self, path: _Path, username: str, password: str) -> None:
        self._path = path
        self._username = username.encode()
        self._password = password.encode()
        self._realm = b""
        self._nonce = b""
        self._reliable = isinstance(path, _StreamPath)
        self._answers_in, self._answers = trio.open_memory_channel[Message](_MAX_WAITING)
        self._data_in, self._data = trio.open_memory_channel[tuple[bytes, SocketAddress]](_MAX_WAITING)

    async def binding(self) -> SocketAddress:
        """The address that the server sees this client at."""
        answer = await self._exchange(
            lambda transaction_id: encode(Method.BINDING, MessageClass.REQUEST, transaction_id)
        )
        return _address_in(answer, AttributeType.XOR_MAPPED_ADDRESS)

    async def challenge_size(self) -> tuple[int, int]:
        """Bytes of an Allocate request without credentials, and of what comes back."""
        request = b""

        def make(transaction_id: bytes) -> bytes:
            nonlocal request
            request = encode(Method.ALLOCATE, MessageClass.REQUEST, transaction_id, [_UDP_TRANSPORT])
            return request

        answer = await self._exchange(make)
        return len(request), len(answer.raw)

    async def allocate(self) -> SocketAddress:
        """The relayed address."""
        answer = await self._request(Method.ALLOCATE, [_UDP_TRANSPORT])
        return _address_in(answer, AttributeType.XOR_RELAYED_ADDRESS)

    async def permit(self, peer: SocketAddress) -> None:
        await self._request(Method.CREATE_PERMISSION, [], peer)

    async def release(self) -> None:
        """The allocation is gone."""
        await self._request(Method.REFRESH, [(AttributeType.LIFETIME, encode_lifetime(0))])

    async def send(self, data: bytes, peer: SocketAddress) -> None:
        """To a peer that is permitted. Nobody says whether it arrives."""
        transaction_id = os.urandom(12)
        attributes = [_peer(peer, transaction_id), (AttributeType.DATA, data)]
        await self._path.send(encode(Method.SEND, MessageClass.INDICATION, transaction_id, attributes))

    async def receive(self) -> tuple[bytes, SocketAddress]:
        """The next data that came through the relay, and from whom."""
        return await self._data.receive()

    async def run(self) -> None:
        """Reads until the server is gone or this is cancelled."""
        try:
            while True:
                self._take(await self._path.receive())
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, NoAnswer):
            self._answers_in.close()
            self._data_in.close()

    def _take(self, data: bytes) -> None:
        try:
            message = parse(data)
        except MalformedMessage:
            return  # nothing that we asked for
        if message.message_class != MessageClass.INDICATION:
            _offer(self._answers_in, message)
            return
        payload, peer = message.get(AttributeType.DATA), message.get(AttributeType.XOR_PEER_ADDRESS)
        if message.method == Method.DATA and payload is not None and peer is not None:
            host, port = decode_xor_address(peer, message.transaction_id)
            _offer(self._data_in, (payload, (str(host), port)))

    async def _request(self, method: Method, attributes: list[Attribute], peer: SocketAddress | None = None) -> Message:
        for attempt in range(1, MAX_ATTEMPTS + 1):

            def make(transaction_id: bytes) -> bytes:
                own = [*attributes, *([_peer(peer, transaction_id)] if peer else [])]
                if not self._nonce:
                    return encode(method, MessageClass.REQUEST, transaction_id, own)
                own += [
                    (AttributeType.USERNAME, self._username),
                    (AttributeType.REALM, self._realm),
                    (AttributeType.NONCE, self._nonce),
                ]
                key = long_term_key(self._username, self._realm, self._password)
                return encode(method, MessageClass.REQUEST, transaction_id, own, integrity_key=key)

            signed = bool(self._nonce)
            answer = await self._exchange(make)
            error = answer.get(AttributeType.ERROR_CODE)
            if error is None:
                return answer
            code, reason = decode_error_code(error)
            self._realm = answer.get(AttributeType.REALM) or self._realm
            nonce = answer.get(AttributeType.NONCE)
            if nonce is None or attempt == MAX_ATTEMPTS or (signed and code != _STALE_NONCE):
                raise TurnRefused(code, reason)
            self._nonce = nonce
        raise AssertionError("each attempt returns, raises or has a nonce for the next one")

    async def _exchange(self, make: Callable[[bytes], bytes]) -> Message:
        transaction_id = os.urandom(12)
        request = make(transaction_id)
        for timeout_s in (sum(ANSWER_TIMEOUTS_S),) if self._reliable else ANSWER_TIMEOUTS_S:
            try:
                await self._path.send(request)
                with trio.move_on_after(timeout_s):
                    async for answer in self._answers:
                        if answer.transaction_id == transaction_id:
                            return answer
                    raise NoAnswer("the connection to the server is gone")
            except (OSError, trio.BrokenResourceError) as error:
                raise NoAnswer(f"the connection to the server is gone: {error}") from error
        raise NoAnswer(f"no answer within {sum(ANSWER_TIMEOUTS_S):g} s")


@asynccontextmanager
async def open_turn(
    address: SocketAddress,
    transport: str,
    username: str,
    password: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    server_name: str = "",
) -> AsyncIterator[TurnClient]:
    """Connected over `udp`, `tcp` or `tls` while the block runs. Raises NoAnswer where no connection can be had.

    The allocation, if there is one, is left to end by itself unless `release` is called. Errors of the block come out
    as they are, not in groups.
    """
    failed: Exception | None = None
    async with _open_path(address, transport, ssl_context, server_name) as path, trio.open_nursery() as nursery:
        client = TurnClient(path, username, password)
        nursery.start_soon(client.run)
        try:
            yield client
        except Exception as error:  # noqa: BLE001  raised below, outside of the nursery that would wrap it
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


@asynccontextmanager
async def _open_path(
    address: SocketAddress, transport: str, ssl_context: ssl.SSLContext | None, server_name: str
) -> AsyncIterator[_Path]:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        if transport == "udp":
            sock = trio.socket.socket(family, socket.SOCK_DGRAM)
            await sock.connect(address)
            path: _Path = _DatagramPath(sock)
        else:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                stream: trio.abc.Stream = await trio.open_tcp_stream(*address)
                if transport == "tls":
                    context = ssl_context or ssl.create_default_context()
                    secured = trio.SSLStream(stream, context, server_hostname=server_name, https_compatible=True)
                    stream = secured
                    await secured.do_handshake()
            path = _StreamPath(stream)
    except trio.TooSlowError:
        raise NoAnswer(f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise NoAnswer(f"no connection: {error.__cause__ or error}") from error
    try:
        yield path
    finally:
        if isinstance(path, _DatagramPath):
            path.sock.close()
        elif isinstance(path, _StreamPath):
            await trio.aclose_forcefully(path.stream)


def _peer(peer: SocketAddress, transaction_id: bytes) -> Attribute:
    return AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(peer[0]), peer[1], transaction_id)


def _address_in(answer: Message, kind: AttributeType) -> SocketAddress:
    value = answer.get(kind)
    if value is None:
        raise NoAnswer(f"the answer has no {kind.name}")
    host, port = decode_xor_address(value, answer.transaction_id)
    return str(host), port


def _offer(channel: trio.MemorySendChannel[_T], item: _T) -> None:
    with suppress(trio.WouldBlock):
        channel.send_nowait(item)

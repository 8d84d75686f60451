"""The beginning of a connection where TLS is spoken: whose certificate it gets, and what plain text is told."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import attrs
import trio

from tavern.host_names import host_without_port, port_in_host
from tavern.web.challenges import ACME_PROTOCOL, Challenges
from tavern.web.client_hello import MAX_RECORD_BYTES, RECORD_HEADER_BYTES, alpn_protocols, record_bytes
from tavern.web.heads import Head, Refused, answer, read_first, read_head, text_answer
from tavern.web.streams import AnyStream, close_after_reading

TLS_HANDSHAKE_TIMEOUT_S = 10.0
_HANDSHAKE_RECORD = 0x16  # the content type that every TLS connection begins with
_LAST_STUN = 0x03  # RFC 7983: STUN begins with 0 to 3, which no HTTP method does
_HTTP_PORT = 80


def begins_stun(first: bytes) -> bool:
    return bool(first) and first[0] <= _LAST_STUN


@attrs.frozen
class TlsSide:
    """Serves TLS. `domain` is where plain http is sent whose request names no host."""

    context: Callable[[], ssl.SSLContext]
    """For the next handshake."""
    domain: str = "localhost"
    challenges: Challenges = attrs.field(factory=Challenges)

    async def secure(self, connection: trio.SocketStream) -> AnyStream:
        """The connection with TLS around it, after the handshake; as it is where STUN comes without TLS.

        Raises ClosedResourceError where all is said already: to plain http, and to who came for a challenge. Raises
        BrokenResourceError after TLS_HANDSHAKE_TIMEOUT_S.
        """
        with trio.move_on_after(TLS_HANDSHAKE_TIMEOUT_S):
            first = await connection.socket.recv(1, trio.socket.MSG_PEEK)
            if begins_stun(first):
                return connection
            if first and first[0] != _HANDSHAKE_RECORD:
                await self._answer_plain(connection)
                raise trio.ClosedResourceError("plain text on a TLS port")
            challenge = self.challenges.tls_context
            if challenge is not None and await _offered_alone(connection.socket, ACME_PROTOCOL):
                await _handshake(connection, challenge)
                raise trio.ClosedResourceError("a challenge was answered")
            return await _handshake(connection, self.context())
        raise trio.BrokenResourceError("no TLS handshake in time")

    async def _answer_plain(self, connection: trio.SocketStream) -> None:
        """Somebody typed http:// (or garbage): the way to https, in the language that they speak."""
        ends_at = trio.current_time() + TLS_HANDSHAKE_TIMEOUT_S
        try:
            head = await read_head(connection, await read_first(connection, ends_at), ends_at)
            if head is None:
                return
            challenge = self.challenges.http_answer(head.target)
            if challenge is not None:
                said = text_answer("200 OK", challenge)
            else:
                said = answer(sent_to_https(head, self.domain))
        except Refused as refused:
            said = answer(refused)
        await connection.send_all(said)
        await close_after_reading(connection)


def sent_to_https(head: Head, domain: str) -> Refused:
    """The answer to a plain request where only TLS is served: the same address with https, for what follows a way."""
    if head.method not in {b"GET", b"HEAD"} or head.wants_websocket or not head.target.startswith(b"/"):
        return Refused("400 Bad Request", "This port speaks https and wss only.")
    named = head.values(b"host")
    host_header = named[0].decode("latin-1") if named else ""
    host = host_without_port(host_header) or domain
    port = port_in_host(host_header)
    where = f"[{host}]" if ":" in host else host
    if port not in {None, _HTTP_PORT}:
        where += f":{port}"
    location = f"https://{where}{head.target.decode('latin-1')}"
    return Refused("308 Permanent Redirect", "https is spoken here.", f"Location: {location}")


async def _handshake(connection: trio.SocketStream, context: ssl.SSLContext) -> AnyStream:
    secured = trio.SSLStream(connection, context, server_side=True, https_compatible=True)
    await secured.do_handshake()
    return secured


async def _offered_alone(tcp: trio.socket.SocketType, protocol: bytes) -> bool:
    """Whether the client's first message offers nothing else (RFC 8737 section 3). It stays unread in the socket."""
    try:
        await _wait_unread(tcp, RECORD_HEADER_BYTES)
        header = await tcp.recv(RECORD_HEADER_BYTES, trio.socket.MSG_PEEK)
        await _wait_unread(tcp, record_bytes(header))
    finally:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    return alpn_protocols(await tcp.recv(MAX_RECORD_BYTES, trio.socket.MSG_PEEK)) == (protocol,)


async def _wait_unread(tcp: trio.socket.SocketType, size_bytes: int) -> None:
    """So many bytes are there, or the client sends no more."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size_bytes)
    await trio.lowlevel.wait_readable(tcp)

"""Byte streams as the door lends them out: with deadlines on sending, and a close that can be heard."""

from __future__ import annotations

from typing import Any

import trio

LINGER_S = 1.0
"""How long what a peer still sends is read and discarded after our last word: a reset would eat a close code."""

_DISCARD_BYTES = 64 * 1024

AnyStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class LentStream(trio.abc.Stream):
    """A stream for hypercorn to serve: one request and then its end; sends have a deadline, closing only marks it.

    The door keeps the real stream, and closes it in its own way when hypercorn is done. `socket` is the TCP socket
    below, for whoever asks for addresses.
    """

    def __init__(self, stream: AnyStream, request: bytes, *, send_timeout_s: float) -> None:
        self._stream = stream
        self._request = request
        self._send_timeout_s = send_timeout_s
        self._closed = False
        self._receiving: trio.CancelScope | None = None
        self._sending: trio.CancelScope | None = None
        self.socket: trio.socket.SocketType = tcp_socket(stream)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The request; then, once the client has ended the stream, nothing. What it sends until then is discarded."""
        with trio.CancelScope() as self._receiving:
            if self._closed:
                raise trio.ClosedResourceError
            if self._request:
                await trio.lowlevel.checkpoint()
                data = self._request[:max_bytes]
                self._request = self._request[len(data) :]
                return data
            while await self._stream.receive_some(_DISCARD_BYTES):
                pass
            return b""
        raise trio.ClosedResourceError

    async def send_all(self, data: Any) -> None:
        """Raises BrokenResourceError if the peer did not take it in time, as if it were gone."""
        if self._closed:
            # With a checkpoint: hypercorn goes on sending to a peer that died, and would freeze the event loop.
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError
        with trio.move_on_after(self._send_timeout_s) as self._sending:
            await self._stream.send_all(data)
        if self._sending.cancelled_caught:
            self._closed = True
            raise trio.BrokenResourceError("the peer does not read")

    def abort(self) -> None:
        """Whoever sends or receives is woken with an error, also behind a shield, as hypercorn puts around sending."""
        self._closed = True
        for scope in (self._receiving, self._sending):
            if scope is not None:
                scope.cancel()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Whoever waits to receive is woken with ClosedResourceError, as by a real stream."""
        self._closed = True
        if self._receiving is not None:
            self._receiving.cancel()
        await trio.lowlevel.checkpoint()


def tcp_socket(stream: AnyStream) -> trio.socket.SocketType:
    return stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket


async def close_after_reading(stream: AnyStream) -> None:
    """The stream is closed; what was sent before arrives, also if the peer was still sending.

    Takes LINGER_S at most. Cancelled, it closes at once. TLS ends without close_notify: HTTP and WebSocket mark their
    own ends, and a close_notify would close without reading.
    """
    tcp = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    try:
        with trio.move_on_after(LINGER_S):
            await tcp.send_eof()
            while await tcp.receive_some(_DISCARD_BYTES):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the peer was faster
    finally:
        await trio.aclose_forcefully(stream)

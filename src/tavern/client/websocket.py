"""A WebSocket whose TCP stream is surely closed."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio
from trio_websocket import HandshakeError, WebSocketConnection, wrap_client_stream

from tavern.addresses import format_socket_address

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
MAX_MESSAGE_SIZE = 16 * 1024 * 1024
"""Characters. Far above what a server sends: existing taverns may have thousands of channels."""


@asynccontextmanager
async def open_websocket(
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    extra_headers: Sequence[tuple[bytes, bytes]] = (),
    max_message_size: int = MAX_MESSAGE_SIZE,
) -> AsyncIterator[WebSocketConnection]:
    """Connected while the block runs, then closed with 1000. `url` is `ws://host:port/path` or `wss://...`.

    trio-websocket's own opener leaves the TCP stream open when the server closed first. Raises OSError,
    `trio.TooSlowError` or `trio_websocket.HandshakeError` where there is no server; ValueError for another kind of URL.
    Errors of the block come out as they are, not in groups.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or parts.hostname is None:
        raise ValueError(f"{url!r} is not a ws:// or wss:// URL")
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    failed: Exception | None = None
    with trio.fail_after(CONNECT_TIMEOUT_S):
        stream = await _open_stream(
            parts.hostname, port, ssl_context or ssl.create_default_context() if secure else None
        )
    try:
        async with trio.open_nursery() as nursery:
            try:
                with trio.fail_after(CONNECT_TIMEOUT_S):
                    host = format_socket_address(parts.hostname, port)
                    websocket = await wrap_client_stream(
                        nursery,
                        stream,
                        host,
                        resource,
                        extra_headers=list(extra_headers),
                        message_queue_size=1,
                        max_message_size=max_message_size,
                    )
                try:
                    yield websocket
                finally:
                    with trio.move_on_after(CLOSE_TIMEOUT_S):
                        await websocket.aclose()
            except Exception as error:  # noqa: BLE001  raised below, outside of the nursery that would wrap it
                failed = error
            nursery.cancel_scope.cancel()
    except* HandshakeError as group:
        # The library's reader raises it beside us, where an answer with a body is no upgrade.
        failed = group.exceptions[0]
    finally:
        await trio.aclose_forcefully(stream)
    if failed is not None:
        raise failed


async def _open_stream(
    host: str, port: int, context: ssl.SSLContext | None
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    if context is None:
        return await trio.open_tcp_stream(host, port)
    stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context, https_compatible=True)
    await stream.do_handshake()
    return stream

"""A connection without a network: the transport seam on memory, for tests of what is above it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import trio

from tavern.signaling.limits import Limit, WindowLimit
from tavern.signaling.transport import ConnectionEnded, Handle, Membership


class MemoryTransport:
    """Implements `signaling.transport.Transport`; the test is the client at the other end."""

    def __init__(self, client_host: str = "192.0.2.7", host_header: str = "localhost:3001", query: str = "") -> None:
        self.client_host = client_host
        self.host_header = host_header
        self.direct_tls = False
        self.query = query
        self.closed_by_client = False
        self.closed: tuple[int, str] | None = None
        self.congested = False
        self._to_server, self._from_client = trio.open_memory_channel[str | bytes](1000)
        self._to_client, self._from_server = trio.open_memory_channel[dict[str, Any]](1000)

    async def deliver(self, handle: Handle) -> NoReturn:
        while True:
            try:
                message = await self._from_client.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise ConnectionEnded("closed") from None
            if (wait := handle(message)) is not None:
                await wait.wait()

    def message_limit(self, per_s: int) -> Limit:
        return WindowLimit(per_s, window_s=1.0)

    def set_membership(self, membership: Membership | None) -> None:
        """It passes nothing on by itself."""

    def hold(self) -> None:
        pass

    def release(self) -> None:
        pass

    def send(self, message: bytes) -> None:
        if self.closed is None:
            self._to_client.send_nowait(json.loads(message))

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)
            self._to_client.close()
            self._from_client.close()

    def say(self, message: dict[str, Any] | str | bytes) -> None:
        """As the client: send."""
        self._to_server.send_nowait(json.dumps(message) if isinstance(message, dict) else message)

    async def hear(self, kind: str) -> dict[str, Any]:
        """As the client: the next message, which must be of this type."""
        message = await self._from_server.receive()
        assert message["type"] == kind, message
        return message

    def heard_nothing(self) -> bool:
        return self._from_server.statistics().current_buffer_used == 0

    def hang_up(self) -> None:
        """As the client: close."""
        self.closed_by_client = True
        self._to_server.close()

    def vanish(self) -> None:
        """As the network: the connection is lost."""
        self._to_server.close()

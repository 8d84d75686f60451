"""The seam to WebSockets: what signaling needs of a connection, whichever library carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from tavern.errors import RemoteError


class ConnectionEnded(RemoteError):
    """The connection is over, whoever ended it; nothing more arrives and nothing more can be sent."""


class Waits(Protocol):
    """Something to wait for, such as an event."""

    async def wait(self) -> object: ...


Handle = Callable[[str | bytes], Waits | None]
"""Deals with one message at once. What is to be waited for: nothing more is delivered, nor read, until then."""


class Transport(Protocol):
    """One client's message connection. Used from the trio thread only; its shell closes it when its handler returns."""

    @property
    def client_host(self) -> str:
        """The client's own address, also behind a trusted proxy."""

    @property
    def host_header(self) -> str:
        """The Host that the client asked for, as sent."""

    @property
    def direct_tls(self) -> bool:
        """Whether it came over TLS that ends in this server, as far as its request tells: no proxy is named in it."""

    @property
    def query(self) -> str:
        """What stands behind the `?` of the URL that the client asked for, as sent; empty where nothing does."""

    @property
    def closed_by_client(self) -> bool:
        """Whether the client ended it with a close frame; not if the connection was lost, or ended by us."""

    @property
    def congested(self) -> bool:
        """Whether half of what may wait for this client is waiting: it reads, but slower than it is sent to."""

    async def deliver(self, handle: Handle) -> NoReturn:
        """Calls `handle` with each message, in order, until the connection is over; then raises ConnectionEnded.

        What `handle` raises is raised here, and nothing more is delivered. Cancelling loses nothing that was not read.
        """

    def send(self, message: bytes) -> None:
        """Queue UTF-8 JSON as a text frame and return at once; after a close it is dropped.

        A client that does not read in time is closed with 1013: it alone.
        """

    def close(self, code: int, reason: str) -> None:
        """Send what is queued, then the close frame; returns at once. The first close wins."""

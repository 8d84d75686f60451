"""The seam to WebSockets: what signaling needs of a connection, whichever library carries it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NoReturn, Protocol

import attrs

from tavern.errors import RemoteError
from tavern.signaling.limits import Limit


class ConnectionEnded(RemoteError):
    """The connection is over, whoever ended it; nothing more arrives and nothing more can be sent."""


class Waits(Protocol):
    """Something to wait for, such as an event."""

    async def wait(self) -> object: ...


Handle = Callable[[str | bytes], Waits | None]
"""Deals with one message at once. What is to be waited for: nothing more is delivered, nor read, until then."""


@attrs.frozen(eq=False)
class Membership:
    """What a transport has to know to pass its client's messages on to others in the same channel by itself.

    Raw is what stands in JSON, as bytes, strings in their quotes.
    """

    member: object
    """Who it is; opaque."""
    group: Hashable
    """The channel; opaque. All members of it name the same one, and the same ids."""
    raw_tavern_id: bytes
    raw_channel_id: bytes
    raw_address: bytes
    """What `from` and `target` name it by. No other member of the group has it."""


class PassingObserver(Protocol):
    """Is told of what transports did by themselves, before anything else is done."""

    def passed_on(self, count: int) -> None:
        """So many messages were passed on."""

    def address_announced(self, sender: object, receiver: object, address: bytes) -> None:
        """The sender told the receiver, both of them members, of a candidate with this address (any text)."""


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

    def message_limit(self, per_s: int) -> Limit:
        """The limit of this client's messages: what is passed on without `handle` counts as well. To be asked once."""

    def set_membership(self, membership: Membership | None) -> None:
        """From now on a transport that can may itself pass on what `relaying.pass_on` would; None: nothing.

        Such messages are not delivered. Until it has one it passes nothing on.
        """

    def hold(self) -> None:
        """All messages are delivered: what was delivered before is not done with."""

    def release(self) -> None:
        """After `hold`: what comes next may be passed on again."""

    def send(self, message: bytes) -> None:
        """Queue UTF-8 JSON as a text frame and return at once; after a close it is dropped.

        A client that does not read in time is closed with 1013: it alone.
        """

    def close(self, code: int, reason: str) -> None:
        """Send what is queued, then the close frame; returns at once. The first close wins."""

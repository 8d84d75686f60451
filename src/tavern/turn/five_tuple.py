"""What one client's conversation with the server is known by (RFC 8656 §2). Pure."""

from __future__ import annotations

from enum import Enum

import attrs

from tavern.addresses import SocketAddress


class Transport(Enum):
    """How a client reaches the server; allocations over different transports are different allocations."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


@attrs.frozen(cache_hash=True)
class FiveTuple:
    """`server` is the local address that the packet came to: replies leave from it."""

    transport: Transport
    client: SocketAddress
    server: SocketAddress

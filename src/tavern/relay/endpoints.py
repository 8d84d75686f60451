"""What one flow sends through: its relay sockets, and its client's way. Linux."""

from __future__ import annotations

import socket

import attrs

from tavern.relay.client_sockets import UdpClient
from tavern.relay.stream_links import PythonStreamLink
from tavern.turn.commands import AddFlow, AddRelayedAddress
from tavern.turn.indications import SockAddr


@attrs.define(eq=False)
class Endpoint:
    """The sockets of one flow; a relay socket may be others' too."""

    relay_ipv4: socket.socket
    relay_ipv6: socket.socket
    """Where the allocation lacks a family, the other one's socket: no peer of that family is permitted."""
    client: UdpClient | PythonStreamLink

    @property
    def relays(self) -> set[socket.socket]:
        """One or two."""
        return {self.relay_ipv4, self.relay_ipv6}

    def relay_towards(self, peer: SockAddr) -> socket.socket:
        """The socket that sends to `peer`."""
        return self.relay_ipv4 if len(peer) == 2 else self.relay_ipv6

    def add(self, relay: socket.socket) -> None:
        """`relay` is the socket of its family."""
        if relay.family == socket.AF_INET:
            self.relay_ipv4 = relay
        else:
            self.relay_ipv6 = relay

    def remove(self, family: socket.AddressFamily) -> socket.socket:
        """Of two, the one of this family; it is returned."""
        relay = self.relay_ipv4 if family == socket.AF_INET else self.relay_ipv6
        self.relay_ipv4 = self.relay_ipv6 = (self.relays - {relay}).pop()
        return relay


@attrs.frozen(eq=False)
class AddRelay:
    """To the data path's thread: the command with what it is about."""

    command: AddFlow | AddRelayedAddress
    relay: socket.socket | None
    """None where the relayed address is shared."""
    link: PythonStreamLink | None
    """Of the client of a new flow, where it is one over TCP or TLS."""

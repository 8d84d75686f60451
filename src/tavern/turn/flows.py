"""What the data path knows of one allocation: permissions, channels, and the exact peers that packets name. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

from tavern.addresses import SocketAddress
from tavern.turn.claims import Claim
from tavern.turn.indications import SockAddr
from tavern.turn.metering import Account
from tavern.turn.sessions import Circles

_MAX_KNOWN_PEERS = 2048  # a permission names an IP address with 65535 ports; the cache of exact peers must not grow so

Handle = TypeVar("Handle")


@attrs.define(eq=False)
class Traffic:
    """Application data relayed since the start: packets and bytes without TURN's headers."""

    packets_from_clients: int = 0
    bytes_from_clients: int = 0
    packets_to_clients: int = 0
    bytes_to_clients: int = 0
    packets_handed_over: int = 0
    """Of those from clients: for another client of this relay, and never on the wire between."""
    bytes_handed_over: int = 0

    def add(self, flow: Flow[Handle]) -> None:
        """With what this flow relayed."""
        self.packets_from_clients += flow.packets_from_client
        self.bytes_from_clients += flow.bytes_from_client
        self.packets_to_clients += flow.packets_to_client
        self.bytes_to_clients += flow.bytes_to_client
        self.packets_handed_over += flow.packets_handed_over
        self.bytes_handed_over += flow.bytes_handed_over


@attrs.define(eq=False)
class FlowPermission:
    expires_at: float
    relayed_only: bool
    own: bool
    claimed: bool = False
    claim: Claim | None = None
    """Of a claimed address that has not spoken yet: what may leave, and what must come first."""
    known: list[SockAddr] = attrs.field(factory=list)
    """The flow's known peers that point here: they go with it."""


@attrs.define(eq=False)
class KnownPeer:
    """One exact peer of one flow: what packets from it and to it need, found with one look-up."""

    address: SockAddr
    permission: FlowPermission
    ours: bool
    """Its IP address is the relay's own: a live flow may be behind its port."""
    number: int = 0
    channel_expires_at: float = 0.0
    channel_relayed_only: bool = False


@attrs.define(eq=False)
class Flow(Generic[Handle]):
    """One allocation in the data path. `handle` is the shell's: its sockets."""

    id: int
    client_key: Hashable
    handle: Handle
    user: Hashable
    """Who shares `account`."""
    circles: Circles | None
    account: Account | None = None
    relayed_ipv4: SockAddr | None = None
    relayed_ipv6: SockAddr | None = None
    packets_from_client: int = 0
    bytes_from_client: int = 0
    packets_to_client: int = 0
    bytes_to_client: int = 0
    packets_handed_over: int = 0
    bytes_handed_over: int = 0
    permissions: dict[str, FlowPermission] = attrs.field(factory=dict)
    peers: dict[SockAddr, KnownPeer] = attrs.field(factory=dict)
    channels: dict[int, KnownPeer] = attrs.field(factory=dict)

    def reaches(self, other: Flow[Handle]) -> bool:
        """Whether their clients are with each other, as far as the control side knows."""
        mine, theirs = self.circles, other.circles
        if mine is None or theirs is None:
            return mine is theirs
        return not mine.isdisjoint(theirs)

    @property
    def relayed(self) -> tuple[SockAddr, ...]:
        """Its relayed addresses: one, or one of each family."""
        return tuple(address for address in (self.relayed_ipv4, self.relayed_ipv6) if address is not None)

    def set_relayed(self, address: SockAddr) -> None:
        """`address` is the relayed address of its family."""
        if len(address) == 2:
            self.relayed_ipv4 = address
        else:
            self.relayed_ipv6 = address

    def drop_relayed(self, address: SockAddr) -> None:
        """`address` is gone, with the permissions and channels for peers of its family."""
        size = len(address)
        if size == 2:
            self.relayed_ipv4 = None
        else:
            self.relayed_ipv6 = None
        for number in [number for number, peer in self.channels.items() if len(peer.address) == size]:
            self.unbind(number)
        for host in [host for host in self.permissions if (":" in host) == (size == 4)]:
            self.revoke(host)

    def revoke(self, host: str) -> None:
        """Packets from and to `host` pass no longer."""
        permission = self.permissions.pop(host, None)
        if permission is None:
            return
        permission.expires_at = 0.0  # peers with channels still point to it
        for address in permission.known:
            peer = self.peers.get(address)
            if peer is not None and not peer.number:
                del self.peers[address]

    def know(self, address: SockAddr, *, ours: bool) -> KnownPeer:
        """The entry of this exact peer, made if there is none; it permits nothing by itself."""
        peer = self.peers.get(address)
        if peer is None:
            if len(self.peers) >= _MAX_KNOWN_PEERS:
                self._forget_peers()
            peer = KnownPeer(address, NEVER_PERMITTED, ours)
            self.peers[address] = peer
        return peer

    def permit(self, peer: KnownPeer, permission: FlowPermission) -> None:
        """`permission` is the one of this peer; withdrawn, it takes the peer along."""
        if peer.permission is not permission:
            peer.permission = permission
            permission.known.append(peer.address)

    def unbind(self, number: int) -> None:
        """`number` stands for nobody."""
        peer = self.channels.pop(number, None)
        if peer is not None:
            peer.number = 0
            peer.channel_expires_at = 0.0
            if peer.permission.expires_at == 0.0:
                self.peers.pop(peer.address, None)

    def _forget_peers(self) -> None:
        """Those without a channel; they are known again with their next packet."""
        self.peers = {peer.address: peer for peer in self.channels.values()}
        for permission in self.permissions.values():
            permission.known = [address for address in permission.known if address in self.peers]


NEVER_PERMITTED = FlowPermission(0.0, relayed_only=True, own=False)
"""What a peer points to whose permission is not known."""


def sockaddr_of(address: SocketAddress) -> SockAddr:
    """A peer or relayed address as sockets name it."""
    host, port = address
    return (host, port, 0, 0) if ":" in host else address

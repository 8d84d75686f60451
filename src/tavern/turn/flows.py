"""What the data path knows of one allocation: permissions, channels, and the exact peers that packets name. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

from tavern.addresses import SocketAddress
from tavern.turn.checks import BINDING_REQUEST, own_fragment
from tavern.turn.claims import Claim
from tavern.turn.indications import SockAddr
from tavern.turn.metering import Account
from tavern.turn.sessions import Circles
from tavern.turn.shared_flows import SharedPort, remember

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


NEVER_PERMITTED = FlowPermission(0.0, relayed_only=True, own=False)
"""What a peer points to whose permission is not known."""

NOBODY = KnownPeer(("", 0), NEVER_PERMITTED, ours=False)
"""No packet is from or to it."""


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
    recent: KnownPeer = NOBODY
    """One of `peers`, or NOBODY. Most packets are of the one before: a look at it is less than one into a dictionary,
    whose parts are not in the CPU's cache where there are many flows."""
    shared_ipv4: SharedPort[Flow[Handle]] | None = None
    """Where its relayed address of this family is shared."""
    shared_ipv6: SharedPort[Flow[Handle]] | None = None
    is_shared: bool = False
    """Whether one of them is or was."""
    fragments: list[bytes] = attrs.field(factory=list)
    """What names it in checks: of its own ones, the last few."""
    pairs: dict[SockAddr, int] = attrs.field(factory=dict)
    """Which flow it means by a shared relayed address; one that is gone from there is nobody."""

    def reaches(self, other: Flow[Handle]) -> bool:
        """Whether their clients are with each other, as far as the control side knows."""
        mine, theirs = self.circles, other.circles
        if mine is None or theirs is None:
            return mine is theirs
        return not mine.isdisjoint(theirs)

    def permits(self, host: str, now: float) -> bool:
        """Whether packets from and to `host` pass."""
        permission = self.permissions.get(host)
        return permission is not None and permission.expires_at > now

    @property
    def relayed(self) -> tuple[SockAddr, ...]:
        """Its relayed addresses: one, or one of each family."""
        return tuple(address for address in (self.relayed_ipv4, self.relayed_ipv6) if address is not None)

    def set_relayed(self, address: SockAddr, shared: SharedPort[Flow[Handle]] | None) -> None:
        """`address` is the relayed address of its family, and that of other flows where it is `shared`."""
        if len(address) == 2:
            self.relayed_ipv4, self.shared_ipv4 = address, shared
        else:
            self.relayed_ipv6, self.shared_ipv6 = address, shared
        if shared is not None:
            self.is_shared = True
            shared.join(self)

    def shared_port(self, peer: SockAddr) -> SharedPort[Flow[Handle]] | None:
        """The shared port that packets to `peer` leave from."""
        return self.shared_ipv4 if len(peer) == 2 else self.shared_ipv6

    def drop_relayed(self, address: SockAddr) -> None:
        """`address` is gone, with the permissions and channels for peers of its family, and what it owned there."""
        size = len(address)
        for number in [number for number, peer in self.channels.items() if len(peer.address) == size]:
            self.unbind(number)
        for host in [host for host in self.permissions if (":" in host) == (size == 4)]:
            self.revoke(host)
        shared = self.shared_port(address)
        if shared is not None:
            shared.leave(self)
        if size == 2:
            self.relayed_ipv4 = self.shared_ipv4 = None
        else:
            self.relayed_ipv6 = self.shared_ipv6 = None

    def notice_check(self, payload: bytes) -> None:
        """If `payload` is a check of the client's, what names its sender there names this flow from now on."""
        if payload[:2] != BINDING_REQUEST:
            return
        fragment = own_fragment(payload)
        if fragment is None or (self.fragments and self.fragments[-1] == fragment):
            return
        forgotten = remember(self.fragments, fragment)
        for shared in (self.shared_ipv4, self.shared_ipv6):
            if shared is not None:
                shared.add_fragment(self, fragment)
                if forgotten is not None:
                    shared.drop_fragment(self, forgotten)

    def revoke(self, host: str) -> None:
        """Packets from and to `host` pass no longer."""
        permission = self.permissions.pop(host, None)
        if permission is None:
            return
        permission.expires_at = 0.0  # peers with channels still point to it
        for address in permission.known:
            peer = self.peers.get(address)
            if peer is not None and not peer.number:
                self.forget(address)

    def recall(self, address: SockAddr) -> KnownPeer | None:
        """The entry of this exact peer, which is the recent one now; None if there is none."""
        peer = self.peers.get(address)
        if peer is not None:
            self.recent = peer
        return peer

    def make_room(self) -> None:
        """There is place for one more known peer; those without a channel may have gone for it."""
        if len(self.peers) < _MAX_KNOWN_PEERS:
            return
        for address in [peer.address for peer in self.peers.values() if not peer.number]:
            self.forget(address)
        for permission in self.permissions.values():
            permission.known = [address for address in permission.known if address in self.peers]

    def forget(self, address: SockAddr) -> None:
        """This exact peer is not known, and another flow of the port may own it."""
        if self.peers.pop(address, None) is None:
            return
        self.recent = NOBODY
        shared = self.shared_port(address)
        if shared is not None:
            shared.release(address, self)

    def forget_host(self, host: str) -> None:
        """No permission, channel or exact peer of `host` is left."""
        for number in [number for number, peer in self.channels.items() if peer.address[0] == host]:
            self.unbind(number)
        self.revoke(host)
        for address in [address for address in self.peers if address[0] == host]:
            self.forget(address)

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
                self.forget(peer.address)


def sockaddr_of(address: SocketAddress) -> SockAddr:
    """A peer or relayed address as sockets name it."""
    host, port = address
    return (host, port, 0, 0) if ":" in host else address

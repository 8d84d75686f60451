"""One client's allocation: its permissions and channels by absolute expiry (RFC 8656 §3.2, §9, §12). Pure."""

from __future__ import annotations

from ipaddress import ip_address

import attrs

from tavern.addresses import IPAddress, SocketAddress
from tavern.stun.attributes import AddressFamily, family_of
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.sessions import Owner
from tavern.turn.shared_ports import SharedPort

DEFAULT_LIFETIME_S = 600  # RFC 8656 §3.2
MAX_LIFETIME_S = 3600
PERMISSION_LIFETIME_S = 300  # RFC 8656 §9
CHANNEL_LIFETIME_S = 600  # RFC 8656 §12
NEVER = float("inf")
FIRST_CHANNEL = 0x4000
# RFC 8656 §12 ends at 0x4FFF, RFC 5766 did at 0x7FFF, and clients of that age (coturn's own test client) still draw
# from all of it. Nothing else of theirs on this five-tuple begins with these bytes, so granting them is harmless.
LAST_CHANNEL = 0x7FFF
# Exact peers that one permission names on a shared port; a browser's candidates at one address are a few.
MAX_EXACT_PORTS = 64


@attrs.define
class Permission:
    """Data from and to one IP address passes until `expires_at`."""

    expires_at: float
    own: bool
    """The address is this machine's, as far as the data path knows."""
    claimed: bool
    """Only what members of the call announce justifies it."""
    exact_ports: frozenset[int] = frozenset()
    """Of its address: on a shared relayed address, what comes from there is this allocation's."""


@attrs.define
class Channel:
    """A number that stands for `peer` until `expires_at`."""

    peer: SocketAddress
    expires_at: float


QuotaKey = Owner | tuple[bytes, str]
"""Who allocations are counted for: the owner, else the user and the client's address or /64.

Not the username, of which everyone gets a new one whenever they ask; and with the address, since a client may
compute the same user for everyone.
"""


@attrs.define(eq=False)
class RelayedAddress:
    """A relayed transport address of an allocation, which holds its port until `expires_at`."""

    address: SocketAddress
    expires_at: float
    shared: SharedPort | None = None
    """Where other allocations have the address, too."""


@attrs.define(eq=False)
class Allocation:
    """What the server granted to one five-tuple. `id` is also the flow's in the data path.

    A dual allocation has a relayed address of each family, which expire apart (RFC 8656 §7, §8).
    """

    id: int
    five_tuple: FiveTuple
    username: bytes
    key: bytes = attrs.field(repr=False)
    quota_key: QuotaKey
    relayed: dict[AddressFamily, RelayedAddress]
    owner: Owner | None
    """Whose sessions decide what it reaches; None: the general policy."""
    client_is_own: bool
    """The client's address is this machine's."""
    create_transaction_id: bytes
    """Of the Allocate that made it: retransmitted, it gets `create_response` again and never 437 (§7.2)."""
    create_response: bytes = attrs.field(default=b"", repr=False)
    permissions: dict[IPAddress, Permission] = attrs.field(factory=dict)
    channels: dict[int, Channel] = attrs.field(factory=dict)
    channel_of: dict[SocketAddress, int] = attrs.field(factory=dict)
    channels_at: dict[str, set[int]] = attrs.field(factory=dict)
    """The numbers of all channels to one host: they may outlive its permission."""
    none_expires_before: float = NEVER
    """No permission and no channel does."""

    @property
    def expires_at(self) -> float:
        """When the first of its relayed addresses expires."""
        return min(relayed.expires_at for relayed in self.relayed.values())

    def drop_expired(self, now: float) -> tuple[list[IPAddress], list[int]]:
        """Forgets the permissions and channels that have expired, and returns them (addresses, numbers)."""
        if now < self.none_expires_before:
            return [], []
        hosts = [address for address, permission in self.permissions.items() if permission.expires_at <= now]
        for address in hosts:
            self.revoke(address)
        numbers = [number for number, channel in self.channels.items() if channel.expires_at <= now]
        for number in numbers:
            self.unbind(number)
        self.none_expires_before = min(
            min((permission.expires_at for permission in self.permissions.values()), default=NEVER),
            min((channel.expires_at for channel in self.channels.values()), default=NEVER),
        )
        return hosts, numbers

    def drop_family(self, family: AddressFamily) -> None:
        """Forgets the permissions and channels for peers of this family (RFC 8656 §8.1)."""
        for number in [number for number, one in self.channels.items() if family_of(ip_address(one.peer[0])) is family]:
            self.unbind(number)
        for host in [host for host in self.permissions if family_of(host) is family]:
            self.revoke(host)

    def bind(self, number: int, channel: Channel) -> None:
        """`number` stands for the channel's peer. Neither may be bound elsewhere."""
        self.channels[number] = channel
        self.channel_of[channel.peer] = number
        self.channels_at.setdefault(channel.peer[0], set()).add(number)

    def unbind(self, number: int) -> None:
        """`number` stands for nobody."""
        channel = self.channels.pop(number)
        del self.channel_of[channel.peer]
        numbers = self.channels_at[channel.peer[0]]
        numbers.discard(number)
        if not numbers:
            del self.channels_at[channel.peer[0]]
        self._release(channel.peer)

    def revoke(self, host: IPAddress) -> None:
        """There is no permission for `host`; exact peers that it named are free, unless a channel stands for them."""
        permission = self.permissions.pop(host)
        for port in permission.exact_ports:
            self._release((str(host), port))

    def name_exact(self, host: IPAddress, port: int) -> bool:
        """The permission for `host` names this peer, which is the allocation's; False if it names too many already."""
        permission = self.permissions[host]
        if port not in permission.exact_ports and len(permission.exact_ports) >= MAX_EXACT_PORTS:
            return False
        permission.exact_ports |= {port}
        self.own((str(host), port))
        return True

    def own(self, peer: SocketAddress) -> None:
        """What comes from `peer` is the allocation's while a permission or channel of it names the peer."""
        shared = self._shared_towards(peer)
        if shared is not None:
            shared.owners[peer] = self.id

    def shared_port(self, peer: IPAddress) -> SharedPort | None:
        """The shared port that leads to `peer`."""
        relayed = self.relayed.get(family_of(peer))
        return None if relayed is None else relayed.shared

    def _shared_towards(self, peer: SocketAddress) -> SharedPort | None:
        relayed = self.relayed.get(AddressFamily.IPV6 if ":" in peer[0] else AddressFamily.IPV4)
        return None if relayed is None else relayed.shared

    def _release(self, peer: SocketAddress) -> None:
        shared = self._shared_towards(peer)
        if shared is None or peer in self.channel_of:
            return
        permission = self.permissions.get(ip_address(peer[0]))
        if permission is None or peer[1] not in permission.exact_ports:
            shared.release(peer, self.id)


def granted_lifetime_s(asked_s: int | None) -> int:
    """LIFETIME for an Allocate or a Refresh that keeps the allocation (RFC 8656 §7.2)."""
    return DEFAULT_LIFETIME_S if asked_s is None else max(DEFAULT_LIFETIME_S, min(asked_s, MAX_LIFETIME_S))

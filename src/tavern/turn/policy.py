"""Where the relay may send: one function decides, for CreatePermission, ChannelBind and so for every packet. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import attrs

from tavern.addresses import IPAddress

Network = IPv4Network | IPv6Network

# What is not global unicast (the registries of RFC 6890): nobody's peer, but maybe somebody's inner network.
_DENIED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",  # clouds answer with credentials on 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation, as are 198.51.100 and 203.0.113
        "192.88.99.0/24",  # was the nearest 6to4 gateway's
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",  # with 255.255.255.255
    )
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")  # all else is unspecified, loopback, link-local, unique local or multicast
_DENIED_GLOBAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols' own: benchmarks, ORCHID. Teredo is judged by what is inside it.
        "2001:db8::/32",  # documentation, as is 3fff::/20
        "3fff::/20",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = IPv6Network("::/96")
_ISATAP_INTERFACES = frozenset({0x00005EFE, 0x02005EFE})  # RFC 5214 §6.1: before the IPv4 address


class Verdict(Enum):
    """What the policy says of a peer's IP address."""

    DENIED = "denied"
    RELAYED_ONLY = "relayed only"
    """An address of ours: only the ports that are relayed addresses of live allocations are peers."""
    ALLOWED_OWN = "allowed, our own"
    """An address of this machine that the operator allows: every port but those that the relay listens on."""
    ALLOWED = "allowed"


OWN = frozenset({Verdict.RELAYED_ONLY, Verdict.ALLOWED_OWN})
"""This machine's addresses, among those that are not denied."""


@attrs.frozen(kw_only=True)
class PeerPolicy:
    """The operator's and this machine's part of the decision."""

    advertised_addresses: frozenset[IPAddress]
    """What relayed addresses carry."""
    local_addresses: frozenset[IPAddress] = frozenset()
    """The addresses of this machine's interfaces: its own services are not peers."""
    allow_peers: tuple[Network, ...] = ()
    """The operator's ranges: they win over every denial but those of `deny_peers` and `listener_ports`."""
    deny_peers: tuple[Network, ...] = ()
    """The operator's ranges that are nobody's peers, whatever else is said of them."""
    is_local: Callable[[IPAddress], bool]
    """Asks the kernel whether an address is this machine's own, listed by an interface or not."""
    listener_ports: frozenset[int] = frozenset()
    """Where the relay itself listens: no peers on this machine, whatever the operator allows.

    One would make the relay its own client, and two of its allocations each other's, between which packets circle.
    """

    def judge(self, peer: IPAddress, *, others_live: bool) -> Verdict:
        """Whether the relay may send to `peer`. `others_live`: other allocations live, which may be the peer."""
        judged = embedded_addresses(peer)
        if any(address in network for address in (peer, *judged) for network in self.deny_peers):
            return Verdict.DENIED
        if peer in self.advertised_addresses and not self._is_listed(peer):
            return Verdict.RELAYED_ONLY if others_live else Verdict.DENIED
        if not all(self._is_listed(address) or _is_global(address) for address in judged):
            return Verdict.DENIED
        # The kernel is asked last: only about what would be a peer otherwise.
        own = [address for address in judged if self.is_own(address)]
        if not own:
            return Verdict.ALLOWED
        return Verdict.ALLOWED_OWN if all(map(self._is_listed, own)) else Verdict.DENIED

    def _is_listed(self, address: IPAddress) -> bool:
        return any(address in network for network in self.allow_peers)

    def is_own(self, address: IPAddress) -> bool:
        """Whether `address` is one of this machine's, or leads to it."""
        return address in self.local_addresses or address in self.advertised_addresses or self.is_local(address)


def _is_global(address: IPAddress) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DENIED_IPV4)
    return address in _GLOBAL_IPV6 and not any(address in network for network in _DENIED_GLOBAL_IPV6)


def embedded_addresses(address: IPAddress) -> tuple[IPAddress, ...]:
    """The addresses that a packet to `address` may end up at: the IPv4 ones inside it, else itself.

    Without this, `2002:7f00:1::` or `64:ff9b::10.0.0.1` would lead past the deny list through a gateway, and so would
    an operator's range that holds the address around. Teredo holds two: its server and the client's NAT. ISATAP's
    outer address counts too: the packet crosses the internet to it first.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address.is_unspecified or address.is_loopback:
        return (address,)  # in ::/96, but not IPv4-compatible (RFC 4291 §2.5)
    last_32_bits = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return (last_32_bits,)
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP_INTERFACES:
        return address, last_32_bits
    return (address,)

"""Where the relay may send: one function decides, for CreatePermission, ChannelBind and so for every packet. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import attrs

from tavern.addresses import IPAddress

Network = IPv4Network | IPv6Network

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
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",  # with 255.255.255.255
    )
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")  # all else is unspecified, loopback, link-local, unique local or multicast
_NAT64 = IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = IPv6Network("::/96")


class Verdict(Enum):
    """What the policy says of a peer's IP address."""

    DENIED = "denied"
    RELAYED_ONLY = "relayed only"
    """An address of ours: only the ports that are relayed addresses of live allocations are peers."""
    ALLOWED = "allowed"


@attrs.frozen(kw_only=True)
class PeerPolicy:
    """The operator's and this machine's part of the decision."""

    advertised_addresses: frozenset[IPAddress]
    """What relayed addresses carry."""
    local_addresses: frozenset[IPAddress] = frozenset()
    """The addresses of this machine's interfaces: its own services are not peers."""
    allow_peers: tuple[Network, ...] = ()
    """The operator's ranges: they win over every denial."""
    is_local: Callable[[IPAddress], bool]
    """Asks the kernel whether an address is this machine's own, listed by an interface or not."""
    listener_ports: frozenset[int] = frozenset()
    """Where the relay itself listens: no peers on this machine, whatever the operator allows."""

    def judge(self, peer: IPAddress, *, others_live: bool) -> Verdict:
        """Whether the relay may send to `peer`. `others_live`: other allocations live, which may be the peer."""
        judged = embedded_addresses(peer)
        if self._is_allowed(peer) or all(map(self._is_allowed, judged)):
            return Verdict.ALLOWED
        if peer in self.advertised_addresses:
            return Verdict.RELAYED_ONLY if others_live else Verdict.DENIED
        if any(self._is_denied(address) for address in judged):
            return Verdict.DENIED
        return Verdict.ALLOWED

    def _is_allowed(self, address: IPAddress) -> bool:
        return any(address in network for network in self.allow_peers)

    def _is_denied(self, address: IPAddress) -> bool:
        if address in self.local_addresses or address in self.advertised_addresses:
            return True
        if isinstance(address, IPv4Address):
            return any(address in network for network in _DENIED_IPV4) or self.is_local(address)
        return address not in _GLOBAL_IPV6 or self.is_local(address)


def embedded_addresses(address: IPAddress) -> tuple[IPAddress, ...]:
    """The addresses that a packet to `address` may end up at: the IPv4 ones inside it, else itself.

    Without this, `2002:7f00:1::` or `64:ff9b::10.0.0.1` would lead past the deny list through a gateway. Teredo holds
    two: its server and the client's NAT.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return (address,)

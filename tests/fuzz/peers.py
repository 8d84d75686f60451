"""Peers that clients name, and which of them no packet may reach: decided by other means than the server's own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from tavern.turn.policy import Network
from tests.turn.conftest import SERVER

OWN = ("198.51.100.1", "2001:db8::1")
"""What relayed addresses carry."""
KERNELS_OWN = "9.9.9.9"
"""This machine's, although no interface lists it."""
HOSTS = (
    "9.9.2.1",
    "9.9.2.2",
    "9.8.7.6",
    "2001:4860::9",
    *OWN,
    KERNELS_OWN,
    "10.0.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "203.0.113.7",
    "255.255.255.255",
    "::1",
    "fd00::1",
    "::ffff:10.0.0.1",
    "::ffff:9.9.2.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
    "2001:0:909:909::f5ff:fffe",
    "2001:4860::5efe:10.0.0.1",
)
PORTS = (5000, 5001, *range(50000, 50010), SERVER[1], 0)

Networks = tuple[Network, ...]

_IPV4_IN_THE_LAST_BITS = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"), IPv6Network("::ffff:0:0/96"))
_6TO4 = b"\x20\x02"
_TEREDO = b"\x20\x01\x00\x00"
_ISATAP = b"\x00\x5e\xfe"


def is_forbidden(host: str, allowed: Networks = (), denied: Networks = ()) -> bool:
    """Whether no packet may leave to `host`, where the operator lists these networks."""
    address = ip_address(host)
    if any(address in network for network in denied):
        return True
    if any(address in network for network in allowed):
        return False
    if host in (*OWN, KERNELS_OWN) or address.is_multicast:
        return True
    if isinstance(address, IPv6Address) and not (address.is_loopback or address.is_unspecified):
        packed = address.packed
        last = str(IPv4Address(packed[12:]))
        if any(address in network for network in _IPV4_IN_THE_LAST_BITS):
            return is_forbidden(last, allowed, denied)
        if packed.startswith(_6TO4):
            return is_forbidden(str(IPv4Address(packed[2:6])), allowed, denied)
        if packed.startswith(_TEREDO):
            client, server = IPv4Address(int(IPv4Address(packed[12:])) ^ 0xFFFFFFFF), IPv4Address(packed[4:8])
            return any(is_forbidden(str(one), allowed, denied) for one in (client, server))
        if packed[9:12] == _ISATAP and is_forbidden(last, allowed, denied):
            return True
    return not address.is_global

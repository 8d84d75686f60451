"""The addresses that a peer says it has, read from the offers, answers and candidates that it sends. Pure.

Clients put SDP (RFC 8839), JSON around SDP, or JSON around a candidate in there, which we pass on as it is. A
candidate's grammar is the same in all of them, so that it is looked for wherever it stands.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from tavern.addresses import IPAddress, unmapped

# RFC 8839 §5.1: foundation, component, transport, priority, address. Names (`.local`) do not match, TCP does not count.
# It begins with plain letters on purpose: what does so is looked for at the speed of memory.
_CANDIDATE = re.compile(
    rb"candidate:[\w+/]{1,32} \d{1,5} (?i:udp) \d{1,10} ([0-9A-Fa-f.:]{2,45}) \d{1,5} typ ", re.ASCII
)
_MAX_CANDIDATES = 256  # of one message; a browser with a dozen interfaces makes some 100


def announced_addresses(content: bytes) -> frozenset[IPAddress]:
    """The IP addresses of the UDP candidates in a valid JSON string; what is none, or is malformed, is left out."""
    if b"\\/" in content or b"\\u" in content:
        # Nothing in a candidate has to be escaped; who does it all the same is understood, at the price of a copy.
        content = msgspec.json.decode(content, type=str).encode()
    if b"candidate:" not in content:
        return frozenset()
    addresses = set()
    for count, match in enumerate(_CANDIDATE.finditer(content)):
        if count == _MAX_CANDIDATES:
            break
        address = read_address(match[1])
        if address is not None:
            addresses.add(address)
    return frozenset(addresses)


@lru_cache(maxsize=4096)  # the same few again and again, in each of a client's candidates
def read_address(text: bytes) -> IPAddress | None:
    """The address that a candidate has here, if it is one."""
    try:
        return unmapped(ip_address(text.decode()))
    except ValueError:
        return None

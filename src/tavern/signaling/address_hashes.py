"""What is stored instead of clients' addresses. Pure."""

from __future__ import annotations

import hashlib
import hmac

from tavern.addresses import source_key

_PURPOSE = b"tavern-address-v1\n"
_DIGITS = 32


def address_hash(secret: bytes, host: str) -> str:
    """Equal for one IPv4 address or one IPv6 /64; tells nothing to who has the database and not the secret."""
    return hmac.new(secret, _PURPOSE + source_key(host).encode(), hashlib.sha256).hexdigest()[:_DIGITS]

"""MESSAGE-INTEGRITY, FINGERPRINT and the long-term key (RFC 8489 §9.2.2, §14.5, §14.7). Pure."""

from __future__ import annotations

import hashlib
import hmac
import zlib

INTEGRITY_SIZE = 20
FINGERPRINT_SIZE = 4
_ATTRIBUTE_HEADER_SIZE = 4
_FINGERPRINT_MASK = 0x5354554E


def long_term_key(username: bytes, realm: bytes, password: bytes) -> bytes:
    """The 16-byte key of the long-term mechanism: MD5(username:realm:password). The arguments are SASLprepped UTF-8."""
    digest = hashlib.md5(usedforsecurity=False)  # RFC 8489 §9.2.2 knows no other for MESSAGE-INTEGRITY
    digest.update(b":".join((username, realm, password)))
    return digest.digest()


def integrity_of(before: bytes, key: bytes) -> bytes:
    """The MESSAGE-INTEGRITY value (20 bytes) of a message whose bytes before that attribute are `before`.

    The header's length is taken as if the message ended with the attribute, whatever `before` says.
    """
    return hmac.digest(key, _with_length(before, INTEGRITY_SIZE), "sha1")


def fingerprint_of(before: bytes) -> bytes:
    """The FINGERPRINT value (4 bytes) of a message whose bytes before that attribute are `before`."""
    return (zlib.crc32(_with_length(before, FINGERPRINT_SIZE)) ^ _FINGERPRINT_MASK).to_bytes(4, "big")


def _with_length(before: bytes, value_size: int) -> bytes:
    length = len(before) - 20 + _ATTRIBUTE_HEADER_SIZE + value_size
    return before[:2] + length.to_bytes(2, "big") + before[4:]

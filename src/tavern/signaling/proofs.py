"""Proof that a client holds the key it names: an Ed25519 signature (RFC 8032) of a statement of its own kind. Pure.

The statement names its purpose, so that no signature given for anything else fits; the server, so that a server that
somebody trusts less cannot pass it on to another one (the client checks that it is the host it dialed); the connection
and a nonce of ours, so that it is worth nothing anywhere else or later.
"""

from __future__ import annotations

import re

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NONCE_LIFETIME_S = 60.0
"""A person may have to unlock a key first."""

_PURPOSE = "tavern-identity-proof-v1"
_KEY = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")

_FIELD_PRIME = 2**255 - 19
_ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_8_Y, _FIELD_PRIME - _ORDER_8_Y})
"""y of the eight points of small order (order 1, 2, 4, 8): signatures under such a key fit almost anything."""


def is_verifiable_key(text: str) -> bool:
    """Whether this can be proven: 64 lower-case hexadecimal digits of a public key, in its one canonical form."""
    if not _KEY.fullmatch(text):
        return False
    y = int.from_bytes(bytes.fromhex(text), "little") & (2**255 - 1)
    return y < _FIELD_PRIME and y not in _SMALL_ORDER_Y


def proof_statement(server: str, connection: str, nonce: str) -> bytes:
    """What is signed; none of the three holds a line break."""
    return "\n".join((_PURPOSE, server, connection, nonce)).encode()


def verify_proof(public_key_hex: str, signature_hex: str, statement: bytes) -> bool:
    """Whether the holder of this key signed the statement. False for whatever is malformed; raises nothing."""
    if not is_verifiable_key(public_key_hex) or not _SIGNATURE.fullmatch(signature_hex):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex))
        key.verify(bytes.fromhex(signature_hex), statement)
    except (InvalidSignature, ValueError):
        return False
    return True


@attrs.define(eq=False)
class Challenge:
    """The nonce that one connection may sign: the newest, once, within a minute."""

    _nonce: str | None = None
    _ends_at: float = 0.0

    def issue(self, now: float, random_bytes: bytes) -> str:
        """A new nonce in hexadecimal; the former one is dead."""
        self._nonce = random_bytes.hex()
        self._ends_at = now + NONCE_LIFETIME_S
        return self._nonce

    def take(self, now: float) -> str | None:
        """The nonce, which is used up thereby; None where there is none any more."""
        nonce, self._nonce = self._nonce, None
        return nonce if now < self._ends_at else None

"""A peer's own key pair: what it proves who it is with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tavern.signaling.messages import Identity
from tavern.signaling.proofs import proof_statement

_FILE_TYPE = "tavern-keypair-export"
_MAX_FILE_BYTES = 16 * 1024
"""Some 400 bytes are written; more is no key file."""


class Keypair:
    """An Ed25519 key pair (RFC 8032). Its private half leaves only into a file that `save` is asked for."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private = private_key
        self.public_key_hex = private_key.public_key().public_bytes_raw().hex()
        """64 lower-case hexadecimal digits."""

    @classmethod
    def generate(cls) -> Keypair:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Keypair:
        """From the private key's 32 bytes. Raises ValueError for another number."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> Keypair:
        """From a `.tavern-key` file, as clients export it. Raises OSError, and ValueError for what is none."""
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        try:
            exported: Any = json.loads(content)
            if len(content) > _MAX_FILE_BYTES or (exported["version"], exported["type"]) != (1, _FILE_TYPE):
                raise ValueError("of another version or type")
            private = serialization.load_der_private_key(bytes.fromhex(exported["privateKeyHex"]), password=None)
            if not isinstance(private, Ed25519PrivateKey):
                raise ValueError("of another kind of key")  # noqa: TRY004  the file is wrong, no type of ours
            pair = cls(private)
            if pair.public_key_hex != exported["publicKeyHex"]:
                raise ValueError("its two keys do not belong together")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no exported Tavern key ({error})") from None
        return pair

    def save(self, path: Path) -> None:
        """Into a new `.tavern-key` file that only its owner may read (0600). Raises OSError, also where one is."""
        private = self._private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        exported = {
            "version": 1,
            "type": _FILE_TYPE,
            "publicKeyHex": self.public_key_hex,
            "privateKeyHex": private.hex(),
            "exportedAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(json.dumps(exported, indent=2) + "\n", encoding="utf-8")

    @property
    def tag(self) -> str:
        """What people see beside a name: `TVN-xxxx-xxxx`."""
        return f"TVN-{self.public_key_hex[:4]}-{self.public_key_hex[4:8]}"

    def identity(self, display_name: str | None = None) -> Identity:
        """Who joins channels with this key."""
        return Identity(publicKeyHex=self.public_key_hex, tag=self.tag, displayName=display_name)

    def sign(self, data: bytes) -> str:
        """128 hexadecimal digits. Whoever signs anything but statements of his own making gives his name away."""
        return self._private.sign(data).hex()

    def prove(self, server: str, connection: str, nonce: str) -> str:
        """The signature that proves this key to that server on that connection."""
        return self.sign(proof_statement(server, connection, nonce))

    def __repr__(self) -> str:
        return f"<Keypair {self.tag}>"

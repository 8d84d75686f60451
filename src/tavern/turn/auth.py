"""Who may use the relay: time-limited credentials and stateless nonces (RFC 8489 §9.2, TURN REST API). Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import attrs

from tavern.addresses import SocketAddress
from tavern.stun.integrity import long_term_key
from tavern.stun.message import AttributeType, Message
from tavern.turn.sessions import Owner

MAX_USERNAME_BYTES = 508  # RFC 8489 §14.3: less than 509
NONCE_LIFETIME_S = 3600  # RFC 8489 §9.2: at most an hour, or a sniffed request could be replayed for longer
NONCE_SIZE = 24  # bytes of text: 18 bytes in base64. Small, since it goes to who did not prove its address.
_NONCE_TAG_SIZE = 14  # 112 bits beside 4 bytes of time
_USERNAME = re.compile(rb"(\d{1,12})(?::.*)?", re.DOTALL)


@attrs.frozen
class Credential:
    """What a client signs its requests with. Valid for new allocations until `expires_at` (Unix seconds)."""

    username: str
    password: str = attrs.field(repr=False)
    expires_at: int


@attrs.frozen
class Identity:
    """A request's proven user: it was signed with `key`, which belongs to `username`."""

    username: bytes
    key: bytes = attrs.field(repr=False)
    expires_at: int
    """Unix seconds; from then on the username makes no new allocation."""
    legacy: bool = False
    """It was signed with the secret that old clients carry, and everybody knows."""
    owner: Owner | None = None
    """Whose allocations it makes, where it belongs to sessions."""

    @property
    def user(self) -> bytes:
        """Who that is, whenever the credential was made: the username after its first colon, or all of it."""
        _, colon, user = self.username.partition(b":")
        return user if colon else self.username


class Credentials:
    """Mints and verifies `<unix expiry>[:id]` with password base64(HMAC-SHA1(secret, username)).

    The first of `secrets` mints; all of them verify, so that one can be rotated without ending calls.
    """

    def __init__(self, realm: str, secrets: tuple[str, ...], legacy_secret: str | None = None) -> None:
        """`legacy_secret` verifies too: everybody knows it, so the identity says that it did."""
        assert secrets, "a relay without a secret is open to everyone"
        assert legacy_secret not in secrets
        self._realm = realm.encode()
        self._secrets = tuple(secret.encode() for secret in secrets)
        self._verifying = [(secret, False) for secret in self._secrets]
        if legacy_secret is not None:
            self._verifying.append((legacy_secret.encode(), True))

    def mint(self, user_id: str, lifetime_s: int, unix_time_s: float) -> Credential:
        """A credential for `lifetime_s` seconds from now. ValueError if `user_id` makes the username too long."""
        expires_at = int(unix_time_s) + lifetime_s
        username = f"{expires_at}:{user_id}" if user_id else str(expires_at)
        if len(username.encode()) > MAX_USERNAME_BYTES:
            raise ValueError(f"user id of {len(user_id)} characters: a username has at most {MAX_USERNAME_BYTES} bytes")
        password = _password(self._secrets[0], username.encode()).decode()
        return Credential(username=username, password=password, expires_at=expires_at)

    def identify(self, message: Message) -> Identity | None:
        """The user that signed `message` with a password of ours, expired or not; None for every other cause."""
        username = message.get(AttributeType.USERNAME)
        if username is None or len(username) > MAX_USERNAME_BYTES:
            return None
        match = _USERNAME.fullmatch(username)
        if match is None:
            return None
        for secret, legacy in self._verifying:
            key = long_term_key(username, self._realm, _password(secret, username))
            if message.is_signed_with(key):
                return Identity(username=username, key=key, expires_at=int(match[1]), legacy=legacy)
        return None


def _password(secret: bytes, username: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret, username, "sha1"))


class Nonces:
    """Nonces without memory: the time and a MAC over time and client address, under a key made at start-up."""

    def __init__(self, key: bytes) -> None:
        assert 16 <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE
        self._key = key

    def issue(self, client: SocketAddress, now: float) -> bytes:
        """A nonce of `NONCE_SIZE` printable bytes for this client address and port, good for an hour from `now`."""
        stamp = (int(now) & 0xFFFFFFFF).to_bytes(4, "big")
        return self._nonce(stamp, client)

    def accepts(self, nonce: bytes, client: SocketAddress, now: float) -> bool:
        """Whether `nonce` was issued here, to this client, within the last hour. Never raises."""
        if len(nonce) != NONCE_SIZE:
            return False
        try:
            decoded = base64.b64decode(nonce, altchars=b"-_", validate=True)
        except ValueError:
            return False
        stamp = decoded[:4]
        # The text is compared and not what it decodes to: other letters decode to the same.
        if not hmac.compare_digest(nonce, self._nonce(stamp, client)):
            return False
        return 0 <= int(now) - int.from_bytes(stamp, "big") <= NONCE_LIFETIME_S

    def _nonce(self, stamp: bytes, client: SocketAddress) -> bytes:
        return base64.urlsafe_b64encode(stamp + self._tag(stamp, client))

    def _tag(self, stamp: bytes, client: SocketAddress) -> bytes:
        host, port = client
        # Keyed BLAKE2b (RFC 7693): only this server reads it, and it takes a third of the time of an HMAC.
        signed = stamp + port.to_bytes(2, "big") + host.encode()
        return hashlib.blake2b(signed, key=self._key, digest_size=_NONCE_TAG_SIZE).digest()

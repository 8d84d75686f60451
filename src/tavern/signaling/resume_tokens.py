"""Signed, short-lived tokens with which a client comes back to its place, also after the server was restarted. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict

import attrs
import msgspec

from tavern.signaling.messages import Identity

MAX_TOKEN_LENGTH = 4096
"""Characters: the longest names, four bytes each, escaped and in base64, are some 3,000."""

MAX_SPENT = 4096
"""Tokens of former runs that were used. Whoever makes so many within a minute can come back twice as himself."""

_PURPOSE = b"tavern-resume-token-v1\n"
_TAG_BYTES = 32


@attrs.frozen(kw_only=True)
class ResumeClaims:
    """What a token says. `channel_id` is where its client was when it was issued."""

    run_id: str
    """The run of the server that issued it."""
    peer_id: str
    counter: int
    expires_at: int
    """Seconds since 1970."""
    tavern_id: str
    channel_id: str
    identity: Identity
    verified: bool
    """Whether the identity's key was proven."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ResumeClaims)


class ResumeTokens:
    """Issues tokens and reads them. `run_id` is this run's; `secret` outlives it."""

    def __init__(self, secret: bytes, run_id: str) -> None:
        self.run_id = run_id
        self._secret = secret

    def issue(self, claims: ResumeClaims) -> str:
        """URL-safe text of at most MAX_TOKEN_LENGTH characters."""
        payload = _encoder.encode(claims)
        return base64.urlsafe_b64encode(self._tag(payload) + payload).decode().rstrip("=")

    def read(self, token: str, now_unix_s: float) -> ResumeClaims | None:
        """What the token claims; None if it is malformed, not ours, or over."""
        if len(token) > MAX_TOKEN_LENGTH:
            return None
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        tag, payload = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(payload)):
            return None
        try:
            claims: ResumeClaims = _decoder.decode(payload)
        except msgspec.MsgspecError:  # of another version of ours
            return None
        return claims if now_unix_s < claims.expires_at else None

    def _tag(self, payload: bytes) -> bytes:
        return hmac.new(self._secret, _PURPOSE + payload, hashlib.sha256).digest()


class SpentTokens:
    """Which clients of former runs have come back: each does once."""

    def __init__(self, max_spent: int = MAX_SPENT) -> None:
        self._max_spent = max_spent
        self._spent: OrderedDict[tuple[str, str], None] = OrderedDict()

    def spend(self, claims: ResumeClaims) -> bool:
        """Whether it is the first time."""
        key = (claims.run_id, claims.peer_id)
        if key in self._spent:
            return False
        self._spent[key] = None
        if len(self._spent) > self._max_spent:
            self._spent.popitem(last=False)
        return True

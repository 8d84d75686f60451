"""What a certificate authority asks of this server to see that a name is its own (RFC 8555 section 8, RFC 8737)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

ACME_PROTOCOL = b"acme-tls/1"
_HTTP_PATH = b"/.well-known/acme-challenge/"


@attrs.define(eq=False)
class Challenges:
    """The open challenges: one at a time, since there is one name, and one order at a time."""

    _http: tuple[bytes, bytes] | None = attrs.field(default=None, init=False)
    """Its path and the answer."""
    _tls: ssl.SSLContext | None = attrs.field(default=None, init=False)

    @contextmanager
    def http(self, token: str, key_authorization: str) -> Iterator[None]:
        """Within the block the path of this token is answered over plain http, on every port (http-01)."""
        self._http = (_HTTP_PATH + token.encode(), key_authorization.encode())
        try:
            yield
        finally:
            self._http = None

    @contextmanager
    def tls(self, context: ssl.SSLContext) -> Iterator[None]:
        """Within the block a client that offers ACME_PROTOCOL is shown this context's certificate (tls-alpn-01)."""
        self._tls = context
        try:
            yield
        finally:
            self._tls = None

    def http_answer(self, target: bytes) -> bytes | None:
        """What belongs at this path, if it is an open challenge's."""
        return self._http[1] if self._http is not None and self._http[0] == target else None

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """For a client that offers ACME_PROTOCOL; None where no such challenge is open."""
        return self._tls

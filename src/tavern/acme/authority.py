"""An authority that issues certificates, asked through the acme library. Every method blocks: for a thread of its own.

Importing this takes 8 MB, so it is imported only where certificates are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import attrs
import requests
from acme import challenges, crypto_util, errors, messages
from acme.client import ClientNetwork, ClientV2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from tavern import __version__

REQUEST_TIMEOUT_S = 30
ORDER_TIMEOUT_S = 120.0
"""For the authority's look at this server, and again for its signature."""

HTTP = "http-01"
TLS = "tls-alpn-01"
METHODS = (TLS, HTTP)
"""In the order in which they are tried: the port of TLS is open wherever people come from, port 80 is not."""

_MAX_REASON_LENGTH = 500  # it is a stranger's text
_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


class OrderFailed(Exception):
    """There is no certificate this time; the message says why, in the authority's own words where it has any."""


class ChallengeFailed(OrderFailed):
    """The authority did not find at the domain what it looked for; by another method it may."""


class _TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    typ = TLS


class _TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """RFC 8737's, which the library left to others in its version 5."""

    typ = TLS
    response_cls = _TlsAlpn01Response

    def validation(self, account_key: JWK, **_: Any) -> str:
        return self.key_authorization(account_key)


challenges.ChallengeResponse.register(_TlsAlpn01Response)
challenges.Challenge.register(_TlsAlpn01)


@attrs.frozen
class Challenge:
    """What the authority looks for at the domain."""

    method: str
    token: str
    key_authorization: str

    def certificate_extension(self) -> x509.UnrecognizedExtension:
        """What the certificate of tls-alpn-01 carries (RFC 8737 section 3): a digest, as an ASN.1 octet string."""
        digest = hashlib.sha256(self.key_authorization.encode()).digest()
        return x509.UnrecognizedExtension(_ACME_IDENTIFIER, bytes([0x04, len(digest)]) + digest)


@attrs.frozen
class Order:
    """One that the authority has taken, for one domain."""

    resource: messages.OrderResource
    body: messages.ChallengeBody | None
    challenge: Challenge | None
    """None where the authority knows already that the domain is ours."""


class Authority:
    """One account at one authority. Requests go by the proxy and trust the certificates that the environment names
    (HTTPS_PROXY, REQUESTS_CA_BUNDLE).
    """

    def __init__(self, directory_url: str, account_key: ec.EllipticCurvePrivateKey, email: str | None) -> None:
        self._directory_url = directory_url
        self._key = JWKEC(key=account_key)
        self._email = email
        agent = f"tavern/{__version__}"
        self._net = ClientNetwork(self._key, alg=ES256, user_agent=agent, timeout=REQUEST_TIMEOUT_S)
        self._client: ClientV2 | None = None

    def close(self) -> None:
        """Its connections are closed."""
        self._net.session.close()

    def order(self, domain: str, key_pem: bytes, method: str) -> Order:
        """A new order for a certificate with this key. Raises OrderFailed."""
        with _explained(self._directory_url):
            resource = self._registered().new_order(crypto_util.make_csr(key_pem, [domain]))
            (authorization,) = resource.authorizations
            if authorization.body.status == messages.STATUS_VALID:
                return Order(resource, None, None)
            offered = {body.chall.typ: body for body in authorization.body.challenges}
            if method not in offered:
                raise ChallengeFailed(f"the authority offers no {method}")
            body = offered[method]
            challenge = Challenge(method, body.chall.encode("token"), body.chall.key_authorization(self._key))
            return Order(resource, body, challenge)

    def finish(self, order: Order) -> bytes:
        """The certificate and what leads to the authority, in PEM. What the challenge asks for is there meanwhile.

        Raises OrderFailed, after two times ORDER_TIMEOUT_S at the latest.
        """
        with _explained(self._directory_url):
            client = self._registered()
            if order.body is not None:
                client.answer_challenge(order.body, order.body.response(self._key))
            validated = client.poll_authorizations(order.resource, _deadline())
            issued = client.finalize_order(validated, _deadline())
            return str(issued.fullchain_pem).encode()

    def wished_renewal_at(self, chain_pem: bytes) -> float | None:
        """When the authority wishes this certificate renewed (RFC 9773), in seconds since the epoch; None if it does
        not say. Raises OrderFailed.
        """
        with _explained(self._directory_url):
            wished, _ask_again_at = self._connected().renewal_time(chain_pem)
            return None if wished is None else wished.timestamp()

    def _connected(self) -> ClientV2:
        if self._client is None:
            self._client = ClientV2(ClientV2.get_directory(self._directory_url, self._net), self._net)
        return self._client

    def _registered(self) -> ClientV2:
        """With the account, made where there is none for this key."""
        client = self._connected()
        if self._net.account is None:
            new = messages.NewRegistration.from_data(email=self._email, terms_of_service_agreed=True)
            try:
                client.new_account(new)
            except errors.ConflictError as known:
                self._net.account = messages.RegistrationResource(body=messages.Registration(), uri=known.location)
        return client


def _deadline() -> datetime:
    return datetime.now() + timedelta(seconds=ORDER_TIMEOUT_S)  # noqa: DTZ005  the library compares it with its own


@contextmanager
def _explained(directory_url: str) -> Iterator[None]:
    """Every way in which asking may fail becomes OrderFailed."""
    try:
        yield
    except errors.ValidationError as error:
        found = [
            challenge.error.detail or str(challenge.error)
            for authorization in error.failed_authzrs
            for challenge in authorization.body.challenges
            if challenge.error is not None
        ]
        raise ChallengeFailed(_bounded("; ".join(found))) from error
    except messages.Error as error:
        raise OrderFailed(_bounded(error.detail or str(error))) from error
    except errors.TimeoutError as error:
        raise OrderFailed("the authority did not finish in time") from error
    except requests.RequestException as error:
        raise OrderFailed(_bounded(f"{directory_url} cannot be asked: {error}")) from error
    except (errors.Error, JoseError, KeyError, ValueError) as error:
        raise OrderFailed(_bounded(f"{directory_url} answers what cannot be understood: {error!r}")) from error


def _bounded(reason: str) -> str:
    return reason[:_MAX_REASON_LENGTH]

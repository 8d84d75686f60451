"""The server's certificate: loaded at start, and again when its files change while the server runs."""

from __future__ import annotations

import logging
import math
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import trio

from tavern.errors import SettingsError, SettingsProblem
from tavern.logs import log_event

CHECK_INTERVAL_S = 1.0
"""How late a renewed certificate is noticed: handshakes in between look at no file."""
ALPN_PROTOCOLS = ("http/1.1", "stun.turn")
"""RFC 7301's and RFC 7443's names. Offered, not obeyed: the first byte decides, also for clients that name none."""

_Version = tuple[tuple[int, int, int, int], ...]
_log = logging.getLogger("tavern.web")


class ServerCertificate:
    """A certificate chain and its private key in two PEM files. To be made before trio runs or inside, used inside."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Loads them. Raises SettingsError for files that cannot be used."""
        self._cert = cert
        self._key = key
        self._version = self._look()
        self._context = load_context(cert, key)
        self._looked_at = -math.inf

    def context(self) -> ssl.SSLContext:
        """For the next handshake. Renewed files take effect within CHECK_INTERVAL_S, for connections from then on.

        Files that cannot be used, such as a new chain beside the old key, change nothing and are logged once.
        """
        now = trio.current_time()
        if now - self._looked_at >= CHECK_INTERVAL_S:
            self._looked_at = now
            self._renew()
        return self._context

    def reload(self) -> None:
        """The files are read again now, if they changed. Used inside trio."""
        self._looked_at = trio.current_time()
        self._renew()

    def _renew(self) -> None:
        version = self._look()
        if version == self._version:
            return
        self._version = version  # before loading: what changes meanwhile is seen the next time
        try:
            # Some milliseconds on the event loop, once in months.
            self._context = load_context(self._cert, self._key)
        except SettingsError as error:
            log_event(_log, logging.WARNING, "certificate-not-renewed", reason=error, kept="the one before")
        else:
            log_event(_log, logging.INFO, "certificate-renewed", file=self._cert)

    def _look(self) -> _Version:
        """Differs when a file was written, replaced or linked elsewhere, as Certbot does."""
        versions = []
        for path in (self._cert, self._key):
            try:
                at = os.stat(path)  # noqa: PTH116 - follows links, and waits for no content
            except OSError:
                versions.append((0, 0, 0, 0))
            else:
                versions.append((at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns))
        return tuple(versions)


def load_context(cert: Path, key: Path) -> ssl.SSLContext:
    """The server's side of TLS with this certificate. Raises SettingsError for files that cannot be used."""
    for variable, path in (("TAVERN_TLS_CERT", cert), ("TAVERN_TLS_KEY", key)):
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe gives its content once only, and opening it can wait
                raise _problem(variable, path, "must be a regular file, not a directory, device or pipe")
            path.read_bytes()
        except OSError as error:
            raise _problem(variable, path, f"must be a readable PEM file ({error.strerror})") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(ALPN_PROTOCOLS))
    try:
        context.load_cert_chain(cert, key, _no_passphrase(key))
    except ssl.SSLError as error:
        allowed = f"must be a PEM certificate chain that belongs to TAVERN_TLS_KEY ({error.reason or 'not PEM'})"
        raise _problem("TAVERN_TLS_CERT", cert, allowed) from None
    except OSError as error:
        raise _problem("TAVERN_TLS_CERT", cert, f"cannot be loaded ({error.strerror})") from None
    return context


def _no_passphrase(key: Path) -> Callable[[], str]:
    def refuse() -> str:
        """OpenSSL would ask the terminal."""
        fix = "openssl pkey -in KEY -out PLAIN_KEY writes one without"
        raise _problem("TAVERN_TLS_KEY", key, f"must be a key that no passphrase protects ({fix})")

    return refuse


def _problem(variable: str, path: Path, allowed: str) -> SettingsError:
    return SettingsError((SettingsProblem(variable, str(path), allowed),))

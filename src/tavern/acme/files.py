"""What is kept with the data: an account's key for each authority, and a certificate with its key. Uses the disk."""

from __future__ import annotations

import json
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tavern.acme.schedule import renewal_due_at
from tavern.errors import StartupError
from tavern.store.files import FILE_MODE, create_private_directories, taking_the_place_of

_MAX_FAILURES = 8  # more than are counted
_PLACEHOLDER_DAYS = 3650
_PLACEHOLDER_NAME = "no certificate yet: Tavern is asking for one"


@attrs.frozen
class CertificateFiles:
    """Those of one domain at one authority, in a directory that only this server's user enters.

    Certificate and key are one file, so that no reader ever sees half of a renewed pair. OSError of any method is the
    disk's.
    """

    directory: Path
    domain: str

    @classmethod
    def beside(cls, data: Path, directory_url: str, domain: str) -> CertificateFiles:
        """`data` is where the database is. Another authority has other files: its test certificates never stay."""
        authority = urlsplit(directory_url).netloc.replace(":", "-")
        return cls(data / "acme" / authority, domain)

    @property
    def certificate(self) -> Path:
        """PEM: the key, the certificate, what leads to its authority."""
        return self.directory / f"{self.domain}.pem"

    def prepare(self) -> None:
        """There is a certificate that TLS can be spoken with: the one that was got, or a self-signed placeholder.

        Raises StartupError where it cannot be stored.
        """
        try:
            if not self._is_usable():
                self.store(*_placeholder(self.domain))
        except OSError as error:
            raise StartupError(
                f"the certificate cannot be kept in {self.directory}: {error.strerror}: mend its permissions, or set "
                "TAVERN_DB_PATH"
            ) from error

    def store(self, key_pem: bytes, chain_pem: bytes) -> None:
        """They are on the disk, and take the place of the ones before at once."""
        self._put(self.certificate, key_pem + chain_pem)

    def account_key(self) -> ec.EllipticCurvePrivateKey:
        """The account's: made and stored where there is none, or none that can be read."""
        path = self.directory / "account-key.pem"
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (FileNotFoundError, ValueError, TypeError):
            key = None
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
        made = new_key()
        self._put(path, key_pem(made))
        return made

    def failures(self) -> list[float]:
        """When the last tries to get a certificate failed, in seconds since the epoch; of those since one was got."""
        try:
            found = json.loads(self._failures.read_bytes())
        except (FileNotFoundError, ValueError):
            return []
        return sorted(at for at in found if isinstance(at, int | float)) if isinstance(found, list) else []

    def note_failure(self, at: float) -> None:
        """One more, which counts after a restart as well."""
        self._put(self._failures, json.dumps([*self.failures(), at][-_MAX_FAILURES:]).encode())

    def forget_failures(self) -> None:
        """One was got."""
        self._failures.unlink(missing_ok=True)

    @property
    def _failures(self) -> Path:
        return self.directory / f"{self.domain}.failures.json"

    def chain_pem(self) -> bytes:
        """The certificates in the file, without the key."""
        certificates = x509.load_pem_x509_certificates(self.certificate.read_bytes())
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)

    def renewal_due_at(self) -> float | None:
        """From when on its certificate is to be renewed, in seconds since the epoch; None for the placeholder."""
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        if is_self_signed(certificate):
            return None
        return renewal_due_at(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())

    def _put(self, path: Path, content: bytes) -> None:
        create_private_directories(self.directory)
        with taking_the_place_of(path, FILE_MODE) as temporary:
            temporary.write_bytes(content)

    def _is_usable(self) -> bool:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, password=_no_passphrase)
        except (FileNotFoundError, ssl.SSLError, ValueError):
            return False
        return True


def is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def self_signed(
    domain: str, common_name: str, lifetime: timedelta, *extensions: x509.ExtensionType
) -> tuple[bytes, bytes]:
    """A key and a certificate of its own for this domain, in PEM; the extensions are critical."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return key_pem(key), builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def server_context(key_pem: bytes, chain_pem: bytes, protocol: str) -> ssl.SSLContext:
    """A server's side of TLS with this certificate, for this ALPN protocol only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    with tempfile.NamedTemporaryFile() as file:  # ssl reads files only; this one is private, and gone at once
        file.write(key_pem + chain_pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _placeholder(domain: str) -> tuple[bytes, bytes]:
    return self_signed(domain, _PLACEHOLDER_NAME, timedelta(days=_PLACEHOLDER_DAYS))


def _no_passphrase() -> str:
    """OpenSSL would ask the terminal."""
    raise ValueError("a key with a passphrase is none of ours")

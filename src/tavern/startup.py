"""What is decided once at start from settings and machine: secret, paths, advertised addresses, TLS, descriptors."""

from __future__ import annotations

import os
import resource
import secrets
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path

import attrs

from tavern.acme.files import CertificateFiles
from tavern.addresses import IPAddress
from tavern.config import DEV_SECRET, Settings
from tavern.control.messages import MAX_PATH_BYTES
from tavern.domain_addresses import one_of_each_family, resolve
from tavern.errors import StartupError
from tavern.relay.addresses import default_gateways, primary_ipv4, primary_ipv6
from tavern.setting_values import GATEWAY, IPNetwork
from tavern.store.secret import load_or_create_secret
from tavern.store.sqlite import refuse_no_file
from tavern.turn.shared_ports import SharedPortsMode, shared_range
from tavern.web.tls import ServerCertificate

_RESERVED_DESCRIPTORS = 64
"""For the database, listeners, logs and whatever Python opens."""
_ASSUMED_DESCRIPTORS = 1024
_MIN_PLACES = 16
_SECRET_BYTES = 32


@attrs.frozen(kw_only=True)
class Decisions:
    """The settings' open ends, decided."""

    turn_secrets: tuple[str, ...] = attrs.field(repr=False)
    """The first mints; none of them is the one that old clients carry."""
    server_secret: bytes = attrs.field(repr=False)
    """Behind resume tokens and the hashes of addresses; it outlives a restart where the store does."""
    static_credentials: bool
    """Whether credentials that somebody computed from them are accepted."""
    db_path: Path | None
    """None in memory mode."""
    control_path: Path | None
    """None where there is no control socket."""
    advertised_addresses: tuple[IPAddress, ...]
    trusted_proxies: tuple[IPNetwork, ...]
    certificate: ServerCertificate | None
    certificate_files: CertificateFiles | None
    """Those of a certificate that is got by itself (TAVERN_ACME)."""
    max_connections: int
    max_allocations: int
    warnings: tuple[str, ...]


async def decide(settings: Settings, environment: Mapping[str, str]) -> Decisions:
    """Raises SettingsError or StartupError for what cannot work; makes the secret's file where one is needed."""
    db_path = database_path(settings, environment)
    certificate_files = acme_files(settings, db_path, environment)
    certificate = server_certificate(settings, certificate_files)
    turn_secrets = _turn_secrets(settings, db_path, environment)
    server_secret = _server_secret(db_path)
    advertised, warnings = await advertised_addresses(settings)
    trusted_proxies, proxy_warnings = _trusted_proxies(settings)
    control = control_path(settings, environment)
    descriptors = raise_descriptor_limit() - _RESERVED_DESCRIPTORS - len(shared_relay_ports(settings)) * len(advertised)
    # Half each: neither a crowd at the door nor one at the relay takes the other's.
    max_connections = max(min(settings.max_connections or descriptors // 2, descriptors - _MIN_PLACES), _MIN_PLACES)
    return Decisions(
        turn_secrets=turn_secrets,
        server_secret=server_secret,
        static_credentials=settings.turn_rest and any(_operators_secrets(settings)),
        db_path=db_path,
        control_path=control,
        advertised_addresses=advertised,
        trusted_proxies=trusted_proxies,
        certificate=certificate,
        certificate_files=certificate_files,
        max_connections=max_connections,
        max_allocations=max(descriptors - max(max_connections, descriptors // 2), _MIN_PLACES),
        warnings=(*warnings, *proxy_warnings, *_control_warnings(settings, db_path, control)),
    )


def _trusted_proxies(settings: Settings) -> tuple[tuple[IPNetwork, ...], tuple[str, ...]]:
    """The ranges, and what to warn of."""
    ranges: list[IPNetwork] = []
    warnings: list[str] = []
    for proxy in settings.trusted_proxies:
        if proxy != GATEWAY:
            ranges.append(proxy)
            continue
        gateways = sorted(default_gateways(), key=str)
        ranges += [ip_network(gateway) for gateway in gateways]
        if not gateways:
            warnings.append("TAVERN_TRUSTED_PROXIES names the gateway, and this machine has none")
    return tuple(ranges), tuple(warnings)


def shared_relay_ports(settings: Settings) -> range:
    """The ones that allocations share, of which each has a socket for each family from the start."""
    mode = SharedPortsMode(settings.turn_shared_ports)
    return shared_range(mode, settings.turn_min_port, settings.turn_max_port)


def _operators_secrets(settings: Settings) -> tuple[str, ...]:
    """Those that were set, without the one that everybody knows."""
    given = (settings.turn_secret, settings.turn_previous_secret)
    return tuple(secret for secret in given if secret is not None and secret != DEV_SECRET)


def _turn_secrets(settings: Settings, db_path: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    given = _operators_secrets(settings)
    if settings.turn_secret in given:
        return given
    if settings.is_local:
        # Credentials end with their sessions, and these with the process: nothing is gained by keeping it.
        return (secrets.token_urlsafe(_SECRET_BYTES), *given)
    return (load_or_create_secret(_secret_path(db_path, environment)), *given)


def _server_secret(db_path: Path | None) -> bytes:
    if db_path is None:
        return secrets.token_bytes(_SECRET_BYTES)
    return load_or_create_secret(db_path.parent / "server-secret", "the server's secret", "").encode()


def database_path(settings: Settings, environment: Mapping[str, str]) -> Path | None:
    """Where the database is; None in memory mode. Raises StartupError where there can be none."""
    if settings.store != "sqlite":
        return None
    path = settings.db_path or data_directory(environment, "TAVERN_DB_PATH") / "tavern.db"
    refuse_no_file(path)  # before a secret is put beside it
    return path


def control_path(settings: Settings, environment: Mapping[str, str]) -> Path | None:
    """Where the control socket is: what was set, or beside the database; None where there is none, or its name would be
    too long.
    """
    if settings.control_socket == "off":
        return None
    if settings.control_socket is not None:
        return settings.control_socket
    path = database_path(settings, environment)
    beside = path.parent / "control.sock" if path else None
    return beside if beside and len(os.fsencode(beside)) <= MAX_PATH_BYTES else None


def _control_warnings(settings: Settings, db_path: Path | None, control: Path | None) -> Iterator[str]:
    if settings.control_socket is None and db_path is not None and control is None:
        yield f"no control socket: {db_path.parent}/control.sock is too long a name; set TAVERN_CONTROL_SOCKET"


def _secret_path(db_path: Path | None, environment: Mapping[str, str]) -> Path:
    return _beside_data(db_path, environment, "TAVERN_TURN_SECRET") / "turn-secret"


def _beside_data(db_path: Path | None, environment: Mapping[str, str], instead: str) -> Path:
    return db_path.parent if db_path else data_directory(environment, instead)


def data_directory(environment: Mapping[str, str], instead: str) -> Path:
    """Where data is kept when run by hand (XDG Base Directory Specification).

    Raises StartupError where the user has no home, which names `instead`: the setting that needs no such directory.
    """
    base = environment.get("XDG_DATA_HOME", "")
    if base.startswith("/"):
        return Path(base) / "tavern"
    try:
        home = Path.home()
    except RuntimeError:
        raise StartupError(
            f"no home directory is known for user {os.getuid()}, to keep data in: set {instead}, XDG_DATA_HOME or HOME"
        ) from None
    return home / ".local" / "share" / "tavern"


async def advertised_addresses(settings: Settings) -> tuple[tuple[IPAddress, ...], tuple[str, ...]]:
    """What relayed addresses carry, at most one IPv4 and one IPv6, and what to warn of."""
    if settings.external_addresses:
        return settings.external_addresses, ()
    warnings: list[str] = []
    if follows_domain(settings):
        found = one_of_each_family(await resolve(settings.domain))
        if found:
            return found, ()
        warnings.append(
            f"{settings.domain} does not resolve: relayed traffic goes to this machine's own address instead; "
            "mend its DNS, or set TAVERN_EXTERNAL_IP"
        )
    own = (primary_ipv4(), primary_ipv6())
    return tuple(address for address in own if address is not None), tuple(warnings)


def follows_domain(settings: Settings) -> bool:
    """Whether what relayed addresses carry is the domain's addresses, whatever those are."""
    return not settings.external_addresses and not settings.is_local


def acme_files(settings: Settings, db_path: Path | None, environment: Mapping[str, str]) -> CertificateFiles | None:
    """Where certificates that are got by TAVERN_ACME are kept; None without it. In memory mode as well: an authority
    gives the same name only a few a week.
    """
    if not settings.acme:
        return None
    data = _beside_data(db_path, environment, "TAVERN_DB_PATH")
    return CertificateFiles.beside(data, settings.acme_directory, settings.domain)


def server_certificate(settings: Settings, files: CertificateFiles | None = None) -> ServerCertificate | None:
    """The server's certificate, from its `files` or from those that are set; None where there is none.

    Raises SettingsError or StartupError for files that cannot be used.
    """
    if files is not None:
        files.prepare()
    paths = certificate_paths(settings, files)
    return None if paths is None else ServerCertificate(*paths)


def certificate_paths(settings: Settings, files: CertificateFiles | None) -> tuple[Path, Path] | None:
    """Where its chain and its key are, or will be; None where there is none."""
    if files is not None:
        return files.certificate, files.certificate
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return settings.tls_cert, settings.tls_key


def raise_descriptor_limit() -> int:
    """RLIMIT_NOFILE is at its hard limit; how many descriptors that is (bounded where it is unlimited)."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1_048_576
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] or _ASSUMED_DESCRIPTORS
    return hard


def running_as_root() -> bool:
    return os.geteuid() == 0

"""This machine and its settings, before a server runs on it or while one does."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import attrs
import trio
from cryptography import x509

from tavern.acme.files import is_self_signed
from tavern.addresses import IPAddress
from tavern.config import DEV_SECRET, Settings, load_settings, unknown_variables
from tavern.doctor.findings import Finding, Level
from tavern.doctor.relay import resolve
from tavern.errors import SettingsError, StartupError
from tavern.relay.addresses import interface_addresses, primary_ipv4, primary_ipv6
from tavern.startup import acme_files, advertised_addresses, certificate_paths, database_path
from tavern.store.copies import DataError, check

FEW_DAYS = 14
MB = 2**20
COMFORTABLE_FREE_MB = 512

_DAY_S = 86_400
_TIME_ERROR = 5
"""What adjtimex answers while nothing keeps the clock in time."""

Report = Callable[[Finding], None]


async def examine_machine(environment: Mapping[str, str], report: Report) -> None:
    """Reports one thing after the other; changes nothing."""
    settings = _examine_settings(environment, report)
    if settings is None:
        return
    _examine_secret(settings, report)
    _examine_clock(report)
    await _examine_data(settings, environment, report)
    _examine_ports(settings, report)
    await _examine_addresses(settings, report)
    _examine_certificate(settings, environment, report)


def _examine_settings(environment: Mapping[str, str], report: Report) -> Settings | None:
    try:
        settings = load_settings(environment)
    except SettingsError as error:
        for problem in error.problems:
            mend = f"set {problem.variable} to what is allowed"
            report(Finding(Level.PROBLEM, "settings", str(problem), "the server does not start", mend))
        return None
    unknown = list(unknown_variables(environment))
    for line in unknown:
        report(Finding(Level.WARNING, "settings", line, "what it should say is not heard", "mend or remove it"))
    if not unknown:
        report(Finding(Level.OK, "settings", "all of them are understood"))
    return settings


def _examine_secret(settings: Settings, report: Report) -> None:
    if settings.turn_secret == DEV_SECRET:
        report(
            Finding(
                Level.WARNING,
                "secret",
                "TAVERN_TURN_SECRET is the development secret that everybody knows",
                "it serves old clients only, and mints nothing",
                "unset TAVERN_TURN_SECRET: one is made and kept",
            )
        )
    elif settings.turn_secret is not None and len(settings.turn_secret) < 16:
        report(
            Finding(
                Level.WARNING,
                "secret",
                "TAVERN_TURN_SECRET is short",
                "who guesses it uses the relay as he likes",
                "unset it, or set 16 characters or more: openssl rand -hex 32",
            )
        )
    else:
        made = settings.turn_secret is None
        report(Finding(Level.OK, "secret", "made and kept by the server" if made else "your own, and long enough"))


def _examine_clock(report: Report) -> None:
    """Whether something keeps it in time, as far as the kernel knows."""
    libc = ctypes.CDLL(None, use_errno=True)
    adjtimex = getattr(libc, "adjtimex", None)
    state = adjtimex(ctypes.create_string_buffer(512)) if adjtimex is not None else -1
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if state == _TIME_ERROR:
        report(
            Finding(
                Level.NOTE,
                "clock",
                f"it says {now}, and nothing on this machine keeps it in time (in a container, its host may)",
                "a clock that is minutes wrong makes credentials and certificates end too early",
                "timedatectl set-ntp true",
            )
        )
    else:
        report(Finding(Level.OK, "clock", f"it says {now}"))


async def _examine_data(settings: Settings, environment: Mapping[str, str], report: Report) -> None:
    try:
        path = database_path(settings, environment)
    except StartupError as error:
        report(Finding(Level.PROBLEM, "database", str(error), "the server does not start"))
        return
    if path is None:
        report(Finding(Level.NOTE, "database", "TAVERN_STORE=memory: taverns are gone when the server stops"))
        return
    _examine_disk(path, settings, report)
    if not path.exists():
        report(Finding(Level.NOTE, "database", f"there is none at {path} yet: the first start makes it"))
        return
    try:
        content = await trio.to_thread.run_sync(check, path)
    except DataError as error:
        report(
            Finding(
                Level.PROBLEM,
                "database",
                str(error),
                "the server does not start, or taverns are lost",
                "bring a backup back: stop the server, tavern restore FILE",
            )
        )
        return
    report(Finding(Level.OK, "database", f"{path} is whole, with {content.taverns} taverns"))
    if not os.access(path, os.W_OK):
        report(
            Finding(
                Level.WARNING,
                "database",
                f"user {os.geteuid()} may not write to {path}",
                "a server of this user takes it over at its start, if it may write to the directory",
                f"chown {os.geteuid()} {path}",
            )
        )


def _examine_disk(path: Path, settings: Settings, report: Report) -> None:
    there = next(parent for parent in path.parents if parent.exists())
    free_mb = shutil.disk_usage(there).free // MB
    if free_mb < settings.min_free_mb:
        report(
            Finding(
                Level.PROBLEM,
                "disk",
                f"{free_mb} MB are left in {there}, less than TAVERN_MIN_FREE_MB={settings.min_free_mb}",
                "nothing new is stored; calls go on",
                f"make room: du -x -h -d 2 {there} shows what takes it",
            )
        )
    elif free_mb < COMFORTABLE_FREE_MB:
        report(Finding(Level.WARNING, "disk", f"{free_mb} MB are left in {there}", "it may be full soon", "make room"))
    else:
        report(Finding(Level.OK, "disk", f"{free_mb:,} MB are left in {there}"))


@attrs.frozen
class _Port:
    number: int
    kind: socket.SocketKind
    variable: str
    what: str


def _examine_ports(settings: Settings, report: Report) -> None:
    ports = [
        _Port(settings.port, socket.SOCK_STREAM, "PORT", "page and signaling"),
        _Port(settings.turn_port, socket.SOCK_DGRAM, "TAVERN_TURN_PORT", "STUN and TURN"),
        _Port(settings.turn_port, socket.SOCK_STREAM, "TAVERN_TURN_PORT", "TURN over TCP"),
    ]
    if settings.tls:
        ports.append(_Port(settings.turns_port, socket.SOCK_STREAM, "TAVERN_TURNS_PORT", "TURN over TLS"))
    if settings.redirect_port is not None:
        ports.append(_Port(settings.redirect_port, socket.SOCK_STREAM, "TAVERN_REDIRECT_PORT", "plain http"))
    for port in ports:
        protocol = "TCP" if port.kind == socket.SOCK_STREAM else "UDP"
        subject, name = f"port {port.number}/{protocol}", port.what
        reason = _why_not_bindable(port)
        if reason is None:
            report(Finding(Level.OK, subject, f"free, for {name}"))
        elif reason == errno.EADDRINUSE:
            report(
                Finding(
                    Level.NOTE,
                    subject,
                    f"in use, for {name}: by your server, if one runs",
                    "another program there keeps the server from starting",
                    f"ss -lp 'sport = :{port.number}' says which it is; or set {port.variable}",
                )
            )
        else:
            report(
                Finding(
                    Level.PROBLEM,
                    subject,
                    f"cannot be opened: {os.strerror(reason)}",
                    "the server does not start",
                    f"set {port.variable} to 1024 or more, or give the program CAP_NET_BIND_SERVICE",
                )
            )


def _why_not_bindable(port: _Port) -> int | None:
    with closing(socket.socket(socket.AF_INET, port.kind)) as sock:
        try:
            sock.bind(("0.0.0.0", port.number))
        except OSError as error:
            return error.errno
    return None


async def _examine_addresses(settings: Settings, report: Report) -> None:
    ipv6 = primary_ipv6()
    families = f"IPv4 ({primary_ipv4()})" + (f" and IPv6 ({ipv6})" if ipv6 else "; no IPv6 leads out")
    report(Finding(Level.OK, "address families", families))
    advertised, warnings = await advertised_addresses(settings)
    for line in warnings:
        report(Finding(Level.PROBLEM, "relay's address", line, "relayed calls have no sound", "mend the domain's DNS"))
    own = interface_addresses()
    for address in advertised:
        report(_judged(address, settings, own))
    if not settings.is_local and settings.external_addresses:
        found = [ip_address(host) for host, _ in await resolve(settings.domain, settings.port)]
        others = [address for address in settings.external_addresses if found and address not in found]
        for address in others:
            report(
                Finding(
                    Level.WARNING,
                    "relay's address",
                    f"TAVERN_EXTERNAL_IP names {address}, and {settings.domain} is {', '.join(map(str, found))}",
                    "page and relay are then not at one place: right only where you meant it",
                    "unset TAVERN_EXTERNAL_IP: the domain's own addresses are taken",
                )
            )


def _judged(address: IPAddress, settings: Settings, own: frozenset[IPAddress]) -> Finding:
    subject = "relay's address"
    if not address.is_global and not settings.is_local:
        return Finding(
            Level.PROBLEM,
            subject,
            f"{address} is a private one",
            "people elsewhere do not reach it: relayed calls have no sound",
            "set TAVERN_EXTERNAL_IP to the public address",
        )
    if address in own:
        return Finding(Level.OK, subject, f"{address}, which this machine has")
    return Finding(
        Level.NOTE,
        subject,
        f"{address}, which no interface here has: right behind a NAT that passes the ports on (cloud, container)",
    )


def _examine_certificate(settings: Settings, environment: Mapping[str, str], report: Report) -> None:
    subject = "certificate"
    if not settings.tls:
        level = Level.NOTE if settings.is_local else Level.WARNING
        report(
            Finding(
                level,
                subject,
                "none is set: this server speaks plain http",
                "browsers give a microphone only to https pages and to localhost",
                "set TAVERN_ACME=on, or TAVERN_TLS_CERT and TAVERN_TLS_KEY, or put a proxy with https in front",
            )
        )
        return
    kept = _kept_certificate(settings, environment)
    if kept is None:
        report(_no_certificate_yet(settings))
        return
    chain, key = kept
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
        certificate = x509.load_pem_x509_certificates(chain.read_bytes())[0]
    except (OSError, ValueError) as error:
        report(Finding(Level.PROBLEM, subject, f"{chain}: {error}", "the server does not start"))
        return
    if settings.acme and is_self_signed(certificate):
        report(_no_certificate_yet(settings))
        return
    days = (certificate.not_valid_after_utc.timestamp() - time.time()) / _DAY_S
    ends_on = certificate.not_valid_after_utc.date()
    names = _names(certificate)
    if not settings.is_local and not any(_covers(name, settings.domain) for name in names):
        report(
            Finding(
                Level.PROBLEM,
                subject,
                f"it is for {', '.join(names) or 'nobody'}, and the server is {settings.domain}",
                "browsers refuse it",
                f"certbot certonly -d {settings.domain}, or set TAVERN_DOMAIN",
            )
        )
    elif days < FEW_DAYS:
        report(
            Finding(
                Level.PROBLEM if days < 0 else Level.WARNING,
                subject,
                f"it ends on {ends_on}, in {days:.0f} days",
                "from then on browsers open nothing",
                "docker compose logs signaling, or journalctl -u tavern, says why"
                if settings.acme
                else "certbot renew",
            )
        )
    else:
        report(Finding(Level.OK, subject, f"for {', '.join(names)}, until {ends_on}"))


def _kept_certificate(settings: Settings, environment: Mapping[str, str]) -> tuple[Path, Path] | None:
    """The files of its chain and its key; None where it has not been got yet."""
    files = None
    if settings.acme:
        with suppress(StartupError):  # it has been reported with the database
            files = acme_files(settings, database_path(settings, environment), environment)
        if files is None or not files.certificate.exists():
            return None
    return certificate_paths(settings, files)


def _no_certificate_yet(settings: Settings) -> Finding:
    return Finding(
        Level.PROBLEM,
        "certificate",
        f"{settings.acme_directory} has issued none for {settings.domain} yet",
        "browsers warn of this server, and refuse its relay",
        "start the server; its log says why (challenge-failed): port 443 or 80 of the domain has to lead to it",
    )


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name) for name in found.get_values_for_type(x509.DNSName)]


def _covers(name: str, domain: str) -> bool:
    if name.startswith("*."):
        return domain.partition(".")[2].lower() == name[2:].lower()
    return name.lower() == domain.lower()

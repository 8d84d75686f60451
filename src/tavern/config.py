"""Settings: one frozen object made from a mapping of environment variables, validated at once. Pure.

Each field below states its variable, its default, what is allowed, and one line of help; the command line, the
compose file's test and the README's table are made from the same list.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

import attrs
from cattrs import ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

from tavern import setting_values as values
from tavern.addresses import IPAddress, is_address
from tavern.errors import SettingsError, SettingsProblem
from tavern.host_names import is_loopback_name
from tavern.setting_values import Gateway, IPNetwork, Parser

DEV_SECRET = "tavern-dev-secret"  # noqa: S105  public on purpose: clients in people's hands carry it in their code
StoreKind = Literal["sqlite", "memory"]
DataPathKind = Literal["auto", "native", "python"]
SharedPorts = Literal["auto", "always", "never"]
LogFormat = Literal["human", "json"]
LogLevel = Literal["trace", "debug", "info", "warn", "error"]

CreateRule = Literal["anyone", "verified", "listed"]

SECRETS = frozenset({"TAVERN_TURN_SECRET", "TAVERN_TURN_PREVIOUS_SECRET", "TAVERN_INVITE"})
"""Settings whose values are not shown."""
# A mesh of 8 names 7 peers with a few dozen addresses each. The data path knows 2048 exact peers of an allocation, and
# must have room beside those with channels.
_MAX_PER_ALLOCATION = 1024
_LIMIT = 2**31 - 1  # the ceiling that the protocol promises for its limits


def _setting(variable: str, default: Any, parse: Parser, help_text: str, *, shown_default: str | None = None) -> Any:
    metadata = {"variable": variable, "parse": parse, "help": help_text, "default": shown_default or str(default)}
    return attrs.field(default=default, metadata=metadata, repr=variable not in SECRETS)


@attrs.frozen(kw_only=True)
class Settings:
    """All settings, parsed and checked; durations in seconds. What is empty or None is decided at start."""

    port: int = _setting("PORT", 3001, values.integer(0, 65535), "TCP port of page, signaling and health (0: any free)")
    hosts: tuple[str, ...] = _setting(
        "TAVERN_HOST", (), values.listen_host, "address to listen on", shown_default="all interfaces, IPv4 and IPv6"
    )
    store: StoreKind = _setting("TAVERN_STORE", "sqlite", values.one_of("sqlite", "memory"), "where taverns are kept")
    db_path: Path | None = _setting(
        "TAVERN_DB_PATH", None, values.path, "SQLite file", shown_default="tavern/tavern.db in your data directory"
    )
    control_socket: Path | Literal["off"] | None = _setting(
        "TAVERN_CONTROL_SOCKET",
        None,
        values.path_or_off,
        "where tavern ctl and tavern top reach the server, or off",
        shown_default="control.sock beside the database",
    )
    turn_secret: str | None = _setting(
        "TAVERN_TURN_SECRET",
        None,
        values.secret,
        "secret behind TURN credentials",
        shown_default="made and kept by itself",
    )
    turn_previous_secret: str | None = _setting(
        "TAVERN_TURN_PREVIOUS_SECRET",
        None,
        values.secret,
        "accepted beside it while it is being replaced",
        shown_default="none",
    )
    turn_rest: bool = _setting(
        "TAVERN_TURN_REST",
        True,
        values.on_off,
        "credentials computed from a secret that you set are accepted (on, off)",
        shown_default="on",
    )
    legacy_turn: bool = _setting(
        "TAVERN_LEGACY_TURN",
        True,
        values.on_off,
        "old clients' built-in TURN credentials are accepted (on, off)",
        shown_default="on",
    )
    domain: str = _setting("TAVERN_DOMAIN", "localhost", values.domain, "name that people reach this server by")
    turn_port: int = _setting(
        "TAVERN_TURN_PORT", 3478, values.integer(0, 65535), "STUN/TURN port, UDP and TCP (0: any free)"
    )
    turns_port: int = _setting(
        "TAVERN_TURNS_PORT", 5349, values.integer(0, 65535), "port of TURN over TLS, where there is a certificate"
    )
    turn_min_port: int = _setting("TAVERN_TURN_MIN_PORT", 49152, values.integer(1024, 65535), "first relay port")
    turn_max_port: int = _setting("TAVERN_TURN_MAX_PORT", 65535, values.integer(1024, 65535), "last relay port")
    turn_shared_ports: SharedPorts = _setting(
        "TAVERN_TURN_SHARED_PORTS",
        "auto",
        values.one_of("auto", "always", "never"),
        "whether relay allocations share ports (auto: when the rest is taken)",
    )
    external_addresses: tuple[IPAddress, ...] = _setting(
        "TAVERN_EXTERNAL_IP",
        (),
        values.external_addresses,
        "address that relayed traffic is sent to",
        shown_default="the domain's addresses, else the machine's own",
    )
    ice_urls: tuple[str, ...] = _setting(
        "TAVERN_ICE_URLS", (), values.ice_urls, "ICE server URLs to hand out", shown_default="this server's own"
    )
    turn_allow_peers: tuple[IPNetwork, ...] = _setting(
        "TAVERN_TURN_ALLOW_PEERS", (), values.networks, "ranges the relay may reach besides the public internet",
        shown_default="none",
    )  # fmt: skip
    turn_deny_peers: tuple[IPNetwork, ...] = _setting(
        "TAVERN_TURN_DENY_PEERS", (), values.networks, "ranges the relay never reaches", shown_default="none"
    )
    turn_user_quota: int = _setting(
        "TAVERN_TURN_USER_QUOTA", 128, values.integer(1, _LIMIT), "relay allocations per session"
    )
    turn_address_quota: int = _setting(
        "TAVERN_TURN_ADDRESS_QUOTA", 1024, values.integer(1, _LIMIT), "relay allocations per address, whoever asks"
    )
    turn_max_permissions: int = _setting(
        "TAVERN_TURN_MAX_PERMISSIONS", 512, values.integer(1, _MAX_PER_ALLOCATION), "permissions per relay allocation"
    )
    turn_max_channels: int = _setting(
        "TAVERN_TURN_MAX_CHANNELS", 512, values.integer(1, _MAX_PER_ALLOCATION), "channels per relay allocation"
    )
    turn_user_bytes_per_s: int = _setting(
        "TAVERN_TURN_USER_BYTES_PER_S",
        0,
        values.integer(0, _LIMIT),
        "bytes relayed a second per session (0: unlimited)",
    )
    turn_bytes_per_s: int = _setting(
        "TAVERN_TURN_BYTES_PER_S", 0, values.integer(0, _LIMIT), "bytes relayed a second in all (0: unlimited)"
    )
    turn_monthly_gb: int = _setting(
        "TAVERN_TURN_MONTHLY_GB",
        0,
        values.integer(0, 1_000_000),
        "GB (10^9 bytes) the relay may send a month (0: no budget)",
    )
    turn_401_rate: int = _setting(
        "TAVERN_TURN_401_RATE", 64, values.integer(1, _LIMIT), "unauthenticated TURN answers a second per address"
    )
    turn_data_path: DataPathKind = _setting(
        "TAVERN_TURN_DATA_PATH",
        "auto",
        values.one_of("auto", "native", "python"),
        "what moves packets and passes messages on: native, where it was compiled, else python",
    )
    log_level: LogLevel = _setting(
        "TAVERN_LOG_LEVEL",
        "info",
        values.one_of("trace", "debug", "info", "warn", "error"),
        "least level that is logged",
    )
    log_format: LogFormat = _setting(
        "TAVERN_LOG_FORMAT",
        "human",
        values.one_of("human", "json"),
        "what a line of the log is: words for people, or one JSON object",
    )
    heartbeat_interval_s: float = _setting(
        "TAVERN_HEARTBEAT_INTERVAL",
        10.0,
        values.milliseconds(100, 3_600_000),
        "ms between pings",
        shown_default="10000",
    )
    heartbeat_timeout_s: float = _setting(
        "TAVERN_HEARTBEAT_TIMEOUT",
        5.0,
        values.milliseconds(100, 3_600_000),
        "ms that a pong may take",
        shown_default="5000",
    )
    rate_create: int = _setting("TAVERN_RATE_CREATE", 10, values.integer(1, _LIMIT), "new taverns a minute per address")
    rate_messages: int = _setting(
        "TAVERN_RATE_MSG_SEC", 30, values.integer(1, _LIMIT), "messages a second per connection"
    )
    max_connections: int = _setting(
        "TAVERN_MAX_CONNECTIONS",
        0,
        values.integer(0, _LIMIT),
        "connections to page and signaling at once",
        shown_default="half of the file descriptors",
    )
    max_connections_per_address: int = _setting(
        "TAVERN_MAX_CONNECTIONS_PER_ADDRESS",
        0,
        values.integer(0, _LIMIT),
        "of one address (IPv6: of one /64)",
        shown_default="a quarter of them",
    )
    invites: tuple[str, ...] = _setting(
        "TAVERN_INVITE", (), values.invites, "who enters must show it; two while you replace it", shown_default="none"
    )
    require_identity: bool = _setting(
        "TAVERN_REQUIRE_IDENTITY",
        False,
        values.on_off,
        "only people with a proven identity talk (on, off)",
        shown_default="off",
    )
    create: CreateRule = _setting(
        "TAVERN_CREATE", "anyone", values.one_of("anyone", "verified", "listed"), "who may make taverns"
    )
    create_keys: frozenset[str] = _setting(
        "TAVERN_CREATE_KEYS", frozenset(), values.public_keys, "public keys of who may, if listed", shown_default="none"
    )
    max_taverns: int = _setting("TAVERN_MAX_TAVERNS", 20_000, values.integer(1, _LIMIT), "taverns on this server")
    max_taverns_per_address: int = _setting(
        "TAVERN_MAX_TAVERNS_PER_ADDRESS", 100, values.integer(1, _LIMIT), "taverns made from one address"
    )
    max_channels: int = _setting("TAVERN_MAX_CHANNELS", 50, values.integer(1, 1000), "channels in one tavern")
    tavern_ttl_days: int = _setting(
        "TAVERN_TAVERN_TTL_DAYS",
        365,
        values.integer(0, 36_500),
        "days after which an unused tavern without owner is deleted (0: never)",
    )
    min_free_mb: int = _setting(
        "TAVERN_MIN_FREE_MB",
        64,
        values.integer(0, _LIMIT),
        "MB left on the disk below which nothing new is stored",
    )
    origins: tuple[str, ...] = _setting(
        "TAVERN_ORIGINS", (), values.origins, "web pages that may use this server", shown_default="*"
    )
    trusted_proxies: tuple[IPNetwork | Gateway, ...] = _setting(
        "TAVERN_TRUSTED_PROXIES",
        (ip_network("127.0.0.0/8"), ip_network("::1/128")),
        values.proxies,
        "proxies whose forwarded client address counts; gateway: the default gateway",
        shown_default="127.0.0.0/8,::1/128",
    )
    tls_cert: Path | None = _setting(
        "TAVERN_TLS_CERT", None, values.path, "certificate chain (PEM): https and wss", shown_default="none"
    )
    tls_key: Path | None = _setting("TAVERN_TLS_KEY", None, values.path, "its private key (PEM)", shown_default="none")

    acme: bool = _setting(
        "TAVERN_ACME",
        False,
        values.on_off,
        "the certificate is got from an authority and renewed by itself; you agree to its terms (on, off)",
        shown_default="off",
    )
    acme_email: str | None = _setting(
        "TAVERN_ACME_EMAIL", None, values.email, "where that authority may write to", shown_default="none"
    )
    acme_directory: str = _setting(
        "TAVERN_ACME_DIRECTORY",
        "https://acme-v02.api.letsencrypt.org/directory",
        values.https_url,
        "which authority that is (RFC 8555): Let's Encrypt",
    )
    redirect_port: int | None = _setting(
        "TAVERN_REDIRECT_PORT",
        None,
        values.integer(0, 65535),
        "port more for plain http, which is sent to https: 80 (0: any free)",
        shown_default="none",
    )

    @property
    def is_local(self) -> bool:
        """Whether no real domain was set: the server is for this machine or home, under its address."""
        return is_loopback_name(self.domain)

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None or self.acme


@attrs.frozen
class SettingHelp:
    """One setting as people are told of it."""

    variable: str
    option: str
    default: str
    text: str


def _help(field: attrs.Attribute[Any]) -> SettingHelp:
    variable = field.metadata["variable"]
    option = "--" + variable.removeprefix("TAVERN_").lower().replace("_", "-")
    return SettingHelp(variable, option, field.metadata["default"], field.metadata["help"])


SETTINGS: tuple[SettingHelp, ...] = tuple(_help(field) for field in attrs.fields(Settings))
VARIABLES: tuple[str, ...] = tuple(setting.variable for setting in SETTINGS)


def _converter() -> Converter:
    converter = Converter(detailed_validation=True)

    def hook_for(parse: Parser) -> Callable[[Any, Any], Any]:
        return lambda value, _type: parse(value)

    overrides = {
        field.name: override(rename=field.metadata["variable"], struct_hook=hook_for(field.metadata["parse"]))
        for field in attrs.fields(Settings)
    }
    # mypy cannot see that each value is an override: the function takes them as keywords beside its own switches.
    structure = make_dict_structure_fn(Settings, converter, **overrides)  # type: ignore[arg-type]
    converter.register_structure_hook(Settings, structure)
    return converter


def load_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that `environment` states; an empty value counts as not set (compose passes those).

    Raises SettingsError that lists every variable with a value that is not allowed.
    """
    given = {name: environment[name].strip() for name in VARIABLES if environment.get(name, "").strip()}
    problems: list[SettingsProblem] = []
    try:
        settings = _converter().structure(given, Settings)
    except ClassValidationError as group:
        variables = {field.name: field.metadata["variable"] for field in attrs.fields(Settings)}
        with_notes, _without = group.group_exceptions()
        for error, note in with_notes:
            variable = variables[note.name]
            shown = "(not shown)" if variable in SECRETS else given[variable]  # this ends up in logs
            problems.append(SettingsProblem(variable, shown, str(error)))
        raise SettingsError(tuple(problems)) from None
    problems.extend(_contradictions(settings, given))
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _contradictions(settings: Settings, given: Mapping[str, str]) -> list[SettingsProblem]:
    """Settings that are each allowed and together are not."""
    problems = []
    if settings.turn_min_port > settings.turn_max_port:
        problems.append(
            SettingsProblem(
                "TAVERN_TURN_MIN_PORT",
                str(settings.turn_min_port),
                f"must not be above TAVERN_TURN_MAX_PORT ({settings.turn_max_port})",
            )
        )
    for one, other in (("TAVERN_TLS_CERT", "TAVERN_TLS_KEY"), ("TAVERN_TLS_KEY", "TAVERN_TLS_CERT")):
        if one in given and other not in given:
            problems.append(SettingsProblem(other, "", f"must be set as well, since {one} is"))
    problems.extend(_tls_contradictions(settings))
    if settings.create == "listed" and not settings.create_keys:
        problems.append(SettingsProblem("TAVERN_CREATE_KEYS", "", "must be set with TAVERN_CREATE=listed"))
    if settings.turn_previous_secret == DEV_SECRET:
        allowed = "everybody knows this secret: leave it out, TAVERN_LEGACY_TURN is for the clients that carry it"
        problems.append(SettingsProblem("TAVERN_TURN_PREVIOUS_SECRET", DEV_SECRET, allowed))
    if settings.turn_secret == DEV_SECRET and not settings.is_local:
        problems.append(
            SettingsProblem(
                "TAVERN_TURN_SECRET",
                DEV_SECRET,
                f"everybody knows this secret, so it is refused with TAVERN_DOMAIN={settings.domain}: "
                "unset it (one is made and kept) or set your own",
            )
        )
    return problems


def _tls_contradictions(settings: Settings) -> Iterator[SettingsProblem]:
    if settings.acme and settings.tls_cert is not None:
        yield SettingsProblem("TAVERN_ACME", "on", "must be off while TAVERN_TLS_CERT names a certificate of your own")
    if settings.acme and (settings.is_local or is_address(settings.domain)):
        allowed = "must be the name that people reach this server by, with TAVERN_ACME: certificates are for names"
        yield SettingsProblem("TAVERN_DOMAIN", settings.domain, allowed)
    if settings.redirect_port is not None and not settings.tls:
        allowed = "needs https to send people to: set TAVERN_ACME, or TAVERN_TLS_CERT and TAVERN_TLS_KEY"
        yield SettingsProblem("TAVERN_REDIRECT_PORT", str(settings.redirect_port), allowed)


def unknown_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    """A line for each TAVERN_ variable that is no setting: most are typing errors, and none takes effect."""
    lines = []
    for name in sorted(environment):
        if name.startswith("TAVERN_") and name not in VARIABLES:
            # TAVERN_PORT is the compose file's name for the host's port; by hand it is PORT.
            close = ["PORT"] if name == "TAVERN_PORT" else difflib.get_close_matches(name, VARIABLES, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"{name} is not a setting and has no effect{hint}")
    return tuple(lines)

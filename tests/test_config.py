"""Settings: read from a mapping, checked at once, and every error names the variable, its value and what is allowed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.config import (
    DEV_SECRET,
    SETTINGS,
    VARIABLES,
    load_settings,
    unknown_variables,
)
from tavern.errors import SettingsError


def test_everything_has_the_promised_default() -> None:
    settings = load_settings({})
    assert settings.port == 3001
    assert settings.hosts == ()
    assert settings.store == "sqlite"
    assert settings.domain == "localhost"
    assert (settings.turn_port, settings.turn_min_port, settings.turn_max_port) == (3478, 49152, 65535)
    assert (settings.heartbeat_interval_s, settings.heartbeat_timeout_s) == (10.0, 5.0)
    assert (settings.rate_create, settings.rate_messages) == (10, 30)
    assert (settings.turn_user_quota, settings.turn_address_quota, settings.turn_401_rate) == (128, 1024, 64)
    assert (settings.turn_max_permissions, settings.turn_max_channels) == (512, 512)
    assert (settings.turn_user_bytes_per_s, settings.turn_bytes_per_s, settings.turn_monthly_gb) == (0, 0, 0)
    assert settings.trusted_proxies == (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def test_what_is_empty_is_not_set() -> None:
    """Compose passes empty values for what its .env file does not state."""
    assert load_settings(dict.fromkeys(VARIABLES, " ")) == load_settings({})


@pytest.mark.parametrize(
    ("variable", "value", "attribute", "parsed"),
    [
        ("PORT", "0", "port", 0),
        ("TAVERN_HOST", "::1", "hosts", ("::1",)),
        ("TAVERN_STORE", "Memory", "store", "memory"),
        ("TAVERN_DB_PATH", "/data/tavern.db", "db_path", Path("/data/tavern.db")),
        ("TAVERN_DOMAIN", "Tavern.Example.com.", "domain", "tavern.example.com"),
        ("TAVERN_EXTERNAL_IP", "203.0.113.7", "external_addresses", (ip_address("203.0.113.7"),)),
        (
            "TAVERN_EXTERNAL_IP",
            "203.0.113.7, 2001:db8::7",
            "external_addresses",
            (ip_address("203.0.113.7"), ip_address("2001:db8::7")),
        ),
        (
            "TAVERN_ICE_URLS",
            "stun:a.example:3478,turn:a.example?transport=tcp",
            "ice_urls",
            ("stun:a.example:3478", "turn:a.example?transport=tcp"),
        ),
        ("TAVERN_TURN_ALLOW_PEERS", "192.168.1.0/24", "turn_allow_peers", (ip_network("192.168.1.0/24"),)),
        ("TAVERN_RATE_MSG_SEC", str(2**31 - 1), "rate_messages", 2**31 - 1),
        ("TAVERN_RATE_CREATE", str(2**31 - 1), "rate_create", 2**31 - 1),
        ("TAVERN_TURN_ADDRESS_QUOTA", "7", "turn_address_quota", 7),
        ("TAVERN_TURN_MAX_PERMISSIONS", "1024", "turn_max_permissions", 1024),
        ("TAVERN_TURN_MAX_CHANNELS", "1", "turn_max_channels", 1),
        ("TAVERN_TURN_USER_BYTES_PER_S", "125000", "turn_user_bytes_per_s", 125_000),
        ("TAVERN_TURN_BYTES_PER_S", "12500000", "turn_bytes_per_s", 12_500_000),
        ("TAVERN_TURN_MONTHLY_GB", "20000", "turn_monthly_gb", 20_000),
        ("TAVERN_HEARTBEAT_INTERVAL", "2500", "heartbeat_interval_s", 2.5),
        ("TAVERN_LOG_LEVEL", "WARN", "log_level", "warn"),
    ],
)
def test_values_are_read(variable: str, value: str, attribute: str, parsed: object) -> None:
    assert getattr(load_settings({variable: value}), attribute) == parsed


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("PORT", "http", "0 to 65535"),
        ("PORT", "65536", "0 to 65535"),
        ("PORT", "-1", "0 to 65535"),
        ("PORT", "3_001", "0 to 65535"),
        ("PORT", "٣٠٠١", "0 to 65535"),
        ("TAVERN_HOST", "example.com", "IP address"),
        ("TAVERN_HOST", "224.0.0.1", "IP address to listen on"),
        ("TAVERN_HOST", "ff02::1", "IP address to listen on"),
        ("TAVERN_HOST", "255.255.255.255", "IP address to listen on"),
        ("TAVERN_STORE", "postgres", "sqlite, memory"),
        ("TAVERN_DB_PATH", "~nobody-of-that-name/tavern.db", "path of a file"),
        ("TAVERN_DOMAIN", "https://tavern.example.com/", "host name"),
        ("TAVERN_DOMAIN", "tavern example", "host name"),
        ("TAVERN_DOMAIN", "0.0.0.0", "can reach"),
        ("TAVERN_DOMAIN", "::", "can reach"),
        ("TAVERN_DOMAIN", "224.0.0.1", "can reach"),
        ("TAVERN_DOMAIN", "ff02::1", "can reach"),
        ("TAVERN_DOMAIN", "255.255.255.255", "can reach"),
        ("TAVERN_TURN_MIN_PORT", "80", "1024 to 65535"),
        ("TAVERN_TURN_SHARED_PORTS", "on", "auto, always, never"),
        ("TAVERN_EXTERNAL_IP", "1.2.3.4,5.6.7.8", "one IPv4 address"),
        ("TAVERN_EXTERNAL_IP", "0.0.0.0", "clients can send to"),
        ("TAVERN_EXTERNAL_IP", "255.255.255.255", "clients can send to"),
        ("TAVERN_ICE_URLS", "http://a", "'http://a' is not"),
        ("TAVERN_TURN_ALLOW_PEERS", "10.0.0.1/8", "ranges"),
        ("TAVERN_TRUSTED_PROXIES", "proxy", "ranges"),
        ("TAVERN_TURN_ADDRESS_QUOTA", "0", "1 to 2147483647"),
        ("TAVERN_TURN_MAX_PERMISSIONS", "1025", "1 to 1024"),
        ("TAVERN_TURN_MAX_CHANNELS", "0", "1 to 1024"),
        ("TAVERN_TURN_USER_BYTES_PER_S", "1MB", "0 to 2147483647"),
        ("TAVERN_TURN_BYTES_PER_S", "-1", "0 to 2147483647"),
        ("TAVERN_TURN_MONTHLY_GB", "0.5", "0 to 1000000"),
        ("TAVERN_RATE_MSG_SEC", "0", "1 to 2147483647"),
        ("TAVERN_RATE_MSG_SEC", str(2**31), "1 to 2147483647"),
        ("TAVERN_HEARTBEAT_INTERVAL", "10s", "milliseconds"),
        ("TAVERN_LOG_LEVEL", "verbose", "trace, debug, info, warn, error"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({variable: value})
    [problem] = raised.value.problems
    assert (problem.variable, problem.value) == (variable, value)
    assert allowed in problem.allowed
    assert variable in str(raised.value)


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"PORT": "x", "TAVERN_STORE": "y", "TAVERN_LOG_LEVEL": "z"})
    assert [problem.variable for problem in raised.value.problems] == ["PORT", "TAVERN_STORE", "TAVERN_LOG_LEVEL"]


def test_the_secret_is_not_printed() -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"TAVERN_TURN_SECRET": "hunter2\x00", "TAVERN_TURN_PREVIOUS_SECRET": "hunter2\x00"})
    assert "hunter2" not in str(raised.value)
    shown = str(
        load_settings({"TAVERN_TURN_SECRET": "hunter2hunter2", "TAVERN_TURN_PREVIOUS_SECRET": "hunter2hunter2"})
    )
    assert "hunter2hunter2" not in shown


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"TAVERN_TURN_MIN_PORT": "50001", "TAVERN_TURN_MAX_PORT": "50000"}, "TAVERN_TURN_MIN_PORT"),
        ({"TAVERN_TLS_CERT": "/cert.pem"}, "TAVERN_TLS_KEY"),
        ({"TAVERN_TLS_KEY": "/key.pem"}, "TAVERN_TLS_CERT"),
        ({"TAVERN_DOMAIN": "tavern.example.com", "TAVERN_TURN_SECRET": DEV_SECRET}, "TAVERN_TURN_SECRET"),
        ({"TAVERN_TURN_PREVIOUS_SECRET": DEV_SECRET}, "TAVERN_TURN_PREVIOUS_SECRET"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(environment)
    assert [problem.variable for problem in raised.value.problems] == [named]


def test_the_development_secret_may_be_set_while_the_domain_is_localhost() -> None:
    assert load_settings({"TAVERN_TURN_SECRET": DEV_SECRET}).turn_secret == DEV_SECRET


@given(st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=30)))
def test_any_environment_gives_settings_or_one_error(environment: dict[str, str]) -> None:
    try:
        load_settings(environment)
    except SettingsError as error:
        assert error.problems


def test_typing_errors_in_names_are_found() -> None:
    lines = unknown_variables({"TAVERN_TRUN_SECRET": "x", "TAVERN_PORT": "1", "PATH": "/", "TAVERN_STORE": "memory"})
    assert [line.split()[0] for line in lines] == ["TAVERN_PORT", "TAVERN_TRUN_SECRET"]
    assert lines[0].endswith("did you mean PORT?")
    assert lines[1].endswith("did you mean TAVERN_TURN_SECRET?")


def test_each_setting_has_an_option_of_its_name_and_a_line_of_help() -> None:
    options = {setting.variable: setting.option for setting in SETTINGS}
    assert options["PORT"] == "--port"
    assert options["TAVERN_TURN_MIN_PORT"] == "--turn-min-port"
    assert len(set(options.values())) == len(SETTINGS)
    assert all(setting.text and setting.default for setting in SETTINGS)


ACME = {"TAVERN_ACME": "on", "TAVERN_DOMAIN": "tavern.example.com"}


def test_a_certificate_of_an_authority_is_one() -> None:
    assert load_settings(ACME).tls
    assert load_settings({**ACME, "TAVERN_REDIRECT_PORT": "80"}).redirect_port == 80


@pytest.mark.parametrize(
    ("changed", "variable", "word"),
    [
        ({"TAVERN_DOMAIN": "localhost"}, "TAVERN_DOMAIN", "certificates are for names"),
        ({"TAVERN_DOMAIN": ""}, "TAVERN_DOMAIN", "certificates are for names"),
        ({"TAVERN_DOMAIN": "192.0.2.7"}, "TAVERN_DOMAIN", "certificates are for names"),
        ({"TAVERN_TLS_CERT": "/a", "TAVERN_TLS_KEY": "/b"}, "TAVERN_ACME", "of your own"),
        ({"TAVERN_ACME_DIRECTORY": "http://acme.example.org/dir"}, "TAVERN_ACME_DIRECTORY", "https://"),
        ({"TAVERN_ACME_EMAIL": "nobody"}, "TAVERN_ACME_EMAIL", "e-mail"),
        ({"TAVERN_ACME": "off", "TAVERN_REDIRECT_PORT": "80"}, "TAVERN_REDIRECT_PORT", "needs https"),
    ],
)
def test_what_a_certificate_cannot_be_had_with_is_named(changed: dict[str, str], variable: str, word: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({**ACME, **changed})
    [problem] = refused.value.problems
    assert problem.variable == variable
    assert word in problem.allowed

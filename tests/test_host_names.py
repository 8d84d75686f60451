"""Host headers as clients and attackers send them."""

from __future__ import annotations

import pytest

from tavern.host_names import host_without_port, is_loopback_name, port_in_host


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost:3001", "localhost"),
        ("Tavern.example.com", "tavern.example.com"),
        ("192.168.1.5:3001", "192.168.1.5"),
        ("[2001:db8::7]:3001", "2001:db8::7"),
        ("", None),
        ("a b", None),
        ("user@host", None),
        ("host/path", None),
        ("[::1", None),
        ("x" * 400, None),
    ],
)
def test_the_host_header_without_its_port(header: str, host: str | None) -> None:
    assert host_without_port(header) == host


@pytest.mark.parametrize(
    ("header", "port"),
    [
        ("tavern.example.com:8443", 8443),
        ("tavern.example.com", None),
        ("[2001:db8::7]:3001", 3001),
        ("[2001:db8::7]", None),
        ("host:", None),
        ("host:x", None),
        ("host:99999", None),
        ("user@host:1", None),
    ],
)
def test_the_port_in_the_host_header(header: str, port: int | None) -> None:
    assert port_in_host(header) == port


@pytest.mark.parametrize(
    ("name", "loopback"),
    [
        ("localhost", True),
        ("pony.localhost", True),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("192.168.1.5", False),
        ("localhost.example.com", False),
    ],
)
def test_names_that_reach_only_the_machine_itself(name: str, loopback: bool) -> None:
    assert is_loopback_name(name) is loopback

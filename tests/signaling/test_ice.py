"""The ICE servers that are handed out: what is open, in the order and number that browsers take well."""

from __future__ import annotations

import pytest

from tavern.signaling.ice import own_urls, reachable_turns_port


@pytest.mark.parametrize(
    ("host", "turns_port", "urls"),
    [
        ("tavern.test", None, ("turn:tavern.test:3478?transport=udp", "turn:tavern.test:3478?transport=tcp")),
        ("tavern.test", 5349, ("turn:tavern.test:3478?transport=udp", "turns:tavern.test:5349?transport=tcp")),
        ("2001:db8::1", 443, ("turn:[2001:db8::1]:3478?transport=udp", "turns:[2001:db8::1]:443?transport=tcp")),
    ],
)
def test_udp_comes_first_then_the_stream_that_passes_most_firewalls(
    host: str, turns_port: int | None, urls: tuple[str, ...]
) -> None:
    *turn, stun = own_urls(host, 3478, turns_port)
    assert tuple(turn) == urls  # browsers warn beyond two
    assert stun == urls[0].replace("turn:", "stun:").partition("?")[0]


@pytest.mark.parametrize(
    ("turns_port", "host_port", "direct_tls", "reachable"),
    [
        (None, None, False, None),  # a proxy has the certificate, this server has none
        (None, 8443, False, None),
        (5349, None, True, 443),  # over our own TLS: the port that the page came from gets through
        (5349, 3001, True, 3001),
        (5349, None, False, 5349),  # a proxy ends TLS, and carries no TURN
        (5349, 443, False, 5349),
    ],
)
def test_turn_over_tls_is_named_where_the_client_reaches_it(
    turns_port: int | None, host_port: int | None, direct_tls: bool, reachable: int | None
) -> None:
    assert reachable_turns_port(turns_port, host_port, direct_tls=direct_tls) == reachable

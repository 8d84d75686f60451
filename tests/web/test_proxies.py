"""Whose address counts, behind which proxy."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.web.proxies import client_host, names_a_proxy

TRUSTED = (ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("10.0.0.0/8"))


def forwarded(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", value.encode()) for value in values]


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        # Nobody in front.
        ("203.0.113.7", [], "203.0.113.7"),
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        # Whoever is not a trusted proxy cannot choose its address.
        ("203.0.113.7", forwarded("198.51.100.1"), "203.0.113.7"),
        ("203.0.113.7", [(b"x-real-ip", b"198.51.100.1")], "203.0.113.7"),
        # The guide's nginx sends X-Real-IP alone.
        ("127.0.0.1", [(b"x-real-ip", b"198.51.100.1")], "198.51.100.1"),
        ("::1", [(b"x-real-ip", b"2001:db8::7")], "2001:db8::7"),
        # The rightmost that is no trusted proxy; what is left of it may be forged.
        ("127.0.0.1", forwarded("192.0.2.66, 198.51.100.1"), "198.51.100.1"),
        ("127.0.0.1", forwarded("198.51.100.1, 10.0.0.3"), "198.51.100.1"),
        ("127.0.0.1", forwarded("192.0.2.66", "198.51.100.1", "10.0.0.3"), "198.51.100.1"),
        # Both, as a proxy that sets both writes them, alone and behind another one.
        ("127.0.0.1", [*forwarded("198.51.100.1"), (b"x-real-ip", b"198.51.100.1")], "198.51.100.1"),
        ("127.0.0.1", [*forwarded("192.0.2.66, 198.51.100.1"), (b"x-real-ip", b"198.51.100.1")], "198.51.100.1"),
        ("127.0.0.1", [*forwarded("198.51.100.1, 10.0.0.3"), (b"x-real-ip", b"10.0.0.3")], "198.51.100.1"),
        ("127.0.0.1", [*forwarded("198.51.100.1, 10.0.0.3"), (b"x-real-ip", b"198.51.100.1")], "198.51.100.1"),
        ("127.0.0.1", [*forwarded("198.51.100.1, 10.0.0.4, 10.0.0.3"), (b"x-real-ip", b"10.0.0.4")], "198.51.100.1"),
        ("127.0.0.1", [*forwarded("10.0.0.4, 198.51.100.1, 10.0.0.3"), (b"x-real-ip", b"10.0.0.4")], "127.0.0.1"),
        # One of them forged by the client and passed on: neither counts.
        ("127.0.0.1", [*forwarded("192.0.2.66"), (b"x-real-ip", b"198.51.100.1")], "127.0.0.1"),
        ("127.0.0.1", [*forwarded("198.51.100.1"), (b"x-real-ip", b"nonsense")], "127.0.0.1"),
        ("127.0.0.1", [(b"x-real-ip", b"192.0.2.66"), (b"x-real-ip", b"198.51.100.1")], "127.0.0.1"),
        # Only so many hops are looked at: more are no chain of proxies.
        ("127.0.0.1", forwarded("198.51.100.1" + ", 10.0.0.3" * 32), "127.0.0.1"),
        # With ports, as some write them.
        ("127.0.0.1", forwarded("198.51.100.1:4711"), "198.51.100.1"),
        ("127.0.0.1", forwarded("[2001:db8::7]:4711"), "2001:db8::7"),
        # Garbage: nobody vouches for anything left of it.
        ("127.0.0.1", forwarded("198.51.100.1, unknown"), "127.0.0.1"),
        ("127.0.0.1", [(b"x-real-ip", b"nonsense")], "127.0.0.1"),
        # All of them trusted: the call comes from the proxies themselves.
        ("127.0.0.1", forwarded("10.0.0.9, 10.0.0.3"), "127.0.0.1"),
    ],
)
def test_the_clients_own_address(peer: str, headers: list[tuple[bytes, bytes]], client: str) -> None:
    assert client_host(peer, headers, TRUSTED) == client


@given(st.lists(st.tuples(st.sampled_from([b"x-forwarded-for", b"x-real-ip"]), st.binary()), max_size=4))
def test_any_headers_give_an_address(headers: list[tuple[bytes, bytes]]) -> None:
    assert client_host("127.0.0.1", headers, TRUSTED)
    assert client_host("203.0.113.7", headers, TRUSTED) == "203.0.113.7"


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([], False),
        ([(b"host", b"tavern.test"), (b"user-agent", b"x-real-ip")], False),
        (forwarded("203.0.113.7"), True),
        ([(b"x-real-ip", b"203.0.113.7")], True),
        ([(b"forwarded", b"for=203.0.113.7")], True),
        ([(b"via", b"1.1 pony")], True),
    ],
)
def test_a_proxy_that_names_itself_is_noticed(headers: list[tuple[bytes, bytes]], named: bool) -> None:
    assert names_a_proxy(headers) is named

"""What of an offer, answer or candidate counts as the announcement of an address."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.signaling.candidates import announced_addresses
from tests.signaling.relayed import answer, ice_candidate, offer

HOST = "candidate:842163049 1 udp 1677729535 9.8.7.6 46154 typ srflx raddr 10.0.0.1 rport 0 generation 0"
SDP = (
    "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\nc=IN IP4 9.9.9.9\r\n"
    "a=candidate:1 1 udp 2122260223 9.8.7.1 5000 typ host\r\n"
    "a=candidate:2 1 UDP 2122260222 2600:0::1 5000 typ host\r\n"
    "a=candidate:3 1 tcp 1518280447 9.8.7.2 9 typ host tcptype active\r\n"
    "a=candidate:4 1 udp 2113937151 4b8c3b0e-7e0e-4d5b-9d1a-1f4d6a0c2b11.local 5000 typ host\r\n"
    "a=candidate:5 1 udp 2113937151 ::ffff:9.8.7.3 5000 typ host\r\n"
    "a=candidate:6 1 udp 2113937151 9.8.7.999 5000 typ host\r\n"
    "a=candidate:7 1 udp 2113937151 1e100 5000 typ host\r\n"
)
IN_SDP = {"9.8.7.1", "2600::1", "9.8.7.3"}


@pytest.mark.parametrize(
    ("candidate", "addresses"),
    [
        (HOST, {"9.8.7.6"}),
        (json.dumps({"candidate": HOST, "sdpMid": "0", "sdpMLineIndex": 0}), {"9.8.7.6"}),
        (json.dumps({"candidate": ""}), set()),
        ("a=" + HOST, {"9.8.7.6"}),
        ("candidate:1 1 tcp 1518280447 9.8.7.6 9 typ host", set()),
        ("candidate:1 1 udp 1 printer.local 9 typ host", set()),
        ("candidate:1 1 udp 1 9.8.7.6 typ host", set()),
        ("candidate:1 1 udp 1 ٩.8.7.6 9 typ host", set()),
        ("9.8.7.6", set()),
        ("", set()),
    ],
)
def test_a_candidates_address(candidate: str, addresses: set[str]) -> None:
    assert {str(address) for address in announced_addresses(ice_candidate(candidate, "b").content)} == addresses


@pytest.mark.parametrize("text", [SDP, json.dumps({"type": "offer", "sdp": SDP}), SDP.replace("\r\n", "\n")])
def test_the_udp_candidates_of_a_description_and_nothing_else_in_it(text: str) -> None:
    for message in (offer(text), answer(text, "b")):
        assert {str(address) for address in announced_addresses(message.content)} == IN_SDP


@pytest.mark.parametrize(
    "text",
    [
        "candidate:" * 6500,
        "candidate:" + "1" * 65000,
        "candidate:1 1 udp 1 " * 3000,
        "candidate:1 1 udp 1 " + "1" * 65000,
        "candidate:1 1 udp 1 " + ":" * 65000,
    ],
)
def test_what_looks_like_candidates_for_long_is_none(text: str) -> None:
    """A pattern that goes back and forth in it would not end before the test's time is over."""
    assert announced_addresses(offer(text).content) == frozenset()


def test_only_so_many_candidates_of_one_message_are_read() -> None:
    text = "".join(HOST.replace("9.8.7.6", f"9.{n // 200}.{n % 200}.6") + "\n" for n in range(500))
    assert len(announced_addresses(offer(text).content)) == 256


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_read(text: str) -> None:
    for address in announced_addresses(offer("candidate:" + text).content):
        assert address == ip_address(str(address))


def test_escapes_that_nothing_needs_hide_no_address() -> None:
    escaped = '"a=candidate:1\\/2 1 \\u0075dp 1 9.8.7.6 9 typ host"'
    assert {str(address) for address in announced_addresses(escaped.encode())} == {"9.8.7.6"}

"""QR codes of invite links: read back, and of nothing but this server's own taverns."""

from __future__ import annotations

import re

import pytest

from tavern.web.invites import invite_link, qr_code

TAVERN = "57c7ed7f-1c44-4f89-bae0-59a64bc55c59"


@pytest.mark.parametrize(
    ("host", "secure", "link"),
    [
        ("voice.example", True, f"https://voice.example/join/{TAVERN}"),
        ("voice.example:3001", False, f"http://voice.example:3001/join/{TAVERN}"),
        ("[2001:db8::1]:3001", True, f"https://[2001:db8::1]:3001/join/{TAVERN}"),
        ("", True, None),
        ("a b", True, None),
        ("evil.example/path", True, None),
        ("user@evil.example", True, None),
        ("x" * 254, True, None),
        ("voice.example:123456", True, None),
    ],
)
def test_a_link_is_of_the_server_that_was_asked(host: str, secure: bool, link: str | None) -> None:
    assert invite_link(host, TAVERN, secure=secure) == link


@pytest.mark.parametrize("tavern", ["", "x", TAVERN.upper(), TAVERN.replace("-", ""), f"{{{TAVERN}}}", f"{TAVERN}x"])
def test_what_is_no_tavern_has_no_link(tavern: str) -> None:
    assert invite_link("voice.example", tavern, secure=True) is None


def test_the_picture_is_small_and_has_no_script() -> None:
    made = qr_code(f"https://voice.example/join/{TAVERN}").decode()
    assert made.startswith("<svg ")
    assert len(made) < 10_000
    assert re.findall(r"<(\w+)", made) == ["svg", "path", "path"]

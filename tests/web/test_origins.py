"""TAVERN_ORIGINS: which pages may open a WebSocket here."""

from __future__ import annotations

import pytest

from tavern.config import load_settings
from tavern.errors import SettingsError
from tavern.web.origins import is_allowed

LISTED = ("https://friends.example",)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (b"https://friends.example", "tavern.example.com", True),
        (b"HTTPS://Friends.Example", "tavern.example.com", True),
        (b"https://tavern.example.com", "tavern.example.com", True),
        (b"https://tavern.example.com:8443", "tavern.example.com:8443", True),
        (b"http://192.168.1.5:3001", "192.168.1.5:3001", True),
        (b"http://[2001:db8::1]:3001", "[2001:db8::1]:3001", True),
        (b"http://localhost:3001", "localhost:3001", True),
        (b"tauri://localhost", "tavern.example.com", True),
        (b"http://tauri.localhost", "tavern.example.com", True),
        (b"https://tauri.localhost", "tavern.example.com", True),
        (b"https://evil.example", "tavern.example.com", False),
        # A name of somebody's own that leads to us: the browser names it in both.
        (b"https://evil.example", "evil.example", False),
        (b"http://192.168.1.6:3001", "192.168.1.5:3001", False),
        (b"https://friends.example.evil.example", "tavern.example.com", False),
        (b"http://friends.example", "tavern.example.com", False),
        (b"tauri://localhost.evil.example", "tavern.example.com", False),
        (b"null", "tavern.example.com", False),
        (b"http://[", "[", False),
        (b"\xff", "tavern.example.com", False),
        (b"", "tavern.example.com", False),
    ],
)
def test_listed_pages_ours_and_the_apps_are_allowed(origin: bytes, host: str, allowed: bool) -> None:
    assert is_allowed([origin], LISTED, host, "tavern.example.com") is allowed


def test_without_a_list_all_are_and_who_names_none_is_no_page() -> None:
    assert is_allowed([b"https://evil.example"], (), "t", "localhost")
    assert is_allowed([], LISTED, "t", "localhost")
    assert not is_allowed([b"https://friends.example", b"https://evil.example"], LISTED, "t", "localhost")


def test_the_setting() -> None:
    assert load_settings({"TAVERN_ORIGINS": "*"}).origins == ()
    given = load_settings({"TAVERN_ORIGINS": "https://Friends.example, tauri://localhost"})
    assert given.origins == ("https://friends.example", "tauri://localhost")
    for wrong in ("friends.example", "https://friends.example/", "*, https://a.example"):
        with pytest.raises(SettingsError, match="TAVERN_ORIGINS"):
            load_settings({"TAVERN_ORIGINS": wrong})

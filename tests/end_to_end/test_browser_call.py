"""People in browsers talk through this server: two Chromium pages, the real program, nothing but its relay between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from tests.end_to_end.browser import Visitor, chromium, write_tone
from tests.end_to_end.server import RunningServer, lasting_port, running_server

pytestmark = pytest.mark.end_to_end

Arrive = Callable[[str], Visitor]

SETTINGS = {"TAVERN_DOMAIN": "localhost", "TAVERN_RATE_CREATE": "1000"}


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def talker(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with a microphone."""
    tone = write_tone(tmp_path_factory.mktemp("sound") / "tone.wav")
    with chromium(playwright, tone=tone) as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(SETTINGS) as started:
        yield started


@pytest.fixture
def arrive(talker: Browser) -> Iterator[Arrive]:
    """Somebody with a browser of their own opens a page; at the end nobody's page may have complained."""
    visitors: list[Visitor] = []

    def arrive(url: str) -> Visitor:
        visitor = Visitor.arrive(talker.new_context(), url)
        visitors.append(visitor)
        return visitor

    yield arrive
    for visitor in visitors:
        visitor.page.context.close()
    assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]


def two_in_a_call(arrive: Arrive, server: RunningServer) -> tuple[Visitor, Visitor]:
    """Ada makes a tavern and joins; Ben opens her link and presses the one button."""
    ada = arrive(server.url)
    link = ada.create_tavern("Friday night")
    ada.join("Ada")
    ben = arrive(link)
    ben.join("Ben")
    ada.sees_connected("Ben")
    ben.sees_connected("Ada")
    return ada, ben


def test_two_pages_talk_through_the_relay(arrive: Arrive, server: RunningServer) -> None:
    ada, ben = two_in_a_call(arrive, server)
    for visitor in (ada, ben):
        visitor.hears_more()
        assert [(one.local, one.remote) for one in visitor.call_stats()] == [("relay", "relay")]


def test_each_sees_and_hears_the_other(arrive: Arrive, server: RunningServer) -> None:
    ada, ben = two_in_a_call(arrive, server)
    bens_ada = ben.page.locator(".person.speaking", has_text="Ada")
    bens_ada.wait_for()

    ada.page.get_by_role("button", name="Mute").click()
    ada.page.get_by_role("button", name="Unmute").wait_for()
    bens_ada.wait_for(state="detached")
    ada.page.get_by_role("button", name="Unmute").click()
    bens_ada.wait_for()

    ada.page.get_by_label("Your name").fill("Ada Lovelace")
    ada.page.get_by_label("Your name").press("Tab")
    ben.person("Ada Lovelace").wait_for()

    ada.page.get_by_role("button", name="Leave").press("Enter")
    ben.person("Ada").wait_for(state="detached")
    ada.page.locator("#join:focus").wait_for()
    ada.person("Ben").wait_for()  # who only looks still sees who is there
    assert ada.call_stats() == []
    assert ben.call_stats() == []


def test_a_third_joins_and_a_new_channel_appears_once(arrive: Arrive, server: RunningServer) -> None:
    ada, ben = two_in_a_call(arrive, server)
    cleo = arrive(ada.page.url)
    cleo.page.get_by_label("Your name").fill("Cleo")
    cleo.page.get_by_label("Your name").press("Enter")
    cleo.in_call()
    assert cleo.page.evaluate("document.activeElement.id") == "display-name", "who is typing is left in peace"
    for visitor, others in ((ada, ("Ben", "Cleo")), (ben, ("Ada", "Cleo")), (cleo, ("Ada", "Ben"))):
        for other in others:
            visitor.sees_connected(other)
        visitor.hears_more()

    ben.page.get_by_label("Name of the new channel").fill("Board games")
    ben.page.get_by_label("Name of the new channel").press("Enter")
    for visitor in (ada, ben, cleo):
        visitor.page.get_by_role("heading", name="Board games").wait_for()
        assert visitor.page.locator(".channel").count() == 2

    cleo.page.get_by_role("button", name="Switch to Board games").click()
    ada.person("Cleo").locator(".state").get_by_text("connected").wait_for(state="detached")
    cleo.page.get_by_text("In Board games").wait_for()
    assert cleo.call_stats() == []


def test_the_call_comes_back_with_the_server(arrive: Arrive, tmp_path: Path) -> None:
    settings = {**SETTINGS, "PORT": str(lasting_port())}
    with running_server(settings, tmp=tmp_path) as first:
        ada, ben = two_in_a_call(arrive, first)
        assert first.stop() == 0
        for visitor in (ada, ben):
            visitor.page.locator("#connection", has_text="gone").wait_for()
    with running_server(settings, tmp=tmp_path):
        for visitor, other in ((ada, "Ben"), (ben, "Ada")):
            visitor.page.locator("#connection").wait_for(state="hidden")
            visitor.hears_more()
            visitor.sees_connected(other)
            assert [one.local for one in visitor.call_stats()] == ["relay"]


def test_a_tavern_that_a_restart_forgot_is_said_to_be_gone(arrive: Arrive) -> None:
    settings = {**SETTINGS, "PORT": str(lasting_port())}
    with running_server(settings) as first:
        ada = arrive(first.url)
        ada.create_tavern("Short-lived")
        ada.join("Ada")
        assert ada.page.evaluate("document.activeElement.id") == "mute", "the keyboard goes on where the sound is"
    with running_server(settings):
        ada.page.get_by_role("heading", name="There is no such tavern here").wait_for()
        ada.page.locator("#call").wait_for(state="hidden")
        ada.page.locator("#notice", has_text="does not exist").wait_for()


def test_a_second_page_takes_over_and_the_first_does_not_fight(arrive: Arrive, server: RunningServer) -> None:
    ada, ben = two_in_a_call(arrive, server)
    again = Visitor.arrive(ada.page.context, ada.page.url)
    again.page.locator("#join").wait_for()
    assert again.page.get_by_label("Your name").input_value() == "Ada", "the name is remembered"
    again.page.locator("#join").click()
    again.sees_connected("Ben")
    ada.page.get_by_text("You are in from another tab or window").wait_for()
    assert ada.call_stats() == []
    assert ben.page.locator(".person", has_text="Ada").count() == 1

    ada.page.get_by_role("button", name="Use here").click()
    ada.sees_connected("Ben")
    ada.hears_more()
    again.page.locator("#replaced").wait_for()
    assert again.complaints == []


def test_a_page_without_https_says_what_is_missing(arrive: Arrive, server: RunningServer) -> None:
    link = arrive(server.url).create_tavern("Plain")
    address = next((line for line in server.lines if "from elsewhere" in line and "[" not in line), None)
    if address is None:
        pytest.skip("this machine has no address besides localhost")
    origin = address.split()[-1].rstrip("/")
    visitor = arrive(origin + urlsplit(link).path)
    visitor.page.get_by_role("heading", name="Plain").wait_for()
    assert not visitor.page.evaluate("window.isSecureContext")
    explanation = visitor.page.locator("#insecure")
    explanation.wait_for()
    for mend in ("https", "TAVERN_TLS_CERT", "TAVERN_TLS_KEY", "proxy", "localhost"):
        assert mend in explanation.inner_text()
    assert not visitor.page.locator("#join").is_visible()
    assert visitor.page.locator("#invite-link").input_value() == visitor.page.url
    visitor.page.get_by_role("button", name="Copy link").click()
    visitor.page.get_by_role("status").get_by_text("Copied").wait_for()


def test_localhost_links_are_not_offered(arrive: Arrive, server: RunningServer) -> None:
    visitor = arrive(server.url)
    visitor.create_tavern("Here")
    visitor.page.get_by_text("works on this computer only").wait_for()
    assert visitor.page.locator("#copy-link").count() == 0


def test_a_link_to_nothing_says_so(arrive: Arrive, server: RunningServer) -> None:
    visitor = arrive(f"{server.url}join/00000000-0000-4000-8000-000000000000")
    visitor.page.get_by_role("heading", name="There is no such tavern here").wait_for()
    visitor.page.get_by_role("button", name="To the front page").click()
    visitor.page.get_by_role("button", name="Create").wait_for()
    assert urlsplit(visitor.page.url).path == "/"


def test_without_a_microphone_one_can_listen(arrive: Arrive, server: RunningServer, playwright: Playwright) -> None:
    ada = arrive(server.url)
    link = ada.create_tavern("Quiet")
    ada.join("Ada")
    with chromium(playwright, tone=None) as browser:
        ben = Visitor.arrive(browser.new_context(), link)
        ben.page.get_by_label("Your name").fill("Ben")
        ben.page.locator("#join").click()
        ben.page.locator("#microphone-trouble").get_by_role("button", name="Try again").wait_for()
        ben.page.get_by_role("button", name="Just listen").click()
        ben.sees_connected("Ada")
        ben.hears_more()
        ben.page.get_by_text("Listening only").wait_for()
        ben.page.locator(".person.speaking", has_text="Ada").wait_for()
        assert ben.complaints == []


def test_a_typed_link_and_a_visited_tavern_lead_there(arrive: Arrive, server: RunningServer) -> None:
    link = arrive(server.url).create_tavern("Corner table")
    visitor = arrive(server.url)
    visitor.page.get_by_label("Invite link or id").fill("not a link")
    visitor.page.get_by_role("button", name="Open").click()
    visitor.page.get_by_text("That is not an invite link").wait_for()
    visitor.page.get_by_label("Invite link or id").fill(link.removeprefix("http://"))
    visitor.page.get_by_role("button", name="Open").click()
    visitor.page.get_by_role("heading", name="Corner table").wait_for()
    visitor.page.go_back()
    visitor.page.get_by_role("link", name="Corner table").click()
    visitor.page.get_by_role("heading", name="Corner table").wait_for()
    assert visitor.page.url == link


_NO_ED25519 = """
crypto.subtle.generateKey = async (algorithm) => {
  throw new DOMException(`Unrecognized name: ${algorithm.name ?? algorithm}`, "NotSupportedError");
};
"""
_NO_STORAGE = """
for (const name of ["localStorage", "indexedDB"]) {
  Object.defineProperty(window, name, {
    get() { throw new DOMException("storage is switched off", "SecurityError"); },
  });
}
"""
_NO_WEBRTC = "delete window.RTCPeerConnection;"


def test_a_browser_without_ed25519_talks_and_stays_the_same(arrive: Arrive, server: RunningServer) -> None:
    ada = arrive(server.url)
    link = ada.create_tavern("Old browser")
    ada.join("Ada")
    ben = arrive("about:blank")
    ben.page.context.add_init_script(_NO_ED25519)
    ben.page.goto(link)
    tag = ben.page.locator(".way .tag").inner_text()
    ben.join("Ben")
    ben.sees_connected("Ada")
    ada.sees_connected("Ben")
    ben.hears_more()
    ben.page.reload()
    ben.page.locator(".way .tag", has_text=tag).wait_for()


def test_a_browser_that_keeps_nothing_says_so_and_talks(arrive: Arrive, server: RunningServer) -> None:
    ada = arrive(server.url)
    link = ada.create_tavern("Private window")
    ada.join("Ada")
    ben = arrive("about:blank")
    ben.page.context.add_init_script(_NO_STORAGE)
    ben.page.goto(link)
    ben.page.locator("#notice", has_text="keeps nothing").wait_for()
    ben.join("Ben")
    ben.sees_connected("Ada")
    ben.hears_more()


def test_a_browser_without_webrtc_is_told_so(talker: Browser, server: RunningServer) -> None:
    context = talker.new_context()
    context.add_init_script(_NO_WEBRTC)
    page = context.new_page()
    page.goto(server.url)
    page.get_by_role("alert").get_by_text("no WebRTC").wait_for()
    context.close()


def test_the_keyboard_is_never_lost(arrive: Arrive, server: RunningServer, playwright: Playwright) -> None:
    with chromium(playwright, tone=None) as browser:
        ada = Visitor.arrive(browser.new_context(), server.url)

        def focused(selector: str) -> None:
            ada.until(f"document.activeElement.matches({selector!r})", f"the keyboard on {selector}")

        ada.page.get_by_label("Its name").fill("By hand")
        ada.page.keyboard.press("Enter")
        focused(".tavern h1")
        ada.page.locator("#join").press("Enter")
        focused("#microphone-trouble button.primary")
        ada.page.locator("#listen-only").press("Enter")
        focused("#use-microphone")
        ada.page.get_by_role("button", name="Leave").press("Enter")
        focused("#join")
        ada.page.get_by_role("link", name="to the front page").press("Enter")
        ada.page.get_by_role("button", name="Forget By hand").press("Enter")
        focused(".home h1")
        assert ada.complaints == []

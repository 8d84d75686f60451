"""Calls of the page go on while the server restarts, and find another way when the network changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.end_to_end.browser import RELAY_ONLY, IceChoice, Visitor
from tests.end_to_end.server import lasting_port, running_server

pytestmark = pytest.mark.end_to_end

DIRECT = IceChoice(policy="all")

# What happens to the connections from now on, and how long the longest silence of the one there is was.
WATCH = """
() => {
  const [connection] = window.keptConnections;
  window.seen = { states: [], silenceMs: 0 };
  connection.addEventListener("connectionstatechange", () => window.seen.states.push(connection.connectionState));
  let bytes = 0;
  let heardAt = performance.now();
  setInterval(async () => {
    const stats = [...(await connection.getStats()).values()];
    const now = stats.find(({ type }) => type === "inbound-rtp")?.bytesReceived ?? 0;
    if (now > bytes) heardAt = performance.now();
    bytes = now;
    window.seen.silenceMs = Math.max(window.seen.silenceMs, performance.now() - heardAt);
  }, 100);
}
"""


@pytest.fixture
def settings() -> dict[str, str]:
    """Of a server that is started again where it was."""
    return {"PORT": str(lasting_port()), "TAVERN_TURN_PORT": str(lasting_port())}


def meet(browser: Browser, url: str, choice: IceChoice) -> tuple[Visitor, Visitor]:
    ada = Visitor.arrive(browser.new_context(), url, choice)
    link = ada.create_tavern("Friday night")
    ada.join("Ada")
    ben = Visitor.arrive(browser.new_context(), link, choice)
    ben.join("Ben")
    for visitor, other in ((ada, "Ben"), (ben, "Ada")):
        visitor.sees_connected(other)
        visitor.hears_more()
    return ada, ben


def back(visitor: Visitor) -> None:
    """In its place again, as the server sees it."""
    visitor.page.locator("#connection").wait_for(state="hidden")
    visitor.page.locator("#call", has_text="with 1 other").wait_for()


def test_a_direct_call_hears_nothing_of_a_restart(browser: Browser, settings: dict[str, str], tmp_path: Path) -> None:
    with running_server(settings, tmp=tmp_path) as server:
        visitors = meet(browser, server.url, DIRECT)
        for visitor in visitors:
            visitor.page.evaluate(WATCH)
        assert server.stop() == 0
    for visitor in visitors:
        visitor.page.locator("#connection", has_text="gone").wait_for()
        visitor.hears_more()
    with running_server(settings, tmp=tmp_path) as server:
        for visitor, other in zip(visitors, ("Ben", "Ada"), strict=True):
            back(visitor)
            visitor.sees_connected(other)
            visitor.hears_more()
            seen = visitor.page.evaluate("window.seen")
            assert seen["states"] == []
            assert visitor.page.evaluate("window.keptConnections.length") == 1
            assert seen["silenceMs"] < 2000, "a voice pauses for less"
            assert visitor.complaints == []
        # They are where they were: who comes now meets both.
        eve = Visitor.arrive(browser.new_context(), visitors[0].page.url, DIRECT)
        eve.join("Eve")
        for other in ("Ada", "Ben"):
            eve.sees_connected(other)


def test_a_relayed_call_is_heard_again_after_a_restart(
    browser: Browser, settings: dict[str, str], tmp_path: Path
) -> None:
    with running_server(settings, tmp=tmp_path) as server:
        visitors = meet(browser, server.url, RELAY_ONLY)
        server.stop()
    with running_server(settings, tmp=tmp_path) as server:
        for visitor, other in zip(visitors, ("Ben", "Ada"), strict=True):
            back(visitor)
            visitor.hears_more()
            visitor.sees_connected(other)
            [stats] = visitor.call_stats()
            assert (stats.local, stats.remote) == ("relay", "relay")
            assert visitor.page.evaluate("window.keptConnections.length") == 1, "it was mended, not replaced"


def test_who_hides_is_reached_through_the_relay_alone(browser: Browser) -> None:
    """Where the switch is remembered; and the diagnostics say how it is, and no address."""
    with running_server({}) as server:
        ada, ben = meet(browser, server.url, DIRECT)
        assert {one.local for one in ada.call_stats()} == {"host"}
        page = ada.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.locator("#audio summary").click()
        page.locator("#hide").check()
        for visitor, other in ((ada, "Ben"), (ben, "Ada")):
            visitor.page.locator(".stats", has_text="through the relay").wait_for(state="attached")
            visitor.sees_connected(other)
            visitor.hears_more()
        [stats] = ada.call_stats()
        assert stats.local == "relay"
        page.locator("#diagnostics").click()
        page.get_by_text("Copied.").wait_for()
        told = page.evaluate("navigator.clipboard.readText()")
        assert '"path": "relayed"' in told
        assert "127.0.0.1" not in told
        page.reload()
        page.locator("#audio summary").click()
        everywhere, here = page.locator("#hide"), page.locator("#hide-here")
        assert everywhere.is_checked()
        everywhere.uncheck()
        here.check()
        page.locator("#join").click()
        ben.sees_connected("Ada")
        page.locator(".stats", has_text="through the relay").wait_for(state="attached")
        here.uncheck()
        page.locator(".stats", has_text="direct").wait_for(state="attached")

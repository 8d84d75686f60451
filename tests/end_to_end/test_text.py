"""What is written beside a call goes from browser to browser, and is shown as text."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, WebSocket

from tests.end_to_end.browser import IceChoice, Visitor
from tests.end_to_end.server import RunningServer

pytestmark = pytest.mark.end_to_end

DIRECT = IceChoice(policy="all")


def write(page: Page, text: str) -> None:
    page.get_by_label("Write to those in the channel").fill(text)
    page.get_by_role("button", name="Send").click()


def test_three_write_to_each_other_and_the_server_hears_nothing(server: RunningServer, browser: Browser) -> None:
    ada = Visitor.arrive(browser.new_context(), server.url, DIRECT)
    frames: list[str | bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: frames.append(frame))  # noqa: PLW0108  it keeps notes on its handlers

    ada.page.on("websocket", listen)
    link = ada.create_tavern("Friday night")
    ada.page.reload()
    ada.join("Ada")
    others = []
    for name in ("Ben", "Eve"):
        other = Visitor.arrive(browser.new_context(), link, DIRECT)
        other.join(name)
        others.append(other)
    ada.page.locator("#text summary").click()
    ada.page.locator("#text .hint", has_text="will not see it").wait_for(state="hidden")
    hostile = "<img src=x onerror=alert(1)> look: https://a.example/?q=1&r=2."
    write(ada.page, hostile)
    for other in others:
        other.page.locator(".unread", has_text="1 new").wait_for()
        other.page.locator("#text summary").click()
        other.page.locator(".unread").wait_for(state="hidden")
        line = other.page.locator(".log li")
        line.wait_for()
        assert line.locator("p").inner_text() == hostile
        assert line.locator(".name").inner_text() == "Ada"
        anchor = line.locator("a")
        assert anchor.get_attribute("href") == "https://a.example/?q=1&r=2"
        assert anchor.get_attribute("rel") == "noopener noreferrer nofollow"
    write(others[0].page, "indeed")
    ada.page.locator(".log li", has_text="indeed").wait_for()
    assert frames
    assert not any("a.example" in str(frame) for frame in frames)
    late = Visitor.arrive(browser.new_context(), link, DIRECT)
    late.join("Late")
    late.sees_connected("Ada")
    assert late.page.locator(".log li").count() == 0, "who comes later sees nothing of before"
    for visitor in (ada, *others, late):
        assert visitor.complaints == []

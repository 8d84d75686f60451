"""The page in Chromium reaches the relay over each transport that the server offers, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.end_to_end.browser import TURN_URLS, IceChoice, Visitor, chromium, write_tone
from tests.end_to_end.transports import WAYS, Way, serving

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    tone = write_tone(tmp_path_factory.mktemp("sound") / "tone.wav")
    with sync_playwright() as playwright, chromium(playwright, tone=tone) as started:
        yield started


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with serving(request.param, tmp_path_factory.mktemp("server")) as started:
        yield started


def test_pages_talk(browser: Browser, way: Way) -> None:
    choice = IceChoice(turn=TURN_URLS[way.transport])
    ada = Visitor.arrive(browser.new_context(), way.server.url, choice)
    link = ada.create_tavern("Friday night")
    ada.join("Ada")
    ben = Visitor.arrive(browser.new_context(), link, choice)
    ben.join("Ben")
    for visitor, other in ((ada, "Ben"), (ben, "Ada")):
        visitor.talks_relayed(other, way.transport)
        assert visitor.page.evaluate("window.gatheringErrors") == []
    for visitor in (ada, ben):
        visitor.page.context.close()

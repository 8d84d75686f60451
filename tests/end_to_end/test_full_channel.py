"""A channel as full as it gets: eight browsers, and everybody hears all seven others."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.end_to_end.browser import IceChoice, Visitor, chromium, write_tone
from tests.end_to_end.server import running_server

pytestmark = pytest.mark.end_to_end

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Ida", "Fay", "Gus", "Hal")


def test_eight_people_hear_each_other_and_a_ninth_is_told(tmp_path: Path) -> None:
    with (
        running_server({}) as server,
        sync_playwright() as playwright,
        chromium(playwright, tone=write_tone(tmp_path / "tone.wav")) as browser,
    ):
        visitors: list[Visitor] = []
        link = server.url
        for name in NAMES:
            visitor = Visitor.arrive(browser.new_context(), link, IceChoice(policy="all"))
            if not visitors:
                link = visitor.create_tavern("Friday night")
            visitor.join(name)
            visitors.append(visitor)
        for visitor, own in zip(visitors, NAMES, strict=True):
            for name in NAMES:
                if name != own:
                    visitor.sees_connected(name)
            visitor.page.locator('.person[data-trust="verified"]').nth(6).wait_for()
            visitor.hears_more()
            assert len(visitor.call_stats()) == 7
            assert visitor.complaints == []
        ninth = Visitor.arrive(browser.new_context(), link)
        ninth.page.get_by_role("button", name="Full").or_(ninth.page.locator("#join")).first.wait_for()
        ninth.page.locator("#join").click()
        ninth.page.locator("#notice", has_text="eight people fit in").wait_for()

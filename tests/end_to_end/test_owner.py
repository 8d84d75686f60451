"""Whose key made a tavern runs it: rename, lock, invite, moderate, delete; others see none of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright

from tests.end_to_end.browser import IceChoice, Visitor, chromium
from tests.end_to_end.server import RunningServer, running_server

pytestmark = pytest.mark.end_to_end

DIRECT = IceChoice(policy="all")


def arrive(browser: Browser, url: str) -> Visitor:
    visitor = Visitor.arrive(browser.new_context(), url, DIRECT)
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    return visitor


def test_an_owner_runs_the_tavern(server: RunningServer, browser: Browser) -> None:
    ada = arrive(browser, server.url)
    link = ada.create_tavern("Friday night")
    ada.join("Ada")
    ben = arrive(browser, link)
    ben.join("Ben")
    ada.sees_connected("Ben")
    ben.sees_connected("Ada")
    assert ben.person("Ada").locator(".role").inner_text() == "owner"
    assert not ben.page.locator("#manage").is_visible()
    assert not ben.person("Ada").locator(".kick").is_visible()

    manage = ada.page.locator("#manage")
    manage.locator("summary").click()
    ada.page.locator("#tavern-rename").fill("Saturday night")
    manage.get_by_role("button", name="Rename").click()
    ben.page.get_by_role("heading", name="Saturday night").wait_for()
    ada.page.locator("#tavern-lock").check()

    eve = arrive(browser, link)
    eve.page.get_by_label("Your name").fill("Eve")
    eve.page.locator("#join").click()
    eve.page.locator("#notice", has_text="locked: ask its owner").wait_for()

    ada.person("Ben").locator("summary").click()
    ada.person("Ben").get_by_role("button", name="Make moderator").click()
    ben.page.locator("#manage").wait_for()
    ben.page.locator(".rename-channel").first.wait_for()
    assert not ben.page.locator("#tavern-lock").is_visible()
    ada.person("Ben").get_by_role("button", name="Put out").click()
    ben.page.locator("#notice", has_text="put out of the channel").wait_for()
    ben.page.locator("#call").wait_for(state="hidden")
    ben.join("Ben")
    ada.sees_connected("Ben")
    manage.get_by_role("button", name="Delete this tavern").click()
    ben.page.get_by_role("heading", name="There is no such tavern here").wait_for()
    ben.page.locator("#notice", has_text="was deleted").wait_for()
    assert ada.complaints == ben.complaints == []


def test_channels_are_renamed_and_deleted(server: RunningServer, browser: Browser) -> None:
    ada = Visitor.arrive(browser.new_context(), server.url, DIRECT)
    ada.page.on("dialog", lambda dialog: dialog.accept("Hearth") if dialog.type == "prompt" else dialog.accept())
    link = ada.create_tavern("Bree")
    ben = arrive(browser, link)
    ben.join("Ben")
    ada.page.locator(".rename-channel").click()
    ada.page.locator('.channel[data-channel="Hearth"]').wait_for()
    ben.page.locator("#call", has_text="In General").wait_for()
    ada.page.locator(".delete-channel").click()
    ben.page.locator("#notice", has_text="The channel was deleted").wait_for()
    ben.page.locator("#call").wait_for(state="hidden")


def test_an_invitation_in_a_link_lets_its_bearer_in(playwright: Playwright, tone: Path) -> None:
    """Under a name, as people elsewhere would open it: for localhost no link is offered."""
    settings = {"TAVERN_DOMAIN": "tavern.test", "TAVERN_TURN_SECRET": "s" * 32, "TAVERN_EXTERNAL_IP": "127.0.0.1"}
    with running_server(settings) as server:
        origin = f"http://tavern.test:{server.http_port}"
        flags = [
            "--host-resolver-rules=MAP tavern.test 127.0.0.1",
            f"--unsafely-treat-insecure-origin-as-secure={origin}",
        ]
        with chromium(playwright, tone=tone, more_flags=flags) as browser:
            ada = arrive(browser, f"{origin}/")
            link = ada.create_tavern("Bree")
            ada.page.locator("#manage summary").click()
            ada.page.locator("#tavern-lock").check()
            plain = ada.page.locator("#invite-link").input_value()
            assert plain == link
            ada.page.get_by_role("button", name="Make an invitation").click()
            ada.until("document.querySelector('#invite-link').value.includes('#invite=')", "an invitation")
            ada.join("Ada")
            eve = arrive(browser, ada.page.locator("#invite-link").input_value())
            eve.join("Eve")
            eve.sees_connected("Ada")
            dan = arrive(browser, plain)
            dan.page.locator("#join").click()
            dan.page.locator("#notice", has_text="ask its owner for an invitation").wait_for()

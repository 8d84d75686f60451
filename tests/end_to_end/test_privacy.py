"""Two browsers know whose voice they hear, also where the server would have them hear somebody else's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, WebSocketRoute

from tests.end_to_end.browser import IceChoice, Visitor
from tests.end_to_end.server import RunningServer

pytestmark = pytest.mark.end_to_end

DIRECT = IceChoice(policy="all")
OTHER_FINGERPRINT = "a=fingerprint:sha-256 " + ":".join(["AB"] * 32)

Message = dict[str, Any]


def tampered_with(context: BrowserContext, change: Callable[[Message], Message]) -> None:
    """A server in between, that brings its clients other descriptions than were sent."""

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def bring(data: str | bytes) -> None:
            message = json.loads(data)
            route.send(json.dumps(change(message) if message["type"] in ("offer", "answer") else message))

        server.on_message(bring)

    context.route_web_socket(re.compile(r"^wss?://"), between)


def with_other_fingerprint(message: Message) -> Message:
    return {**message, "sdp": re.sub(r"a=fingerprint:[^\r]*", OTHER_FINGERPRINT, message["sdp"])}


def without_signature(message: Message) -> Message:
    return {name: value for name, value in message.items() if name != "signature"}


def meet(server: RunningServer, ada_context: BrowserContext, ben_context: BrowserContext) -> tuple[Visitor, Visitor]:
    """Ada is there, and Ben joins her."""
    ada = Visitor.arrive(ada_context, server.url, DIRECT)
    link = ada.create_tavern("Friday night")
    ada.join("Ada")
    ben = Visitor.arrive(ben_context, link, DIRECT)
    ben.join("Ben")
    return ada, ben


def safety_number(visitor: Visitor, name: str) -> str:
    row = visitor.person(name)
    row.locator("summary").click()
    return row.locator(".safety code").inner_text()


def test_two_who_sign_are_verified_and_read_the_same_number(server: RunningServer, browser: Browser) -> None:
    ada, ben = meet(server, browser.new_context(), browser.new_context())
    for visitor, other in ((ada, "Ben"), (ben, "Ada")):
        visitor.sees_connected(other)
        visitor.hears_more()
        assert visitor.person(other).get_attribute("data-trust") == "verified"
        visitor.page.locator(".stats", has_text="direct · UDP").wait_for(state="attached")
    number = safety_number(ada, "Ben")
    assert re.fullmatch(r"(\d{5} ){11}\d{5}", number)
    assert safety_number(ben, "Ada") == number
    assert ada.complaints == ben.complaints == []


@pytest.mark.parametrize("who", ["answerer", "offerer"])
def test_a_fingerprint_that_was_put_in_on_the_way_is_never_heard(
    server: RunningServer, browser: Browser, who: str
) -> None:
    ada_context, ben_context = browser.new_context(), browser.new_context()
    tampered_with(ben_context if who == "answerer" else ada_context, with_other_fingerprint)
    ada, ben = meet(server, ada_context, ben_context)
    deceived, other = (ben, "Ada") if who == "answerer" else (ada, "Ben")
    row = deceived.person(other)
    row.locator(".trouble", has_text="not signed by their key").wait_for()
    assert row.get_attribute("data-state") == "failed"
    assert all(one.bytes_received == 0 for one in (*ada.call_stats(), *ben.call_stats()))


def test_who_does_not_sign_is_heard_with_a_warning_until_the_key_has_signed(
    server: RunningServer, browser: Browser
) -> None:
    ben_context = browser.new_context()
    taken_away: list[bool] = [True]
    tampered_with(ben_context, lambda message: without_signature(message) if taken_away[0] else message)
    ada_context = browser.new_context()
    ada, ben = meet(server, ada_context, ben_context)
    ben.sees_connected("Ada")
    ben.hears_more()
    assert ben.person("Ada").locator(".trust").inner_text() == "not verified"
    assert ada.person("Ben").get_attribute("data-trust") == "verified"
    for signs, trouble in ((True, None), (False, "always signed before")):
        taken_away[0] = not signs
        ben.page.get_by_role("button", name="Leave").click()
        ben.page.locator("#join").click()
        if trouble is None:
            ben.sees_connected("Ada")
            assert ben.person("Ada").get_attribute("data-trust") == "verified"
        else:
            ben.person("Ada").locator(".trouble", has_text=trouble).wait_for()
            assert ben.person("Ada").get_attribute("data-state") == "failed"


def test_a_name_that_was_another_keys_is_told(server: RunningServer, browser: Browser) -> None:
    ben_context = browser.new_context()
    ada, ben = meet(server, browser.new_context(), ben_context)
    ben.sees_connected("Ada")
    ada.page.get_by_role("button", name="Leave").click()
    eve = Visitor.arrive(browser.new_context(), ben.page.url, DIRECT)
    eve.join("Ada")
    ben.sees_connected("Ada")
    row = ben.person("Ada")
    assert row.locator(".trust").inner_text() == "another key"
    row.locator("summary").click()
    row.get_by_role("button", name="I know it is them").click()
    assert row.get_attribute("data-trust") == "verified"

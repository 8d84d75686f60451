"""The page as a whole: its colours, its weight, its manners towards screen readers and other hosts, and one's key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Response

from tests.end_to_end.browser import IceChoice, Visitor
from tests.end_to_end.server import RunningServer
from tests.node import fetch_packages

pytestmark = pytest.mark.end_to_end

DIRECT = IceChoice(policy="all")
FIRST_LOAD_BYTES = 150_000
PAGE_TESTS = Path(__file__).parents[1] / "page"
THEMES = ("light", "dark", "retro", "contrast")


@pytest.fixture(scope="module")
def axe() -> str:
    """Judges a page as screen readers and the WCAG would."""
    fetch_packages(PAGE_TESTS)
    return (PAGE_TESTS / "node_modules" / "axe-core" / "axe.min.js").read_text()


def serious(visitor: Visitor, axe: str) -> list[str]:
    """What axe finds, of what keeps people out."""
    # Playwright's own world is not under the page's policy, which forbids `eval`.
    session = visitor.page.context.new_cdp_session(visitor.page)
    session.send("Page.setBypassCSP", {"enabled": True})
    session.send("Runtime.evaluate", {"expression": axe})
    answer = session.send(
        "Runtime.evaluate",
        {"expression": "axe.run().then((found) => JSON.stringify(found.violations))", "awaitPromise": True},
    )
    found = json.loads(answer["result"]["value"])
    return [
        f"{one['id']}: {one['help']} {[node['target'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def choose_theme(context: BrowserContext, theme: str) -> None:
    context.add_init_script(f'localStorage.setItem("tavern.theme", {theme!r})')


@pytest.mark.parametrize("theme", THEMES)
def test_nothing_keeps_people_out_in_any_colours(server: RunningServer, browser: Browser, axe: str, theme: str) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    for context in contexts:
        choose_theme(context, theme)
    ada = Visitor.arrive(contexts[0], server.url, DIRECT)
    assert ada.page.evaluate("document.documentElement.dataset.theme") == theme
    assert serious(ada, axe) == []
    link = ada.create_tavern("Friday night")
    assert serious(ada, axe) == []
    ada.join("Ada")
    ben = Visitor.arrive(contexts[1], link, DIRECT)
    ben.join("Ben")
    ada.sees_connected("Ben")
    for summary in ada.page.locator("summary:visible").all():
        summary.click()
    assert serious(ada, axe) == []
    for context in contexts:
        context.close()


def test_colours_are_the_systems_until_one_chooses(server: RunningServer, browser: Browser) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = Visitor.arrive(browser.new_context(color_scheme=scheme), server.url, DIRECT).page
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds["light"] != grounds["dark"]
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds["light"]
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds["light"]
    page.get_by_label("Colours").select_option("system")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds["dark"]


def test_the_first_load_is_light_and_no_other_host_is_asked(server: RunningServer, browser: Browser) -> None:
    context = browser.new_context()
    answers: list[Response] = []
    context.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108  it keeps notes on its handlers
    ada = Visitor.arrive(context, server.url, DIRECT)
    ada.page.get_by_label("Its name").wait_for()
    weight = sum(int(answer.headers["content-length"]) for answer in answers if answer.status == 200)
    assert weight < FIRST_LOAD_BYTES
    assert {answer.headers.get("content-encoding") for answer in answers if answer.url.endswith(".js")} == {"gzip"}
    modules = [answer.url for answer in answers if answer.url.endswith(".js")]
    assert len(modules) == len(set(modules)), "nothing is fetched twice"
    ada.create_tavern("Friday night")
    ada.join("Ada")
    for summary in ada.page.locator("summary:visible").all():
        summary.click()
    assert {urlsplit(answer.url).hostname for answer in answers} == {"localhost"}
    policy = answers[0].headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.replace("wasm-unsafe-eval", "")
    assert not re.search(r"https?:", policy)
    assert ada.complaints == []


def test_everything_can_be_done_with_the_keyboard(server: RunningServer, browser: Browser) -> None:
    page = Visitor.arrive(browser.new_context(), server.url, DIRECT).page
    page.get_by_label("Its name").wait_for()

    def go_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement?.matches(selector) ?? false", selector):
                return
        raise AssertionError(f"the keyboard never comes to {selector}")

    go_to("#tavern-name")
    page.keyboard.type("By keyboard")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="By keyboard").wait_for()
    go_to("#display-name")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.locator("#call").wait_for()
    go_to("#mute")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Unmute").wait_for()
    go_to("#leave")
    page.keyboard.press("Enter")
    page.locator("#call").wait_for(state="hidden")


def test_the_key_is_taken_along_and_brought_to_another_browser(
    server: RunningServer, browser: Browser, tmp_path: Path
) -> None:
    ada = Visitor.arrive(browser.new_context(accept_downloads=True), server.url, DIRECT)
    link = ada.create_tavern("Friday night")
    ada.page.locator("#key summary").click()
    with ada.page.expect_download() as download:
        ada.page.get_by_role("button", name="Save to a file").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    found = json.loads(file.read_text())
    assert found["type"] == "tavern-keypair-export"
    assert file.name == f"tavern-identity-{found['publicKeyHex'][:8]}.tavern-key"
    tag = ada.page.locator(".way .tag").inner_text()
    elsewhere = Visitor.arrive(browser.new_context(), link, DIRECT).page
    elsewhere.locator("#key summary").click()
    assert elsewhere.locator(".way .tag").inner_text() != tag
    wrong = tmp_path / "wrong.tavern-key"
    for change in ({"publicKeyHex": "0" * 64}, {"type": "other"}, {"privateKeyHex": ""}, {"privateKeyHex": "00" * 48}):
        wrong.write_text(json.dumps({**found, **change}))
        elsewhere.locator("#key-file").set_input_files(wrong)
        elsewhere.locator("#key .problem", has_text="no Tavern key file").wait_for()
    elsewhere.locator("#key-file").set_input_files(file)
    elsewhere.locator(".way .tag", has_text=tag).wait_for()
    elsewhere.locator("#manage").wait_for()  # the tavern is that key's


def test_the_invite_is_a_picture_as_well(server: RunningServer, browser: Browser) -> None:
    ada = Visitor.arrive(browser.new_context(), server.url, DIRECT)
    link = ada.create_tavern("Friday night")
    tavern = link.rpartition("/")[2]
    answer = ada.page.request.get(f"{server.url}qr/{tavern}.svg")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert ada.page.request.get(f"{server.url}qr/x.svg").status == 404
    size = ada.page.evaluate(
        """async (source) => {
          const image = new Image();
          image.src = source;
          await image.decode();
          return image.naturalWidth;
        }""",
        f"/qr/{tavern}.svg",
    )
    assert size > 20

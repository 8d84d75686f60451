"""Calls whose relayed addresses are all on a few shared ports: browsers, symmetric NATs, several people in one home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.end_to_end.browser import TURN_URLS, IceChoice, Visitor
from tests.end_to_end.firefox import ENTER, running_firefox, session
from tests.end_to_end.homes import chromium_at_home, page_url, secured
from tests.end_to_end.network import Network, two_homes
from tests.end_to_end.server import running_server
from tests.end_to_end.test_firefox import hears_more

pytestmark = pytest.mark.end_to_end


def shared(count: int) -> dict[str, str]:
    """All allocations on so many ports."""
    ports = {"TAVERN_TURN_MIN_PORT": "50000", "TAVERN_TURN_MAX_PORT": str(50000 + count - 1)}
    return {"TAVERN_TURN_SHARED_PORTS": "always", **ports}


@pytest.fixture
def network() -> Iterator[Network]:
    with two_homes(symmetric=True) as made:
        yield made


@pytest.fixture
def browsers(network: Network, tmp_path: Path) -> Iterator[tuple[Browser, Browser]]:
    with chromium_at_home(network, tmp_path) as started:
        yield started


def meet(browsers: tuple[Browser, Browser], url: str, choice: IceChoice, *, each: int) -> list[Visitor]:
    """So many people in each home, all in one channel, who hear each other."""
    visitors = [Visitor.arrive(browser.new_context(), url, choice) for browser in browsers for _ in range(each)]
    link = visitors[0].create_tavern("Friday night")
    for visitor in visitors[1:]:
        visitor.page.goto(link)
    for number, visitor in enumerate(visitors):
        visitor.join(f"Person{number}")
    for number, visitor in enumerate(visitors):
        for other in range(len(visitors)):
            if other != number:
                visitor.sees_connected(f"Person{other}")
        visitor.hears_more()
        assert visitor.complaints == []
    return visitors


@pytest.mark.parametrize("policy", ["relay", "all"])
def test_two_symmetric_nats_meet_on_two_ports(
    network: Network, browsers: tuple[Browser, Browser], tmp_path: Path, policy: str
) -> None:
    with secured(network, tmp_path, **shared(2)) as server:
        for visitor in meet(browsers, page_url(server), IceChoice(policy=policy), each=1):
            [stats] = visitor.call_stats()
            assert "relay" in {stats.local, stats.remote}, stats


@pytest.mark.timeout(120)  # four pages, each with three calls
@pytest.mark.parametrize("policy", ["relay", "all"])
def test_two_households_meet_in_one_channel(
    network: Network, browsers: tuple[Browser, Browser], tmp_path: Path, policy: str
) -> None:
    """Two people behind one NAT each: the peers of some have the same address, and differ by ports."""
    with secured(network, tmp_path, **shared(4)) as server:
        for visitor in meet(browsers, page_url(server), IceChoice(policy=policy, turn=TURN_URLS["udp"]), each=2):
            assert len(visitor.call_stats()) == 3


async def test_firefox_talks_over_two_ports(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All its media is in indications, and it remembers a 403 for all ports of an address."""
    choice = IceChoice(turn=TURN_URLS["udp"])
    with running_server(shared(2)) as server, running_firefox(tmp_path_factory.mktemp("firefox")) as firefox:
        async with session(firefox) as browser:
            ada = await browser.open_page(server.url, choice.script)
            await ada.type("#tavern-name", f"Friday night{ENTER}")
            await ada.type("#display-name", f"Ada{ENTER}")
            await ada.until("document.querySelector('#call')?.checkVisibility()")
            ben = await browser.open_page(await ada.evaluate("location.href"), choice.script)
            await ben.type("#display-name", f"Ben{ENTER}")
            for page in (ada, ben):
                await page.until("document.querySelector('.person[data-state=\"connected\"]') !== null")
                await hears_more(page)
                assert await page.evaluate("window.gatheringErrors") == []

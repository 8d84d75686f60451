"""The page in Firefox, over nothing but the relay. Firefox never binds channels: all its media is in indications."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.browser import CALL_STATS, TURN_URLS, IceChoice
from tests.end_to_end.firefox import ENTER, FirefoxPage, running_firefox, session
from tests.end_to_end.transports import WAYS, Way, serving

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_firefox(tmp_path_factory.mktemp("firefox")) as url:
        yield url


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with serving(request.param, tmp_path_factory.mktemp("server")) as started:
        yield started


async def test_pages_talk(firefox: str, way: Way) -> None:
    script = IceChoice(turn=TURN_URLS[way.transport]).script
    async with session(firefox) as browser:
        ada = await browser.open_page(way.server.url, script)
        await ada.type("#tavern-name", f"Friday night{ENTER}")
        await ada.type("#display-name", f"Ada{ENTER}")
        await ada.until("document.querySelector('#call')?.checkVisibility()")
        ben = await browser.open_page(await ada.evaluate("location.href"), script)
        await ben.type("#display-name", f"Ben{ENTER}")
        for page in (ada, ben):
            await page.until("document.querySelector('.person[data-state=\"connected\"]') !== null")
            await page.until("document.querySelector('.person[data-trust=\"verified\"]') !== null")
            await hears_more(page)
            [stats] = await page.evaluate(f"({CALL_STATS})()")
            assert (stats["local"], stats["remote"], stats["relayProtocol"]) == ("relay", "relay", way.transport)
            assert await page.evaluate("window.gatheringErrors") == []


async def hears_more(page: FirefoxPage) -> None:
    [before] = await page.evaluate(f"({CALL_STATS})()")
    await page.until(f"(await ({CALL_STATS})())[0].bytesReceived > {before['bytesReceived']} + 2000")

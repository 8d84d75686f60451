"""Calls between two homes, over the relay where nothing else leads from one to the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.end_to_end.browser import IceChoice, Visitor
from tests.end_to_end.foreign.calls import aiortc, talk
from tests.end_to_end.foreign.signaled import Call, Place, Talk
from tests.end_to_end.homes import SETTINGS, chromium_at_home, page_url, secured
from tests.end_to_end.network import SERVER, Network, two_homes
from tests.end_to_end.server import RunningServer, running_server

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def network(symmetric: bool) -> Iterator[Network]:
    with two_homes(symmetric=symmetric) as made:
        yield made


@pytest.fixture
def server(network: Network) -> Iterator[RunningServer]:
    with running_server(SETTINGS, inside=network.server.inside) as started:
        yield started


async def talks(network: Network, server: RunningServer, transport: str | None) -> list[Talk]:
    url = f"ws://{SERVER}:{server.http_port}/"
    calls = [
        Call(library=aiortc(), ws_url=url, place=Place(room="den"), name=name, transport=transport, policy="all")
        for name in ("ada", "ben")
    ]
    return await talk(calls, [client.inside for client in network.clients])


@pytest.mark.parametrize("symmetric", [True])
async def test_what_cannot_be_direct_is_relayed(network: Network, server: RunningServer) -> None:
    """Nobody forces it to."""
    for one in await talks(network, server, "udp"):
        assert "relay" in {one.local, one.remote}


@pytest.mark.parametrize("symmetric", [False])
async def test_between_kinder_nats_nothing_is_missing_without_a_relay(network: Network, server: RunningServer) -> None:
    """So it was the NATs that needed it, and not these networks."""
    for one in await talks(network, server, None):
        assert {one.local, one.remote} <= {"host", "srflx", "prflx"}


@pytest.fixture
def browsers(network: Network, tmp_path: Path) -> Iterator[tuple[Browser, Browser]]:
    with chromium_at_home(network, tmp_path) as started:
        yield started


@pytest.fixture
def pages(
    network: Network, browsers: tuple[Browser, Browser], tmp_path: Path
) -> Iterator[tuple[tuple[Visitor, str], tuple[Visitor, str]]]:
    """Ada and Ben, each at home and in a call with the other, whose name is beside them."""
    with secured(network, tmp_path) as server:
        contexts = [browser.new_context() for browser in browsers]
        ada, ben = (Visitor.arrive(context, page_url(server), IceChoice(policy="all")) for context in contexts)
        ben.page.goto(ada.create_tavern("Friday night"))
        ada.join("Ada")
        ben.join("Ben")
        pair = (ada, "Ben"), (ben, "Ada")
        for visitor, other in pair:
            visitor.sees_connected(other)
            visitor.hears_more()
        yield pair


@pytest.mark.parametrize("symmetric", [True])
def test_pages_talk_from_home_to_home(pages: tuple[tuple[Visitor, str], ...]) -> None:
    for visitor, _other in pages:
        [stats] = visitor.call_stats()
        assert "relay" in {stats.local, stats.remote}, stats
        assert visitor.complaints == []


@pytest.mark.parametrize("symmetric", [False])
def test_a_call_goes_on_in_another_network(network: Network, pages: tuple[tuple[Visitor, str], ...]) -> None:
    """As where a phone leaves the wifi: the address is gone, and after a moment there is another one."""
    network.move(0)
    for visitor, other in pages:
        visitor.hears_more()
        visitor.page.locator("#connection").wait_for(state="hidden")
        visitor.sees_connected(other)

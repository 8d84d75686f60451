"""Calls between WebRTC libraries that we did not write, over nothing but the relay of the real program."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest

from tavern.client import open_client
from tests.end_to_end.foreign.calls import aiortc, talk, werift
from tests.end_to_end.foreign.signaled import Call, Place, Talk
from tests.end_to_end.transports import WAYS, Way, serving

pytestmark = pytest.mark.end_to_end

Library = Callable[[], tuple[str, ...]]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with serving(request.param, tmp_path_factory.mktemp("server")) as started:
        yield started


async def a_channel(way: Way) -> Place:
    context = ssl.create_default_context(cafile=way.ca) if way.ca else None
    async with open_client(way.server.ws_url, ssl_context=context) as client:
        tavern = await client.create_tavern("Friday night")
    return Place(room=tavern.channels[0].id, tavern=tavern.id)


@pytest.mark.parametrize("libraries", [(aiortc, aiortc), (werift, werift), (aiortc, werift)])
async def test_libraries_talk_relay_to_relay(way: Way, libraries: tuple[Library, Library]) -> None:
    place = await a_channel(way)
    calls = [
        Call(
            library=library(),
            ws_url=way.server.ws_url,
            place=place,
            name=name,
            transport=way.transport,
            ca=str(way.ca) if way.ca else None,
        )
        for library, name in zip(libraries, ("ada", "ben"), strict=True)
    ]
    assert await talk(calls) == [Talk("relay", "relay")] * 2

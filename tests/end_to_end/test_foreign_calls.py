"""Calls between WebRTC libraries that we did not write, over nothing but the relay of the real program."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tavern.client import open_client
from tests.end_to_end.foreign.calls import aiortc, talk, werift
from tests.end_to_end.foreign.signaled import Call, Place, Talk
from tests.end_to_end.server import RunningServer, running_server

pytestmark = pytest.mark.end_to_end

Library = Callable[[], tuple[str, ...]]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as started:
        yield started


async def a_channel(server: RunningServer) -> Place:
    async with open_client(server.ws_url) as client:
        tavern = await client.create_tavern("Friday night")
    return Place(room=tavern.channels[0].id, tavern=tavern.id)


@pytest.mark.parametrize("transport", ["udp"])
@pytest.mark.parametrize("libraries", [(aiortc, aiortc), (werift, werift), (aiortc, werift)])
async def test_libraries_talk_relay_to_relay(
    server: RunningServer, libraries: tuple[Library, Library], transport: str
) -> None:
    place = await a_channel(server)
    calls = [
        Call(library=library(), ws_url=server.ws_url, place=place, name=name, transport=transport)
        for library, name in zip(libraries, ("ada", "ben"), strict=True)
    ]
    assert await talk(calls) == [Talk("relay", "relay")] * 2

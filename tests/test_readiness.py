"""The server asks its own ports whether it is ready, and not more often than it should."""

from __future__ import annotations

import trio
import trio.testing

from tavern.readiness import CACHE_S, Readiness
from tavern.store.memory import MemoryStore
from tests.relay.conftest import start


async def test_what_does_not_answer_is_named(autojump_clock: trio.testing.MockClock) -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        address = silent.getsockname()
        checks = await Readiness((address,), (), MemoryStore()).look()
    assert checks == {"store": "ok", f"stun udp 127.0.0.1:{address[1]}": "no answer within 3.5 s"}


async def test_it_looks_again_only_after_a_while_and_once_for_all_who_ask() -> None:
    async with start() as running:
        readiness = Readiness((("0.0.0.0", running.port),), (), MemoryStore())
        found: list[dict[str, str]] = []

        async def ask() -> None:
            found.append(await readiness.look())

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert all(one is found[0] for one in found)
        assert set(found[0].values()) == {"ok"}
        readiness._looked_at -= CACHE_S
        assert await readiness.look() is not found[0]

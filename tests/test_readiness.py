"""The server asks its own ports whether it is ready, and not more often than it should."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tavern.readiness import CACHE_S, Readiness
from tavern.store.memory import MemoryStore
from tavern.turn.auth import Credential
from tavern.turn.shared_ports import SharedPortsMode
from tests.relay.conftest import start
from tests.relay.test_shared_ports import ports


@contextmanager
def nobodys_sessions() -> Iterator[tuple[Credential, Credential]]:
    """Where nobody answers, any will do."""
    yield Credential("one", "north", 60), Credential("other", "north", 60)


async def test_what_does_not_answer_is_named(autojump_clock: trio.testing.MockClock) -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        address = silent.getsockname()
        checks = await Readiness((address,), (), MemoryStore(), nobodys_sessions).look()
    silence = "no answer within 3.5 s"
    assert checks == {"relay": silence, "store": "ok", f"stun udp 127.0.0.1:{address[1]}": silence}


async def test_it_looks_again_only_after_a_while_and_once_for_all_who_ask() -> None:
    async with start() as running:
        readiness = Readiness((("0.0.0.0", running.port),), (), MemoryStore(), running.relay.own_sessions)
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


@pytest.mark.parametrize("mode", [SharedPortsMode.NEVER, SharedPortsMode.ALWAYS])
async def test_data_goes_through_two_allocations_and_nothing_is_left_of_them(mode: SharedPortsMode) -> None:
    settings: dict[str, Any] = {"shared_ports": mode, **ports(4)}
    async with start(**settings) as running:
        address = ("127.0.0.1", running.port)
        readiness = Readiness((address,), (), MemoryStore(), running.relay.own_sessions)
        for _ in range(3):
            assert (await readiness.look())["relay"] == "ok"
            assert running.relay.statistics().allocations == 0
            readiness._looked_at -= CACHE_S
        assert running.relay.statistics().packets_from_clients == 3 * 4 if mode is SharedPortsMode.NEVER else 3 * 3


async def test_a_relay_that_has_no_port_left_is_not_ready() -> None:
    async with start(max_allocations=1) as running:
        readiness = Readiness((("127.0.0.1", running.port),), (), MemoryStore(), running.relay.own_sessions)
        assert (await readiness.look())["relay"] == "508 Insufficient capacity"
        assert running.relay.statistics().allocations == 0

"""One task pings everybody: who is asked when, and who is given up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tavern.web.heartbeat import Heartbeat


class Asked:
    """A connection that notes when it was asked, and lost."""

    def __init__(self) -> None:
        self.pings: list[float] = []
        self.lost: list[tuple[float, str]] = []

    def ping(self) -> None:
        self.pings.append(trio.current_time())

    def lose(self, reason: str) -> None:
        self.lost.append((trio.current_time(), reason))


@pytest.fixture
async def heartbeat(nursery: trio.Nursery) -> AsyncIterator[Heartbeat]:
    heartbeat = Heartbeat(interval_s=10, timeout_s=5)
    nursery.start_soon(heartbeat.run)
    yield heartbeat
    nursery.cancel_scope.cancel()


async def test_who_answers_is_asked_again_an_interval_later(
    heartbeat: Heartbeat, autojump_clock: trio.testing.MockClock
) -> None:
    connection, began = Asked(), trio.current_time()
    heartbeat.add(connection)
    await trio.sleep(11)
    heartbeat.answered(connection)
    await trio.sleep(30)
    assert connection.pings == [began + 10, began + 21]
    assert connection.lost == [(began + 26, "no answer to a ping")]


async def test_who_does_not_answer_is_lost_once_and_alone(
    heartbeat: Heartbeat, autojump_clock: trio.testing.MockClock
) -> None:
    silent, alive, began = Asked(), Asked(), trio.current_time()
    heartbeat.add(silent)
    await trio.sleep(3)
    heartbeat.add(alive)
    for _ in range(20):
        await trio.sleep(3)
        heartbeat.answered(alive)
    assert silent.lost == [(began + 15, "no answer to a ping")]
    assert len(silent.pings) == 1
    assert alive.lost == []
    assert len(alive.pings) > 3


async def test_a_pong_that_nobody_asked_for_changes_nothing(
    heartbeat: Heartbeat, autojump_clock: trio.testing.MockClock
) -> None:
    connection, began = Asked(), trio.current_time()
    heartbeat.add(connection)
    await trio.sleep(9)
    heartbeat.answered(connection)
    await trio.sleep(2)
    assert connection.pings == [began + 10]


async def test_who_has_gone_is_not_asked(heartbeat: Heartbeat, autojump_clock: trio.testing.MockClock) -> None:
    before, during = Asked(), Asked()
    heartbeat.add(before)
    heartbeat.add(during)
    heartbeat.remove(before)
    await trio.sleep(11)
    heartbeat.remove(during)
    await trio.sleep(60)
    assert before.pings == []
    assert len(during.pings) == 1
    assert during.lost == []


async def test_thousands_at_once_leave_others_their_turn(
    heartbeat: Heartbeat, autojump_clock: trio.testing.MockClock
) -> None:
    crowd = [Asked() for _ in range(1000)]
    for connection in crowd:
        heartbeat.add(connection)
    turns = 0

    async def other() -> None:
        nonlocal turns
        await trio.sleep(10)
        while not crowd[-1].pings:
            turns += 1
            await trio.lowlevel.checkpoint()

    with trio.move_on_after(20):
        await other()
    assert turns > 5
    assert all(len(connection.pings) == 1 for connection in crowd)

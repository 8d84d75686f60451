"""Transfer limits on a running relay: rates of users, and the month's budget with what is kept of it."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from tavern.relay import usage
from tavern.relay.usage import UsageKeeper
from tavern.store.base import WriteFailed
from tavern.store.memory import MemoryStore
from tavern.stun.attributes import decode_error_code
from tavern.stun.message import AttributeType, Method
from tavern.turn.auth import Credential, Credentials
from tavern.turn.drops import Drop
from tavern.turn.metering import HEADERS_SIZE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.relay.conftest import Connect, Running, Start, TurnClient

NOVEMBER = datetime(2026, 11, 30, 23, 50, tzinfo=UTC).timestamp()
TEN_MINUTES = 600.0
UDP = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")


class Disk(MemoryStore):
    """A store that can fail or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[str, int]] = []
        self.fails = False
        self.hangs = False

    async def save_relay_usage(self, month: str, size_bytes: int) -> None:
        if self.hangs:
            await trio.sleep_forever()
        if self.fails:
            raise WriteFailed("disk full")
        await super().save_relay_usage(month, size_bytes)
        self.saved.append((month, size_bytes))


@attrs.define
class Driven:
    """A keeper whose clock, traffic and disk are the test's."""

    keeper: UsageKeeper = attrs.field(init=False)
    disk: Disk = attrs.field(factory=Disk)
    budget: int = 1000
    sent: int = 0
    unix_time_s: float = NOVEMBER
    told: list[bool] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.keeper = UsageKeeper(
            self.budget,
            self.disk,
            sent_bytes=lambda: self.sent,
            on_spent=self.told.append,
            wall_clock=lambda: self.unix_time_s,
        )
        self.keeper.enforce()


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == usage.__name__]


async def test_a_budget_is_enforced_within_a_second_and_told_of_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    driven = Driven()
    nursery.start_soon(driven.keeper.run)
    for driven.sent, seconds in ((700, 1.5), (800, 1.5), (900, 100), (1000, 1.1)):
        await trio.sleep(seconds)
    assert driven.told == [True]
    await trio.sleep(200)
    assert driven.told == [True]
    assert events(caplog) == ["transfer-budget-nearly-spent", "transfer-budget-spent"]


async def test_a_new_month_opens_it_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tavern")
    driven = Driven(sent=1000)
    assert driven.told == [True]
    nursery.start_soon(driven.keeper.run)
    driven.unix_time_s += TEN_MINUTES
    await trio.sleep(1.5)
    assert driven.told == [True, False]
    assert events(caplog) == ["transfer-budget-spent", "transfer-budget-renewed"]
    assert driven.keeper.usage().month == "2026-12"


@pytest.mark.parametrize("budget", [0, 1000])
async def test_it_is_kept_every_minute_while_it_changes_and_at_the_end(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, budget: int
) -> None:
    driven = Driven(budget=budget)
    scope = await nursery.start(run_until_cancelled, driven.keeper)
    driven.sent = 10
    await trio.sleep(62)
    assert driven.disk.saved == [("2026-11", 10)]
    await trio.sleep(600)
    assert driven.disk.saved == [("2026-11", 10)]
    driven.sent = 20
    await trio.sleep(62)
    driven.sent = 30
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert driven.disk.saved == [("2026-11", 10), ("2026-11", 20), ("2026-11", 30)]


async def run_until_cancelled(keeper: UsageKeeper, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        try:
            await keeper.run()
        finally:
            await keeper.close()


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_a_disk_that_refuses_ends_nothing_and_is_told_of_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    driven = Driven(budget=10**6)
    nursery.start_soon(driven.keeper.run)
    setattr(driven.disk, fault, True)
    driven.sent = 10
    await trio.sleep(200)
    assert events(caplog) == ["transfer-not-kept"]
    driven.sent = 10**6
    await trio.sleep(4)
    assert driven.told == [True]
    setattr(driven.disk, fault, False)
    await trio.sleep(62)
    assert driven.disk.saved == [("2026-11", 10**6)]
    setattr(driven.disk, fault, True)
    driven.sent += 1
    started_at = trio.current_time()
    await driven.keeper.close()
    assert trio.current_time() - started_at <= usage.SAVE_LIMIT_S
    assert events(caplog).count("transfer-not-kept") == 2


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the data path's thread announces nothing
            await trio.sleep(0.005)


def credential_at(unix_time_s: float) -> Credential:
    return Credentials("localhost", ("north",)).mint("bob", 600, unix_time_s)


async def refused_allocate(client: TurnClient) -> int:
    value = (await client.request(Method.ALLOCATE, UDP)).get(AttributeType.ERROR_CODE)
    return 0 if value is None else decode_error_code(value)[0]


async def test_who_floods_loses_what_is_over_his_rate_and_others_lose_nothing(
    start_relay: Start, connect_client: Connect
) -> None:
    """Two flows of the flooder share one rate; what the other user sends arrives, and so does each answer."""
    rounds, size = 40, 1000
    loud_sent, answered = 20 * rounds, 0
    async with (
        start_relay(user_bytes_per_s=100_000) as running,
        connect_client(running, user="loud") as loud,
        connect_client(running, user="loud") as louder,
        connect_client(running, user="quiet") as quiet,
    ):
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            await peer.bind(("127.0.0.1", 0))
            for client in (loud, louder, quiet):
                await client.allocate()
                await client.bind(0x4000, peer.getsockname())
            arrived = Counter[int]()  # by size

            async def receive() -> None:
                while True:
                    data, relayed = await peer.recvfrom(2000)
                    arrived[len(data)] += 1
                    if data == b"quiet":
                        await peer.sendto(b"answer", relayed)

            running.nursery.start_soon(receive)
            started_at = trio.current_time()
            for number in range(1, rounds + 1):
                for _ in range(10):
                    for client in (loud, louder):
                        await client.send(b"\x40\x00" + size.to_bytes(2, "big") + bytes(size))
                await quiet.send(b"\x40\x00\x00\x05" + b"quiet")
                answered += await quiet.receive() == b"\x40\x00\x00\x06" + b"answer"
                decided = 21 * number
                await until(lambda: arrived.total() + dropped(running) == decided)  # noqa: B023 - called at once
            elapsed_s = trio.current_time() - started_at
            assert dropped(running) == loud_sent - arrived[size] > 0
            running.nursery.cancel_scope.cancel()
    assert arrived[len(b"quiet")] == answered == rounds
    assert 0 < arrived[size] * (size + HEADERS_SIZE) <= (1 + elapsed_s) * 100_000


def dropped(running: Running) -> int:
    return running.relay.statistics().drops[Drop.OVER_USER_RATE]


async def test_all_together_stay_below_the_servers_rate(start_relay: Start, connect_client: Connect) -> None:
    async with (
        start_relay(bytes_per_s=100_000) as running,
        connect_client(running, user="a") as one,
        connect_client(running, user="b") as two,
    ):
        for client in (one, two):
            await client.allocate()
            await client.bind(0x4000, ("127.0.0.1", 9))
        for _ in range(150):
            for client in (one, two):
                await client.send(b"\x40\x00\x03\xe8" + bytes(1000))
        await until(
            lambda: (
                running.relay.statistics().packets_from_clients + running.relay.statistics().drops["over_rate"] == 300
            )
        )
        assert running.relay.statistics().drops[Drop.OVER_RATE] > 0


async def test_a_spent_budget_closes_the_relay_for_data_until_the_next_month(
    start_relay: Start, connect_client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "COUNT_INTERVAL_S", 0.01)
    now = NOVEMBER
    store = MemoryStore()
    await store.save_relay_usage("2026-11", 50_000)
    data = b"\x40\x00\x03\xe8" + bytes(1000)
    async with (
        start_relay(store=store, wall_clock=lambda: now, monthly_bytes=60_000) as running,
        connect_client(running) as client,
        connect_client(running) as late,
    ):
        relay = running.relay
        client.credential = late.credential = credential_at(now)
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            await peer.bind(("127.0.0.1", 0))
            relayed = await client.allocate()
            await client.bind(0x4000, peer.getsockname())
            for _ in range(10):
                await client.send(data)
                await peer.recv(2000)
            assert relay.statistics().usage.used == 50_000 + 10 * (1000 + HEADERS_SIZE)
            assert relay.statistics().usage.left == 0

            async def expect_dropped(send: Callable[[], Awaitable[object]]) -> None:
                before = relay.statistics().drops[Drop.OVER_BUDGET]
                with trio.fail_after(10):
                    while relay.statistics().drops[Drop.OVER_BUDGET] == before:
                        await send()
                        await trio.sleep(0.02)

            await expect_dropped(lambda: client.send(data))
            await expect_dropped(lambda: peer.sendto(b"x", relayed))
            assert await refused_allocate(late) == 486
            await client.binding()
            november = relay.statistics().usage.used
            now += TEN_MINUTES
            await until(lambda: relay.statistics().usage.month == "2026-12")
            late.credential = credential_at(now)
            with trio.fail_after(10):
                while await refused_allocate(late):  # noqa: ASYNC110 - nobody is told when a month begins
                    await trio.sleep(0.02)
            await client.send(b"\x40\x00\x00\x08" + b"december")
            with trio.fail_after(5):
                while await peer.recv(2000) != b"december":
                    pass  # what came before the budget was enforced
            assert relay.statistics().usage.used == 8 + HEADERS_SIZE
    assert store.relay_usage("2026-11") == november
    assert store.relay_usage("2026-12") == 8 + HEADERS_SIZE


async def test_a_budget_that_was_spent_before_the_start_is_spent(start_relay: Start, connect_client: Connect) -> None:
    store = MemoryStore()
    await store.save_relay_usage("2026-11", 60_000)
    async with (
        start_relay(store=store, wall_clock=lambda: NOVEMBER, monthly_bytes=60_000) as running,
        connect_client(running) as client,
    ):
        client.credential = credential_at(NOVEMBER)
        assert await refused_allocate(client) == 486
        await client.binding()
        assert running.relay.statistics().usage.left == 0

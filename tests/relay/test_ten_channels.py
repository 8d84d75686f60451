"""What a small server in a container must hold: ten full channels whose people all need the relay, on 32 ports."""

from __future__ import annotations

import os

import trio

from tavern.config import load_settings
from tavern.turn.shared_ports import SharedPortsMode
from tests.relay.conftest import Start, TurnClient

CHANNELS, PEOPLE, TURN_URLS, PORTS = 10, 8, 3, 32
EACH = (PEOPLE - 1) * TURN_URLS
"""Of one person: a browser has a connection to each other one, and asks by each URL."""


async def test_ten_channels_fit_into_the_ports_that_compose_publishes(start_native: Start) -> None:
    quotas = load_settings({})
    # Below those that the kernel gives to clients: this machine's own relay ports are no clients'.
    first = 20_000 + os.getpid() % 8_000
    async with start_native(
        min_relay_port=first,
        max_relay_port=first + PORTS - 1,
        shared_ports=SharedPortsMode.ALWAYS,
        user_quota=quotas.turn_user_quota,
        address_quota=quotas.turn_address_quota,
    ) as running:
        clients: list[TurnClient] = []
        ports: list[set[int]] = []

        async def arrive(number: int) -> None:
            """One person's browser, from an address of its own."""
            own: set[int] = set()
            for _ in range(EACH):
                source = f"127.0.{1 + number // 200}.{1 + number % 200}"
                client = await TurnClient.connect(running, user=f"person{number}", source=source)
                clients.append(client)
                own.add((await client.allocate())[1])
            ports.append(own)

        for channel in range(CHANNELS):  # one after the other: these clients send nothing again
            async with trio.open_nursery() as nursery:
                for number in range(PEOPLE):
                    nursery.start_soon(arrive, channel * PEOPLE + number)
        assert running.relay.statistics().allocations == CHANNELS * PEOPLE * EACH
        # A peer that sends to several of one person's allocations is told apart by their ports.
        assert all(len(own) == EACH for own in ports)
        for client in clients:
            client.close()

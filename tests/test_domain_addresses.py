"""The domain is asked for again, since a home's address changes."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest
import trio
import trio.testing

from tavern.addresses import IPAddress
from tavern.domain_addresses import ASK_INTERVAL_S, DNS_TIMEOUT_S, one_of_each_family, watch_domain

A, B, A6, B6 = map(ip_address, ("9.9.2.1", "9.9.2.2", "2001:4860::1", "2001:4860::2"))


@pytest.mark.parametrize(
    ("found", "current", "chosen"),
    [
        ([], [], []),
        ([A], [], [A]),
        ([A, B], [], [A]),
        ([B, A], [A], [A]),
        ([A, B], [A], [A]),
        ([B], [A], [B]),
        ([B6, B, A6, A], [A, A6], [A, A6]),
        ([B6, B], [A, A6], [B, B6]),
        ([A6], [A], [A6]),
    ],
)
def test_one_of_each_family_is_chosen_and_a_current_one_stays(
    found: list[IPAddress], current: list[IPAddress], chosen: list[IPAddress]
) -> None:
    assert one_of_each_family(found, current) == tuple(chosen)


class NameServer(trio.abc.HostnameResolver):
    """Gives one answer after the other; None: none at all, an empty one: there is no such name."""

    def __init__(self, *answers: list[IPAddress] | None) -> None:
        self.answers = list(answers)

    async def getaddrinfo(self, host: Any, *_: Any, **__: Any) -> Any:
        assert host == b"home.example"
        answer = self.answers.pop(0)
        if answer is None:
            await trio.sleep_forever()
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (str(one), 0)) for one in answer]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_each_minute_what_the_domain_has_is_advertised(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    server = NameServer([A], [B, A], [B], [], None, [A, A6])
    count = len(server.answers)
    former = trio.socket.set_custom_hostname_resolver(server)
    try:
        told: list[tuple[IPAddress, ...]] = []
        current = [A]
        nursery.start_soon(watch_domain, "home.example", lambda: current, told.append)
        await trio.sleep(ASK_INTERVAL_S - 1)
        assert len(server.answers) == count
        await trio.sleep((count - 1) * ASK_INTERVAL_S + DNS_TIMEOUT_S + 2)
        assert not server.answers
        assert told == [(A,), (A,), (B,), (A, A6)]
    finally:
        trio.socket.set_custom_hostname_resolver(former)

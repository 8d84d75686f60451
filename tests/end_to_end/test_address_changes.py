"""A home with dynamic DNS: the whole program follows its domain to another address."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tavern import domain_addresses
from tavern.app import Running, serve
from tavern.client.turn import open_turn
from tavern.config import load_settings
from tavern.turn.auth import Credentials
from tests.end_to_end.server import free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.end_to_end

DOMAIN, FIRST, SECOND = "home.example", "9.9.2.1", "9.9.2.2"


class NameServer(trio.abc.HostnameResolver):
    def __init__(self) -> None:
        self.address = FIRST

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        assert host == DOMAIN.encode()
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (self.address, port))]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_new_calls_go_to_where_the_domain_is_by_then(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_addresses, "ASK_INTERVAL_S", 0.02)
    name_server = NameServer()
    former = trio.socket.set_custom_hostname_resolver(name_server)
    environment = {
        "TAVERN_DOMAIN": DOMAIN,
        "TAVERN_DB_PATH": str(tmp_path / "tavern.db"),
        "TAVERN_HOST": "127.0.0.1",
        "TAVERN_PORT": str(free_port()),
        "TAVERN_TURN_PORT": str(free_port(socket.SOCK_DGRAM)),
        "TAVERN_TURN_SECRET": "a-secret-of-the-operator-that-is-long-enough",
    }
    settings = load_settings(environment)
    try:
        running: Running = await nursery.start(serve, settings, environment, lambda _line: None)
        assert settings.turn_secret is not None
        credential = Credentials(DOMAIN, (settings.turn_secret,)).mint("bot", 600, 2e9)

        async def relayed_host() -> str:
            async with open_turn(running.stun[0], "udp", credential.username, credential.password) as turn:
                return (await turn.allocate())[0]

        assert await relayed_host() == FIRST
        name_server.address = SECOND
        with trio.fail_after(5):
            while (host := await relayed_host()) == FIRST:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert ip_address(host) == ip_address(SECOND)
    finally:
        trio.socket.set_custom_hostname_resolver(former)
        nursery.cancel_scope.cancel()

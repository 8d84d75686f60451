"""The relay's address changes while it runs, on real sockets with both data paths."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tavern.stun.message import AttributeType, parse
from tavern.turn.shared_ports import SharedPortsMode
from tests.relay.test_shared_ports import ports
from tests.turn.shared import check

if TYPE_CHECKING:
    from tests.relay.conftest import Connect, Start

OLD, NEW = "192.0.2.77", "192.0.2.78"


@pytest.mark.parametrize("mode", [SharedPortsMode.NEVER, SharedPortsMode.ALWAYS])
async def test_who_was_there_before_and_who_comes_talk_through_it(
    start_relay: Start, connect_client: Connect, mode: SharedPortsMode, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither address is one of this machine, as behind Docker or a router."""
    settings: dict[str, object] = {"advertised_addresses": (ip_address(OLD),), "allow_peers": (), "shared_ports": mode}
    async with (
        start_relay(**settings, **ports(4)) as running,
        connect_client(running) as one,
        connect_client(running) as two,
    ):
        first = await one.allocate()
        with caplog.at_level(logging.WARNING):
            running.relay.advertise([ip_address(NEW)])
            running.relay.advertise([ip_address(NEW)])
        [record] = caplog.records
        fields = record.__dict__["fields"]
        assert (record.getMessage(), str(fields["former"]), str(fields["address"])) == ("address-changed", OLD, NEW)
        assert running.relay.advertised_addresses == (ip_address(NEW),)
        second = await two.allocate()
        assert (first[0], second[0]) == (OLD, NEW)
        assert first[1] != second[1]
        await one.permit(second)
        await two.permit(first)
        # On shared ports checks say who is meant; the first one names nobody who is known there.
        await two.send_indication(check("one", "two"), first)
        if mode is SharedPortsMode.NEVER:
            assert parse(await one.receive()).get(AttributeType.DATA) == check("one", "two")
        await one.send_indication(check("two", "one"), second)
        assert parse(await two.receive()).get(AttributeType.DATA) == check("two", "one")
        await two.send_indication(b"hello", first)
        assert parse(await one.receive()).get(AttributeType.DATA) == b"hello"
        await one.send_indication(b"welcome", second)
        assert parse(await two.receive()).get(AttributeType.DATA) == b"welcome"

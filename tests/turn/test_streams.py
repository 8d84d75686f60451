"""What is different for a client over TCP or TLS: nothing is dropped in silence, its stream is closed instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tavern.stun.message import MessageClass, Method, encode
from tavern.turn.commands import CloseClient
from tavern.turn.five_tuple import FiveTuple, Transport

if TYPE_CHECKING:
    from tests.turn.conftest import World

TCP = FiveTuple(Transport.TCP, ("203.0.113.7", 4000), ("198.51.100.1", 3478))
BINDING = encode(Method.BINDING, MessageClass.REQUEST, bytes(12))
# An attribute that goes beyond the message's end.
OVERRUN = BINDING[:2] + b"\x00\x04" + BINDING[4:] + b"\x80\x22\x00\xff"


def closed(world: World) -> list[FiveTuple]:
    return [command.five_tuple for command in world.commands if isinstance(command, CloseClient)]


@pytest.mark.clause("8489 §6.2.2: TCP that does not parse closes the connection")
@pytest.mark.parametrize("transport", list(Transport))
def test_what_does_not_parse_closes_a_stream_and_is_dropped_over_udp(world: World, transport: Transport) -> None:
    five_tuple = attrs.evolve(TCP, transport=transport)
    assert world.receive(OVERRUN, five_tuple) is None
    assert closed(world) == ([] if transport is Transport.UDP else [five_tuple])
    assert world.server.counters.malformed == 1


@pytest.mark.parametrize("transport", list(Transport))
def test_who_is_over_the_limit_of_401s_is_not_left_waiting(world: World, transport: Transport) -> None:
    """RFC 8489 §6.2.2: over a stream a client does not ask again."""
    five_tuple = attrs.evolve(TCP, transport=transport)
    allocate = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12))
    while world.receive(allocate, five_tuple) is not None:
        assert closed(world) == []
    assert world.server.counters.suppressed == 1
    assert closed(world) == ([] if transport is Transport.UDP else [five_tuple])


@pytest.mark.parametrize("transport", list(Transport))
def test_a_tcp_client_on_the_relays_machine_is_no_relay_socket(world: World, transport: Transport) -> None:
    """A relay socket sends UDP: the same port number in TCP is anybody's."""
    world.server.set_local_addresses(frozenset())
    other = world.client()
    host, port = other.allocate()
    five_tuple = FiveTuple(transport, (host, port), TCP.server)
    answer = world.receive(encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12)), five_tuple)
    assert (answer is None) == (transport is Transport.UDP)

"""Two allocations reach each other as those of two browsers do: by checks that name them, and then with data."""

from __future__ import annotations

import os

import attrs
import trio

from tavern.addresses import SocketAddress
from tavern.client.turn import TurnClient
from tavern.stun.message import AttributeType, MessageClass, Method, encode

TRIES = 3
DATA_TIMEOUT_S = 1.0
"""For one packet. Datagrams get lost, also where all is well."""


@attrs.frozen
class Relayed:
    """A client that has an allocation."""

    client: TurnClient
    address: SocketAddress
    fragment: str = attrs.field(factory=lambda: os.urandom(4).hex(), init=False)
    """What checks name it by (RFC 8445 section 7.2.2): on a shared relay port nothing else tells it from others."""

    @classmethod
    async def allocate(cls, client: TurnClient) -> Relayed:
        """Raises NoAnswer and TurnRefused."""
        return cls(client, await client.allocate())


async def talk(one: Relayed, other: Relayed) -> bool:
    """Whether data passes there and back. Raises NoAnswer and TurnRefused where either may not send at all."""
    await one.client.permit(other.address)
    await other.client.permit(one.address)
    return await _meet(one, other) and await _passes(one, other) and await _passes(other, one)


async def _meet(one: Relayed, other: Relayed) -> bool:
    """The first check of one may name somebody who is not known there yet; the other's comes after it."""
    for _ in range(TRIES):
        await one.client.send(_check(one, other), other.address)
        await one.client.binding()  # over UDP the check was dealt with before this
        check = _check(other, one)
        await other.client.send(check, one.address)
        if await _comes(one, check, other.address):
            return True
    return False


async def _passes(sender: Relayed, receiver: Relayed) -> bool:
    payload = os.urandom(64)
    for _ in range(TRIES):
        await sender.client.send(payload, receiver.address)
        if await _comes(receiver, payload, sender.address):
            return True
    return False


async def _comes(receiver: Relayed, payload: bytes, source: SocketAddress) -> bool:
    with trio.move_on_after(DATA_TIMEOUT_S):
        while await receiver.client.receive() != (payload, source):
            pass
        return True
    return False


def _check(sender: Relayed, receiver: Relayed) -> bytes:
    username = f"{receiver.fragment}:{sender.fragment}".encode()
    return encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12), [(AttributeType.USERNAME, username)])

"""Signaling on memory: sessions run in one nursery, the tests are the clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tavern.addresses import IPAddress
from tavern.metrics import Metrics
from tavern.signaling.address_hashes import address_hash
from tavern.signaling.entry import Rules
from tavern.signaling.limits import AddressLimit
from tavern.signaling.management import Management
from tavern.signaling.proofs import proof_statement
from tavern.signaling.registry import Registry
from tavern.signaling.resume_tokens import ResumeTokens
from tavern.signaling.resumption import Resumptions
from tavern.signaling.session import Signaling
from tavern.signaling.taverns import Taverns
from tavern.store.index import Caps
from tavern.store.memory import MemoryStore
from tests.signaling.memory_transport import MemoryTransport

SECRET = b"secret"


class Observed:
    """What the relay would be told, in order; peers by the order of their coming."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self._names: dict[str, int] = {}

    def _name(self, peer_id: str) -> int:
        return self._names.setdefault(peer_id, len(self._names))

    def session_opened(self, peer_id: str, host: str) -> None:
        self.events.append(("opened", self._name(peer_id), host))

    def session_moved(self, peer_id: str, group: Hashable | None) -> None:
        self.events.append(("moved", self._name(peer_id), group))

    def addresses_announced(self, peer_id: str, receiver_ids: Sequence[str], addresses: frozenset[IPAddress]) -> None:
        heard = tuple(self._name(receiver) for receiver in receiver_ids)
        self.events.append(("announced", self._name(peer_id), heard, tuple(sorted(map(str, addresses)))))

    def session_returned(self, peer_id: str, host: str) -> None:
        self.events.append(("returned", self._name(peer_id), host))

    def session_lost(self, peer_id: str) -> None:
        self.events.append(("lost", self._name(peer_id)))

    def session_revoked(self, peer_id: str) -> None:
        self.events.append(("revoked", self._name(peer_id)))

    def take(self) -> list[tuple[object, ...]]:
        events, self.events = self.events, []
        return events


class Lab:
    """Signaling on memory: sessions run in one nursery."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: MemoryStore,
        *,
        rules: Rules | None = None,
        run_id: str = "run",
        **limits: int,
    ) -> None:
        self.nursery = nursery
        self.store = store
        self.observed = Observed()
        self.registry = Registry(Metrics(trio.current_time()), self.observed)
        taverns = Taverns(self.registry, store, partial(address_hash, SECRET))
        self.signaling = Signaling(
            registry=self.registry,
            taverns=taverns,
            management=Management(taverns),
            resumptions=Resumptions(self.registry, ResumeTokens(SECRET, run_id)),
            ice_servers=lambda transport, peer_id: {
                "type": "ice-servers",
                "iceServers": [],
                "expiresAt": f"{transport.host_header} {peer_id}",
            },
            rate_messages=limits.get("messages", 1000),
            create_limit=AddressLimit(limits.get("creates", 1000), 60.0),
            rules=rules or Rules(),
        )

    def connect(self, client_host: str = "192.0.2.7", query: str = "") -> MemoryTransport:
        transport = MemoryTransport(client_host, query=query)
        self.nursery.start_soon(self.signaling.serve, transport)
        return transport

    async def tavern(self, client: MemoryTransport) -> dict[str, Any]:
        client.say({"type": "create-tavern", "name": "Pony"})
        tavern: dict[str, Any] = (await client.hear("tavern-created"))["tavern"]
        return tavern

    async def join(self, tavern: dict[str, Any], key: str) -> MemoryTransport:
        client = self.connect()
        client.say(join(tavern, key))
        await client.hear("channel-joined")
        return client


def join(tavern: dict[str, Any], key: str) -> dict[str, Any]:
    identity = {"publicKeyHex": key, "tag": f"#{key}", "displayName": None}
    channel_id = tavern["channels"][0]["id"]
    return {"type": "join-channel", "tavernId": tavern["id"], "channelId": channel_id, "identity": identity}


@attrs.frozen
class Person:
    """A key pair, and what is said with it."""

    name: str
    _private: Ed25519PrivateKey = attrs.field(factory=Ed25519PrivateKey.generate, init=False, repr=False)

    @property
    def key(self) -> str:
        return self._private.public_key().public_bytes_raw().hex()

    @property
    def identity(self) -> dict[str, Any]:
        return {"publicKeyHex": self.key, "tag": f"TVN-{self.key[:4]}-{self.key[4:8]}", "displayName": self.name}

    def sign(self, statement: bytes) -> str:
        return self._private.sign(statement).hex()

    def proof(self, welcome: dict[str, Any]) -> dict[str, Any]:
        """The message that answers this `welcome`."""
        statement = proof_statement(welcome["server"], welcome["connection"], welcome["nonce"])
        return {"type": "prove-identity", "publicKeyHex": self.key, "signature": self.sign(statement)}

    def join(self, tavern: dict[str, Any], *, channel: int = 0, **more: Any) -> dict[str, Any]:
        channel_id = tavern["channels"][channel]["id"]
        where = {"tavernId": tavern["id"], "channelId": channel_id}
        return {"type": "join-channel", **where, "identity": self.identity, **more}


async def hello(client: MemoryTransport, **fields: Any) -> dict[str, Any]:
    client.say({"type": "hello", **fields})
    return await client.hear("welcome")


async def prove(client: MemoryTransport, person: Person) -> None:
    client.say(person.proof(await hello(client)))
    assert (await client.hear("identity-proven"))["publicKeyHex"] == person.key


async def refused(client: MemoryTransport, message: dict[str, Any], code: str) -> dict[str, Any]:
    """The error that answers this message, which must have this code."""
    client.say(message)
    error = await client.hear("error")
    assert error["code"] == code, error
    return error


@asynccontextmanager
async def open_lab(store: MemoryStore | None = None, **changes: Any) -> AsyncIterator[Lab]:
    """Running while the block does."""
    async with trio.open_nursery() as nursery:
        lab = Lab(nursery, store or MemoryStore(Caps(taverns_per_address=20_000)), **changes)
        await nursery.start(lab.registry.run)
        yield lab
        nursery.cancel_scope.cancel()

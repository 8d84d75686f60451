"""Random people send random messages through real sessions; a model of rooms says what each of them may hear.

Held after every message: nobody is in two channels, no message reaches who is not with its sender, the ninth never
enters, every leave is seen once, and nobody acts under a key that somebody else has proven.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tavern.signaling.rooms import MAX_MEMBERS, Channel
from tavern.store.index import Caps
from tavern.store.memory import MemoryStore
from tests.signaling.lab import Lab, Person, open_lab
from tests.signaling.memory_transport import MemoryTransport

PEOPLE = [Person(f"P{number}") for number in range(12)]
CONNECTIONS = 12
Step = tuple[int, str, int, int]
"""Who (by connection), does what, with two numbers that say more."""
STEPS = st.tuples(
    st.integers(0, CONNECTIONS - 1),
    st.sampled_from(
        ["join"] * 8
        + ["relay"] * 6
        + ["prove", "leave", "update", "room", "token", "vanish", "resume", "close", "watch", "kick", "odd", "create"]
    ),
    st.integers(0, len(PEOPLE) - 1),
    st.integers(0, 2),
)
ODD: list[str | bytes] = [
    "{",
    "[]",
    '{"type":"x"}',
    '{"type":"offer"}',
    '{"type":"resume","token":"x"}',
    '{"type":"join-channel"}',
    b"\xff",
]


class Client:
    """One connection after the other of one client, and what it believes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.transport = lab.connect()
        self.others: set[str] = set()
        """Keys of whom it has been told that they are with it."""
        self.welcome: dict[str, Any] | None = None
        self.token = ""
        self.serial = 0

    def anew(self) -> None:
        self.transport = self.lab.connect()
        self.others = set()
        self.welcome = None

    def say(self, message: dict[str, Any] | str | bytes) -> None:
        if self.transport.closed is None:
            self.transport.say(message)


class World:
    """All clients, and the model."""

    def __init__(self, lab: Lab, tavern: dict[str, Any], channels: list[str], owner: MemoryTransport) -> None:
        self.lab = lab
        self.tavern = tavern
        self.channels = channels
        self.owner = owner
        self.clients = [Client(lab) for _ in range(CONNECTIONS)]
        self.sent: dict[str, tuple[int, frozenset[int]]] = {}
        """By what is said: who said it, and who was with him then."""
        self.heard: defaultdict[str, list[int]] = defaultdict(list)

    def place_of(self, number: int) -> Channel | None:
        """By the server's own books, in which `check` looks for contradictions."""
        for peer in self.lab.registry.presence.tavern_peers(self.tavern["id"]):
            if peer.outlet is self.clients[number].transport:
                assert isinstance(peer.place, Channel)
                return peer.place
        return None

    def step(self, number: int, action: str, person: int, more: int) -> None:
        client, somebody = self.clients[number], PEOPLE[person]
        where = {"tavernId": self.tavern["id"], "channelId": self.channels[more % len(self.channels)]}
        match action:
            case "join":
                client.say({"type": "join-channel", **where, "identity": somebody.identity})
            case "relay":
                self.relay(number, somebody.key, more)
            case "prove" if client.welcome is None:
                client.say({"type": "hello"})
            case "prove":
                assert client.welcome is not None
                client.say(somebody.proof(client.welcome))
                client.welcome = None
            case "leave":
                client.say({"type": "leave-channel", **where})
            case "update":
                client.say({"type": "update-identity", "identity": somebody.identity})
            case "room":
                client.say({"type": "join", "room": f"r{more}"})
            case "token":
                client.say({"type": "get-resume-token"})
            case "vanish" | "close":
                client.transport.vanish() if action == "vanish" else client.transport.hang_up()
                others, token = client.others, client.token
                client.anew()
                if more == 0 and token:
                    client.say({"type": "resume", "token": token})
                    client.others = others
            case "resume":
                client.say({"type": "resume", "token": client.token or "x"})
            case "watch":
                client.say({"type": "watch-tavern", "tavernId": self.tavern["id"]})
            case "kick":
                self.owner.say({"type": "kick", "tavernId": self.tavern["id"], "publicKeyHex": somebody.key})
            case "odd":
                client.say(ODD[person % len(ODD)])
            case "create":
                self.owner.say({"type": "update-channel", **where, "name": f"channel {more}"})

    def relay(self, number: int, target: str, more: int) -> None:
        place = self.place_of(number)
        client = self.clients[number]
        client.serial += 1
        text = f"{number} {client.serial}"
        members = place.members.values() if place else ()
        together = frozenset(n for n, other in enumerate(self.clients) for m in members if m.outlet is other.transport)
        self.sent[text] = number, together - {number}
        client.say({"type": "offer", "sdp": text} | ({"target": target} if more else {}))

    def listen(self) -> None:
        for number, client in enumerate(self.clients):
            while not client.transport.heard_nothing():
                self.hear(number, client, client.transport._from_server.receive_nowait())
        while not self.owner.heard_nothing():
            self.owner._from_server.receive_nowait()

    def hear(self, number: int, client: Client, message: dict[str, Any]) -> None:
        match message["type"]:
            case "welcome":
                client.welcome = message
            case "resume-token":
                client.token = message["token"]
            case "channel-joined" | "resumed":
                client.others = {peer["publicKeyHex"] for peer in message["peers"]}
            case "peer-joined-channel":
                assert message["peer"]["publicKeyHex"] not in client.others
                client.others.add(message["peer"]["publicKeyHex"])
            case "peer-left-channel":
                client.others.remove(message["publicKeyHex"])  # seen once: KeyError otherwise
            case "peer-identity-updated" if message["peerId"] in client.others:
                client.others.remove(message["peerId"])
                client.others.add(message["identity"]["publicKeyHex"])
            case "offer":
                sender, together = self.sent[message["sdp"]]
                if number in together:
                    self.heard[message["sdp"]].append(number)
                    assert self.heard[message["sdp"]].count(number) == 1
                else:
                    assert self.in_room(number), f"{number} was not with {sender}"

    def in_room(self, number: int) -> bool:
        """Old rooms are not of the model: what is said there may be heard there."""
        return any(
            peer.outlet is self.clients[number].transport
            for (kind, _), room in self.lab.registry.presence.rooms.items()
            if kind == "legacy"
            for peer in room.peers()
        )

    def check(self) -> None:
        presence = self.lab.registry.presence
        seen: set[int] = set()
        for room in presence.rooms.values():
            for place in room.places.values():
                assert 0 < len(place.members) <= MAX_MEMBERS
                for address, peer in place.members.items():
                    assert id(peer) not in seen, "in two places"
                    seen.add(id(peer))
                    assert peer.place is place
                    assert place.address(peer) == address
                    if peer.proven_key is not None and peer.identity is not None:
                        assert peer.identity.publicKeyHex == peer.proven_key
        for number, client in enumerate(self.clients):
            here = self.place_of(number)
            if here is not None and client.transport.heard_nothing():
                me = next(peer for peer in here.members.values() if peer.outlet is client.transport)
                assert client.others == {Channel.address(other) for other in here.members.values() if other is not me}
        proven = [peer.proven_key for peer in presence.tavern_peers(self.tavern["id"]) if peer.proven_key]
        assert len(set(proven)) == len(proven)


async def run(steps: list[Step]) -> None:
    async with open_lab(MemoryStore(Caps())) as lab:
        owner = lab.connect()
        await_owner = Person("Owner")
        owner.say({"type": "hello"})
        owner.say(await_owner.proof(await owner.hear("welcome")))
        await owner.hear("identity-proven")
        tavern = await lab.tavern(owner)
        owner.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Cellar"})
        cellar = (await owner.hear("channel-created"))["channel"]["id"]
        world = World(lab, tavern, [tavern["channels"][0]["id"], cellar], owner)
        for step in steps:
            world.step(*step)
            await trio.testing.wait_all_tasks_blocked()
            world.listen()
            world.check()
        assert lab.registry.metrics.failures == {}
        for client in world.clients:
            client.transport.hang_up()
        await trio.sleep(20)
        assert not any(kind == "tavern" for kind, _ in lab.registry.presence.rooms)
        assert lab.registry.metrics.connected_peers == 1
        assert list(lab.signaling.resumptions._by_peer_id) == []


@given(st.lists(STEPS, min_size=30, max_size=80))
@settings(max_examples=100, deadline=None)
def test_random_people_and_messages_keep_to_the_model(steps: list[Step]) -> None:
    trio.run(run, steps, clock=trio.testing.MockClock(autojump_threshold=0))

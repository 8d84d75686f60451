"""Whose server it is: invites, required identities, who makes taverns; what the relay hears of who is not let in."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tavern.signaling.entry import ENTRY_S, Rules
from tests.signaling.lab import Person, hello, open_lab, prove, refused

INVITE = "an-invite-to-this-server"
INVITED = Rules(invites=(INVITE, "the-one-before-this"))
MESSAGES = [
    {"type": "create-tavern", "name": "Pony"},
    {"type": "get-tavern-info", "tavernId": "t"},
    {"type": "create-channel", "tavernId": "t", "name": "x"},
    Person("Eve").join({"id": "t", "channels": [{"id": "c"}]}),
    {"type": "join", "room": "r"},
    {"type": "get-ice-servers"},
    {"type": "watch-tavern", "tavernId": "t"},
    {"type": "get-resume-token"},
    {"type": "delete-tavern", "tavernId": "t"},
    {"type": "update-identity", "identity": Person("Eve").identity},
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
async def test_without_the_servers_invite_nothing_is_done(message: dict[str, object]) -> None:
    async with open_lab(rules=INVITED) as lab:
        client = lab.connect()
        await refused(client, message, "invite-required")
        assert lab.observed.take() == []  # nor does the relay know of it
        assert lab.store.tavern_count() == 0


@pytest.mark.parametrize("invite", INVITED.invites)
async def test_an_invite_opens_the_server_in_hello_or_in_the_url(invite: str) -> None:
    async with open_lab(rules=INVITED) as lab:
        client = lab.connect()
        assert (await hello(client))["inviteRequired"] is True
        assert (await hello(client, invite=invite))["inviteRequired"] is False
        await lab.tavern(client)
        old = lab.connect(query=f"x=y&invite={invite}")
        await lab.tavern(old)
        assert [event[0] for event in lab.observed.take()] == ["opened", "opened"]


@pytest.mark.parametrize(
    "query",
    ["", "invite=", "invite=wrong", f"invit={INVITE}", f"invite={INVITE}x", "&" * 900, "x=1&" * 100 + "invite="],
)
async def test_a_wrong_invite_in_the_url_is_like_none(query: str) -> None:
    async with open_lab(rules=INVITED) as lab:
        await refused(lab.connect(query=query), MESSAGES[0], "invite-required")


async def test_the_third_wrong_guess_closes() -> None:
    async with open_lab(rules=INVITED) as lab:
        client = lab.connect()
        for _ in range(3):
            await refused(client, {"type": "hello", "invite": "a guess"}, "invite-invalid")
        assert client.closed == (1008, "rate-limited")


async def test_who_shows_nothing_in_time_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab(rules=INVITED) as lab:
        client, let_in = lab.connect(), lab.connect()
        await hello(let_in, invite=INVITE)
        await trio.sleep(ENTRY_S - 1)
        closed_early = client.closed
        assert closed_early is None
        await trio.sleep(2)
        assert client.closed == (1008, "not admitted")
        assert let_in.closed is None


async def test_without_an_invite_of_its_own_a_server_takes_any() -> None:
    async with open_lab() as lab:
        assert (await hello(lab.connect(), invite="whatever"))["inviteRequired"] is False


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
async def test_where_identities_are_required_the_unverified_get_nothing(message: dict[str, object]) -> None:
    async with open_lab(rules=Rules(require_identity=True)) as lab:
        client = lab.connect()
        await refused(client, message, "identity-required")
        assert lab.observed.take() == []


async def test_where_identities_are_required_the_verified_talk() -> None:
    alice = Person("Alice")
    async with open_lab(rules=Rules(require_identity=True)) as lab:
        client = lab.connect()
        assert (await hello(client))["identityRequired"] is True
        await prove(client, alice)
        tavern = await lab.tavern(client)
        client.say(alice.join(tavern))
        await client.hear("channel-joined")
        assert [event[0] for event in lab.observed.take()] == ["opened", "moved"]


@pytest.mark.parametrize(
    ("create", "person", "may"),
    [
        ("anyone", "nobody", True),
        ("anyone", "listed", True),
        ("verified", "nobody", False),
        ("verified", "stranger", True),
        ("listed", "nobody", False),
        ("listed", "stranger", False),
        ("listed", "listed", True),
    ],
)
async def test_who_makes_taverns(create: str, person: str, may: bool) -> None:
    people = {"stranger": Person("Stranger"), "listed": Person("Listed")}
    rules = Rules(create=create, create_keys=frozenset({people["listed"].key}))  # type: ignore[arg-type]
    async with open_lab(rules=rules) as lab:
        client = lab.connect()
        assert (await hello(client))["mayCreate"] == create
        if person in people:
            await prove(client, people[person])
        if may:
            await lab.tavern(client)
        else:
            await refused(client, MESSAGES[0], "create-not-permitted")
            assert lab.store.tavern_count() == 0


async def test_who_proves_right_after_asking_for_what_is_stored_is_verified_when_his_turn_comes() -> None:
    alice = Person("Alice")
    async with open_lab() as lab:
        client = lab.connect()
        welcome = await hello(client)
        client.say({"type": "create-tavern", "name": "Pony"})
        client.say(alice.proof(welcome))
        client.say({"type": "create-tavern", "name": "Mine"})
        assert (await client.hear("tavern-created"))["tavern"]["owner"] == ""
        await client.hear("identity-proven")
        assert (await client.hear("tavern-created"))["tavern"]["owner"] == alice.key

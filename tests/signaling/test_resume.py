"""Coming back after a loss: the place is kept, others see nothing of it, and a restart of the server is survived."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tavern.signaling.entry import Rules
from tavern.signaling.messages import Identity
from tavern.signaling.resume_tokens import MAX_TOKEN_LENGTH, ResumeClaims, ResumeTokens, SpentTokens
from tavern.signaling.resumption import (
    ABSENCE_S,
    AFTER_START_S,
    MAX_ABSENT,
    MAX_KEPT_MESSAGES,
    RENEWAL_MARGIN_S,
    TOKEN_LIFETIME_S,
)
from tavern.store.index import Caps
from tavern.store.memory import MemoryStore
from tests.signaling.lab import Lab, Person, hello, open_lab, prove, refused
from tests.signaling.memory_transport import MemoryTransport

ALICE, BOB = Person("Alice"), Person("Bob")
TEXT = st.text(st.characters(codec="utf-8"), max_size=128)


def claims(**changes: Any) -> ResumeClaims:
    values: dict[str, Any] = {
        "run_id": "run",
        "peer_id": "peer",
        "counter": 1,
        "expires_at": 1000,
        "tavern_id": "t",
        "channel_id": "c",
        "identity": Identity("k", "#k", None),
        "verified": True,
    }
    return ResumeClaims(**(values | changes))


@given(TEXT.filter(str.strip), TEXT.filter(str.strip).map(lambda tag: tag[:64]).filter(str.strip), st.none() | TEXT)
def test_a_token_says_what_was_put_in(key: str, tag: str, name: str | None) -> None:
    tokens = ResumeTokens(b"secret", "run")
    issued = claims(identity=Identity(key, tag, name))
    token = tokens.issue(issued)
    assert len(token) <= MAX_TOKEN_LENGTH
    assert tokens.read(token, 999.9) == issued
    assert tokens.read(token, 1000.0) is None
    assert ResumeTokens(b"other", "run").read(token, 0.0) is None


def test_no_bit_of_a_token_can_be_changed() -> None:
    tokens = ResumeTokens(b"secret", "run")
    raw = base64.urlsafe_b64decode(tokens.issue(claims()) + "==")
    for bit in range(0, len(raw) * 8, 7):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert tokens.read(base64.urlsafe_b64encode(changed).decode().rstrip("="), 0.0) is None


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_none(text: str) -> None:
    assert ResumeTokens(b"secret", "run").read(text, 0.0) is None


def test_a_spent_token_stays_spent_in_bounded_memory() -> None:
    spent = SpentTokens(max_spent=2)
    assert spent.spend(claims(peer_id="1"))
    assert not spent.spend(claims(peer_id="1", counter=2))
    assert spent.spend(claims(peer_id="2"))
    assert spent.spend(claims(peer_id="3"))
    assert not spent.spend(claims(peer_id="3"))


async def arrived(lab: Lab, tavern: dict[str, Any], person: Person, *, proven: bool = False) -> MemoryTransport:
    client = lab.connect()
    if proven:
        await prove(client, person)
    client.say(person.join(tavern))
    await client.hear("channel-joined")
    return client


async def took_token(client: MemoryTransport) -> str:
    client.say({"type": "get-resume-token"})
    return str((await client.hear("resume-token"))["token"])


async def came_back(lab: Lab, token: str, host: str = "198.51.100.9") -> tuple[MemoryTransport, dict[str, Any], str]:
    """The new connection, what it was told, and its next token."""
    client = lab.connect(host)
    client.say({"type": "resume", "token": token})
    resumed = await client.hear("resumed")
    return client, resumed, str((await client.hear("resume-token"))["token"])


async def test_others_see_nothing_of_a_loss(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice, bob = await arrived(lab, tavern, ALICE, proven=True), await arrived(lab, tavern, BOB)
        await alice.hear("peer-joined-channel")
        token = await took_token(alice)
        [peer] = [p for p in lab.registry.presence.tavern_peers(tavern["id"]) if p.verified]
        lab.observed.take()
        alice.vanish()
        await trio.sleep(ABSENCE_S - 1)
        bob.say({"type": "offer", "sdp": "v=0", "target": ALICE.key})
        bob.say({"type": "ice-candidate", "candidate": "{}", "target": ALICE.key})
        again, resumed, _ = await came_back(lab, token)
        assert resumed == {
            "type": "resumed",
            "tavernId": tavern["id"],
            "channelId": tavern["channels"][0]["id"],
            "peers": resumed["peers"],
            "continued": True,
            "connection": peer.peer_id,
        }
        assert [other["publicKeyHex"] for other in resumed["peers"]] == [BOB.key]
        # What was said meanwhile follows, in order.
        await again.hear("offer")
        await again.hear("ice-candidate")
        assert bob.heard_nothing()
        # It is who it was, for the others and for the relay.
        again.say({"type": "answer", "sdp": "v=0", "target": BOB.key})
        assert (await bob.hear("answer"))["from"] == ALICE.key
        events = lab.observed.take()
        assert [event[0] for event in events] == ["opened", "lost", "returned"]
        await refused(again, {"type": "update-identity", "identity": BOB.identity}, "identity-fixed")
        await trio.sleep(60)
        assert bob.heard_nothing()
        assert again.closed is None


async def test_who_does_not_come_back_has_left_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice, bob = await arrived(lab, tavern, ALICE), await arrived(lab, tavern, BOB)
        await alice.hear("peer-joined-channel")
        token = await took_token(alice)
        alice.vanish()
        began = trio.current_time()
        assert (await bob.hear("peer-left-channel"))["publicKeyHex"] == ALICE.key
        assert trio.current_time() - began == pytest.approx(ABSENCE_S, abs=0.1)
        await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")
        await trio.sleep(60)
        assert bob.heard_nothing()
        assert not lab.signaling.resumptions._by_peer_id


@pytest.mark.parametrize("leave", ["close", "leave-channel", "no token"])
async def test_a_leave_is_a_leave(leave: str, autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice, bob = await arrived(lab, tavern, ALICE), await arrived(lab, tavern, BOB)
        await alice.hear("peer-joined-channel")
        token = "" if leave == "no token" else await took_token(alice)
        if leave == "close":
            alice.hang_up()
        elif leave == "leave-channel":
            alice.say({"type": leave, "tavernId": tavern["id"], "channelId": tavern["channels"][0]["id"]})
        else:
            alice.vanish()
        began = trio.current_time()
        await bob.hear("peer-left-channel")
        assert trio.current_time() - began < 1
        if token:
            await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")


async def test_a_client_is_back_before_its_loss_is_seen() -> None:
    """The network changed: the old connection looks alive to the server until the heartbeat says otherwise."""
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice, bob = await arrived(lab, tavern, ALICE), await arrived(lab, tavern, BOB)
        await alice.hear("peer-joined-channel")
        again, _, _ = await came_back(lab, await took_token(alice))
        assert alice.closed == (1000, "resumed elsewhere")
        await trio.testing.wait_all_tasks_blocked()
        assert bob.heard_nothing()
        bob.say({"type": "offer", "sdp": "v=0", "target": ALICE.key})
        await again.hear("offer")
        # A close by it is a leave still.
        again.hang_up()
        await bob.hear("peer-left-channel")


async def test_only_the_newest_token_is_taken_and_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice = await arrived(lab, tavern, ALICE)
        first = await took_token(alice)
        second = await took_token(alice)
        await refused(lab.connect(), {"type": "resume", "token": first}, "resume-failed")
        again, _, third = await came_back(lab, second)
        await refused(lab.connect(), {"type": "resume", "token": second}, "resume-failed")
        assert again.closed is None
        again.vanish()
        await trio.testing.wait_all_tasks_blocked()
        await came_back(lab, third)


async def test_a_new_token_comes_with_each_change_and_before_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        maker = lab.connect()
        tavern = await lab.tavern(maker)
        alice = await arrived(lab, tavern, ALICE)
        await took_token(alice)
        maker.say({"type": "create-channel", "tavernId": tavern["id"], "name": "Cellar"})
        channel = (await alice.hear("channel-created"))["channel"]
        alice.say({**ALICE.join(tavern), "channelId": channel["id"]})
        await alice.hear("resume-token")
        await alice.hear("channel-joined")
        alice.say({"type": "update-identity", "identity": {**ALICE.identity, "displayName": "A."}})
        await alice.hear("resume-token")
        began = trio.current_time()
        token = str((await alice.hear("resume-token"))["token"])
        assert trio.current_time() - began == pytest.approx(TOKEN_LIFETIME_S - RENEWAL_MARGIN_S)
        alice.vanish()
        await trio.testing.wait_all_tasks_blocked()
        _, resumed, _ = await came_back(lab, token)
        assert resumed["channelId"] == channel["id"]


async def test_who_is_sent_too_much_meanwhile_leaves(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice, bob = await arrived(lab, tavern, ALICE), await arrived(lab, tavern, BOB)
        await alice.hear("peer-joined-channel")
        token = await took_token(alice)
        alice.vanish()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(MAX_KEPT_MESSAGES + 1):
            bob.say({"type": "ice-candidate", "candidate": "{}", "target": ALICE.key})
        assert (await bob.hear("peer-left-channel"))["publicKeyHex"] == ALICE.key
        await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")


async def test_who_is_kicked_while_away_has_left(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        owner = lab.connect()
        await prove(owner, BOB)
        tavern = await lab.tavern(owner)
        alice = await arrived(lab, tavern, ALICE)
        token = await took_token(alice)
        alice.vanish()
        await trio.testing.wait_all_tasks_blocked()
        owner.say({"type": "kick", "tavernId": tavern["id"], "publicKeyHex": ALICE.key})
        await owner.hear("done")
        await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")
        await trio.testing.wait_all_tasks_blocked()
        assert lab.registry.metrics.connected_peers == 2


async def test_a_key_that_is_away_can_be_taken_as_if_it_were_there(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice = await arrived(lab, tavern, ALICE, proven=True)
        token = await took_token(alice)
        alice.vanish()
        await trio.testing.wait_all_tasks_blocked()
        await refused(lab.connect(), ALICE.join(tavern), "identity-in-use")
        await arrived(lab, tavern, ALICE, proven=True)
        await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")


async def test_many_who_vanish_do_not_fill_the_memory(autojump_clock: trio.testing.MockClock) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice = await arrived(lab, tavern, ALICE)
        bob = await arrived(lab, tavern, BOB)
        lab.signaling.resumptions._absent = MAX_ABSENT
        await alice.hear("peer-joined-channel")
        await took_token(alice)
        alice.vanish()
        began = trio.current_time()
        await bob.hear("peer-left-channel")
        assert trio.current_time() - began < 1


async def test_a_restart_is_survived_by_who_took_a_token() -> None:
    store = MemoryStore(Caps())
    async with open_lab(store) as lab:
        tavern = await lab.tavern(lab.connect())
        tokens = [
            await took_token(await arrived(lab, tavern, ALICE, proven=True)),
            await took_token(await arrived(lab, tavern, BOB)),
        ]
    async with open_lab(store, run_id="next run") as lab:
        old = await lab.join(tavern, "old")
        alice, resumed, _ = await came_back(lab, tokens[0])
        assert resumed["continued"] is False
        assert [peer["publicKeyHex"] for peer in resumed["peers"]] == ["old"]
        assert (await old.hear("peer-joined-channel"))["peer"]["publicKeyHex"] == ALICE.key
        _, resumed, _ = await came_back(lab, tokens[1])
        shown = {peer["publicKeyHex"]: peer["verified"] for peer in resumed["peers"]}
        assert shown == {"old": False, ALICE.key: True}
        # Who understands it keeps the connection that it has.
        told = await alice.hear("peer-resumed")
        assert (told["peer"]["publicKeyHex"], told["peer"]["verified"]) == (BOB.key, False)
        await refused(alice, {"type": "update-identity", "identity": BOB.identity}, "identity-fixed")
        for token in tokens:  # once
            await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")


async def test_after_a_restart_what_is_not_allowed_any_more_is_not(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore(Caps())
    async with open_lab(store) as lab:
        owner = lab.connect()
        await prove(owner, BOB)
        tavern = await lab.tavern(owner)
        token = await took_token(await arrived(lab, tavern, ALICE))
        other = await took_token(await arrived(lab, tavern, Person("Carol")))
        owner.say({"type": "update-tavern", "tavernId": tavern["id"], "locked": True})
        await owner.hear("tavern-updated")
    async with open_lab(store, run_id="next run") as lab:
        await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")
    async with open_lab(store, run_id="yet another", rules=Rules(require_identity=True)) as lab:
        await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")
    async with open_lab(store, run_id="the last") as lab:
        await trio.sleep(AFTER_START_S + 1)
        await refused(lab.connect(), {"type": "resume", "token": other}, "resume-failed")


@pytest.mark.parametrize("token", ["x", "A" * 100, "=", "\N{SNOWMAN}", "A" * 2048])
async def test_what_is_no_token_fails(token: str) -> None:
    async with open_lab() as lab:
        await refused(lab.connect(), {"type": "resume", "token": token}, "resume-failed")


async def test_who_is_somewhere_already_does_not_resume() -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice = await arrived(lab, tavern, ALICE)
        token = await took_token(alice)
        bob = await arrived(lab, tavern, BOB)
        await refused(bob, {"type": "resume", "token": token}, "resume-failed")
        other = lab.connect()
        await prove(other, BOB)
        await refused(other, {"type": "resume", "token": token}, "resume-failed")
        assert (await hello(other))["verified"] is True


async def test_who_came_and_went_meanwhile_is_in_the_list_and_not_told_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_lab() as lab:
        tavern = await lab.tavern(lab.connect())
        alice, bob = await arrived(lab, tavern, ALICE), await arrived(lab, tavern, BOB)
        await alice.hear("peer-joined-channel")
        token = await took_token(alice)
        alice.vanish()
        await trio.testing.wait_all_tasks_blocked()
        carol = await arrived(lab, tavern, Person("Carol"))
        carol.say({"type": "offer", "sdp": "v=0", "target": ALICE.key})
        bob.hang_up()
        await carol.hear("peer-left-channel")
        again, resumed, _ = await came_back(lab, token)
        assert [peer["displayName"] for peer in resumed["peers"]] == ["Carol"]
        await again.hear("offer")
        assert again.heard_nothing()

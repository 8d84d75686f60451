"""Proven identities: who shows that he holds a key, and what naming it without is worth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.signaling.proofs import NONCE_LIFETIME_S, Challenge, is_verifiable_key, proof_statement, verify_proof
from tests.signaling.lab import Lab, Person, hello, open_lab, prove, refused
from tests.signaling.memory_transport import MemoryTransport

SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    # Other writings of some of them: y = p, p + 1.
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_lab() as lab:
        yield lab


def test_a_signature_of_the_statement_is_a_proof_and_of_nothing_else() -> None:
    alice = Person("Alice")
    statement = proof_statement("tavern.example.com", "connection", "nonce")
    assert statement == b"tavern-identity-proof-v1\ntavern.example.com\nconnection\nnonce"
    signature = alice.sign(statement)
    assert verify_proof(alice.key, signature, statement)
    for other in (
        proof_statement("evil.example", "connection", "nonce"),
        proof_statement("tavern.example.com", "other", "nonce"),
        proof_statement("tavern.example.com", "connection", "other"),
    ):
        assert not verify_proof(alice.key, signature, other)
    assert not verify_proof(Person("Bob").key, signature, statement)
    assert not verify_proof(alice.key, signature.upper(), statement)
    assert not verify_proof(alice.key.upper(), signature, statement)


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_whose_signatures_anybody_can_make_are_no_keys(key: str) -> None:
    assert not is_verifiable_key(key)
    assert not verify_proof(key, "00" * 64, b"anything")
    assert not verify_proof(key, "01" + "00" * 63, b"anything")


@given(st.text(max_size=140), st.text(max_size=140), st.binary(max_size=20))
def test_whatever_is_sent_is_judged(key: str, signature: str, statement: bytes) -> None:
    assert not verify_proof(key, signature, statement)


@given(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.from_regex(r"[0-9a-f]{128}", fullmatch=True))
def test_random_keys_and_signatures_fit_nothing(key: str, signature: str) -> None:
    assert not verify_proof(key, signature, b"statement")


def test_a_nonce_is_used_once_within_a_minute_and_the_newest_counts() -> None:
    challenge = Challenge()
    assert challenge.take(0.0) is None
    first = challenge.issue(0.0, b"1" * 32)
    second = challenge.issue(1.0, b"2" * 32)
    assert first != second == (b"2" * 32).hex()
    assert challenge.take(1.0 + NONCE_LIFETIME_S - 0.01) == second
    assert challenge.take(2.0) is None
    challenge.issue(10.0, b"3" * 32)
    assert challenge.take(10.0 + NONCE_LIFETIME_S) is None


async def test_who_has_proven_a_key_is_verified_to_clients_that_understand_it(lab: Lab) -> None:
    alice = Person("Alice")
    tavern = await lab.tavern(lab.connect())
    old = await lab.join(tavern, "old")
    extended = lab.connect()
    await hello(extended)
    extended.say(Person("Bob").join(tavern))
    [shown_old] = (await extended.hear("channel-joined"))["peers"]
    assert shown_old["verified"] is False
    await old.hear("peer-joined-channel")
    client = lab.connect()
    await prove(client, alice)
    client.say(alice.join(tavern))
    assert len((await client.hear("channel-joined"))["peers"]) == 2
    assert "verified" not in (await old.hear("peer-joined-channel"))["peer"]
    assert (await extended.hear("peer-joined-channel"))["peer"]["verified"] is True


async def test_a_proof_in_the_middle_of_a_call_is_told_to_who_understands_it(lab: Lab) -> None:
    alice, bob = Person("Alice"), Person("Bob")
    tavern = await lab.tavern(lab.connect())
    client, other, old = lab.connect(), lab.connect(), lab.connect()
    await hello(other)
    for each, message in ((client, alice.join(tavern)), (other, bob.join(tavern)), (old, Person("Old").join(tavern))):
        each.say(message)
        await each.hear("channel-joined")
    await client.hear("peer-joined-channel")
    await client.hear("peer-joined-channel")
    await other.hear("peer-joined-channel")
    await prove(client, alice)
    told = await other.hear("peer-identity-updated")
    assert told == {
        "type": "peer-identity-updated",
        "peerId": alice.key,
        "identity": {**alice.identity, "verified": True},
    }
    assert old.heard_nothing()


Wrong = dict[str, Any]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda proof: {**proof, "signature": "00" * 64}, id="another signature"),
        pytest.param(lambda proof: {**proof, "signature": "nothing"}, id="no signature"),
        pytest.param(lambda proof: {**proof, "publicKeyHex": Person("Eve").key}, id="another key"),
        pytest.param(lambda proof: {**proof, "publicKeyHex": proof["publicKeyHex"].upper()}, id="in capitals"),
        pytest.param(lambda proof: {**proof, "publicKeyHex": SMALL_ORDER[0]}, id="small order"),
        pytest.param(lambda proof: {**proof, "publicKeyHex": "same_key_123"}, id="no key"),
    ],
)
async def test_what_is_no_proof_proves_nothing_and_uses_up_the_nonce(lab: Lab, spoil: Any) -> None:
    alice, client = Person("Alice"), lab.connect()
    proof = alice.proof(await hello(client))
    await refused(client, spoil(proof), "proof-invalid")
    await refused(client, proof, "proof-invalid")
    await prove(client, alice)


async def test_a_proof_for_another_connection_or_an_older_nonce_is_none(lab: Lab) -> None:
    alice, client, other = Person("Alice"), lab.connect(), lab.connect()
    elsewhere = alice.proof(await hello(other))
    old = alice.proof(await hello(client))
    await hello(client)
    await refused(client, old, "proof-invalid")
    await hello(client)
    await refused(client, elsewhere, "proof-invalid")
    never_said_hello = lab.connect()
    await refused(never_said_hello, elsewhere, "proof-invalid")


async def joined(lab: Lab, tavern: dict[str, Any], person: Person, *, proven: bool) -> MemoryTransport:
    client = lab.connect()
    if proven:
        await prove(client, person)
    client.say(person.join(tavern))
    await client.hear("channel-joined")
    return client


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
async def test_nobody_is_thrown_out_by_who_merely_names_his_key(lab: Lab, before: bool, after: bool) -> None:
    alice = Person("Alice")
    tavern = await lab.tavern(lab.connect())
    first = await joined(lab, tavern, alice, proven=before)
    second = lab.connect()
    if after:
        await prove(second, alice)
    if before and not after:
        await refused(second, alice.join(tavern), "identity-in-use")
        await refused(second, {"type": "join", "room": "r", "identity": alice.identity}, "identity-in-use")
        await refused(second, {"type": "update-identity", "identity": alice.identity}, "identity-in-use")
        assert first.closed is None
        assert second.closed is None
        second.say(Person("Eve").join(tavern))
        await second.hear("channel-joined")
        await first.hear("peer-joined-channel")
    else:
        second.say(alice.join(tavern))
        assert (await second.hear("channel-joined"))["peers"] == []
        await first.hear("session-replaced")
        assert first.closed == (1000, "session replaced")


async def test_a_verified_peer_keeps_its_key(lab: Lab) -> None:
    alice, bob = Person("Alice"), Person("Bob")
    tavern = await lab.tavern(lab.connect())
    client = await joined(lab, tavern, alice, proven=True)
    for message in (
        {"type": "update-identity", "identity": bob.identity},
        bob.join(tavern),
        {"type": "join", "room": "r", "identity": bob.identity},
        bob.proof(await hello(client)),
    ):
        await refused(client, message, "identity-fixed")
    renamed = {**alice.identity, "displayName": "Alice B."}
    client.say({"type": "update-identity", "identity": renamed})
    client.say({"type": "get-tavern-info", "tavernId": tavern["id"]})
    [channel] = (await client.hear("tavern-info"))["tavern"]["channels"]
    [peer] = channel["peers"]
    assert (peer["publicKeyHex"], peer["displayName"], peer["verified"]) == (alice.key, "Alice B.", True)


async def test_who_is_known_by_another_key_leaves_before_he_proves_one(lab: Lab) -> None:
    alice = Person("Alice")
    tavern = await lab.tavern(lab.connect())
    client = await lab.join(tavern, "a name of no key")
    await refused(client, alice.proof(await hello(client)), "identity-fixed")
    client.say({"type": "leave-channel", "tavernId": tavern["id"], "channelId": tavern["channels"][0]["id"]})
    await prove(client, alice)
    # The name that it went by is free.
    await lab.join(tavern, "a name of no key")


async def test_who_is_in_an_old_room_without_a_name_may_prove_one(lab: Lab) -> None:
    other, client = lab.connect(), lab.connect()
    for each in (other, client):
        each.say({"type": "join", "room": "r"})
        await each.hear("peer-list")
    await prove(client, Person("Alice"))
    assert client.closed is other.closed is None
    assert lab.registry.metrics.failures == {}

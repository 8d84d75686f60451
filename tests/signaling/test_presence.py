"""Presence and relaying, as pure decisions: who is where, who hears what, in which order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tavern.signaling import messages
from tavern.signaling.messages import Identity, SignalingError
from tavern.signaling.presence import Presence
from tavern.signaling.relaying import relay
from tavern.signaling.rooms import (
    MAX_MEMBERS,
    Channel,
    Close,
    Deliver,
    Effects,
    Peer,
    RoomEmptied,
    RoomOpened,
)
from tests.signaling.relayed import answer, ice_candidate, offer


def identity(key: str, name: str | None = None) -> Identity:
    return Identity(publicKeyHex=key, tag=f"#{key}", displayName=name)


def sent(effects: Effects) -> list[tuple[list[str], dict[str, Any]]]:
    """Who is sent what, by peer id."""
    return [
        ([p.peer_id for p in e.recipients], json.loads(messages.encode(e.message)))
        for e in effects
        if isinstance(e, Deliver)
    ]


def types_to(effects: Effects, peer: Peer) -> list[str]:
    return [e.message["type"] for e in effects if isinstance(e, Deliver) and peer in e.recipients]


def peer_on_wire(key: str, channel: str = "c") -> dict[str, Any]:
    return {
        "publicKeyHex": key,
        "displayName": f"#{key}",
        "tavernId": "t",
        "channelId": channel,
        "isSpeaking": False,
        "tag": f"#{key}",
    }


@pytest.fixture
def presence() -> Presence:
    return Presence()


def joined(presence: Presence, *keys: str, channel: str = "c") -> list[Peer]:
    peers = [Peer(f"id-{key}") for key in keys]
    for peer, key in zip(peers, keys, strict=True):
        presence.join_channel(peer, "t", channel, identity(key))
    return peers


def test_the_joiner_learns_who_is_there_and_they_learn_of_the_joiner(presence: Presence) -> None:
    alice, bob = Peer("1"), Peer("2")
    effects = presence.join_channel(alice, "t", "c", identity("a"))
    assert isinstance(effects[0], RoomOpened)
    empty = {"type": "channel-joined", "tavernId": "t", "channelId": "c", "peers": []}
    assert sent(effects) == [(["1"], empty)]
    effects = presence.join_channel(bob, "t", "c", identity("b"))
    assert sent(effects) == [
        (["2"], {**empty, "peers": [peer_on_wire("a")]}),
        (["1"], {"type": "peer-joined-channel", "tavernId": "t", "channelId": "c", "peer": peer_on_wire("b")}),
    ]


def test_joining_where_one_is_already_answers_again_and_tells_nobody(presence: Presence) -> None:
    alice, bob = joined(presence, "a", "b")
    effects = presence.join_channel(bob, "t", "c", identity("b"))
    assert types_to(effects, bob) == ["channel-joined"]
    assert types_to(effects, alice) == []


def test_joining_another_channel_leaves_the_first(presence: Presence) -> None:
    alice, bob = joined(presence, "a", "b")
    effects = presence.join_channel(bob, "t", "other", identity("b"))
    left = {"type": "peer-left-channel", "tavernId": "t", "channelId": "c", "publicKeyHex": "b"}
    assert sent(effects)[0] == (["id-a"], left)
    assert types_to(effects, bob) == ["channel-joined"]
    assert presence.channel_members("t", "c") == (alice,)
    assert presence.channel_members("t", "other") == (bob,)


def test_the_ninth_is_refused_and_keeps_what_it_had(presence: Presence) -> None:
    joined(presence, *"abcdefgh")
    [ninth] = joined(presence, "i", channel="other")
    with pytest.raises(SignalingError, match=r"^Channel full$"):
        presence.join_channel(ninth, "t", "c", identity("i"))
    assert presence.channel_members("t", "other") == (ninth,)
    assert len(presence.channel_members("t", "c")) == MAX_MEMBERS


def test_a_full_channel_takes_back_the_session_that_it_already_holds(presence: Presence) -> None:
    peers = joined(presence, *"abcdefgh")
    again = Peer("again")
    effects = presence.join_channel(again, "t", "c", identity("a"))
    assert types_to(effects, again) == ["channel-joined"]
    assert types_to(effects, peers[0]) == ["session-replaced"]
    assert len(presence.channel_members("t", "c")) == MAX_MEMBERS


def test_the_same_key_on_a_second_connection_replaces_the_first(presence: Presence) -> None:
    first, witness = joined(presence, "a", "w")
    second = Peer("2")
    effects = presence.join_channel(second, "t", "c", identity("a"))
    assert types_to(effects, first) == ["session-replaced"]
    assert [(e.peer, e.code) for e in effects if isinstance(e, Close)] == [(first, 1000)]
    assert types_to(effects, witness) == ["peer-left-channel", "peer-joined-channel"]
    # The replaced connection's end changes nothing more.
    assert presence.disconnect(first) == []
    assert presence.channel_members("t", "c") == (witness, second)


def test_a_refused_join_replaces_nobody(presence: Presence) -> None:
    joined(presence, *"abcdefgh")
    [elsewhere] = joined(presence, "i", channel="other")
    with pytest.raises(SignalingError):
        presence.join_channel(Peer("2"), "t", "c", identity("i"))
    assert presence.channel_members("t", "other") == (elsewhere,)


def test_leaving_tells_the_others_once_and_only_of_the_channel_one_is_in(presence: Presence) -> None:
    alice, bob = joined(presence, "a", "b")
    assert presence.leave_channel(bob, "t", "other") == []
    left = {"type": "peer-left-channel", "tavernId": "t", "channelId": "c", "publicKeyHex": "b"}
    assert sent(presence.leave_channel(bob, "t", "c")) == [(["id-a"], left)]
    assert presence.leave_channel(bob, "t", "c") == []
    assert presence.disconnect(bob) == []
    [_moved, _changed, emptied] = presence.disconnect(alice)
    assert isinstance(emptied, RoomEmptied)
    assert presence.rooms == {}


def test_an_offer_reaches_its_target_byte_for_byte(presence: Presence) -> None:
    _alice, bob, _carol = joined(presence, "a", "b", "c")
    sdp = "v=0\r\n \u2028\x00 ü"
    delivery = relay(bob, offer(sdp, "a", tavernId="t", channelId="c"))
    message = {"type": "offer", "from": "b", "sdp": sdp, "tavernId": "t", "channelId": "c"}
    assert sent([delivery]) == [(["id-a"], message)]


def test_an_offer_without_target_reaches_all_others(presence: Presence) -> None:
    _alice, bob, _carol = joined(presence, "a", "b", "c")
    assert sent([relay(bob, offer("v=0"))]) == [(["id-a", "id-c"], {"type": "offer", "from": "b", "sdp": "v=0"})]


def test_answers_and_candidates_reach_their_target(presence: Presence) -> None:
    _alice, bob = joined(presence, "a", "b")
    assert sent([relay(bob, answer("v=0", "a"))]) == [(["id-a"], {"type": "answer", "from": "b", "sdp": "v=0"})]
    candidate = '{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host","sdpMid":"0"}'
    assert sent([relay(bob, ice_candidate(candidate, "a"))]) == [
        (["id-a"], {"type": "ice-candidate", "from": "b", "candidate": candidate})
    ]


@pytest.mark.parametrize("target", ["nobody", "b", "id-a", "d"])
def test_a_target_outside_of_the_channel_is_not_found(presence: Presence, target: str) -> None:
    _alice, bob = joined(presence, "a", "b")
    joined(presence, "d", channel="other")
    with pytest.raises(SignalingError, match=r"^Target peer not found in channel$"):
        relay(bob, offer("v=0", target))


@pytest.mark.parametrize(("tavern", "channel"), [("t", "other"), ("other", "c")])
def test_nobody_relays_into_a_channel_that_he_is_not_in(presence: Presence, tavern: str, channel: str) -> None:
    joined(presence, "a", "b", channel="other")
    [carol] = joined(presence, "c")
    with pytest.raises(SignalingError, match=r"^Join a room before signaling$"):
        relay(carol, offer("v=0", "a", tavernId=tavern, channelId=channel))
    with pytest.raises(SignalingError, match=r"^Join a room before signaling$"):
        relay(Peer("nowhere"), offer("v=0"))


def test_an_identity_update_is_told_under_the_key_that_the_others_know(presence: Presence) -> None:
    alice, bob = joined(presence, "a", "b")
    effects = presence.update_identity(bob, identity("b", "Bob"))
    new = {"publicKeyHex": "b", "tag": "#b", "displayName": "Bob"}
    assert sent(effects) == [(["id-a"], {"type": "peer-identity-updated", "peerId": "b", "identity": new})]
    [(_, message)] = sent(presence.update_identity(bob, identity("b2")))
    assert message["peerId"] == "b"
    assert message["identity"]["publicKeyHex"] == "b2"
    # From now on the new key is the address, and the old one is free.
    assert sent([relay(alice, offer("v=0", "b2"))])[0][0] == ["id-b"]
    joined(presence, "b")
    assert len(presence.channel_members("t", "c")) == 3


def test_nobody_takes_a_key_that_another_connection_has(presence: Presence) -> None:
    _alice, bob = joined(presence, "a", "b")
    with pytest.raises(SignalingError) as raised:
        presence.update_identity(bob, identity("a"))
    assert raised.value.code == "identity-in-use"
    assert Channel.address(bob) == "b"


def test_legacy_rooms_name_peers_by_the_servers_ids(presence: Presence) -> None:
    one, two = Peer("1"), Peer("2")
    assert sent(presence.join_room(one, "r", None)) == [(["1"], {"type": "peer-list", "peers": []})]
    assert sent(presence.join_room(two, "r", identity("b"))) == [
        (["2"], {"type": "peer-list", "peers": [{"peerId": "1"}]}),
        (
            ["1"],
            {
                "type": "peer-joined",
                "peerId": "2",
                "identity": {"publicKeyHex": "b", "tag": "#b", "displayName": None},
            },
        ),
    ]
    assert sent([relay(one, offer("v=0", "2"))]) == [(["2"], {"type": "offer", "from": "1", "sdp": "v=0"})]
    assert sent(presence.disconnect(two)) == [(["1"], {"type": "peer-left", "peerId": "2"})]


def test_a_legacy_room_holds_eight(presence: Presence) -> None:
    for number in range(MAX_MEMBERS):
        presence.join_room(Peer(str(number)), "r", None)
    [ninth] = joined(presence, "a")
    with pytest.raises(SignalingError, match=r"^Room full$"):
        presence.join_room(ninth, "r", None)
    assert presence.channel_members("t", "c") == (ninth,)


def test_one_is_in_one_place_only(presence: Presence) -> None:
    alice, bob = joined(presence, "a", "b")
    effects = presence.join_room(bob, "r", None)
    assert types_to(effects, alice) == ["peer-left-channel"]
    effects = presence.join_channel(bob, "t", "c", identity("b"))
    assert types_to(effects, alice) == ["peer-joined-channel"]
    assert ("legacy", "r") not in presence.rooms


def test_rejoining_a_full_channel_under_another_key_counts_oneself_as_gone(presence: Presence) -> None:
    peers = joined(presence, *"abcdefgh")
    presence.join_channel(peers[0], "t", "c", identity("z"))
    assert len(presence.channel_members("t", "c")) == MAX_MEMBERS


def test_rejoining_a_full_legacy_room_answers_again(presence: Presence) -> None:
    peers = [Peer(str(number)) for number in range(MAX_MEMBERS)]
    for peer in peers:
        presence.join_room(peer, "r", None)
    [(_, message)] = sent(presence.join_room(peers[0], "r", None))
    assert len(message["peers"]) == MAX_MEMBERS - 1


KEYS = st.sampled_from([f"k{number}" for number in range(14)])
PEERS = st.integers(0, 13)
CHANNELS = st.sampled_from(["c1", "c2"])


class PresenceMachine(RuleBasedStateMachine):
    """Random peers do random things; a simple model says where everybody is and what each has heard."""

    def __init__(self) -> None:
        super().__init__()
        self.presence = Presence()
        self.peers = [Peer(str(number)) for number in range(14)]
        self.place: dict[Peer, str] = {}
        self.key: dict[Peer, str] = {}
        self.heard: dict[Peer, set[str]] = {}  # whom each member believes to be with it, by key

    def deliver(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Close):
                assert effect.code == 1000
            if not isinstance(effect, Deliver):
                continue
            for peer in effect.recipients:
                match effect.message["type"]:
                    case "channel-joined":
                        self.heard[peer] = {p["publicKeyHex"] for p in effect.message["peers"]}
                    case "peer-joined-channel":
                        key = effect.message["peer"]["publicKeyHex"]
                        assert key not in self.heard[peer]
                        self.heard[peer].add(key)
                    case "peer-left-channel":
                        self.heard[peer].remove(effect.message["publicKeyHex"])  # seen once: KeyError otherwise
                    case "peer-identity-updated":
                        self.heard[peer].remove(effect.message["peerId"])
                        self.heard[peer].add(effect.message["identity"]["publicKeyHex"])

    def forget(self, peer: Peer) -> None:
        self.place.pop(peer, None)
        self.heard.pop(peer, None)

    @rule(number=PEERS, key=KEYS, channel=CHANNELS)
    def join(self, number: int, key: str, channel: str) -> None:
        peer = self.peers[number]
        holder = next((p for p, k in self.key.items() if k == key and p is not peer), None)
        staying = [p for p, where in self.place.items() if where == channel and p not in (peer, holder)]
        try:
            effects = self.presence.join_channel(peer, "t", channel, identity(key))
        except SignalingError as error:
            assert error.code == "channel-full"
            assert len(staying) == MAX_MEMBERS
            return
        assert len(staying) < MAX_MEMBERS
        if holder is not None:
            assert any(isinstance(e, Close) and e.peer is holder for e in effects)
            self.forget(holder)
            del self.key[holder]
        self.place[peer] = channel
        self.key[peer] = key
        self.deliver(effects)

    @rule(number=PEERS, channel=CHANNELS)
    def leave(self, number: int, channel: str) -> None:
        peer = self.peers[number]
        effects = self.presence.leave_channel(peer, "t", channel)
        if self.place.get(peer) == channel:
            self.forget(peer)
        else:
            assert effects == []
        self.deliver(effects)

    @rule(number=PEERS)
    def disconnect(self, number: int) -> None:
        peer = self.peers[number]
        effects = self.presence.disconnect(peer)
        self.forget(peer)
        self.key.pop(peer, None)
        self.deliver(effects)

    @rule(number=PEERS, key=KEYS)
    def update(self, number: int, key: str) -> None:
        peer = self.peers[number]
        taken = any(k == key for p, k in self.key.items() if p is not peer)
        try:
            effects = self.presence.update_identity(peer, identity(key))
        except SignalingError:
            assert taken
            return
        assert not taken
        self.key[peer] = key
        self.deliver(effects)

    @rule(number=PEERS, to=KEYS)
    def relay(self, number: int, to: str) -> None:
        peer = self.peers[number]
        try:
            [recipient] = relay(peer, offer("v=0", to)).recipients
        except SignalingError as error:
            if self.place.get(peer) is None:
                assert error.code == "not-in-room"
            else:
                assert error.code == "target-not-found"
                assert to not in self.heard[peer]
            return
        assert self.place[recipient] == self.place[peer]
        assert self.key[recipient] == to

    @invariant()
    def everybody_is_where_the_model_says_and_believes_what_is_true(self) -> None:
        for channel in ("c1", "c2"):
            members = self.presence.channel_members("t", channel)
            assert len(members) <= MAX_MEMBERS
            assert set(members) == {p for p, where in self.place.items() if where == channel}
            for member in members:
                assert self.heard[member] == {self.key[other] for other in members if other is not member}
        assert self.presence.active_taverns() == (1 if self.place else 0)


PresenceMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestPresenceMachine = PresenceMachine.TestCase

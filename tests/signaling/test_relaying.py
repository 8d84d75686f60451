"""The short way of relaying comes to what the long one does, or leaves it to it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.signaling.messages import Identity, SignalingError, encode
from tavern.signaling.presence import Presence
from tavern.signaling.relaying import pass_on, relay
from tavern.signaling.requests import Relayed, parse_message
from tavern.signaling.rooms import Peer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["offer", "answer", "ice-candidate", "join", "leave-channel"])},
    optional={
        "sdp": st.just("v=0") | JSON,
        "candidate": st.just("{}") | JSON,
        "target": st.sampled_from(["b", "c", "ü", "nobody", "a", 'q"']) | JSON,
        "tavernId": st.sampled_from(["t", "other"]) | JSON,
        "channelId": st.sampled_from(["c", "other"]) | JSON,
        "from": JSON,
        "extra": JSON,
    },
)


def together() -> tuple[Peer, dict[str, Peer]]:
    presence = Presence()
    peers = {key: Peer(f"id-{key}") for key in ("a", "b", "c", "ü", 'q"')}
    for key, peer in peers.items():
        presence.join_channel(peer, "t", "c", Identity(key, f"#{key}"))
    return peers["a"], peers


def the_long_way(peer: Peer, data: str) -> tuple[Peer, bytes, bytes] | None:
    with suppress(SignalingError):
        message = parse_message(data)
        if isinstance(message, Relayed):
            delivery = relay(peer, message)
            if len(delivery.recipients) == 1:
                return delivery.recipients[0], encode(delivery.message), message.content
    return None


@given(MESSAGES, st.booleans())
def test_both_ways_come_to_the_same(message: dict[str, Any], escaped: bool) -> None:
    peer, _ = together()
    data = json.dumps(message, ensure_ascii=escaped)
    short = pass_on(peer, data)
    assert short is None or short == the_long_way(peer, data)


@pytest.mark.parametrize("target", ["b", "c", "ü"])
@pytest.mark.parametrize("where", [{}, {"tavernId": "t"}, {"tavernId": "t", "channelId": "c"}])
@pytest.mark.parametrize(("kind", "content"), [("offer", "sdp"), ("answer", "sdp"), ("ice-candidate", "candidate")])
def test_what_is_common_takes_the_short_way(kind: str, content: str, where: dict[str, str], target: str) -> None:
    peer, peers = together()
    data = json.dumps({"type": kind, content: "text", "target": target, **where, "from": "x"}, ensure_ascii=False)
    short = pass_on(peer, data)
    assert short is not None
    assert short[0] is peers[target]
    assert json.loads(short[1]) == {"type": kind, "from": "a", content: "text", **where}
    assert short == the_long_way(peer, data)


@given(st.text(max_size=60))
def test_any_text_is_left_to_the_long_way(text: str) -> None:
    peer, _ = together()
    assert pass_on(peer, text) is None


def test_who_is_nowhere_or_in_an_old_room_takes_the_long_way() -> None:
    presence = Presence()
    peer, other = Peer("one"), Peer("two")
    data = '{"type":"offer","sdp":"v=0","target":"two"}'
    assert pass_on(peer, data) is None
    for each in (peer, other):
        presence.join_room(each, "r", None)
    assert pass_on(peer, data) is None

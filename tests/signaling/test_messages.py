"""What clients may send: every message of the protocol, and what is refused with which words."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.signaling.messages import Identity, SignalingError, encode, error_message
from tavern.signaling.requests import (
    MESSAGE_TYPES,
    CreateChannel,
    CreateTavern,
    GetIceServers,
    GetTavernInfo,
    Join,
    JoinChannel,
    LeaveChannel,
    Message,
    Relayed,
    UpdateIdentity,
    parse_message,
)

ALICE = {"publicKeyHex": "a" * 64, "tag": "TVN-aaaa-aaaa", "displayName": "Alice"}
IDENTITY = Identity("a" * 64, "TVN-aaaa-aaaa", "Alice")

GOOD: list[tuple[dict[str, Any], Message]] = [
    ({"type": "create-tavern", "name": "Pony"}, CreateTavern("Pony")),
    ({"type": "create-tavern", "name": "Pony", "icon": "🍺"}, CreateTavern("Pony", "🍺")),
    ({"type": "get-tavern-info", "tavernId": "t"}, GetTavernInfo("t")),
    ({"type": "create-channel", "tavernId": "t", "name": "Back room"}, CreateChannel("t", "Back room")),
    ({"type": "join-channel", "tavernId": "t", "channelId": "c", "identity": ALICE}, JoinChannel("t", "c", IDENTITY)),
    ({"type": "leave-channel", "tavernId": "t", "channelId": "c"}, LeaveChannel("t", "c")),
    ({"type": "update-identity", "identity": ALICE}, UpdateIdentity(IDENTITY)),
    ({"type": "join", "room": "r"}, Join("r")),
    ({"type": "join", "room": "r", "identity": ALICE}, Join("r", IDENTITY)),
    ({"type": "join", "room": "r", "identity": None}, Join("r")),
    ({"type": "get-ice-servers"}, GetIceServers()),
    # A later client's fields are not this server's business.
    ({"type": "create-tavern", "name": "Pony", "theme": {"a": [1]}}, CreateTavern("Pony")),
]


@pytest.mark.parametrize(("message", "parsed"), GOOD)
def test_each_message_of_the_protocol_is_read(message: dict[str, Any], parsed: Message) -> None:
    assert parse_message(json.dumps(message)) == parsed
    assert parse_message(json.dumps(message, ensure_ascii=False).encode()) == parsed


RELAYED: list[tuple[dict[str, Any], tuple[str | None, str | None, str | None], dict[str, Any]]] = [
    ({"type": "offer", "sdp": "v=0"}, (None, None, None), {"sdp": "v=0"}),
    ({"type": "offer", "sdp": "v=0", "target": None, "tavernId": None}, (None, None, None), {"sdp": "v=0"}),
    (
        {"type": "offer", "sdp": "v=0", "target": "b", "tavernId": "t", "channelId": "c"},
        ("b", "t", "c"),
        {"sdp": "v=0", "tavernId": "t", "channelId": "c"},
    ),
    ({"type": "answer", "sdp": "v=0", "target": "b"}, ("b", None, None), {"sdp": "v=0"}),
    ({"type": "ice-candidate", "candidate": "{}", "target": "b"}, ("b", None, None), {"candidate": "{}"}),
    # Nobody speaks for somebody else; what clients sign for each other goes through.
    (
        {"type": "answer", "sdp": "v=0", "target": "b", "from": "me", "signature": {"key": "ü", "at": 1}},
        ("b", None, None),
        {"sdp": "v=0", "signature": {"key": "ü", "at": 1}},
    ),
]


@pytest.mark.parametrize(("message", "where", "passed_on"), RELAYED)
def test_what_is_relayed_is_read_as_far_as_it_concerns_the_server(
    message: dict[str, Any], where: tuple[str | None, str | None, str | None], passed_on: dict[str, Any]
) -> None:
    for data in (json.dumps(message), json.dumps(message, ensure_ascii=False).encode()):
        parsed = parse_message(data)
        assert isinstance(parsed, Relayed)
        assert (parsed.type, parsed.target, parsed.tavern_id, parsed.channel_id) == (message["type"], *where)
        assert json.loads(encode(parsed.passed_on)) == passed_on


@pytest.mark.parametrize(
    "value", ["1e999", "12345678901234567890123", '"\\u00fc\\ud83c\\udf7a"', '{ "a" : [ ] }', "-0.10"]
)
def test_extra_members_of_what_is_relayed_stay_as_they_were_written(value: str) -> None:
    parsed = parse_message(f'{{"type":"offer","sdp":"v=0","extra":{value}}}')
    assert isinstance(parsed, Relayed)
    assert encode(parsed.passed_on) == f'{{"sdp":"v=0","extra":{value}}}'.encode()


@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        ("", "bad-json", None),
        ("{", "bad-json", None),
        (b"\xff\xfe", "bad-json", None),
        ('{"type":"create-tavern","name":"\xff"'.encode("latin-1") + b"}", "bad-json", None),
        ("[" * 100_000, "bad-message", None),
        ('{"a":' * 100_000, "bad-json", None),
        ("[]", "bad-message", None),
        ("null", "bad-message", None),
        ("{}", "bad-message", "type"),
        ('{"type":7}', "bad-message", "type"),
        ('{"type":"dance"}', "unknown-type", "type"),
        ('{"type":"create-tavern"}', "bad-message", "name"),
        ('{"type":"create-tavern","name":7}', "bad-message", "name"),
        ('{"type":"create-tavern","name":null}', "bad-message", "name"),
        ('{"type":"create-tavern","name":""}', "bad-message", "name"),
        ('{"type":"create-tavern","name":" \\t"}', "bad-message", "name"),
        (json.dumps({"type": "create-tavern", "name": "x" * 201}), "bad-message", "name"),
        (json.dumps({"type": "create-tavern", "name": "x", "icon": "x" * 5000}), "bad-message", "icon"),
        ('{"type":"join-channel","tavernId":"t","channelId":"c"}', "bad-message", "identity"),
        ('{"type":"join-channel","tavernId":"t","channelId":"c","identity":"me"}', "bad-message", "identity"),
        ('{"type":"update-identity","identity":{"tag":"#1"}}', "bad-message", "identity.publicKeyHex"),
        (
            '{"type":"update-identity","identity":{"publicKeyHex":" ","tag":"#1"}}',
            "bad-message",
            "identity.publicKeyHex",
        ),
        ('{"type":"update-identity","identity":{"publicKeyHex":"k","tag":""}}', "bad-message", "identity.tag"),
        (
            '{"type":"update-identity","identity":{"publicKeyHex":"k","tag":"t","displayName":5}}',
            "bad-message",
            "identity.displayName",
        ),
        ('{"type":"answer","sdp":"v=0"}', "bad-message", "target"),
        ('{"type":"answer","sdp":"v=0","target":null}', "bad-message", "target"),
        ('{"type":"offer","target":"b"}', "bad-message", "sdp"),
        ('{"type":"offer","sdp":"v=0","target":7}', "bad-message", "target"),
        ('{"type":"offer","sdp":"v=0","tavernId":""}', "bad-message", "tavernId"),
        (b'{"type":"offer","sdp":"v=0","extra":"\xff"}', "bad-json", None),
        ('{"type":"offer","sdp":"v=0","extra":"\\ud800"}', "bad-json", None),
        ('{"type":"ice-candidate","candidate":{},"target":"b"}', "bad-message", "candidate"),
    ],
)
def test_what_is_malformed_gets_an_error_that_names_the_field(data: str | bytes, code: str, field: str | None) -> None:
    with pytest.raises(SignalingError) as raised:
        parse_message(data)
    assert raised.value.code == code
    assert raised.value.field == field
    answer = error_message(raised.value)
    assert answer["type"] == "error"
    assert answer["code"] == code
    assert field is None or field in answer["message"]
    assert "`" not in answer["message"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('{"type":"create-tavern","name":7}', "Field name: expected string, got number"),
        ('{"type":"create-tavern","name":"x","icon":[]}', "Field icon: expected string | null, got array"),
        ('{"type":"create-tavern"}', "Field name: is missing"),
        ('{"type":"create-tavern","name":" "}', "Field name: must not be blank"),
        (json.dumps({"type": "create-tavern", "name": "x" * 201}), "Field name: must have at most 200 characters"),
        ("[]", "Message is not a JSON object: expected object, got array"),
    ],
)
def test_the_text_is_in_the_words_of_who_wrote_the_json(data: str, text: str) -> None:
    with pytest.raises(SignalingError) as raised:
        parse_message(data)
    assert raised.value.message == text


@given(st.one_of(st.binary(), st.text(st.characters(codec="utf-8"))))
def test_any_input_is_a_message_or_one_error(data: str | bytes) -> None:
    with suppress(SignalingError):
        parse_message(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tag", "name", "x"]), inner),
)
_fields = ("type", "name", "icon", "tavernId", "channelId", "identity", "sdp", "target", "candidate", "room", "invite")


@given(st.sampled_from(MESSAGE_TYPES), st.dictionaries(st.sampled_from(_fields), _json))
def test_any_field_of_any_kind_is_a_message_or_one_error(kind: str, fields: dict[str, Any]) -> None:
    try:
        parse_message(json.dumps({**fields, "type": kind}))
    except SignalingError as error:
        assert error.code in {"bad-message", "bad-json"}


@pytest.mark.parametrize(
    ("given_name", "shown"), [("Alice", "Alice"), ("  Alice ", "Alice"), ("", "#1"), ("  ", "#1"), (None, "#1")]
)
def test_the_tag_is_shown_where_there_is_no_display_name(given_name: str | None, shown: str) -> None:
    assert Identity("k", "#1", given_name).shown_name == shown

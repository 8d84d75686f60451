"""RFC 8489 §5, §6, §14: what is a message and what is not; arbitrary bytes."""

from __future__ import annotations

import contextlib
import hmac
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tavern.addresses import IPAddress
from tavern.stun import attributes
from tavern.stun.integrity import integrity_of
from tavern.stun.message import (
    MAGIC_COOKIE,
    Attribute,
    AttributeType,
    MalformedMessage,
    MessageClass,
    Method,
    encode,
    parse,
)

TRANSACTION = bytes(range(12))
REQUEST = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION)

methods = st.integers(0, 0xFFF)
classes = st.sampled_from(MessageClass)
transactions = st.binary(min_size=12, max_size=12)
plain_types = st.integers(0, 0xFFFF).filter(
    lambda kind: kind not in {AttributeType.MESSAGE_INTEGRITY, AttributeType.FINGERPRINT}
)
attribute_lists = st.lists(st.tuples(plain_types, st.binary(max_size=70)), max_size=6)


@pytest.mark.clause("8489 §5: what does not parse is malformed, and nothing else happens")
@given(st.binary(max_size=200))
@example(b"")
def test_arbitrary_bytes_parse_or_are_malformed(data: bytes) -> None:
    try:
        message = parse(data)
    except MalformedMessage:
        return
    assert message.raw == data


@pytest.mark.clause("8489 §5: first two bits 0, magic cookie, length a multiple of 4 and equal to what follows")
@given(st.integers(0, 0x3FFF), st.binary(max_size=120))
def test_arbitrary_attributes_after_a_right_header_parse_or_are_malformed(kind: int, body: bytes) -> None:
    data = struct.pack(">HH", kind, len(body)) + MAGIC_COOKIE + TRANSACTION + body
    try:
        message = parse(data)
    except MalformedMessage:
        return
    assert len(body) % 4 == 0
    assert sum(4 + len(value) for _, value in message.attributes) <= len(body)


@pytest.mark.clause("8489 §5: messages are encoded as they are parsed")
@given(methods, classes, transactions, attribute_lists, st.booleans(), st.booleans())
def test_what_is_encoded_is_parsed(
    method: int,
    message_class: MessageClass,
    transaction_id: bytes,
    given_attributes: list[Attribute],
    signed: bool,
    fingerprint: bool,
) -> None:
    key = b"key" if signed else None
    data = encode(method, message_class, transaction_id, given_attributes, integrity_key=key, fingerprint=fingerprint)
    message = parse(data)
    assert (message.method, message.message_class, message.transaction_id) == (method, message_class, transaction_id)
    assert list(message.attributes[: len(given_attributes)]) == given_attributes
    assert message.is_signed_with(b"key") == signed
    assert (message.get(AttributeType.FINGERPRINT) is not None) == fingerprint


@pytest.mark.clause("8489 §14.5: MESSAGE-INTEGRITY covers all that is before it")
@given(methods, transactions, attribute_lists, st.data())
def test_a_signed_message_changed_anywhere_is_malformed_or_badly_signed(
    method: int, transaction_id: bytes, given_attributes: list[Attribute], data: st.DataObject
) -> None:
    whole = encode(method, MessageClass.REQUEST, transaction_id, given_attributes, integrity_key=b"key")
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        message = parse(bytes(changed))
    except MalformedMessage:
        return
    assert not message.is_signed_with(b"key")


@pytest.mark.clause("8489 §5: first two bits 0, magic cookie, length a multiple of 4 and equal to what follows")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80" + REQUEST[1:], "first two bits"),
        (b"\x40" + REQUEST[1:], "first two bits"),
        (REQUEST[:4] + b"\x21\x12\xa4\x43" + REQUEST[8:], "cookie"),
        (REQUEST[:19], "header"),
        (REQUEST + b"\x00\x00\x00\x00", "length"),
        (REQUEST[:2] + b"\x00\x02" + REQUEST[4:] + b"\x00\x00", "length"),
        (REQUEST[:2] + b"\x00\x04" + REQUEST[4:], "length"),
        (REQUEST[:2] + b"\x00\x04" + REQUEST[4:] + b"\x00\x06\x00\x01", "attribute is longer"),
        (REQUEST[:2] + b"\x00\x08" + REQUEST[4:] + b"\x00\x08\x00\x04abcd", "20 bytes"),
        (encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0xFF00, b"")] * 65), "too many"),
        (encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0xFF00, b"")] * 64, fingerprint=True), "too many"),
        (encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0x0008, bytes(20))] * 65), "too many"),
        (REQUEST[:2] + b"\x00\x08" + REQUEST[4:] + b"\x80\x28\x00\x04abcd", "FINGERPRINT is wrong"),
    ],
)
def test_section_5_what_is_no_message(data: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        parse(data)


def test_64_attributes_are_a_message() -> None:
    data = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(0xFF00, b"")] * 63, fingerprint=True)
    assert len(parse(data).attributes) == 64


@pytest.mark.clause("8489 §14.5: attributes after MESSAGE-INTEGRITY are ignored, but -SHA256 and FINGERPRINT")
def test_section_14_5_the_first_integrity_counts() -> None:
    """What comes after it is ignored (§14.5), a second one as well: who appends one has signed nothing."""
    signed = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, integrity_key=b"key")
    length = struct.pack(">H", len(signed) - 20 + 24)
    appended = signed[:2] + length + signed[4:]
    forged = appended + struct.pack(">HH", AttributeType.MESSAGE_INTEGRITY, 20)
    forged += integrity_of(appended, b"another key")
    message = parse(forged)
    assert message.integrity_offset == 20
    assert message.is_signed_with(b"key")
    assert not message.is_signed_with(b"another key")


@pytest.mark.clause("8489 §9.2.4: integrity is compared in constant time")
def test_section_9_2_4_integrity_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    signed = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, integrity_key=b"key")
    assert parse(signed).is_signed_with(b"key")
    assert compared == [(signed[-20:], signed[-20:])]


@pytest.mark.clause("8489 §14.7: FINGERPRINT is last")
def test_section_14_7_fingerprint_is_last() -> None:
    first = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, fingerprint=True)
    after = first[:2] + struct.pack(">H", len(first) - 20 + 4) + first[4:] + b"\x80\x22\x00\x00"
    with pytest.raises(MalformedMessage, match="last"):
        parse(after)


@pytest.mark.clause("8489 §14.5: attributes after MESSAGE-INTEGRITY are ignored, but -SHA256 and FINGERPRINT")
def test_section_14_5_attributes_after_integrity_are_ignored_but_sha256_and_fingerprint() -> None:
    signed = encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, integrity_key=b"key")
    tail = struct.pack(">HH4s", AttributeType.USERNAME, 4, b"evil")
    tail += struct.pack(">HH4s", AttributeType.MESSAGE_INTEGRITY_SHA256, 4, b"abcd")
    message = parse(signed[:2] + struct.pack(">H", len(signed) - 20 + len(tail)) + signed[4:] + tail)
    assert message.get(AttributeType.USERNAME) is None
    assert message.get(AttributeType.MESSAGE_INTEGRITY_SHA256) == b"abcd"
    assert message.is_signed_with(b"key")


@pytest.mark.clause("8489 §6.3.1: unknown comprehension-required attribute -> 420 and UNKNOWN-ATTRIBUTES, no phrase")
def test_section_6_3_1_unknown_required_attributes_are_named_once_and_in_order() -> None:
    attributes_ = ((0x7FFF, b""), (0x0011, b""), (0x7FFF, b""), (0x8001, b""))
    message = parse(encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, attributes_))
    assert message.unknown_required(frozenset({0x0006})) == [0x7FFF, 0x0011]


addresses = st.one_of(st.builds(IPv4Address, st.integers(0, 2**32 - 1)), st.ip_addresses(v=6))


@pytest.mark.clause("8489 §14.2: XOR addresses of both families")
@given(addresses, st.integers(0, 65535), transactions)
def test_section_14_2_xor_addresses_of_both_families(address: IPAddress, port: int, transaction_id: bytes) -> None:
    value = attributes.encode_xor_address(address, port, transaction_id)
    assert len(value) == (8 if address.version == 4 else 20)
    assert attributes.decode_xor_address(value, transaction_id) == (address, port)


@pytest.mark.clause("8489 §14.2: an IPv4-mapped address is an IPv6 one on the wire")
def test_an_ipv4_mapped_peer_keeps_its_family() -> None:
    mapped = IPv6Address("::ffff:192.0.2.1")
    value = attributes.encode_xor_address(mapped, 1, TRANSACTION)
    assert attributes.decode_xor_address(value, TRANSACTION) == (mapped, 1)


@pytest.mark.clause("8489 §14, 8656 §18: an attribute of the wrong size is malformed")
@given(st.binary(max_size=24))
def test_decoders_raise_malformed_or_nothing(value: bytes) -> None:
    for decode in (
        lambda value: attributes.decode_xor_address(value, TRANSACTION),
        attributes.decode_error_code,
        attributes.decode_lifetime,
        attributes.decode_channel_number,
        attributes.decode_requested_transport,
        attributes.decode_requested_family,
        attributes.decode_even_port,
        attributes.decode_reservation_token,
    ):
        with contextlib.suppress(MalformedMessage):
            decode(value)


@pytest.mark.clause("8489 §14.8: ERROR-CODE")
@given(st.integers(300, 699), st.text(max_size=40))
def test_section_14_8_error_codes(code: int, reason: str) -> None:
    assert attributes.decode_error_code(attributes.encode_error_code(code, reason)) == (code, reason)

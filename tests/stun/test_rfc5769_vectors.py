"""RFC 5769: the four published messages, read and made."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tavern.stun.attributes import decode_xor_address
from tavern.stun.integrity import fingerprint_of, integrity_of, long_term_key
from tavern.stun.message import AttributeType, MalformedMessage, Message, MessageClass, Method, parse

PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"

REQUEST = bytes.fromhex(  # section 2.1; its padding is spaces, not zeros
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
IPV4_RESPONSE = bytes.fromhex(  # section 2.2
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
IPV6_RESPONSE = bytes.fromhex(  # section 2.3
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
LONG_TERM_REQUEST = bytes.fromhex(  # section 2.4
    "000100602112a44278ad3433c6ad72c029da412e"
    "00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)


@pytest.mark.clause("5769 §2: the vectors, MESSAGE-INTEGRITY and FINGERPRINT")
@pytest.mark.parametrize("data", [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE])
def test_short_term_integrity_and_fingerprint(data: bytes) -> None:
    message = parse(data)
    assert message.transaction_id.hex() == "b7e7a701bc34d686fa87dfae"
    assert message.is_signed_with(PASSWORD)
    assert not message.is_signed_with(PASSWORD + b"x")
    assert message.get(AttributeType.MESSAGE_INTEGRITY) == integrity_of(data[:-32], PASSWORD)
    assert message.get(AttributeType.FINGERPRINT) == fingerprint_of(data[:-8])


@pytest.mark.clause("5769 §2.1: sample request")
def test_2_1_request() -> None:
    message = parse(REQUEST)
    assert (message.method, message.message_class) == (Method.BINDING, MessageClass.REQUEST)
    assert message.get(AttributeType.SOFTWARE) == b"STUN test client"
    assert message.get(AttributeType.USERNAME) == b"evtj:h6vY"
    assert message.get(AttributeType.PRIORITY) == bytes.fromhex("6e0001ff")


@pytest.mark.clause("5769 §2.2, §2.3: sample IPv4 and IPv6 responses")
@pytest.mark.parametrize(
    ("data", "host"),
    [(IPV4_RESPONSE, "192.0.2.1"), (IPV6_RESPONSE, "2001:db8:1234:5678:11:2233:4455:6677")],
)
def test_2_2_and_2_3_mapped_address(data: bytes, host: str) -> None:
    message: Message = parse(data)
    assert message.message_class is MessageClass.SUCCESS
    value = message.get(AttributeType.XOR_MAPPED_ADDRESS)
    assert value is not None
    assert decode_xor_address(value, message.transaction_id) == (ip_address(host), 32853)


@pytest.mark.clause("5769 §2.4: sample request with long-term authentication")
def test_2_4_long_term_credential() -> None:
    message = parse(LONG_TERM_REQUEST)
    username = "\u30de\u30c8\u30ea\u30c3\u30af\u30b9"
    assert message.get(AttributeType.USERNAME) == username.encode()
    assert message.is_signed_with(long_term_key(username.encode(), b"example.org", b"TheMatrIX"))


@pytest.mark.clause("5769 §2: a flipped bit is noticed")
@pytest.mark.parametrize("data", [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE])
@pytest.mark.parametrize("position", [9, 24, 50])
def test_a_flipped_bit_is_noticed(data: bytes, position: int) -> None:
    flipped = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    with pytest.raises(MalformedMessage):
        parse(flipped)

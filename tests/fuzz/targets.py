"""What is fuzzed, each as a function of the bytes that a fuzzer makes: it returns, or what it raises is a finding."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from tavern.signaling import messages
from tavern.signaling.candidates import announced_addresses
from tavern.signaling.messages import SignalingError
from tavern.signaling.requests import MESSAGE_TYPES, Relayed, parse_message
from tavern.stun import attributes
from tavern.stun.framing import StreamFramer
from tavern.stun.message import (
    MAGIC_COOKIE,
    AttributeType,
    MalformedMessage,
    encode,
    parse,
)
from tavern.turn.commands import AddFlow, BindChannel, SetPermission
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow, sockaddr_of
from tavern.turn.forwarding import CONTROL, Forwarder, Reply
from tavern.turn.indications import read_send_indication
from tests.fuzz.choices import Choices
from tests.fuzz.turn_target import turn
from tests.twin import make_forwarder

DECODERS: tuple[Callable[[bytes], object], ...] = (
    lambda value: attributes.decode_xor_address(value, bytes(12)),
    attributes.decode_error_code,
    attributes.decode_lifetime,
    attributes.decode_channel_number,
    attributes.decode_requested_transport,
    attributes.decode_requested_family,
    attributes.decode_even_port,
    attributes.decode_reservation_token,
)
LARGEST_FRAME = 20 + 65535
KNOWN_IN_SEND = frozenset({AttributeType.XOR_PEER_ADDRESS, AttributeType.DATA, AttributeType.DONT_FRAGMENT})


def stun(data: bytes) -> None:
    """Any datagram as a message: what is read is what was there, and encodes to the same bytes again."""
    choices = Choices(data)
    if choices.byte() > 127:
        body = choices.rest()
        data = body[:2] + struct.pack(">H", max(0, len(body) - 14)) + MAGIC_COOKIE + body[2:]
    try:
        message = parse(data)
    except MalformedMessage:
        return
    assert message.raw == data
    for _, value in message.attributes:
        for decode in DECODERS:
            try:
                decode(value)
            except MalformedMessage:
                continue
    if message.integrity_offset is None and not any(_paddings(data)):
        plain = [one for one in message.attributes if one[0] != AttributeType.FINGERPRINT]
        again = encode(
            message.method,
            message.message_class,
            message.transaction_id,
            plain,
            fingerprint=len(plain) < len(message.attributes),
        )
        assert again == data


def _paddings(data: bytes) -> bytes:
    """Those of all attributes of a message; others than zeros are allowed (RFC 8489 §14)."""
    found = b""
    offset = 20
    while offset < len(data):
        end = offset + 4 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        offset = end + -end % 4
        found += data[end:offset]
    return found


def packets(data: bytes) -> None:
    """Any datagram from a client or a peer to the data path: the reader by hand and the parser agree."""
    choices = Choices(data)
    forwarder: Forwarder[str] = make_forwarder(frozenset({"198.51.100.1"}), lambda: 0, frozenset({3478}))
    flow = _flow(forwarder, 1, 50000)
    _flow(forwarder, 2, 50001)
    before = sum(forwarder.drops.values())
    if choices.byte() % 4 == 0:
        address = sockaddr_of((choices.of(("9.9.2.1", "2001:4860::9", "9.9.2.2", "198.51.100.1")), choices.number(2)))
        payload = choices.rest() * choices.of((1, 1, 1, 300))
        output: object = forwarder.from_peer(flow, payload, address, 0.0)
        assert sum(forwarder.drops.values()) - before == (output is None)
        return
    packet = choices.rest()
    if choices.byte() > 127:
        packet = struct.pack(">HH", 0x0016, len(packet)) + MAGIC_COOKIE + bytes(12) + packet
    output = forwarder.from_client(packet, 1, 0.0, ("203.0.113.7", 4000))
    assert sum(forwarder.drops.values()) - before == (output is None)
    if packet[:2] == b"\x00\x16" and packet[4:8] == MAGIC_COOKIE and len(packet) >= 20:
        assert output is not CONTROL
        read = read_send_indication(packet)
        assert (read is None) == (forwarder.drops[Drop.MALFORMED] == 1)
        expected = _parsed_send_indication(packet)
        assert expected is None or read == expected
    if isinstance(output, Reply):
        mapped = parse(output.data).get(AttributeType.XOR_MAPPED_ADDRESS)
        assert mapped is not None
        assert attributes.decode_xor_address(mapped, packet[8:20]) == (ip_address("203.0.113.7"), 4000)


def _flow(forwarder: Forwarder[str], flow_id: int, port: int) -> Flow[str]:
    five_tuple = FiveTuple(Transport.UDP, ("203.0.113.7", 4000), ("198.51.100.1", 3478))
    flow = forwarder.add_flow(AddFlow(flow_id, five_tuple, ("198.51.100.1", port), "bob", None), flow_id, "")
    for host in ("9.9.2.1", "198.51.100.1", "2001:4860::9"):
        own = host == "198.51.100.1"
        forwarder.set_permission(SetPermission(flow_id, host, 300.0, relayed_only=own, own=own, claimed=False))
    forwarder.bind_channel(BindChannel(flow_id, 0x4000, ("9.9.2.1", 5000), 600.0, relayed_only=False))
    forwarder.bind_channel(BindChannel(flow_id, 0x4001, ("198.51.100.1", 50001), 600.0, relayed_only=True))
    return flow


def _parsed_send_indication(packet: bytes) -> tuple[object, bytes, bool] | None:
    """What the general parser reads in a Send indication; None where it refuses it or the two may differ."""
    try:
        message = parse(packet)
        peer, payload = message.get(AttributeType.XOR_PEER_ADDRESS), message.get(AttributeType.DATA)
        if peer is None or payload is None or len(message.attributes) > 8 or message.integrity_offset is not None:
            return None
        if message.unknown_required(KNOWN_IN_SEND):
            return None
        address, port = attributes.decode_xor_address(peer, message.transaction_id)
    except MalformedMessage:
        return None
    return sockaddr_of((str(address), port)), payload, message.get(AttributeType.DONT_FRAGMENT) is not None


def streams(data: bytes) -> None:
    """Any byte stream, cut anywhere: the same frames and the same end as in one piece."""
    choices = Choices(data)
    cuts = [choices.number(1 + index % 2) for index in range(choices.byte() % 8)]
    stream = b""
    while choices.left:
        kind = choices.byte() % 4
        body = choices.chunk(40) * choices.of((1, 1, 1, 60))
        if kind == 0:
            stream += body
        elif kind == 1:
            stream += b"\x40\x00" + struct.pack(">H", len(body)) + body + bytes(-len(body) % 4)
        elif kind == 2:
            body += bytes(-len(body) % 4)
            stream += b"\x00\x01" + struct.pack(">H", len(body)) + MAGIC_COOKIE + bytes(12) + body
        else:
            stream += struct.pack(">HH", choices.number(2), choices.number(2)) + MAGIC_COOKIE + body
    whole, whole_ended = _frames(stream, [])
    assert (whole, whole_ended) == _frames(stream, sorted(cut % (len(stream) + 1) for cut in cuts))
    if len(stream) < 400:
        assert (whole, whole_ended) == _frames(stream, list(range(len(stream))))
    left = stream
    for frame in whole:
        assert left.startswith(frame)
        assert frame[0] < 0x80
        left = left[len(frame) + (-len(frame) % 4) :]
    assert whole_ended or len(left) < LARGEST_FRAME


def _frames(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bool]:
    """The frames, and whether what followed can begin none."""
    framer = StreamFramer()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        framer.feed(stream[start:end])
        try:
            found += iter(framer.take, None)
        except MalformedMessage:
            return found, True
    return found, False


WORDS = ("type", "sdp", "candidate", "target", "identity", "tag", "publicKeyHex", "displayName", "name", "icon")
CANDIDATE = "candidate:1 1 udp 2122260223 {} 5000 typ host"
TEXTS = ("", " ", "a" * 129, "\x00", "é", "\ud800", "9.9.2.1", "::1", "fe80::1%lo", "1.2.3", CANDIDATE)


def signaling(data: bytes) -> None:
    """Any frame of a WebSocket: a message or an error that can be told; the addresses that it announces."""
    choices = Choices(data)
    frame: bytes | str
    if choices.byte() % 4 == 0:
        frame = choices.rest()
    else:
        message = {"type": choices.of(MESSAGE_TYPES), **_object(choices, 2)}
        frame = json.dumps(message, ensure_ascii=choices.byte() % 4 != 0)
        if choices.byte() > 200:
            frame = frame[: choices.number(2)]
    try:
        parsed = parse_message(frame)
    except SignalingError as error:
        messages.encode(messages.error_message(error))
        return
    if isinstance(parsed, Relayed):
        for address in announced_addresses(parsed.content):
            assert str(address) == str(ip_address(str(address)))
        sent = messages.encode({"type": parsed.type, "from": "me", **parsed.passed_on})
        assert json.loads(sent.decode())["from"] == "me"


def _object(choices: Choices, depth: int) -> dict[str, Any]:
    return {choices.of(WORDS): _value(choices, depth) for _ in range(choices.byte() % 6)}


def _value(choices: Choices, depth: int) -> object:
    kind = choices.byte() % 8
    if kind < 3:
        return choices.of(TEXTS).replace("{}", choices.of(TEXTS))
    if kind == 3:
        return choices.chunk(40).decode(errors="surrogateescape")
    if kind == 4:
        return CANDIDATE.replace("{}", choices.chunk(45).decode("latin-1"))
    if kind == 5:
        return choices.of((None, True, 0, -1.5, 2**70))
    if depth == 0:
        return [[]]
    return _object(choices, depth - 1) if kind == 6 else [_value(choices, depth - 1)]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "turn": turn,
    "packets": packets,
    "stun": stun,
    "streams": streams,
    "signaling": signaling,
}

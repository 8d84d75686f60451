"""WebSocket frames against RFC 6455: tables, every cut of the stream, and another implementation as the judge."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import pytest
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.frame_protocol import FrameProtocol, Opcode

from tavern.web import frames
from tavern.web.frames import CloseFrame, Event, FrameReader, Ping, Pong, Violation

LIMIT = 64 * 1024
MAX_FRAGMENTS = 100


def frame(payload: bytes, first: int = 0x81, mask: bytes = b"\x01\x02\x03\x04", length: bytes | None = None) -> bytes:
    """As a client sends it."""
    if length is None:
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 2**16:
            length = b"\xfe" + size.to_bytes(2, "big")
        else:
            length = b"\xff" + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([first]) + length + mask + masked


def read(*chunks: bytes, limit: int = LIMIT) -> list[Event]:
    reader = FrameReader(limit, MAX_FRAGMENTS)
    return [event for chunk in chunks for event in reader.feed(chunk)]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 699, 700, 701, 1500, 65535, 65536])
def test_a_message_of_any_size_is_read(size: int) -> None:
    text = ("abcdefghi" * (size // 9 + 1))[:size]
    assert read(frame(text.encode(), mask=os.urandom(4))) == [text]
    assert read(frame(text.encode(), 0x82, mask=os.urandom(4))) == [text.encode()]


def test_fragments_are_one_message_and_control_frames_come_between_them() -> None:
    data = frame(b"gr", 0x01) + frame(b"p", 0x89) + frame("\u00fc\u00df".encode(), 0x00) + frame(b"e", 0x80)
    assert read(data) == [Ping(b"p"), "gr\u00fc\u00dfe"]


def test_a_character_may_be_cut_by_fragments() -> None:
    beer = "\N{BEER MUG}".encode()
    assert read(frame(beer[:1], 0x01) + frame(beer[1:3], 0x00) + frame(beer[3:], 0x80)) == ["\N{BEER MUG}"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (frame(b"", 0x88), CloseFrame(None, "")),
        (frame(b"\x03\xe8", 0x88), CloseFrame(1000, "")),
        (frame(b"\x03\xe9bye", 0x88), CloseFrame(1001, "bye")),
        (frame(b"\x0b\xb8", 0x88), CloseFrame(3000, "")),
        (frame(b"\x13\x87", 0x88), CloseFrame(4999, "")),
        (frame(b"hello", 0x8A), Pong(b"hello")),
        (frame(b"x" * 125, 0x89), Ping(b"x" * 125)),
    ],
)
def test_control_frames(data: bytes, expected: Event) -> None:
    assert read(data) == [expected]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x81\x02hi", 1002, id="not masked"),
        pytest.param(frame(b"x", 0xC1), 1002, id="RSV1, compressed"),
        pytest.param(frame(b"x", 0xA1), 1002, id="RSV2"),
        pytest.param(frame(b"x", 0x83), 1002, id="reserved opcode"),
        pytest.param(frame(b"x", 0x8B), 1002, id="reserved control opcode"),
        pytest.param(frame(b"x", 0x09), 1002, id="fragmented ping"),
        pytest.param(frame(b"x" * 126, 0x89), 1002, id="large ping"),
        pytest.param(frame(b"x", 0x80), 1002, id="continues nothing"),
        pytest.param(frame(b"x", 0x01) + frame(b"x", 0x81), 1002, id="begins while another one is under way"),
        pytest.param(frame(b"x", length=b"\xfe\x00\x01"), 1002, id="length longer than need be"),
        pytest.param(frame(b"x", length=b"\xff" + (1).to_bytes(8, "big")), 1002, id="length much longer than need be"),
        pytest.param(b"\x82\xff" + (2**63).to_bytes(8, "big") + b"mask", 1002, id="negative length"),
        pytest.param(frame(b"\xff"), 1007, id="not UTF-8"),
        pytest.param(frame(b"\xed\xa0\x80"), 1007, id="half a surrogate pair"),
        pytest.param(frame(b"\xc3"), 1007, id="half a character"),
        pytest.param(frame(b"\xc3", 0x01) + frame(b"", 0x80), 1007, id="half a character at the end of the last"),
        pytest.param(frame(b"\xff", 0x01), 1007, id="not UTF-8, though more is to come"),
        pytest.param(frame(b"ok\xff" + b"x" * 50)[:12], 1007, id="not UTF-8, though the frame is not whole"),
        pytest.param(frame(b"x" * (LIMIT + 1)), 1009, id="too large"),
        pytest.param(frame(b"x" * (LIMIT + 1))[:20], 1009, id="going to be too large"),
        pytest.param(frame(b"x" * LIMIT, 0x01) + frame(b"x", 0x80), 1009, id="too large in fragments"),
        pytest.param(b"\x82\xff" + (2**62).to_bytes(8, "big") + b"mask", 1009, id="far too large"),
        pytest.param(frame(b"x", 0x88), 1002, id="half a close code"),
        *(pytest.param(frame(code.to_bytes(2, "big"), 0x88), 1002, id=f"close code {code}")
          for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
        pytest.param(frame(b"\x03\xe8\xff", 0x88), 1007, id="reason that is not UTF-8"),
        pytest.param(frame(b"", 0x01) + frame(b"", 0x00) * MAX_FRAGMENTS, 1008, id="endless fragments"),
    ],
)  # fmt: skip
def test_what_breaks_the_protocol_or_a_limit_is_the_end(data: bytes, code: int) -> None:
    events = read(data + frame(b"after"))
    assert isinstance(events[-1], Violation)
    assert events[-1].code == code
    assert "after" not in events


def test_what_came_before_a_violation_is_read() -> None:
    assert read(frame(b"one") + frame(b"\xff"))[0] == "one"


def test_nothing_follows_a_close_frame() -> None:
    reader = FrameReader(LIMIT, MAX_FRAGMENTS)
    assert reader.feed(frame(b"", 0x88) + frame(b"x")) == [CloseFrame(None, "")]
    assert reader.feed(frame(b"x")) == []


MASKS = st.binary(min_size=4, max_size=4)
CLIENT_FRAMES = st.lists(
    st.one_of(
        st.builds(lambda text, mask: frame(text.encode(), mask=mask), st.text(max_size=300), MASKS),
        st.builds(lambda data: frame(data, 0x82), st.binary(max_size=300)),
        st.builds(lambda data: frame(data, 0x89), st.binary(max_size=125)),
        st.builds(lambda data: frame(data, 0x8A), st.binary(max_size=125)),
        st.builds(
            lambda parts: b"".join(
                frame(part, (0x01 if index == 0 else 0x00) | (0x80 if index == len(parts) - 1 else 0x00))
                for index, part in enumerate(parts)
            ),
            st.lists(st.binary(max_size=40), min_size=1, max_size=5),
        ),
        st.builds(
            lambda code, reason: frame(code.to_bytes(2, "big") + reason, 0x88),
            st.integers(0, 5100),
            st.binary(max_size=20),
        ),
        st.binary(max_size=20),
    ),
    max_size=6,
).map(b"".join)


@given(CLIENT_FRAMES, st.lists(st.integers(1, 60), max_size=30))
def test_where_the_stream_is_cut_does_not_matter(data: bytes, sizes: list[int]) -> None:
    chunks: list[bytes] = []
    rest = data
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    whole, cut = read(data), read(*chunks, rest)
    assert whole == cut
    assert read(*(data[index : index + 1] for index in range(len(data)))) == whole


@given(CLIENT_FRAMES)
def test_another_implementation_reads_the_same(data: bytes) -> None:
    reader = FrameReader(LIMIT, MAX_FRAGMENTS)
    events = list(reader.feed(data))
    ours = [event for event in events if not isinstance(event, Violation)]
    theirs, failed = judge(data)
    assert ours == theirs[: len(ours)]
    if ours == events:  # where we stop it may read on, since it takes a length that is longer than need be
        assert ours == theirs
        assert not failed or reader._beginning  # which it judges before it is all there


def judge(data: bytes) -> tuple[list[Event], bool]:
    """What wsproto makes of it, and whether it refused something."""
    protocol = FrameProtocol(client=False, extensions=[])
    found: list[Event] = []
    parts: list[str] | list[bytes] = []
    try:
        protocol.receive_bytes(data)
        for received in protocol.received_frames():
            payload = received.payload
            if received.opcode is Opcode.PING:
                found.append(Ping(bytes(payload)))  # type: ignore[arg-type]
            elif received.opcode is Opcode.PONG:
                found.append(Pong(bytes(payload)))  # type: ignore[arg-type]
            elif received.opcode is Opcode.CLOSE:
                code, reason = cast("tuple[int, str | None]", payload)
                found.append(CloseFrame(None if code == 1005 else int(code), reason or ""))
                return found, False
            else:
                parts.append(payload if isinstance(payload, str) else bytes(payload))  # type: ignore[arg-type]
                if received.message_finished:
                    found.append("".join(parts) if isinstance(parts[0], str) else b"".join(parts))
                    parts = []
    except Exception:  # noqa: BLE001  whatever it refuses with
        return found, True
    return found, False


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 200_000])
def test_what_we_send_another_implementation_reads(size: int) -> None:
    connection = Connection(ConnectionType.CLIENT)
    text = "x" * size
    control = frames.encode_ping(b"a") + frames.encode_pong(b"b") + frames.encode_close(1013, "slow")
    connection.receive_data(frames.encode_text(text.encode()) + control)
    events: Sequence[wsproto.events.Event] = list(connection.events())
    assert "".join(event.data for event in events if isinstance(event, wsproto.events.TextMessage)) == text
    assert [type(event).__name__ for event in events[-3:]] == ["Ping", "Pong", "CloseConnection"]
    assert events[-1] == wsproto.events.CloseConnection(code=1013, reason="slow")


def test_a_reason_that_is_too_long_is_cut_between_characters() -> None:
    [closed] = read(frame(frames.encode_close(1000, "\u20ac" * 100)[2:], 0x88))
    assert closed == CloseFrame(1000, "\u20ac" * 41)


def test_frames_are_counted_whole_or_not() -> None:
    reader = FrameReader(LIMIT, MAX_FRAGMENTS)
    reader.feed(frame(b"one") + frame(b"", 0x89) + frame(b"x", 0x01) + frame(b"y" * 50, 0x00)[:20])
    assert reader.frames == 4

"""Frames out of a byte stream, wherever it is cut (RFC 8489 §6.2.2, RFC 8656 §12.5)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.stun.framing import StreamFramer
from tavern.stun.message import MAGIC_COOKIE, MalformedMessage


def stun(body: bytes = b"") -> bytes:
    return b"\x00\x01" + len(body).to_bytes(2, "big") + MAGIC_COOKIE + bytes(12) + body


def channel_data(payload: bytes, number: int = 0x4000) -> bytes:
    """As it is on a stream: padded to four bytes."""
    frame = number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload
    return frame + bytes(-len(frame) % 4)


def take_all(framer: StreamFramer, data: bytes) -> list[bytes]:
    framer.feed(data)
    return list(iter(framer.take, None))


FRAMES = st.one_of(
    st.binary(max_size=40).map(lambda body: stun(body + bytes(-len(body) % 4))),
    st.binary(max_size=40).map(channel_data),
)


@pytest.mark.clause("8489 §6.2.2: STUN and ChannelData over TCP and TLS, wherever the stream is cut")
@given(st.lists(FRAMES, max_size=6), st.data())
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    framer = StreamFramer()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += take_all(framer, stream[start:end])
    assert [frame + bytes(-len(frame) % 4) for frame in found] == frames
    assert not framer.unfinished


@pytest.mark.clause("8656 §12.5: ChannelData is padded to 4 over TCP and TLS")
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 65535])
def test_channel_data_is_padded_to_four_bytes_and_comes_out_without(size: int) -> None:
    framer = StreamFramer()
    [frame] = take_all(framer, channel_data(b"x" * size))
    assert frame == b"\x40\x00" + size.to_bytes(2, "big") + b"x" * size
    assert take_all(framer, stun()) == [stun()]


def test_what_was_fed_may_be_taken_later() -> None:
    framer = StreamFramer()
    framer.feed(stun() + channel_data(b"one"))
    assert framer.take() == stun()
    framer.feed(channel_data(b"two"))
    assert [frame[4:] for frame in iter(framer.take, None)] == [b"one", b"two"]


BROKEN = [
    b"\x80",
    b"\xff" * 20,
    b"\x00\x01\x00\x03" + MAGIC_COOKIE,
    b"\x00\x01\x00\x00\x21\x12\xa4\x43",
    b"\x00\x01\x00\x00abcd",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


@pytest.mark.clause("8489 §6.2.2: TCP that does not parse closes the connection")
@pytest.mark.parametrize("stream", BROKEN)
def test_what_is_neither_is_refused_as_soon_as_it_shows(stream: bytes) -> None:
    with pytest.raises(MalformedMessage):
        take_all(StreamFramer(), stream)
    framer = StreamFramer()
    for byte in stream[:-1]:
        framer.feed(bytes([byte]))
        with suppress(MalformedMessage):
            assert framer.take() is None
    framer.feed(stream[-1:])
    framer_refuses(framer)


@pytest.mark.clause("8489 §6.2.2: TCP that does not parse closes the connection")
@pytest.mark.parametrize("stream", BROKEN)
def test_frames_before_what_is_neither_come_out_and_nothing_after_it(stream: bytes) -> None:
    framer = StreamFramer()
    framer.feed(channel_data(b"abc") + stream)
    assert framer.take() == b"\x40\x00\x00\x03abc"
    framer_refuses(framer)
    framer.feed(stun())
    framer_refuses(framer)


def framer_refuses(framer: StreamFramer) -> None:
    with pytest.raises(MalformedMessage):
        framer.take()


@pytest.mark.clause("8489 §6.2.2: any byte stream gives frames or ends")
@given(st.lists(st.binary(max_size=100), max_size=10))
def test_any_stream_gives_frames_or_one_error(pieces: list[bytes]) -> None:
    framer = StreamFramer()
    try:
        for piece in pieces:
            take_all(framer, piece)
    except MalformedMessage:
        pass
    assert len(framer._data) - framer._offset < 4 + 65536 + 20

"""Frames are counted wherever the stream is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tavern.web.frames import FrameCounter


def frame(payload: bytes, opcode: int = 0x81) -> bytes:
    """A masked frame (mask 0), as clients send them."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([opcode]) + length + bytes(4) + payload


FRAMES = st.builds(
    frame, st.sampled_from([0, 1, 5, 125, 126, 300, 70_000]).map(bytes), st.sampled_from([0x81, 0x80, 0x89])
)


@given(st.lists(FRAMES, max_size=5), st.data())
def test_each_frame_is_counted_once(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    counter = FrameCounter()
    assert sum(counter.feed(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)) == len(frames)


def test_empty_frames_are_frames() -> None:
    assert FrameCounter().feed(frame(b"", 0x00) * 1000) == 1000


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_bytes_can_be_counted(pieces: list[bytes]) -> None:
    counter = FrameCounter()
    for piece in pieces:
        assert 0 <= counter.feed(piece) <= len(piece)


def test_fragments_without_an_end_are_counted_across_pings() -> None:
    counter = FrameCounter()
    counter.feed(frame(b"a", 0x01) + frame(b"b", 0x00) + frame(b"", 0x89) + frame(b"c", 0x00))
    assert counter.fragments == 3
    counter.feed(frame(b"d", 0x80))
    assert counter.fragments == 0

"""Connectivity checks (RFC 8445 §7) and their answers, read by hand in the data path. Pure; nothing here raises."""

from __future__ import annotations

from collections.abc import Iterator

_HEADER_SIZE = 20
_COOKIE = b"\x21\x12\xa4\x42"
BINDING_REQUEST = b"\x00\x01"
"""How a check begins."""
_BINDING_SUCCESS = b"\x01\x01"
_USERNAME = 0x0006
_MESSAGE_INTEGRITY = 0x0008
_MAX_ATTRIBUTES = 16  # browsers send eight; 16,000 fit into a datagram
_MAX_FRAGMENT = 256  # RFC 8445 §5.3


def is_check(payload: bytes) -> bool:
    """Whether `payload` is a Binding request."""
    return _is_stun(payload, BINDING_REQUEST)


def is_answer(payload: bytes) -> bool:
    """Whether `payload` is a Binding success response."""
    return _is_stun(payload, _BINDING_SUCCESS)


def is_signed(message: bytes) -> bool:
    """Whether a STUN message has MESSAGE-INTEGRITY; made with a key that only the two ends know."""
    return any(kind == _MESSAGE_INTEGRITY for kind, _, _ in _attributes(message))


def own_fragment(payload: bytes) -> bytes | None:
    """What names its sender in a check: the USERNAME's end after its first colon. None where there is none."""
    return _fragment(payload, 2)


def asked_fragment(payload: bytes) -> bytes | None:
    """What names the receiver in a check: the USERNAME up to its first colon. None where there is none."""
    return _fragment(payload, 0)


def _fragment(payload: bytes, part: int) -> bytes | None:
    if not is_check(payload):
        return None
    for kind, start, end in _attributes(payload):
        if kind == _USERNAME:
            parts = payload[start:end].partition(b":")
            named = end <= len(payload) and parts[1] and 1 <= len(parts[part]) <= _MAX_FRAGMENT
            return parts[part] if named else None
    return None


def _attributes(message: bytes) -> Iterator[tuple[int, int, int]]:
    """The kind of each attribute, and where its value begins and ends: the last one's may end beyond the message."""
    offset = _HEADER_SIZE
    for _ in range(_MAX_ATTRIBUTES):
        start = offset + 4
        if start > len(message):
            break
        size = message[offset + 2] << 8 | message[offset + 3]
        yield message[offset] << 8 | message[offset + 1], start, start + size
        offset = start + size + (-size & 3)


def _is_stun(payload: bytes, message_type: bytes) -> bool:
    return (
        payload[:2] == message_type
        and payload[4:8] == _COOKIE
        and len(payload) >= _HEADER_SIZE
        and payload[2] << 8 | payload[3] == len(payload) - _HEADER_SIZE
    )

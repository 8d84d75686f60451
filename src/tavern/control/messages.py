"""What goes over the control socket: one JSON object a line, one question and one answer. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from tavern.errors import TavernError

MAX_REQUEST_BYTES = 4096
"""The longest names a peer, or a user to mint for."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A full server's state: 20,000 taverns and 30,000 allocations, some 200 bytes each, and room."""


MAX_PATH_BYTES = 107
"""What the kernel takes as a Unix socket's name."""


class ControlRefused(TavernError):
    """What the operator asked for cannot be done; one line that says why."""


def encode_line(content: dict[str, Any]) -> bytes:
    return msgspec.json.encode(content) + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """Raises ControlRefused for what is no JSON object."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ControlRefused(f"no JSON object: {error}") from None

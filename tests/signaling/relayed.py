"""Offers, answers and candidates as they are parsed from the wire."""

from __future__ import annotations

import json
from typing import Any

from tavern.signaling.requests import Relayed, parse_message


def relayed(kind: str, **members: Any) -> Relayed:
    message = parse_message(json.dumps({"type": kind, **members}))
    assert isinstance(message, Relayed)
    return message


def offer(sdp: str, target: str | None = None, **members: Any) -> Relayed:
    return relayed("offer", sdp=sdp, **({} if target is None else {"target": target}), **members)


def answer(sdp: str, target: str, **members: Any) -> Relayed:
    return relayed("answer", sdp=sdp, target=target, **members)


def ice_candidate(candidate: str, target: str, **members: Any) -> Relayed:
    return relayed("ice-candidate", candidate=candidate, target=target, **members)

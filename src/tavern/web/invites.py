"""Invite links as QR codes: of this server's own taverns, and of nothing else."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from uuid import UUID

import segno

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_QUIET_ZONE_MODULES = 4
"""ISO/IEC 18004 section 6.3.8: cameras tell the code from what is around it by that."""


def invite_link(host: str, tavern_id: str, *, secure: bool) -> str | None:
    """The link to a tavern of the server that was called by this Host header; None for what can be none."""
    try:
        tavern = str(UUID(tavern_id))
    except ValueError:
        return None
    if tavern != tavern_id or not _HOST.fullmatch(host):
        return None
    return f"{'https' if secure else 'http'}://{host}/join/{tavern}"


@lru_cache(64)
def qr_code(link: str) -> bytes:
    """As SVG, dark on light whatever the page's colours are: cameras want it so. Some 2 ms."""
    made = io.BytesIO()
    code = segno.make_qr(link, error="m")
    code.save(made, kind="svg", border=_QUIET_ZONE_MODULES, dark="#000", light="#fff", xmldecl=False)
    return made.getvalue()

"""What `get-ice-servers` hands out: STUN and TURN URLs of this very server with a credential. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tavern.addresses import format_socket_address
from tavern.turn.auth import Credential

TURN_CREDENTIAL_LIFETIME_S = 600
"""For making allocations; those that exist live on. Short, since whoever steals one can use it that long."""

REFRESH_MARGIN_S = 120
"""So long before that, a client that asked once is sent new ones: it may be in the middle of making a call."""


HTTPS_PORT = 443


def own_urls(host: str, turn_port: int, turns_port: int | None) -> tuple[str, ...]:
    """URLs of this server's relay as reached under `host`; `turns_port` is None where there is no TLS.

    TURN comes first, and is named twice: browsers warn of more than two, and gather more slowly. UDP carries media
    best. Beside it TLS replaces TCP where it can be had: it passes every firewall that TCP does.
    """
    where = format_socket_address(host, turn_port)
    stream = f"turn:{where}" if turns_port is None else f"turns:{format_socket_address(host, turns_port)}"
    return (f"turn:{where}?transport=udp", f"{stream}?transport=tcp", f"stun:{where}")


def reachable_turns_port(turns_port: int | None, host_header_port: int | None, *, direct_tls: bool) -> int | None:
    """Where this client reaches TURN over TLS; None where it is not served (`turns_port` is None).

    Who signals over our own TLS gets through to that very port, and maybe to no other. A proxy that ends TLS has no
    TURN behind it: then it is the port that is ours alone.
    """
    if turns_port is None or not direct_tls:
        return turns_port
    return host_header_port or HTTPS_PORT


def ice_servers_message(urls: Sequence[str], credential: Credential) -> dict[str, Any]:
    """`ice-servers` in the form that RTCPeerConnection takes: one entry with a credential, one without."""
    turn = [url for url in urls if url.startswith(("turn:", "turns:"))]
    stun = [url for url in urls if not url.startswith(("turn:", "turns:"))]
    servers: list[dict[str, Any]] = []
    if turn:
        servers.append({"urls": turn, "username": credential.username, "credential": credential.password})
    if stun:
        servers.append({"urls": stun})
    return {"type": "ice-servers", "iceServers": servers, "expiresAt": iso_utc(credential.expires_at)}


def iso_utc(moment_unix_s: float) -> str:
    """ISO 8601 in UTC with milliseconds and `Z`, as JavaScript's `toISOString` writes it."""
    return datetime.fromtimestamp(moment_unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_s(moment: str) -> float:
    """Seconds since 1970 of what `iso_utc` wrote."""
    return datetime.fromisoformat(moment).timestamp()

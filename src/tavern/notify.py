"""Tells systemd how far the server is (sd_notify(3)): ready once everything is open, stopping while it drains."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Literal

from tavern.logs import log_event

State = Literal["READY=1", "STOPPING=1"]
_log = logging.getLogger("tavern.app")


def notify(environment: Mapping[str, str], state: State) -> None:
    """Sends one datagram where `NOTIFY_SOCKET` names who listens, else nothing. Returns at once, raises nothing."""
    name = environment.get("NOTIFY_SOCKET", "")
    if not name:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name  # an abstract one
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(f"{state}\nMAINPID={os.getpid()}".encode(), address)
    except OSError as error:
        log_event(_log, logging.WARNING, "supervisor-not-told", state=state, error=error)

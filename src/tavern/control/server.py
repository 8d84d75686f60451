"""The server's end of the control socket. Who may open the file may do all that it offers; nobody else gets in."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from tavern.control.messages import MAX_PATH_BYTES, MAX_REQUEST_BYTES, ControlRefused, decode_line, encode_line
from tavern.errors import StartupError
from tavern.logs import log_event

SOCKET_MODE = 0o600
REQUEST_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
AT_ONCE = 8
"""Questions that are answered at once; further ones wait for their turn."""

Perform = Callable[[dict[str, Any]], dict[str, Any]]
"""Does what a request asks for, at once. Raises ControlRefused."""

_log = logging.getLogger("tavern.control")


def open_control_socket(path: Path) -> trio.SocketListener:
    """A listening socket at `path`, mode 0600; one that a server left behind is replaced.

    To be called while the database's lock is held: so no other server listens there. Raises StartupError.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise StartupError(
            f"{path} is too long for a Unix socket: set TAVERN_CONTROL_SOCKET to a shorter one, or to off"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise StartupError(f"{path} is in the control socket's place: remove it, or set TAVERN_CONTROL_SOCKET")
            path.unlink()
        before = os.umask(0o777 & ~SOCKET_MODE)  # there is no moment in which others may open it
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(before)
        sock.listen(AT_ONCE)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except OSError as error:
        sock.close()
        raise StartupError(
            f"cannot open the control socket {path}: {error.strerror}: set TAVERN_CONTROL_SOCKET"
        ) from error
    except BaseException:
        sock.close()
        raise


async def serve_control(path: Path, listener: trio.SocketListener, perform: Perform) -> None:
    """Answers until cancelled; then the socket's file is gone."""
    limit = trio.CapacityLimiter(AT_ONCE)

    async def serve_one(stream: trio.SocketStream) -> None:
        async with limit, stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await _answer(stream, perform)

    try:
        await trio.serve_listeners(serve_one, [listener])
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - of a name, which waits for no disk


async def _answer(stream: trio.SocketStream, perform: Perform) -> None:
    line = b""
    with trio.move_on_after(REQUEST_TIMEOUT_S) as limit:
        while not line.endswith(b"\n") and len(line) <= MAX_REQUEST_BYTES:
            data = await stream.receive_some(MAX_REQUEST_BYTES)
            if not data:
                break
            line += data
    if limit.cancelled_caught or not line:
        return
    try:
        if len(line) > MAX_REQUEST_BYTES:
            raise ControlRefused("the request is too long")
        answer = {"ok": True, **perform(decode_line(line))}
    except ControlRefused as refused:
        answer = {"ok": False, "error": str(refused)}
    except Exception:  # noqa: BLE001  the wall: a bug in what an operator looks at ends no call
        _log.exception("a control request failed")
        answer = {"ok": False, "error": "a bug of the server: its log has it"}
    log_event(_log, logging.DEBUG, "control", ok=answer["ok"])
    with trio.move_on_after(ANSWER_TIMEOUT_S):
        await stream.send_all(encode_line(answer))

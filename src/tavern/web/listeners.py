"""The TCP sockets that the door serves."""

from __future__ import annotations

import errno
import os
import socket

import trio

from tavern.addresses import format_socket_address
from tavern.errors import StartupError

_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


async def open_listeners(hosts: tuple[str, ...], port: int, variable: str = "PORT") -> list[trio.SocketListener]:
    """Listening sockets on each host, or on all interfaces in both families where there are none.

    A machine without IPv6 gets the other one. The first socket decides a free port for all where `port` is 0. Raises
    StartupError naming what could not be opened, and the `variable` that is to be changed; then none is left open. The
    caller closes them.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for host in hosts or ("0.0.0.0", "::"):
            try:
                listener = await _open(host, listeners[0].socket.getsockname()[1] if port == 0 and listeners else port)
            except OSError as error:
                if not hosts and host == "::" and error.errno in _NO_SUCH_FAMILY:
                    continue
                raise StartupError(_explain(error, host, port, variable)) from error
            listeners.append(listener)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _open(host: str, port: int) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for the old process's connections to time out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((host, port))
        sock.listen(1024)  # a room full of people reconnects at once after a restart
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)


def _explain(error: OSError, host: str, port: int, variable: str) -> str:
    where = f"TCP {format_socket_address(host, port)}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where} is in use: stop the program that listens there, or set {variable}"
        case errno.EACCES | errno.EPERM:
            return f"{where} needs privileges: ports below 1024 belong to root, set {variable} to 1024 or above"
        case errno.EADDRNOTAVAIL:
            return f"{where}: this machine does not have that address, set TAVERN_HOST to one it has, or unset it"
        case _:
            return f"cannot listen on {where} ({variable}): {os.strerror(error.errno or 0)}"

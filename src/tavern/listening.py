"""All sockets that the server listens on, opened together before anybody is served."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager

import attrs
import trio

from tavern.addresses import SocketAddress
from tavern.config import Settings
from tavern.errors import StartupError
from tavern.relay import sockets
from tavern.relay.sockets import Listener
from tavern.web.listeners import open_listeners

_SAME_PORT_TRIES = 16  # a free UDP port may be taken in TCP; only with TAVERN_TURN_PORT=0, in tests


@attrs.frozen(eq=False)
class Listening:
    """Open sockets. Every TCP one speaks all that the server speaks: its purpose only names its port."""

    udp: list[Listener]
    """STUN and TURN: the relay's, which closes them."""
    http: list[trio.SocketListener]
    turn_tcp: list[trio.SocketListener]
    """Empty where `http` has the port already."""
    turn_tls: list[trio.SocketListener]
    """Empty without TLS, and where another has the port already."""
    redirect: list[trio.SocketListener]
    """For plain http, which is sent to https; empty where none is set."""
    turns_port: int | None
    """Where TURN over TLS is reached; None without TLS."""

    @property
    def tcp(self) -> list[trio.SocketListener]:
        """For the door."""
        return [*self.http, *self.turn_tcp, *self.turn_tls, *self.redirect]

    @property
    def turn_port(self) -> int:
        """The same number for UDP and TCP."""
        return self.udp[0].port


@asynccontextmanager
async def listen(settings: Settings) -> AsyncIterator[Listening]:
    """Opens what the settings say; what is still open at the block's end is closed.

    Raises StartupError that names what could not be opened and the variable that decides it.
    """
    hosts = settings.hosts
    with ExitStack() as stack:
        http = await open_listeners(hosts, settings.port, "PORT")
        stack.callback(_close, http)
        udp, turn_tcp = await _open_turn(hosts, settings.turn_port, settings.port)
        stack.callback(_close, [*udp, *turn_tcp])
        turn_tls: list[trio.SocketListener] = []
        turns_port = settings.turns_port if settings.tls else None
        if turns_port == 0 or (turns_port and turns_port not in _ports([*http, *turn_tcp])):
            turn_tls = await open_listeners(hosts, turns_port, "TAVERN_TURNS_PORT")
            stack.callback(_close, turn_tls)
            turns_port = addresses(turn_tls)[0][1]
        redirect: list[trio.SocketListener] = []
        if settings.redirect_port is not None:
            redirect = await open_listeners(hosts, settings.redirect_port, "TAVERN_REDIRECT_PORT")
            stack.callback(_close, redirect)
        yield Listening(udp, http, turn_tcp, turn_tls, redirect, turns_port)


def addresses(listeners: Iterable[trio.SocketListener]) -> tuple[SocketAddress, ...]:
    """Where they listen."""
    return tuple(listener.socket.getsockname()[:2] for listener in listeners)


async def _open_turn(
    hosts: tuple[str, ...], port: int, http_port: int
) -> tuple[list[Listener], list[trio.SocketListener]]:
    """TAVERN_TURN_PORT in UDP and TCP: URLs have one number for both, and clients of old know no other."""
    for _ in range(_SAME_PORT_TRIES):
        udp = sockets.open_listeners(hosts, port)
        try:
            if port and port == http_port:
                return udp, []
            return udp, await open_listeners(hosts, udp[0].port, "TAVERN_TURN_PORT")
        except BaseException as error:
            _close(udp)
            in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if port != 0 or not isinstance(error, StartupError) or not in_use:
                raise
    raise StartupError("no port is free in both UDP and TCP: set TAVERN_TURN_PORT to one that is")


def _ports(listeners: Iterable[trio.SocketListener]) -> set[int]:
    return {port for _, port in addresses(listeners)}


def _close(listeners: Iterable[trio.SocketListener | Listener]) -> None:
    for listener in listeners:
        (listener.sock if isinstance(listener, Listener) else listener.socket).close()

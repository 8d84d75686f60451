"""Port 3001's sockets: both families where there are two, and one clear line where it cannot be opened."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
import trio

from tavern.errors import StartupError
from tavern.web.listeners import open_listeners


def has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_all_interfaces_are_both_families_on_one_port() -> None:
    listeners = await open_listeners((), 0)
    names = [listener.socket.getsockname() for listener in listeners]
    assert [name[0] for name in names] == ["0.0.0.0", *(["::"] if has_ipv6() else [])]
    assert len({name[1] for name in names}) == 1
    for listener in listeners:
        await listener.aclose()


async def test_a_host_without_ipv6_has_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = trio.socket.socket

    def without_ipv6(family: int, *arguments: Any) -> trio.socket.SocketType:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *arguments)

    monkeypatch.setattr(trio.socket, "socket", without_ipv6)
    [listener] = await open_listeners((), 0)
    assert listener.socket.getsockname()[0] == "0.0.0.0"
    await listener.aclose()
    with pytest.raises(StartupError, match=r"\[::1\]"):
        await open_listeners(("::1",), 0)


@pytest.mark.parametrize(
    ("host", "words"), [("203.0.113.77", "does not have that address"), ("127.0.0.1", "is in use: stop the program")]
)
async def test_what_cannot_be_opened_is_one_line_that_says_what_to_do(host: str, words: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=words) as raised:
            await open_listeners((host,), port)
    assert f"{host}:{port}" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1

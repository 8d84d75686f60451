"""docs/protocol.md says what the program does: its examples are sent, and every message has one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tavern.client.events import EVENT_TYPES
from tavern.client.keys import Keypair
from tavern.signaling.messages import Code
from tavern.signaling.requests import MESSAGE_TYPES
from tests.end_to_end.server import RunningServer, running_server

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```transcript(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_LINE = re.compile(r"(\w+) ([<>]) (\{.*\})|(\w+) closed (\d+)|(\w+) lost|(restart)")
LAST_WORD = {"type": "get-tavern-info", "tavernId": "no such tavern"}


@attrs.frozen
class Transcript:
    number: int
    options: str
    lines: list[str]

    @property
    def settings(self) -> dict[str, str]:
        return dict(option.split("=", 1) for option in self.options.split() if "=" in option)


TRANSCRIPTS = [
    Transcript(number, match[1].strip(), match[2].splitlines())
    for number, match in enumerate(_BLOCK.finditer(DOCUMENT))
]


def keypair(name: str) -> Keypair:
    return Keypair.from_seed(hashlib.sha256(f"{name} of the document".encode()).digest())


def test_every_message_and_every_code_is_in_the_document() -> None:
    shown = {json.loads(line[3])["type"] for block in TRANSCRIPTS for line in parsed(block) if line[3]}
    assert set(MESSAGE_TYPES) - shown == set()
    assert set(EVENT_TYPES) - shown == set()
    assert {code for code in Code.__args__ if f"`{code}`" not in DOCUMENT} == set()  # type: ignore[attr-defined]


def test_the_vector_is_right() -> None:
    pair = Keypair.from_seed(bytes.fromhex(re.findall(r"`([0-9a-f]{64})`", DOCUMENT)[0]))
    assert f"`{pair.public_key_hex}`" in DOCUMENT
    assert f"`{pair.prove('tavern.example.com', 'c', '00')}`" in DOCUMENT


def parsed(block: Transcript) -> Iterator[re.Match[str]]:
    for line in block.lines:
        match = _LINE.fullmatch(line)
        assert match, f"no line of a transcript: {line}"
        yield match


@pytest.fixture(scope="module")
def open_server() -> Iterator[RunningServer]:
    """For all examples that need nothing special."""
    with running_server() as server:
        yield server


@contextmanager
def server_for(block: Transcript, server: RunningServer) -> Iterator[RunningServer]:
    if block.settings:
        with running_server(block.settings) as special:
            yield special
    else:
        yield server


@pytest.mark.end_to_end
@pytest.mark.parametrize("block", TRANSCRIPTS, ids=lambda block: f"{block.number}")
async def test_an_example_is_what_happens(block: Transcript, open_server: RunningServer, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        reader = Reader(nursery)
        lines = list(parsed(block))
        if block.options == "restart":
            at = next(index for index, line in enumerate(lines) if line[7])
            with running_server(tmp=tmp_path) as server:
                await reader.read(lines[:at], server)
                server.process.terminate()
                rest = [line for line in lines[at + 1 :] if (line[1] or line[4]) in reader.clients]
                await reader.read([line for line in rest if line[2] != ">"], server)
                await trio.to_thread.run_sync(server.stop)
            with running_server(tmp=tmp_path) as server:
                reader.clients.clear()
                await reader.read([line for line in lines[at + 1 :] if line not in rest], server)
                await reader.expect_no_more()
        else:
            with server_for(block, open_server) as server:
                await reader.read(lines, server)
                await reader.expect_no_more()
        await reader.close()
        nursery.cancel_scope.cancel()


class Reader:
    """Carries out transcripts: says what clients say, and compares what they hear."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.clients: dict[str, tuple[trio.SocketStream, WebSocketConnection]] = {}
        self._streams: list[trio.SocketStream] = []
        self._bound: dict[str, Any] = {}
        self._welcomes: dict[str, dict[str, str]] = {}

    async def read(self, lines: list[re.Match[str]], server: RunningServer) -> None:
        for line in lines:
            with trio.fail_after(10):
                if line[6]:
                    await self._lose(line[6], server)
                elif line[4]:
                    await self._expect_close(line[4], int(line[5]))
                elif line[2] == ">":
                    await self._say(line[1], json.loads(line[3]), server.http_port)
                else:
                    await self._expect(line[1], json.loads(line[3]))

    async def close(self) -> None:
        for stream in self._streams:
            await trio.aclose_forcefully(stream)

    async def expect_no_more(self) -> None:
        """Nothing came that the document does not show."""
        for name, (_, websocket) in self.clients.items():
            with trio.fail_after(10):
                await websocket.send_message(json.dumps(LAST_WORD))
                answer = json.loads(await websocket.get_message())
                assert answer.get("code") == "tavern-not-found", f"{name} also got {answer}"

    async def _lose(self, name: str, server: RunningServer) -> None:
        """Without a word; the server has seen it on return."""
        stream, _ = self.clients.pop(name)
        seen = sum("peer-disconnected" in line for line in server.lines)
        await trio.aclose_forcefully(stream)
        while sum("peer-disconnected" in line for line in server.lines) == seen:  # noqa: ASYNC110  all it tells is its log
            await trio.sleep(0.01)

    async def _say(self, name: str, message: dict[str, Any], port: int) -> None:
        if name not in self.clients:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            self._streams.append(stream)
            self.clients[name] = stream, await wrap_client_stream(self._nursery, stream, "localhost", "/")
        await self.clients[name][1].send_message(json.dumps(self._filled(message, name)))

    async def _expect(self, name: str, expected: dict[str, Any]) -> None:
        heard = json.loads(await self.clients[name][1].get_message())
        if heard["type"] == "welcome":
            self._welcomes[name] = heard
        self._compare(expected, heard, f"{name} got {json.dumps(heard)}")

    async def _expect_close(self, name: str, code: int) -> None:
        _, websocket = self.clients.pop(name)
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == code

    def _filled(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(inner, name) for key, inner in value.items()}
        if not isinstance(value, str) or not (match := re.fullmatch(r"<(\w+)(?::(\w+))?>", value)):
            return value
        kind, of = match[1], match[2]
        if kind == "proof":
            welcome = self._welcomes[name]
            return keypair(of).prove(welcome["server"], welcome["connection"], welcome["nonce"])
        return self._of_key(kind, of) if of else self._bound[kind]

    def _of_key(self, kind: str, name: str) -> str:
        return {"key": keypair(name).public_key_hex, "tag": keypair(name).tag}[kind]

    def _compare(self, expected: Any, heard: Any, context: str) -> None:
        if expected == "<any>":
            return
        if isinstance(expected, str) and (match := re.fullmatch(r"<(\w+)(?::(\w+))?>", expected)):
            kind, of = match[1], match[2]
            value = self._of_key(kind, of) if of else self._bound.setdefault(kind, heard)
            assert heard == value, context
        elif isinstance(expected, dict):
            assert isinstance(heard, dict), context
            assert list(heard) == list(expected) or set(heard) == set(expected), context
            for key, inner in expected.items():
                self._compare(inner, heard[key], context)
        elif isinstance(expected, list):
            assert len(expected) == len(heard), context
            for inner, value in zip(expected, heard, strict=True):
                self._compare(inner, value, context)
        else:
            assert heard == expected, context

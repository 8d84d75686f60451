"""Calls between foreign WebRTC libraries, each a program of its own that signals through this server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

import tavern
from tests.end_to_end.foreign.signaled import Call, Talk
from tests.node import fetch_packages, node_programs

HERE = Path(__file__).parent
CALL_TIMEOUT_S = 25


def aiortc() -> tuple[str, ...]:
    return (sys.executable, "-W", "ignore", str(HERE / "aiortc_peer.py"))


def werift() -> tuple[str, ...]:
    fetch_packages(HERE)
    node, _npm = node_programs()
    return (*node, str(HERE / "werift_peer.mjs"))


async def talk(calls: Sequence[Call], inside: Sequence[Sequence[str]] = ((), ())) -> list[Talk]:
    """Both sides of a call talk and hang up; over which candidates, in the order of `calls`.

    `inside` are the words to put before each command (such as those which enter a namespace). Raises
    trio.TooSlowError (in a group) where they do not talk within 25 seconds.
    """
    talks: dict[int, Talk] = {}
    both_talked = trio.Event()

    async def one(number: int, call: Call) -> None:
        source = Path(tavern.__file__).parents[1]
        process = await trio.lowlevel.open_process(
            [
                *inside[number],
                sys.executable,
                "-m",
                "tests.end_to_end.foreign.signaled",
                json.dumps(attrs.asdict(call)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HERE.parents[2],
            env={**os.environ, **_trusting(call), "PYTHONPATH": str(source)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = await _line(process.stdout)
            assert line, f"{call.name} ended without having talked: {await process.wait()}"
            talks[number] = Talk(**json.loads(line))
            if len(talks) == len(calls):
                both_talked.set()
            await both_talked.wait()
            await process.stdin.aclose()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    with trio.fail_after(CALL_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for number, call in enumerate(calls):
                nursery.start_soon(one, number, call)
    return [talks[number] for number in range(len(calls))]


def _trusting(call: Call) -> dict[str, str]:
    """The libraries have no option for whom to trust; OpenSSL and Node.js have variables."""
    return {"SSL_CERT_FILE": call.ca, "NODE_EXTRA_CA_CERTS": call.ca} if call.ca else {}


async def _line(stream: trio.abc.ReceiveStream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        chunk = await stream.receive_some()
        if not chunk:
            return b""
        line += chunk
    return line

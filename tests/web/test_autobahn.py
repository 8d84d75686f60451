"""Autobahn's test suite, driven by kosoku, against an echo on the server's own transport."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from tavern.signaling.transport import ConnectionEnded, Transport
from tavern.web import frames
from tavern.web.websocket import WebSocketLimits, WebSocketTransport
from tests.web.test_door import open_door

# The suite sends up to 16 MB in 64-byte fragments, which no client of ours may: limits are tested elsewhere.
LIMITS = WebSocketLimits(
    ping_interval_s=60,
    pong_timeout_s=60,
    frames_per_s=10_000_000,
    max_message_bytes=16 * 1024 * 1024,
    max_fragments=1_000_000,
)
# 12 and 13 are about compression, which is not offered: with it a frame of 58 KB takes 200 MB.
COMPRESSION = ("12.*", "13.*")
AT_ONCE = 8


async def echo(transport: Transport) -> None:
    assert isinstance(transport, WebSocketTransport)

    def answer(message: str | bytes) -> None:
        if isinstance(message, str):
            transport.send(message.encode())
        else:
            transport._link.write(b"\x82" + frames.encode_text(message)[1:])

    with suppress(ConnectionEnded):
        await transport.deliver(answer)


@pytest.mark.end_to_end
async def test_every_case_passes_strictly(nursery: trio.Nursery, tmp_path: Path) -> None:
    opened = await open_door(nursery, serve_peer=echo, limits=LIMITS, max_connections=4_000)
    kosoku = Path(sysconfig.get_path("scripts")) / "kosoku"
    excluded = [argument for case in COMPRESSION for argument in ("-x", case)]
    command = [kosoku, "-m", "fuzzingclient", *excluded, "-p", str(AT_ONCE), "-o", tmp_path, f"127.0.0.1:{opened.port}"]
    run = partial(trio.run_process, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    with trio.fail_after(50):
        finished = await run(command)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*_case_*.json")]
    assert len(results) > 290, finished.stdout.decode()
    informational = {result["id"] for result in results if result["behavior"] == "INFORMATIONAL"}
    assert informational <= {"7.1.6", "7.13.1", "7.13.2"}
    failed = {
        result["id"]: (result["behavior"], result["behaviorClose"], result["result"])
        for result in results
        if result["id"] not in informational and (result["behavior"], result["behaviorClose"]) != ("OK", "OK")
    }
    assert failed == {}
    assert opened.door.metrics.failures == {}
    nursery.cancel_scope.cancel()

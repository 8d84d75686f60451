"""One side of a call made by aiortc: what `signaled.py` says comes in as lines of JSON, what it is to say goes out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp

MESSAGES = 20


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def send_all(channel: RTCDataChannel) -> None:
    for number in range(MESSAGES):
        channel.send(f"message {number}")


class Peer:
    def __init__(self, ice_servers: list[dict[str, Any]], policy: str) -> None:
        self._connection = RTCPeerConnection(
            RTCConfiguration(
                iceServers=[RTCIceServer(**server) for server in ice_servers],
                iceTransportPolicy=RTCIceTransportPolicy(policy),
            )
        )
        self._connection.on("datachannel", lambda channel: self._converse(channel, echo=True))
        self._received = 0

    async def heard(self, message: dict[str, Any]) -> None:
        connection = self._connection
        match message:
            case {"call": True}:
                channel = connection.createDataChannel("talk")
                self._converse(channel, echo=False)
                channel.on("open", lambda: send_all(channel))
                await connection.setLocalDescription(await connection.createOffer())
                say(offer=connection.localDescription.sdp)
            case {"offer": sdp}:
                await connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
                await connection.setLocalDescription(await connection.createAnswer())
                say(answer=connection.localDescription.sdp)
            case {"answer": sdp}:
                await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
            case {"candidate": {"candidate": line, "sdpMid": mid, "sdpMLineIndex": index}} if line:
                candidate = candidate_from_sdp(line.removeprefix("candidate:"))
                candidate.sdpMid, candidate.sdpMLineIndex = mid, index
                await connection.addIceCandidate(candidate)

    def _converse(self, channel: RTCDataChannel, *, echo: bool) -> None:
        """The caller's messages come back to it one by one."""

        @channel.on("message")
        def heard(message: str) -> None:
            self._received += 1
            if echo:
                channel.send(message)
            if self._received == MESSAGES:
                # aiortc's statistics know no candidates; what was nominated is kept by its ICE library.
                pair = channel.transport.transport.transport._connection._nominated[1]
                say(talked={"local": pair.local_candidate.type, "remote": pair.remote_candidate.type})

    async def hang_up(self) -> None:
        await self._connection.close()


async def main() -> None:
    reader = await lines()
    start = json.loads(await reader.readline())
    peer = Peer(start["iceServers"], start["iceTransportPolicy"])
    while line := await reader.readline():
        await peer.heard(json.loads(line))
    await peer.hang_up()


asyncio.run(main())

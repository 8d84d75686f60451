"""A foreign WebRTC library in a call of this server: it makes the connection, and this program signals for it.

Run as a module, with a call as JSON for its argument, where the client is to be (a namespace, say). It prints one line,
the kinds of candidates over which its library talked with another; it hangs up when its standard input ends.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from typing import Any

import attrs
import cattrs
import trio

from tavern.client import (
    Client,
    IceServers,
    Identity,
    Peer,
    PeerJoined,
    PeerJoinedChannel,
    ReceivedAnswer,
    ReceivedIceCandidate,
    ReceivedOffer,
    open_client,
)


@attrs.frozen(kw_only=True)
class Place:
    """Where people meet: a channel, or (without a tavern) the room of older clients."""

    room: str
    tavern: str | None = None


@attrs.frozen(kw_only=True)
class Call:
    """One client's part in a call."""

    library: tuple[str, ...]
    """The program that drives the library."""
    ws_url: str
    place: Place
    name: str
    transport: str | None
    """How it reaches the relay: `udp`, `tcp` or `tls`; None: not at all. URLs for other transports are kept from it."""
    policy: str = "relay"
    ca: str | None = None
    """Path of the certificate authority to trust besides none."""


@attrs.frozen
class Talk:
    """The kinds of candidates, as RFC 8839 names them, over which a library exchanged its messages."""

    local: str
    remote: str


def chosen_servers(servers: IceServers, transport: str | None) -> list[dict[str, Any]]:
    """STUN, and TURN over one transport at most."""
    chosen = []
    for server in servers.iceServers:
        urls = [url for url in server.urls if url.startswith("stun:") or is_turn_over(transport, url)]
        if urls:
            chosen.append({**attrs.asdict(server, filter=lambda _field, value: value is not None), "urls": urls})
    offered = [url for server in servers.iceServers for url in server.urls]
    if transport and not any("credential" in server for server in chosen):
        raise ValueError(f"no TURN over {transport} is offered: {offered}")
    return chosen


def is_turn_over(transport: str | None, url: str) -> bool:
    scheme, parameter = ("turns:", "tcp") if transport == "tls" else ("turn:", transport)
    return url.startswith(scheme) and url.endswith(f"?transport={parameter}")


async def join(client: Client, call: Call) -> None:
    identity = Identity(publicKeyHex=call.name, tag=f"#{call.name}")
    if call.place.tavern is None:
        await client.join_room(call.place.room, identity)
    else:
        await client.join_channel(call.place.tavern, call.place.room, identity)


async def run(call: Call) -> None:
    context = ssl.create_default_context(cafile=call.ca) if call.ca else None
    async with open_client(call.ws_url, ssl_context=context) as client, trio.open_nursery() as nursery:
        configuration = {
            "iceServers": chosen_servers(await client.ice_servers(), call.transport),
            "iceTransportPolicy": call.policy,
        }
        library = await trio.lowlevel.open_process(call.library, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        signaled = Signaled(client, library)
        await signaled.tell(**configuration)
        await join(client, call)
        nursery.start_soon(signaled.hear_the_other)
        nursery.start_soon(signaled.hear_the_library)
        await read_to_the_end(trio.lowlevel.FdStream(0))
        await signaled.hang_up()
        nursery.cancel_scope.cancel()


async def read_to_the_end(stream: trio.abc.ReceiveStream) -> None:
    while await stream.receive_some():
        pass


class Signaled:
    """Carries messages between a library and the one other peer of its room."""

    def __init__(self, client: Client, library: trio.Process) -> None:
        self._client = client
        self._library = library
        self._other = ""
        self._hung_up = False

    async def tell(self, **message: object) -> None:
        assert self._library.stdin is not None
        await self._library.stdin.send_all(json.dumps(message).encode() + b"\n")

    async def hear_the_other(self) -> None:
        async for event in self._client.events:
            match event:
                case PeerJoined(other) | PeerJoinedChannel(peer=Peer(publicKeyHex=other)):
                    # Those who are there send the offer.
                    self._other = other
                    await self.tell(call=True)
                case ReceivedOffer(other, sdp):
                    self._other = other
                    await self.tell(offer=sdp)
                case ReceivedAnswer(_, sdp):
                    await self.tell(answer=sdp)
                case ReceivedIceCandidate(_, candidate):
                    await self.tell(candidate=json.loads(candidate))

    async def hear_the_library(self) -> None:
        assert self._library.stdout is not None
        buffered = b""
        async for chunk in self._library.stdout:
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                await self._signal(json.loads(line))
        if not self._hung_up:
            raise RuntimeError(f"the library ended by itself with {await self._library.wait()}")

    async def _signal(self, message: dict[str, Any]) -> None:
        match message:
            case {"offer": sdp}:
                await self._client.send_offer(sdp, self._other)
            case {"answer": sdp}:
                await self._client.send_answer(sdp, self._other)
            case {"candidate": candidate}:
                await self._client.send_ice_candidate(json.dumps(candidate), self._other)
            case {"talked": pair}:
                sys.stdout.write(json.dumps(pair) + "\n")
                sys.stdout.flush()

    async def hang_up(self) -> None:
        """The library has said goodbye to the relay and ended."""
        self._hung_up = True
        assert self._library.stdin is not None
        await self._library.stdin.aclose()
        if await self._library.wait() != 0:
            raise RuntimeError(f"the library ended with {self._library.returncode}")


if __name__ == "__main__":
    trio.run(run, cattrs.structure(json.loads(sys.argv[1]), Call))

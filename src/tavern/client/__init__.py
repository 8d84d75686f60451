"""A typed client of Tavern servers, on trio: for bots, tests and the doctor.

async with open_client("ws://localhost:3001/") as client:
    tavern = await client.create_tavern("The Prancing Pony")
    await client.join_channel(tavern.id, tavern.channels[0].id, Identity(publicKeyHex="ab12", tag="#1"))
    async for event in client.events:
        print(event)
"""

from tavern.client.connection import Client, ConnectionLost, ServerError, open_client
from tavern.client.events import (
    Channel,
    ChannelCreated,
    ChannelJoined,
    ErrorReceived,
    Event,
    IceServer,
    IceServers,
    Peer,
    PeerIdentityUpdated,
    PeerJoined,
    PeerJoinedChannel,
    PeerLeft,
    PeerLeftChannel,
    PeerList,
    ReceivedAnswer,
    ReceivedIceCandidate,
    ReceivedOffer,
    ServerShutdown,
    SessionReplaced,
    Tavern,
    TavernCreated,
    TavernInfo,
    UnknownEvent,
)
from tavern.signaling.messages import Identity

__all__ = [
    "Channel",
    "ChannelCreated",
    "ChannelJoined",
    "Client",
    "ConnectionLost",
    "ErrorReceived",
    "Event",
    "IceServer",
    "IceServers",
    "Identity",
    "Peer",
    "PeerIdentityUpdated",
    "PeerJoined",
    "PeerJoinedChannel",
    "PeerLeft",
    "PeerLeftChannel",
    "PeerList",
    "ReceivedAnswer",
    "ReceivedIceCandidate",
    "ReceivedOffer",
    "ServerError",
    "ServerShutdown",
    "SessionReplaced",
    "Tavern",
    "TavernCreated",
    "TavernInfo",
    "UnknownEvent",
    "open_client",
]

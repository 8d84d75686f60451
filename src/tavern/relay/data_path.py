"""What the control side sees of a data path, whichever implementation runs."""

from __future__ import annotations

import socket
from typing import Protocol

import attrs

from tavern.addresses import SocketAddress
from tavern.relay.control_queue import ControlPacket
from tavern.turn.commands import AddFlow, AddRelayedAddress, Command
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.flows import Traffic


@attrs.frozen
class DataPathStatistics:
    """Since the start; each figure is right at some moment of the call."""

    traffic: Traffic
    drops: dict[str, int]
    """Packets that went nowhere, by reason."""
    challenges: int = 0
    """401 answers that the control side had no part in."""


class StreamLink(Protocol):
    """What the data path has to do with one client over TCP or TLS. For one task that reads, and one that writes."""

    @property
    def has_room(self) -> bool:
        """Whether `submit` may be called: what is on its way, of this client and of all, is bounded."""

    @property
    def ending(self) -> bool:
        """Whether CloseClient was submitted for it: nothing of the client counts any more."""

    def submit(self, frames: list[bytes]) -> None:
        """ChannelData and Send indications of the client, in their order among themselves and the commands."""

    async def wait_room(self) -> None:
        """Returns when there is room, or the stream is ending."""

    def take_output(self) -> bytes | None:
        """What goes to the client next, as it goes onto the stream; nothing if there is nothing, None at the end."""

    async def wait_output(self) -> None:
        """Returns when there may be something to take."""

    def close(self) -> None:
        """Nothing goes to the client any more. Its flow is to be removed before."""


class DataPath(Protocol):
    """Owns the listeners and the relay sockets once it is made, and closes them when it is stopped.

    Commands are executed in the order of the calls; none of the methods waits.
    """

    def open_shared(self, address: SocketAddress, relay_socket: socket.socket) -> None:
        """Flows may share this relayed address; its socket is the data path's from now on. Before `start`.

        OSError if the kernel takes no more of them; it stays the caller's then.
        """

    def start(self) -> None:
        """Packets move from now on."""

    def watch(self, relay_socket: socket.socket) -> None:
        """It can be added. OSError if the kernel takes no more of them; it stays the caller's until it is added."""

    def add_relay(self, command: AddFlow | AddRelayedAddress, relay_socket: socket.socket | None) -> None:
        """Executes `command`; `relay_socket`, which is watched, is the data path's from now on.

        None for a shared relayed address.
        """

    def submit(self, command: Command) -> None:
        """Executes any other command."""

    def open_stream(self, five_tuple: FiveTuple) -> StreamLink:
        """What goes to this client goes to the link, until the caller closes it."""

    def take_control_packet(self, now: float) -> ControlPacket | None:
        """The next control packet that is still worth an answer at `now`; None if there is none."""

    def statistics(self) -> DataPathStatistics:
        """What moved and what was dropped."""

    async def wait_control_packets(self) -> None:
        """Returns when control packets may have arrived. For one task at a time."""

    async def wait_ended(self) -> None:
        """Returns when the data path has ended because of `stop`; raises what ended it otherwise."""

    async def stop(self) -> None:
        """Ends it and closes its sockets, within a fraction of a second; whatever still waited is not executed.

        Runs to its end even when cancelled, and raises nothing of the data path's own.
        """

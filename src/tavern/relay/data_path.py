"""What the control side sees of a data path, whichever implementation runs."""

from __future__ import annotations

import socket
from typing import Protocol

import attrs

from tavern.relay.control_queue import ControlPacket
from tavern.turn.commands import AddFlow, AddRelayedAddress, Command
from tavern.turn.flows import Traffic


@attrs.frozen
class DataPathStatistics:
    """Since the start; each figure is right at some moment of the call."""

    traffic: Traffic
    drops: dict[str, int]
    """Packets that went nowhere, by reason."""


class DataPath(Protocol):
    """Owns the listeners and the relay sockets from `start` until it has ended, and closes them then.

    Commands are executed in the order of the calls; none of the methods waits.
    """

    def start(self) -> None:
        """Packets move from now on."""

    def add_relay(self, command: AddFlow | AddRelayedAddress, relay_socket: socket.socket) -> None:
        """Executes `command`; `relay_socket` is the data path's from now on."""

    def submit(self, command: Command) -> None:
        """Executes any other command."""

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

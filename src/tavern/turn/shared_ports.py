"""Relay ports that several allocations have: which ones, who gets which, and whose an exact peer there is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from random import Random

import attrs

from tavern.addresses import SocketAddress

# A browser in a mesh of 8 has 21 allocations over three TURN URLs, which find a port each; and 128 sockets, of both
# families, are few descriptors to hold from the start.
MAX_SHARED_PORTS = 64
_SHARED_PART = 4  # where ports of one's own are the rule, one in four is left to those who come when these are taken


class SharedPortsMode(Enum):
    """When allocations share relay ports. RFC 8656 §5 asks for ports of their own."""

    NEVER = "never"
    ALWAYS = "always"
    AUTO = "auto"
    """Once no port is left that would be an allocation's own."""


def shared_range(mode: SharedPortsMode, first: int, last: int) -> range:
    """Which of the relay ports from `first` to `last` are shared: the highest."""
    size = last - first + 1
    if mode is SharedPortsMode.NEVER:
        count = 0
    elif mode is SharedPortsMode.ALWAYS:
        count = min(size, MAX_SHARED_PORTS)
    else:
        count = max(1, min(size // _SHARED_PART, MAX_SHARED_PORTS))
    return range(last + 1 - count, last + 1)


@attrs.define(eq=False)
class SharedPort:
    """One port of one family, its allocations counted by sessions, and the exact peers outside that they named."""

    number: int
    held: Counter[Hashable] = attrs.field(factory=Counter)
    """How many allocations each session has here: the owner of allocations, or else the key of their quota."""
    count: int = 0
    ownerless: int = 0
    """Of these, the ones that are no session's."""
    owners: dict[SocketAddress, int] = attrs.field(factory=dict)
    """The allocation by its id; bounded by the permissions and channels that name the peers."""

    def release(self, peer: SocketAddress, allocation_id: int) -> None:
        """`peer` is not this allocation's any more, if it was."""
        if self.owners.get(peer) == allocation_id:
            del self.owners[peer]


class SharedPorts:
    """The shared ports of one family."""

    def __init__(self, host: str, ports: Iterable[int], random: Random) -> None:
        """`host` is what relayed addresses carry."""
        self._by_port = {port: SharedPort(port) for port in ports}
        self.host = host
        """What new ones carry."""
        self._hosts = {host}
        self._random = random

    @property
    def count(self) -> int:
        """How many allocations have one of them."""
        return sum(port.count for port in self._by_port.values())

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """Those that can be taken."""
        return tuple((self.host, port) for port in self._by_port)

    def move(self, host: str) -> None:
        """New relayed addresses carry this host; those of before stay."""
        self.host = host
        self._hosts.add(host)

    def retire(self, host: str) -> None:
        """No relayed address carries this host, and none will."""
        self._hosts.discard(host)

    def drop(self, port: int) -> None:
        """`port` cannot be bound. Before the first is taken."""
        del self._by_port[port]

    def find(self, address: SocketAddress) -> SharedPort | None:
        """The shared port at `address`."""
        return self._by_port.get(address[1]) if address[0] in self._hosts else None

    def take(self, session: Hashable, *, owned: bool, avoid: Callable[[int], bool]) -> SharedPort | None:
        """The port for one more allocation of `session`, which is then counted; None if there is none.

        One where the session has none yet, if there is one: its allocations would be told apart by their peers alone,
        and often have the same ones. Among these the one with the fewest. `owned`: see `SharedPort.ownerless`.
        """
        ports = [port for number, port in self._by_port.items() if not avoid(number)]
        ports = [port for port in ports if not port.held[session]] or ports
        if not ports:
            return None
        fewest = min(port.count for port in ports)
        taken = self._random.choice([port for port in ports if port.count == fewest])
        taken.held[session] += 1
        taken.count += 1
        taken.ownerless += not owned
        return taken

    def leave(self, port: SharedPort, session: Hashable, *, owned: bool) -> None:
        """One allocation of `session` is gone from there."""
        port.count -= 1
        port.ownerless -= not owned
        port.held[session] -= 1
        if not port.held[session]:
            del port.held[session]  # or every session ever seen would stay

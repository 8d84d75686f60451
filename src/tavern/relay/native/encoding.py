"""Commands as bytes for the compiled data path (`commands.h`): packed fields in this machine's byte order."""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable, Iterable

import attrs

from tavern.addresses import SocketAddress
from tavern.turn.claims import check_targets
from tavern.turn.commands import (
    AddFlow,
    AddOwnHost,
    AddRelayedAddress,
    BindChannel,
    LearnPeer,
    RemoveFlow,
    RemoveOwnHost,
    RemoveRelayedAddress,
    RevokePermission,
    SetCircles,
    SetPermission,
    SetTransfer,
    UnbindChannel,
)
from tavern.turn.sessions import Circles

_IPV4, _IPV6 = 4, 6
_ADDRESS = struct.Struct("=16sIHH").pack
_CLIENT_REST = struct.Struct("=16sII").pack
_FLOW = struct.Struct("=BQ").pack
_USER = struct.Struct("=Q").pack
_COUNT = struct.Struct("=i").pack
_SOCKET = struct.Struct("=BiI").pack
_PERMISSION = struct.Struct("=dBBBB").pack
_CHANNEL = struct.Struct("=BQH").pack
_CHANNEL_REST = struct.Struct("=dB").pack
_TYPE_AND_FLAG = struct.Struct("=BB").pack
_STREAM = struct.Struct("=BII").pack
_TO_STREAM = struct.Struct("=BIB").pack
_SIZE = struct.Struct("=I").pack

(
    _ADD_FLOW,
    _ADD_RELAYED,
    _REMOVE_RELAYED,
    _REMOVE_FLOW,
    _SET_CIRCLES,
    _SET_PERMISSION,
    _REVOKE_PERMISSION,
    _BIND_CHANNEL,
    _UNBIND_CHANNEL,
    _SET_TRANSFER,
    _LEARN_PEER,
    _ADD_OWN_HOST,
    _REMOVE_OWN_HOST,
    _SEND_TO_CLIENT,
    _FROM_STREAM,
    _TO_STREAM_TYPE,
) = range(1, 17)
_ANSWER = bytes((_SEND_TO_CLIENT,))
CONTROL_PACKET = struct.Struct("=48sdII")
"""`struct control_packet`: `struct client`, when it was received, the size of its data, and nothing."""

NO_SOCKET = (-1, 0)
"""Of a shared relayed address: the descriptor and the generation of a socket that it does not have."""

FlowCommand = (
    AddRelayedAddress
    | RemoveRelayedAddress
    | RemoveFlow
    | SetCircles
    | SetPermission
    | RevokePermission
    | BindChannel
    | UnbindChannel
    | SetTransfer
    | LearnPeer
    | AddOwnHost
    | RemoveOwnHost
)


def pack_address(address: SocketAddress, scope: int = 0) -> bytes:
    """`struct address`. `address` has no zone: that is `scope`."""
    host, port = address
    if ":" in host:
        return _ADDRESS(socket.inet_pton(socket.AF_INET6, host), scope, port, _IPV6)
    return _ADDRESS(socket.inet_aton(host), 0, port, _IPV4)


def pack_udp_client(listener: int, address: SocketAddress, scope: int, local: bytes) -> bytes:
    """`struct client` of one that sends to `local` (nothing where the listener has one address only)."""
    return pack_address(address, scope) + _CLIENT_REST(local, listener, 0)


def pack_stream_client(link: int) -> bytes:
    """`struct client` of one over TCP or TLS."""
    return _ADDRESS(b"", 0, 0, 0) + _CLIENT_REST(b"", 0, link)


@attrs.define(eq=False)
class Numbers:
    """Numbers for what is only compared: sessions, groups. No two that are in use have the same one."""

    _number_of: dict[Hashable, int] = attrs.field(factory=dict, init=False)
    _uses: dict[Hashable, int] = attrs.field(factory=dict, init=False)
    _last: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._number_of)

    def take(self, things: Iterable[Hashable]) -> list[int]:
        """Theirs, in ascending order; each is in use once more until it is released."""
        return sorted(map(self._take, things))

    def release(self, things: Iterable[Hashable]) -> None:
        """Each is in use once less."""
        for thing in things:
            self._uses[thing] -= 1
            if not self._uses[thing]:
                del self._uses[thing], self._number_of[thing]

    def _take(self, thing: Hashable) -> int:
        number = self._number_of.get(thing)
        if number is None:
            self._last += 1
            number = self._number_of[thing] = self._last
            self._uses[thing] = 0
        self._uses[thing] += 1
        return number


class CommandEncoder:
    """Writes commands. Remembers what each flow's circles are, and forgets it with the flow."""

    def __init__(self) -> None:
        self._circles: dict[int, Circles] = {}
        self._numbers = Numbers()

    def add_flow(self, command: AddFlow, client: bytes, relay: tuple[int, int]) -> bytes:
        """`client` as packed above; `relay`: descriptor and generation of its socket."""
        # Users only share a rate: where two hashes were the same, two users would.
        user = _USER(hash(command.user) & 0xFFFFFFFFFFFFFFFF)
        return b"".join(
            (
                _FLOW(_ADD_FLOW, command.flow_id),
                client,
                user,
                self._pack_circles(command.flow_id, command.circles),
                pack_address(command.relayed_address),
                _SOCKET(command.shared, *relay),
            )
        )

    def add_relayed_address(self, command: AddRelayedAddress, relay: tuple[int, int]) -> bytes:
        """`relay` as for `add_flow`."""
        address = pack_address(command.relayed_address)
        return _FLOW(_ADD_RELAYED, command.flow_id) + address + _SOCKET(command.shared, *relay)

    def encode(self, command: FlowCommand) -> bytes:
        """Any command that has no socket with it and says nothing to a client."""
        if isinstance(command, SetPermission):
            return _pack_permission(command)
        if isinstance(command, RevokePermission):
            return _FLOW(_REVOKE_PERMISSION, command.flow_id) + pack_address((command.host, 0))
        if isinstance(command, BindChannel):
            rest = _CHANNEL_REST(command.expires_at, command.relayed_only)
            return _CHANNEL(_BIND_CHANNEL, command.flow_id, command.number) + pack_address(command.peer) + rest
        if isinstance(command, UnbindChannel):
            return _CHANNEL(_UNBIND_CHANNEL, command.flow_id, command.number)
        if isinstance(command, RemoveFlow):
            self._pack_circles(command.flow_id, None)
            return _FLOW(_REMOVE_FLOW, command.flow_id)
        if isinstance(command, SetCircles):
            return _FLOW(_SET_CIRCLES, command.flow_id) + self._pack_circles(command.flow_id, command.circles)
        if isinstance(command, LearnPeer):
            return _FLOW(_LEARN_PEER, command.flow_id) + pack_address(command.peer)
        if isinstance(command, RemoveRelayedAddress):
            return _FLOW(_REMOVE_RELAYED, command.flow_id) + pack_address(command.relayed_address)
        if isinstance(command, AddOwnHost):
            return _TYPE_AND_FLAG(_ADD_OWN_HOST, command.shared) + pack_address((command.host, 0))
        if isinstance(command, RemoveOwnHost):
            return bytes((_REMOVE_OWN_HOST,)) + pack_address((command.host, 0))
        assert isinstance(command, SetTransfer), command
        return _TYPE_AND_FLAG(_SET_TRANSFER, command.allowed)

    def _pack_circles(self, flow_id: int, circles: Circles | None) -> bytes:
        before = self._circles.pop(flow_id, None)
        numbers: list[int] | None = None
        if circles is not None:
            self._circles[flow_id] = circles
            numbers = self._numbers.take(circles)
        if before is not None:
            self._numbers.release(before)
        if numbers is None:
            return _COUNT(-1)
        return _COUNT(len(numbers)) + struct.pack(f"={len(numbers)}Q", *numbers)


def _pack_permission(command: SetPermission) -> bytes:
    targets = [hash(target) & 0xFFFFFFFFFFFFFFFF for target in check_targets(command.host)] if command.claimed else []
    flags = _PERMISSION(command.expires_at, command.relayed_only, command.own, command.claimed, len(targets))
    address = pack_address((command.host, 0))
    return _FLOW(_SET_PERMISSION, command.flow_id) + address + flags + struct.pack(f"={len(targets)}Q", *targets)


def pack_together(commands: Iterable[bytes]) -> bytes:
    """Several commands for `tavern_submit_all`."""
    return b"".join([part for command in commands for part in (_SIZE(len(command)), command)])


def pack_answer(client: bytes, data: bytes) -> bytes:
    """One STUN message to a client over UDP."""
    return _ANSWER + client + data


def pack_from_stream(link: int, frames: Iterable[bytes], counted_size: int) -> bytes:
    """What a client over TCP or TLS sent; `counted_size` is told when it was taken."""
    parts = [_STREAM(_FROM_STREAM, link, counted_size)]
    for frame in frames:
        parts += (_SIZE(len(frame)), frame)
    return b"".join(parts)


def pack_to_stream(link: int, data: bytes | None) -> bytes:
    """What goes to such a client next; None: its end."""
    return _TO_STREAM(_TO_STREAM_TYPE, link, data is None) + (data or b"")

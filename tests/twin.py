"""The two implementations of the data path's decisions side by side: whatever a test does, both must do the same.

Tests state what the RFCs and users require of `Forwarder`; a `TwinForwarder` holds the compiled one to every answer
that it gives: the packet and where it goes, the drop that is counted, and what is known of flows, peers and ports.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from tavern.addresses import SocketAddress
from tavern.relay.native.encoding import NO_SOCKET, CommandEncoder, FlowCommand, pack_address
from tavern.relay.native.library import Address, CoreConfig, CTraffic, Drops, load_library
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
from tavern.turn.drops import Drop
from tavern.turn.flows import Flow, Traffic
from tavern.turn.forwarding import CONTROL, Forwarder, Output, Reply, Unfragmented, Unusual
from tavern.turn.indications import SockAddr
from tavern.turn.metering import Meter
from tests.prerequisites import has_native

Handle = TypeVar("Handle")

_ROOM = 67_000  # bytes: the largest datagram, framed
_MUCH_KNOWN = 64  # entries of one flow, beyond which their comparison would make a test slow
_DROPPED, _TO_PEER, _TO_CLIENT, _UNFRAGMENTED, _CONTROL, _REPLY = range(6)


class _Decision(Structure):
    _fields_ = (("kind", c_uint32), ("size", c_uint32), ("flow", c_uint64), ("peer", Address))


class _Permission(Structure):
    _fields_ = (
        ("host", Address),
        ("expires_at", c_double),
        ("relayed_only", c_uint32),
        ("own", c_uint32),
        ("claimed", c_uint32),
        ("unproven", c_uint32),
    )


class _Peer(Structure):
    _fields_ = (("address", Address), ("channel_expires_at", c_double), ("number", c_uint32), ("owned", c_uint32))


_DECISION = POINTER(_Decision)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tavern_core_open": (c_void_p, (POINTER(CoreConfig), c_char_p)),
    "tavern_core_close": (None, (c_void_p,)),
    "tavern_core_set_challenge": (c_int, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_double, c_double)),
    "tavern_core_open_shared": (None, (c_void_p, c_char_p)),
    "tavern_core_execute": (c_int, (c_void_p, c_char_p, c_size_t)),
    "tavern_core_from_client": (
        None,
        (c_void_p, c_char_p, c_char_p, c_size_t, c_double, c_int, _DECISION, c_void_p),
    ),
    "tavern_core_from_peer": (
        None,
        (c_void_p, c_uint64, c_char_p, c_size_t, c_char_p, c_double, _DECISION, c_void_p),
    ),
    "tavern_core_from_shared": (
        None,
        (c_void_p, c_char_p, c_char_p, c_size_t, c_char_p, c_double, _DECISION, c_void_p),
    ),
    "tavern_core_from_icmp": (
        None,
        (c_void_p, c_uint64, c_char_p, c_uint32, c_uint32, c_uint32, c_double, _DECISION, c_void_p),
    ),
    "tavern_core_from_shared_icmp": (
        None,
        (c_void_p, c_char_p, c_char_p, c_uint32, c_uint32, c_uint32, c_double, _DECISION, c_void_p),
    ),
    "tavern_core_counters": (None, (c_void_p, POINTER(CTraffic), POINTER(Drops))),
    "tavern_core_flow_traffic": (c_int, (c_void_p, c_uint64, POINTER(CTraffic))),
    "tavern_core_permissions": (c_size_t, (c_void_p, c_uint64, c_void_p, c_size_t)),
    "tavern_core_peers": (c_size_t, (c_void_p, c_uint64, c_void_p, c_size_t)),
    "tavern_core_accounts": (c_size_t, (c_void_p,)),
}

Decided = tuple[object, ...]
"""What became of a packet, comparable: the kind, and what belongs to it."""


def _load() -> ctypes.CDLL:
    library = load_library()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)  # cached there, as indexing is not
        function.restype, function.argtypes = result, arguments
    return library


class NativeCore:
    """The compiled decisions, without sockets and threads."""

    def __init__(
        self,
        own_hosts: frozenset[str],
        transaction: bytes,
        listener_ports: frozenset[int],
        user_bytes_per_s: int,
        bytes_per_s: int,
    ) -> None:
        """`transaction`: the id of every indication that it makes."""
        self._core: int | None = None
        self._library = _load()
        self._encoder = CommandEncoder()
        hosts = b"".join(pack_address((host, 0)) for host in own_hosts)
        packed_hosts = ctypes.create_string_buffer(hosts, len(hosts) or 1)
        packed_ports = (ctypes.c_uint16 * len(listener_ports))(*listener_ports)
        config = CoreConfig(
            ctypes.cast(packed_hosts, c_void_p),
            len(own_hosts),
            ctypes.cast(packed_ports, c_void_p),
            len(listener_ports),
            user_bytes_per_s,
            bytes_per_s,
        )
        self._core = self._library.tavern_core_open(byref(config), transaction)
        self._decision = _Decision()
        self._room = ctypes.create_string_buffer(_ROOM)
        self._numbers: dict[Hashable, int] = {}

    def __del__(self) -> None:
        if self._core is not None:
            self._library.tavern_core_close(self._core)

    def client(self, key: Hashable, address: SockAddr | None = None) -> bytes:
        """A client as the core knows it: of any key a number, and the address that a Binding response tells."""
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        packed = bytes(24) if address is None else pack_sockaddr(address)
        return packed + bytes(20) + number.to_bytes(4, "little")

    def set_challenge(self, nonce_key: bytes, realm: bytes, rate_per_s: float, burst: float) -> bool:
        sizes = len(nonce_key), len(realm)
        set_ = self._library.tavern_core_set_challenge
        return bool(set_(self._core, nonce_key, sizes[0], realm, sizes[1], rate_per_s, burst))

    def add_stranger(self, command: AddFlow, address: SockAddr) -> None:
        """The flow of a client over UDP."""
        self._execute(self._encoder.add_flow(command, pack_sockaddr(address) + bytes(24), NO_SOCKET))

    def from_stranger(self, data: bytes, address: SockAddr, now: float) -> Decided:
        """From a client over UDP that has no flow."""
        client = pack_sockaddr(address) + bytes(24)
        self._library.tavern_core_from_client(
            self._core, client, data, len(data), now, True, byref(self._decision), self._room
        )
        return self._decided()

    def open_shared(self, address: SocketAddress) -> None:
        self._library.tavern_core_open_shared(self._core, pack_address(address))

    def add(self, command: AddFlow | AddRelayedAddress, client_key: Hashable = None) -> None:
        if isinstance(command, AddFlow):
            self._execute(self._encoder.add_flow(command, self.client(client_key), NO_SOCKET))
        else:
            self._execute(self._encoder.add_relayed_address(command, NO_SOCKET))

    def execute(self, command: FlowCommand) -> None:
        self._execute(self._encoder.encode(command))

    def _execute(self, command: bytes) -> None:
        assert self._library.tavern_core_execute(self._core, command, len(command)) == 0, command

    def from_client(self, data: bytes, key: Hashable, now: float, address: SockAddr | None) -> Decided:
        is_request = address is not None and data[:2] == b"\0\1"
        client = self.client(key, address if is_request and len(data) == 20 else None)
        self._library.tavern_core_from_client(
            self._core, client, data, len(data), now, is_request, byref(self._decision), self._room
        )
        return self._decided()

    def from_peer(self, flow_id: int, data: bytes, peer: SockAddr, now: float) -> Decided:
        self._library.tavern_core_from_peer(
            self._core, flow_id, data, len(data), pack_sockaddr(peer), now, byref(self._decision), self._room
        )
        return self._decided()

    def from_shared(self, port: SockAddr, data: bytes, peer: SockAddr, now: float) -> Decided:
        self._library.tavern_core_from_shared(
            self._core,
            pack_sockaddr(port),
            data,
            len(data),
            pack_sockaddr(peer),
            now,
            byref(self._decision),
            self._room,
        )
        return self._decided()

    def from_icmp(self, flow_id: int, peer: SockAddr, icmp_type: int, code: int, mtu: int, now: float) -> Decided:
        self._library.tavern_core_from_icmp(
            self._core, flow_id, pack_sockaddr(peer), icmp_type, code, mtu, now, byref(self._decision), self._room
        )
        return self._decided()

    def from_shared_icmp(
        self, port: SockAddr, peer: SockAddr, icmp_type: int, code: int, mtu: int, now: float
    ) -> Decided:
        packed = pack_sockaddr(port), pack_sockaddr(peer)
        self._library.tavern_core_from_shared_icmp(
            self._core, *packed, icmp_type, code, mtu, now, byref(self._decision), self._room
        )
        return self._decided()

    def _decided(self) -> Decided:
        one = self._decision
        data = self._room.raw[: one.size]
        if one.kind == _DROPPED:
            return ("dropped",)
        if one.kind == _CONTROL:
            return ("control",)
        if one.kind == _REPLY:
            return "reply", data
        if one.kind == _TO_CLIENT:
            return "to client", one.flow, data
        kind = "unfragmented" if one.kind == _UNFRAGMENTED else "to peer"
        return kind, one.flow, data, sockaddr(one.peer)

    @property
    def drops(self) -> dict[str, int]:
        traffic, drops = CTraffic(), Drops()
        self._library.tavern_core_counters(self._core, byref(traffic), byref(drops))
        return {str(reason): count for reason, count in zip(Drop, drops, strict=True)}

    def traffic(self, flow_id: int | None = None) -> tuple[int, ...]:
        """Of one flow, or of all that there were."""
        traffic, drops = CTraffic(), Drops()
        if flow_id is None:
            self._library.tavern_core_counters(self._core, byref(traffic), byref(drops))
        else:
            assert self._library.tavern_core_flow_traffic(self._core, flow_id, byref(traffic))
        return tuple(int(getattr(traffic, name)) for name, _ in CTraffic._fields_)

    def permissions(self, flow_id: int) -> dict[str, tuple[float, bool, bool, bool, bool]]:
        """By host: expiry, relayed only, own, claimed, unproven."""
        count = self._library.tavern_core_permissions(self._core, flow_id, None, 0)
        entries = (_Permission * count)()
        self._library.tavern_core_permissions(self._core, flow_id, entries, count)
        return {
            sockaddr(one.host)[0]: (
                one.expires_at,
                bool(one.relayed_only),
                bool(one.own),
                bool(one.claimed),
                bool(one.unproven),
            )
            for one in entries
        }

    def peers(self, flow_id: int) -> dict[SockAddr, tuple[int, float, bool]]:
        """By address: the channel's number and expiry, and whether the peer is the flow's own on a shared port."""
        count = self._library.tavern_core_peers(self._core, flow_id, None, 0)
        entries = (_Peer * count)()
        self._library.tavern_core_peers(self._core, flow_id, entries, count)
        return {sockaddr(one.address): (one.number, one.channel_expires_at, bool(one.owned)) for one in entries}

    @property
    def accounts(self) -> int:
        return int(self._library.tavern_core_accounts(self._core))


def pack_sockaddr(address: SockAddr) -> bytes:
    scope = address[3] if len(address) == 4 else 0
    return pack_address((address[0].partition("%")[0], address[1]), scope)


def sockaddr(address: Address) -> SockAddr:
    if address.family == 4:
        return str(IPv4Address(bytes(address.ip[:4]))), address.port
    return str(IPv6Address(bytes(address.ip))), address.port, 0, address.scope  # as commands write it


class TwinForwarder(Forwarder[Handle]):
    """`Forwarder`, beside which the compiled one does the same."""

    def __init__(
        self,
        own_hosts: frozenset[str],
        random_96_bits: Callable[[], int],
        listener_ports: frozenset[int] = frozenset(),
        meter: Meter | None = None,
    ) -> None:
        super().__init__(own_hosts, random_96_bits, listener_ports, meter)
        total = self._meter._total
        rate = 0 if total is None else int(total._rate_per_s)
        self._is_inside = False
        transaction = random_96_bits().to_bytes(12, "big")
        self.native = NativeCore(own_hosts, transaction, listener_ports, self._meter._user_bytes_per_s, rate)

    # Commands

    def open_shared(self, address: SocketAddress) -> None:
        super().open_shared(address)
        self.native.open_shared(address)

    def add_flow(self, command: AddFlow, client_key: Hashable, handle: Handle) -> Flow[Handle]:
        flow = super().add_flow(command, client_key, handle)
        self.native.add(command, client_key)
        return flow

    def add_relayed_address(self, command: AddRelayedAddress) -> Flow[Handle] | None:
        flow = super().add_relayed_address(command)
        self.native.add(command)
        return flow

    def remove_relayed_address(self, command: RemoveRelayedAddress) -> Flow[Handle] | None:
        flow = super().remove_relayed_address(command)
        self._execute(command)
        return flow

    def remove_flow(self, command: RemoveFlow) -> Flow[Handle] | None:
        flow = super().remove_flow(command)
        self.native.execute(command)
        assert self.native.traffic() == _figures(self.traffic())
        assert self.native.accounts == self._meter.accounts_kept
        return flow

    def set_transfer(self, command: SetTransfer) -> None:
        super().set_transfer(command)
        self.native.execute(command)

    def add_own_host(self, command: AddOwnHost) -> None:
        super().add_own_host(command)
        self._execute_for_all(command)

    def remove_own_host(self, command: RemoveOwnHost) -> None:
        super().remove_own_host(command)
        self._execute_for_all(command)

    def _execute_for_all(self, command: AddOwnHost | RemoveOwnHost) -> None:
        self.native.execute(command)
        for flow in self._flows.values():
            self._agree(flow)

    def set_circles(self, command: SetCircles) -> None:
        super().set_circles(command)
        self.native.execute(command)

    def set_permission(self, command: SetPermission) -> None:
        super().set_permission(command)
        self._execute(command)

    def revoke_permission(self, command: RevokePermission) -> None:
        super().revoke_permission(command)
        self._execute(command)

    def bind_channel(self, command: BindChannel) -> None:
        super().bind_channel(command)
        self._execute(command)

    def unbind_channel(self, command: UnbindChannel) -> None:
        super().unbind_channel(command)
        self._execute(command)

    def learn_peer(self, command: LearnPeer) -> None:
        super().learn_peer(command)
        self._execute(command)

    def _execute(
        self,
        command: RemoveRelayedAddress | SetPermission | RevokePermission | BindChannel | UnbindChannel | LearnPeer,
    ) -> None:
        self.native.execute(command)
        flow = self._flows.get(command.flow_id)
        if flow is not None:
            self._agree(flow)

    # Packets. Some of these methods call others: only the outermost call is compared.

    @contextmanager
    def _outermost(self) -> Iterator[None]:
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False

    def from_client(
        self, data: bytes, client_key: Hashable, now: float, client: SockAddr | None = None
    ) -> Output[Handle] | Unfragmented[Handle] | Reply | Unusual | None:
        with self._outermost():
            output = super().from_client(data, client_key, now, client)
        self._compare(output, self.native.from_client(data, client_key, now, client))
        return output

    def from_shared(self, address: SockAddr, data: bytes, peer: SockAddr, now: float) -> Output[Handle] | None:
        with self._outermost():
            output = super().from_shared(address, data, peer, now)
        self._compare(output, self.native.from_shared(address, data, peer, now))
        return output

    def from_peer(
        self, flow: Flow[Handle], data: bytes, address: SockAddr, now: float, source: Flow[Handle] | None = None
    ) -> Output[Handle] | None:
        output = super().from_peer(flow, data, address, now, source)
        if not self._is_inside:
            assert source is None
            self._compare(output, self.native.from_peer(flow.id, data, address, now))
        return output

    def from_icmp(
        self, flow: Flow[Handle], address: SockAddr, icmp_type: int, code: int, mtu: int, now: float
    ) -> Output[Handle] | None:
        output = super().from_icmp(flow, address, icmp_type, code, mtu, now)
        if not self._is_inside:
            self._compare(output, self.native.from_icmp(flow.id, address, icmp_type, code, mtu, now))
        return output

    def from_shared_icmp(
        self, address: SockAddr, peer: SockAddr, icmp_type: int, code: int, mtu: int, now: float
    ) -> Output[Handle] | None:
        with self._outermost():
            output = super().from_shared_icmp(address, peer, icmp_type, code, mtu, now)
        self._compare(output, self.native.from_shared_icmp(address, peer, icmp_type, code, mtu, now))
        return output

    def _compare(self, output: object, native: Decided) -> None:
        assert native == _decided(output), "the compiled data path decides otherwise"
        assert self.native.drops == self.drops, "the compiled data path counts otherwise"
        if isinstance(output, tuple):
            self._agree(output[0])

    def _agree(self, flow: Flow[Handle]) -> None:
        assert self.native.traffic(flow.id) == (
            flow.packets_from_client,
            flow.bytes_from_client,
            flow.packets_to_client,
            flow.bytes_to_client,
            flow.packets_handed_over,
            flow.bytes_handed_over,
        )
        if len(flow.permissions) + len(flow.peers) > _MUCH_KNOWN:
            return
        assert self.native.permissions(flow.id) == {
            host: (one.expires_at, one.relayed_only, one.own, one.claimed, one.claim is not None)
            for host, one in flow.permissions.items()
        }
        assert self.native.peers(flow.id) == {
            address: (one.number, one.channel_expires_at, self._owns(flow, address))
            for address, one in flow.peers.items()
        }

    def _owns(self, flow: Flow[Handle], address: SockAddr) -> bool:
        port = flow.shared_port(address)
        return port is not None and port.owners.get(address) is flow


def _figures(traffic: Traffic) -> tuple[int, ...]:
    return tuple(int(getattr(traffic, name)) for name, _ in CTraffic._fields_)


def _decided(output: object) -> Decided:
    if output is None:
        return ("dropped",)
    if output is CONTROL:
        return ("control",)
    if isinstance(output, Reply):
        return "reply", output.data
    if isinstance(output, Unfragmented):
        return "unfragmented", output.flow.id, output.data, output.peer
    assert isinstance(output, tuple)
    flow, data, peer = output
    return ("to client", flow.id, data) if peer is None else ("to peer", flow.id, data, peer)


def make_forwarder(
    own_hosts: frozenset[str],
    random_96_bits: Callable[[], int],
    listener_ports: frozenset[int] = frozenset(),
    meter: Meter | None = None,
) -> Forwarder[str]:
    """Both implementations as one; where nothing was compiled (and need not have been), the one in Python."""
    if not has_native():
        return Forwarder(own_hosts, random_96_bits, listener_ports, meter)
    return TwinForwarder(own_hosts, random_96_bits, listener_ports, meter)

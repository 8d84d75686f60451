"""The data path's decisions: which packet goes where (RFC 8656 §10 to §12), in a few microseconds each. Pure.

The control side changes it only through commands, so that another implementation can take its place. It does not use
`tavern.stun`: the two shapes that carry media are read by hand here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

import attrs

from tavern.addresses import SocketAddress
from tavern.turn.binding import PLAIN_BINDING, binding_answer
from tavern.turn.claims import CheckLimiter, Claim
from tavern.turn.commands import (
    AddFlow,
    AddRelayedAddress,
    BindChannel,
    RemoveFlow,
    RemoveRelayedAddress,
    RevokePermission,
    SetCircles,
    SetPermission,
    SetTransfer,
    UnbindChannel,
)
from tavern.turn.drops import Drop
from tavern.turn.flows import NEVER_PERMITTED, Flow, FlowPermission, KnownPeer, Traffic, sockaddr_of
from tavern.turn.indications import DataIndications, SockAddr, icmp_error_data, read_send_indication
from tavern.turn.metering import Meter

_pack_header = struct.Struct(">HH").pack
_unpack_header = struct.Struct(">HH").unpack_from
_COOKIE = b"\x21\x12\xa4\x42"
_SEND_INDICATION = b"\x00\x16"
_STUN_HEADER_SIZE = 20
_CHANNEL_HEADER_SIZE = 4
_MAX_PAYLOAD = 65_400  # more does not fit into a datagram once it is a Data indication
# What a client may ask of the control side at once, which takes time in proportion. 2048 is a CreatePermission with 60
# IPv4 peers and the longest username; before there is a flow only Allocate has a purpose: a usual one has 200 bytes,
# one with the longest username and realm 900.
MAX_CONTROL_SIZE = 2048
MAX_CONTROL_SIZE_WITHOUT_FLOW = 1024
Handle = TypeVar("Handle")


class Unusual(Enum):
    """The packet is not the data path's."""

    CONTROL = "control"


CONTROL: Final = Unusual.CONTROL


@attrs.frozen(slots=True)
class Reply:
    """To be sent straight back to the sender, from the listener that the packet came to."""

    data: bytes


@attrs.frozen(slots=True)
class Unfragmented(Generic[Handle]):
    """To leave to a peer in one piece or not at all (DONT-FRAGMENT, RFC 8656 §11.2)."""

    flow: Flow[Handle]
    data: bytes = attrs.field(repr=False)
    peer: SockAddr


Output = tuple[Flow[Handle], bytes, SockAddr | None]
"""Through whose sockets, what, and to which peer; None: to the flow's client."""


class Forwarder(Generic[Handle]):
    """All flows: packets in, packets out. Raises on no packet; what is not allowed is counted in `drops`.

    A packet for another flow of this server is handed to it here: behind a NAT (Docker) one sent to the advertised
    address would not come back. The receiving flow's permissions and channels decide as if it came by the wire.
    """

    def __init__(
        self,
        own_hosts: frozenset[str],
        random_96_bits: Callable[[], int],
        listener_ports: frozenset[int] = frozenset(),
        meter: Meter | None = None,
    ) -> None:
        """`own_hosts`: the advertised addresses. `random_96_bits` makes transaction ids.

        `listener_ports`: where the relay itself listens; on its own hosts they are nobody's peers.
        `meter`: what else may refuse a packet; nothing without one.
        """
        self.drops: dict[str, int] = {str(reason): 0 for reason in Drop}
        self._traffic_of_removed = Traffic()
        self._own_hosts = own_hosts
        self._listener_ports = listener_ports
        self._checks = CheckLimiter()
        self._meter = Meter(0, 0) if meter is None else meter
        self._limits = self._meter if self._meter.is_limiting else None  # all that a packet has to look at
        self._indications = DataIndications(random_96_bits)
        self._flows: dict[int, Flow[Handle]] = {}
        self._by_client: dict[Hashable, Flow[Handle]] = {}
        self._by_relayed: dict[SockAddr, Flow[Handle]] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow[Handle]]:
        return iter(self._flows.values())

    def has_flow(self, client_key: Hashable) -> bool:
        """Whether packets from `client_key` are those of a flow's client."""
        return client_key in self._by_client

    def traffic(self) -> Traffic:
        """What was relayed so far, by flows that live and that are gone. In proportion to the number of flows."""
        total = attrs.evolve(self._traffic_of_removed)
        for flow in self._flows.values():
            total.add(flow)
        return total

    # Commands

    def add_flow(self, command: AddFlow, client_key: Hashable, handle: Handle) -> Flow[Handle]:
        """The flow exists; packets from `client_key` are its client's."""
        account = self._meter.join(command.user)
        flow = Flow(command.flow_id, client_key, handle, command.user, command.circles, account)
        self._flows[flow.id] = flow
        self._by_client[client_key] = flow
        self._set_relayed(flow, command.relayed_address)
        return flow

    def add_relayed_address(self, command: AddRelayedAddress) -> Flow[Handle] | None:
        """See the command. The flow is returned, for the shell to give it the socket; None if there is none."""
        flow = self._flows.get(command.flow_id)
        if flow is not None:
            self._set_relayed(flow, command.relayed_address)
        return flow

    def remove_relayed_address(self, command: RemoveRelayedAddress) -> Flow[Handle] | None:
        """See the command. The flow is returned, for the shell to close the socket; None if there is none."""
        flow = self._flows.get(command.flow_id)
        address = sockaddr_of(command.relayed_address)
        if flow is None or address not in flow.relayed:
            return None
        del self._by_relayed[address]
        flow.drop_relayed(address)
        return flow

    def _set_relayed(self, flow: Flow[Handle], relayed_address: SocketAddress) -> None:
        address = sockaddr_of(relayed_address)
        flow.set_relayed(address)
        self._by_relayed[address] = flow

    def remove_flow(self, command: RemoveFlow) -> Flow[Handle] | None:
        """The flow is gone and returned, for the shell to close its sockets; None if there was none."""
        flow = self._flows.pop(command.flow_id, None)
        if flow is not None:
            del self._by_client[flow.client_key]
            for address in flow.relayed:
                del self._by_relayed[address]
            self._traffic_of_removed.add(flow)
            self._meter.leave(flow.user)
        return flow

    def set_transfer(self, command: SetTransfer) -> None:
        """See the command."""
        self._meter.set_budget_spent(not command.allowed)
        self._limits = self._meter if self._meter.is_limiting else None

    def set_circles(self, command: SetCircles) -> None:
        """See the command. Like all others, without effect for a flow that is gone."""
        if (flow := self._flows.get(command.flow_id)) is not None:
            flow.circles = command.circles

    def set_permission(self, command: SetPermission) -> None:
        """See the command."""
        if (flow := self._flows.get(command.flow_id)) is None:
            return
        permission = flow.permissions.get(command.host)
        if permission is None:
            permission = FlowPermission(command.expires_at, command.relayed_only, command.own)
            flow.permissions[command.host] = permission
        permission.expires_at = command.expires_at
        if command.claimed != permission.claimed:
            permission.claimed = command.claimed
            permission.claim = Claim(flow.user, command.host, self._checks) if command.claimed else None
        permission.relayed_only = command.relayed_only
        if command.own and not permission.own:
            for port in self._listener_ports:
                flow.peers.pop(sockaddr_of((command.host, port)), None)
        permission.own = command.own

    def revoke_permission(self, command: RevokePermission) -> None:
        """See the command."""
        if (flow := self._flows.get(command.flow_id)) is not None:
            flow.revoke(command.host)

    def bind_channel(self, command: BindChannel) -> None:
        """See the command."""
        if (flow := self._flows.get(command.flow_id)) is None:
            return
        address = sockaddr_of(command.peer)
        if self._is_listener(address, flow.permissions.get(address[0], NEVER_PERMITTED)):
            return
        peer = flow.know(address, ours=address[0] in self._own_hosts)
        if flow.channels.get(command.number) is not peer:
            flow.unbind(command.number)
            flow.unbind(peer.number)
            flow.peers[address] = peer  # it may have gone with its other number
        peer.number = command.number
        peer.channel_expires_at = command.expires_at
        peer.channel_relayed_only = command.relayed_only
        permission = flow.permissions.get(address[0])
        if permission is not None:
            flow.permit(peer, permission)
        flow.channels[command.number] = peer

    def unbind_channel(self, command: UnbindChannel) -> None:
        """See the command."""
        if (flow := self._flows.get(command.flow_id)) is not None:
            flow.unbind(command.number)

    # Packets

    def from_client(
        self, data: bytes, client_key: Hashable, now: float, client: SockAddr | None = None
    ) -> Output[Handle] | Unfragmented[Handle] | Reply | Unusual | None:
        """What a datagram from a client becomes; None if it is dropped, CONTROL if it is for the control side.

        A plain Binding request is answered here if `client`, its sender, is given.
        """
        size = len(data)
        if size < _CHANNEL_HEADER_SIZE:
            return self._drop(Drop.MALFORMED)
        first = data[0]
        if 0x40 <= first <= 0x7F:
            flow = self._by_client.get(client_key)
            if flow is None:
                return self._drop(Drop.NO_FLOW)
            number, length = _unpack_header(data)
            peer = flow.channels.get(number)
            if peer is None or peer.channel_expires_at <= now:
                return self._drop(Drop.NO_CHANNEL)
            if length > size - _CHANNEL_HEADER_SIZE:
                return self._drop(Drop.MALFORMED)
            payload = data[4 : 4 + length]
            if peer.ours:
                return self._to_us(flow, peer, payload, peer.channel_relayed_only, now)
            claim = peer.permission.claim
            if claim is not None and not claim.may_leave(payload, now):
                return self._drop(Drop.UNPROVEN_PEER)
            if self._limits is not None and self._is_over(flow, length, now):
                return None
            flow.packets_from_client += 1
            flow.bytes_from_client += length
            return flow, payload, peer.address
        if first > 0x3F or size < _STUN_HEADER_SIZE or data[4:8] != _COOKIE:
            return self._drop(Drop.MALFORMED)
        if data[:2] == _SEND_INDICATION:
            return self._send_indication(data, client_key, now)
        if size == _STUN_HEADER_SIZE and client is not None and data[:8] == PLAIN_BINDING:
            return Reply(binding_answer(data, client))
        if size > MAX_CONTROL_SIZE or (size > MAX_CONTROL_SIZE_WITHOUT_FLOW and client_key not in self._by_client):
            return self._drop(Drop.TOO_LARGE)
        return CONTROL

    def from_peer(self, flow: Flow[Handle], data: bytes, address: SockAddr, now: float) -> Output[Handle] | None:
        """What a datagram that came to the flow's relay socket becomes; None if it is dropped."""
        peer = flow.peers.get(address)
        if peer is None or peer.permission.expires_at <= now:
            peer = self._permitted(flow, address, now)
            if peer is None:
                return self._drop(Drop.NO_PERMISSION)
        if peer.ours and not self._may_come(flow, peer):
            return self._drop(Drop.NO_RELAYED_PEER)
        claim = peer.permission.claim
        if claim is not None and address not in self._by_relayed and claim.is_proven_by(data):
            peer.permission.claim = None  # by who is there himself, not by another flow behind the same address
        size = len(data)
        if size > _MAX_PAYLOAD:
            return self._drop(Drop.MALFORMED)
        if self._limits is not None and self._is_over(flow, size, now):
            return None
        if peer.channel_expires_at > now:
            framed = _pack_header(peer.number, size) + data
        else:
            framed = self._indications.frame(data, address)
        flow.packets_to_client += 1
        flow.bytes_to_client += size
        return flow, framed, None

    def from_icmp(
        self, flow: Flow[Handle], address: SockAddr, icmp_type: int, code: int, mtu: int, now: float
    ) -> Output[Handle] | None:
        """What an ICMP error about a packet from the flow to `address` becomes (§11.5); None if it is dropped.

        `mtu` counts where the packet was too big.
        """
        error_data = icmp_error_data(address, icmp_type, code, mtu)
        if error_data is None:
            return None
        permission = flow.permissions.get(address[0])
        # To our own addresses nothing left that ICMP could answer: it is forged.
        if permission is None or permission.expires_at <= now or permission.relayed_only:
            return self._drop(Drop.NO_PERMISSION)
        return flow, self._indications.frame_icmp(address, icmp_type, code, error_data), None

    def _send_indication(
        self, data: bytes, client_key: Hashable, now: float
    ) -> Output[Handle] | Unfragmented[Handle] | None:
        flow = self._by_client.get(client_key)
        if flow is None:
            return self._drop(Drop.NO_FLOW)
        parsed = read_send_indication(data)
        if parsed is None:
            return self._drop(Drop.MALFORMED)
        address, payload, dont_fragment = parsed
        peer = flow.peers.get(address)
        if peer is None or peer.permission.expires_at <= now:
            peer = self._permitted(flow, address, now)
            if peer is None:
                return self._drop(Drop.NO_PERMISSION)
        if peer.ours:
            output = self._to_us(flow, peer, payload, peer.permission.relayed_only, now)
            if dont_fragment and output is not None and output[2] is not None:
                return Unfragmented(flow, payload, peer.address)
            return output
        claim = peer.permission.claim
        if claim is not None and not claim.may_leave(payload, now):
            return self._drop(Drop.UNPROVEN_PEER)
        if self._limits is not None and self._is_over(flow, len(payload), now):
            return None
        flow.packets_from_client += 1
        flow.bytes_from_client += len(payload)
        if dont_fragment:
            return Unfragmented(flow, payload, peer.address)
        return flow, payload, peer.address

    def _to_us(
        self, flow: Flow[Handle], peer: KnownPeer, payload: bytes, relayed_only: bool, now: float
    ) -> Output[Handle] | None:
        """The peer's IP address is the relay's own: a live flow, or something that the operator allows."""
        target = self._by_relayed.get(peer.address)
        source = flow.relayed_ipv4 if len(peer.address) == 2 else flow.relayed_ipv6
        if (target is None and relayed_only) or target is flow or source is None:
            return self._drop(Drop.NO_RELAYED_PEER)
        if target is not None and not flow.reaches(target):
            return self._drop(Drop.NO_RELAYED_PEER)
        claim = peer.permission.claim
        if target is None and claim is not None and not claim.may_leave(payload, now):
            return self._drop(Drop.UNPROVEN_PEER)
        if self._limits is not None and self._is_over(flow, len(payload), now, leaves=target is None):
            return None
        flow.packets_from_client += 1
        flow.bytes_from_client += len(payload)
        if target is None:
            return flow, payload, peer.address
        flow.packets_handed_over += 1
        flow.bytes_handed_over += len(payload)
        return self.from_peer(target, payload, source, now)

    def _may_come(self, flow: Flow[Handle], peer: KnownPeer) -> bool:
        """Whether what comes from our own IP address is of a flow that this one is with, or is allowed there."""
        source = self._by_relayed.get(peer.address)
        if source is None:
            return not peer.permission.relayed_only
        return source is not flow and flow.reaches(source)

    def _is_over(self, flow: Flow[Handle], payload_size: int, now: float, *, leaves: bool = True) -> bool:
        """Whether a limit on transfer drops the packet, which is then counted."""
        refusal = self._meter.refusal(flow.account, payload_size, now, leaves=leaves)
        if refusal is None:
            return False
        self.drops[refusal] += 1
        return True

    def _drop(self, reason: Drop) -> Output[Handle] | None:
        self.drops[reason] += 1
        return None

    # Known peers

    def _permitted(self, flow: Flow[Handle], address: SockAddr, now: float) -> KnownPeer | None:
        permission = flow.permissions.get(address[0])
        if permission is None or permission.expires_at <= now or self._is_listener(address, permission):
            return None
        peer = flow.know(address, ours=address[0] in self._own_hosts)
        flow.permit(peer, permission)
        return peer

    def _is_listener(self, address: SockAddr, permission: FlowPermission) -> bool:
        """Whether the relay listens there: such a peer would make it its own client."""
        return address[1] in self._listener_ports and (permission.own or address[0] in self._own_hosts)

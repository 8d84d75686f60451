"""The data path's decisions: which packet goes where (RFC 8656 §10 to §12), in a few microseconds each. Pure.

The control side changes it only through commands, so that another implementation can take its place. It does not use
`tavern.stun`: the two shapes that carry media are read by hand here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Final, Generic, TypeVar

import attrs

from tavern.turn.binding import PLAIN_BINDING, binding_answer
from tavern.turn.checks import BINDING_REQUEST, asked_fragment
from tavern.turn.drops import Drop
from tavern.turn.flow_table import FlowTable
from tavern.turn.flows import Flow, KnownPeer
from tavern.turn.indications import DataIndications, SockAddr, icmp_error_data, read_send_indication
from tavern.turn.metering import Meter
from tavern.turn.shared_flows import SharedPort

_pack_header = struct.Struct(">HH").pack
_unpack_header = struct.Struct(">HH").unpack_from
_COOKIE = b"\x21\x12\xa4\x42"
_SEND_INDICATION = b"\x00\x16"
STUN_HEADER_SIZE = 20
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


class Forwarder(FlowTable[Handle]):
    """All flows: packets in, packets out. Raises on no packet; what is not allowed is counted in `drops`.

    A packet for another flow of this server is handed to it here: behind a NAT (Docker) one sent to the advertised
    address would not come back. The receiving flow's permissions and channels decide as if it came by the wire.

    Where flows share a relayed address, the exact peer says whose a packet is: from outside the one who owns it, from
    another flow the one it is paired with. A check that names its receiver makes either known.
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
        super().__init__(own_hosts, listener_ports, Meter(0, 0) if meter is None else meter)
        self._indications = DataIndications(random_96_bits)

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
        number, length = _unpack_header(data)
        if number >> 14 == 1:
            flow = self._by_client.get(client_key)
            if flow is None:
                return self._drop(Drop.NO_FLOW)
            peer = flow.recent
            if peer.number != number:
                bound = flow.channels.get(number)
                if bound is None:
                    return self._drop(Drop.NO_CHANNEL)
                flow.recent = peer = bound
            if peer.channel_expires_at <= now:
                return self._drop(Drop.NO_CHANNEL)
            payload = data[4 : 4 + length]
            if len(payload) != length:
                return self._drop(Drop.MALFORMED)
            if flow.is_shared:
                flow.notice_check(payload)
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
        if number > 0x3FFF or size < STUN_HEADER_SIZE or data[4:8] != _COOKIE:
            return self._drop(Drop.MALFORMED)
        if data[:2] == _SEND_INDICATION:
            return self._send_indication(data, client_key, now)
        if size == STUN_HEADER_SIZE and client is not None and data[:8] == PLAIN_BINDING:
            return Reply(binding_answer(data, client))
        if size > MAX_CONTROL_SIZE or (size > MAX_CONTROL_SIZE_WITHOUT_FLOW and client_key not in self._by_client):
            return self._drop(Drop.TOO_LARGE)
        return CONTROL

    def from_shared(self, address: SockAddr, data: bytes, peer: SockAddr, now: float) -> Output[Handle] | None:
        """What a datagram from `peer` that came to the shared port at `address` becomes; None if it is dropped."""
        if not self._is_outside(peer):
            return self._drop(Drop.NO_RELAYED_PEER)
        port = self._ports[address]
        flow = port.owners.get(peer)
        if flow is None:
            fragment = asked_fragment(data)
            named = () if fragment is None else port.named(fragment)
            asked = [one for one in named if self._permission(one, peer, now) is not None]
            if len(asked) != 1:
                return self._drop(Drop.UNKNOWN_SOURCE)
            flow = asked[0]
        return self.from_peer(flow, data, peer, now)

    def from_peer(
        self, flow: Flow[Handle], data: bytes, address: SockAddr, now: float, source: Flow[Handle] | None = None
    ) -> Output[Handle] | None:
        """What a datagram that came to the flow's relay socket becomes; None if it is dropped.

        `source`: which flow it comes from, if it did not come by the wire.
        """
        recent = flow.recent
        peer = recent if recent.address == address else flow.recall(address)
        if peer is None or peer.permission.expires_at <= now:
            peer = self._permitted(flow, address, now)
            if peer is None:
                return self._drop(Drop.NO_PERMISSION)
        if peer.ours and not self._may_come(flow, peer, source):
            return self._drop(Drop.NO_RELAYED_PEER)
        claim = peer.permission.claim
        if claim is not None and source is None and address not in self._by_relayed and claim.is_proven_by(data):
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

    def from_shared_icmp(
        self, address: SockAddr, peer: SockAddr, icmp_type: int, code: int, mtu: int, now: float
    ) -> Output[Handle] | None:
        """The same for a packet to `peer` from the shared port at `address`; None if it was nobody's."""
        flow = self._ports[address].owners.get(peer)
        return None if flow is None else self.from_icmp(flow, peer, icmp_type, code, mtu, now)

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
        if flow.is_shared and payload[:2] == BINDING_REQUEST and self._permission(flow, address, now) is not None:
            flow.notice_check(payload)
        recent = flow.recent
        peer = recent if recent.address == address else flow.recall(address)
        if peer is None or peer.permission.expires_at <= now:
            peer = self._permitted(flow, address, now)
            if peer is None:
                return self._drop(self._why_not(flow, address, now))
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
        address = peer.address
        source = flow.relayed_ipv4 if len(address) == 2 else flow.relayed_ipv6
        if source is None:
            return self._drop(Drop.NO_RELAYED_PEER)
        here, there = flow.shared_port(address), self._shared.get(address)
        if there is not None:
            target = _paired(flow, there) or self._choose(flow, there, payload, source, now)
            if target is None:
                return self._drop(Drop.UNKNOWN_SOURCE)
        else:
            target = self._by_relayed.get(address)
        if target is None:
            return self._to_own_host(flow, peer, payload, relayed_only, now)
        if target is flow or not flow.reaches(target):
            return self._drop(Drop.NO_RELAYED_PEER)
        if here is not None and there is None and not _hears(target, flow, here, source, now):
            return self._drop(Drop.UNKNOWN_SOURCE)
        if self._limits is not None and self._is_over(flow, len(payload), now, leaves=False):
            return None
        flow.packets_from_client += 1
        flow.bytes_from_client += len(payload)
        flow.packets_handed_over += 1
        flow.bytes_handed_over += len(payload)
        return self.from_peer(target, payload, source, now, flow)

    def _to_own_host(
        self, flow: Flow[Handle], peer: KnownPeer, payload: bytes, relayed_only: bool, now: float
    ) -> Output[Handle] | None:
        """No flow is there."""
        if relayed_only:
            return self._drop(Drop.NO_RELAYED_PEER)
        port = flow.shared_port(peer.address)
        # It may have been a flow's when it became known, and is an outside peer by now: whose is decided now.
        if port is not None and port.owners.setdefault(peer.address, flow) is not flow:
            return self._drop(Drop.PEER_OF_ANOTHER)
        claim = peer.permission.claim
        if claim is not None and not claim.may_leave(payload, now):
            return self._drop(Drop.UNPROVEN_PEER)
        if self._limits is not None and self._is_over(flow, len(payload), now):
            return None
        flow.packets_from_client += 1
        flow.bytes_from_client += len(payload)
        return flow, payload, peer.address

    def _choose(
        self, flow: Flow[Handle], port: SharedPort[Flow[Handle]], payload: bytes, source: SockAddr, now: float
    ) -> Flow[Handle] | None:
        """Whom on the port a check of the flow's client asks for; both are each other's from now on.

        None unless it is exactly one, and is nobody else's.
        """
        fragment = asked_fragment(payload)
        named = () if fragment is None else port.named(fragment)
        asked = [one for one in named if one is not flow and flow.reaches(one) and one.permits(source[0], now)]
        if len(asked) != 1:
            return None
        target = asked[0]
        here = flow.shared_port(source)
        if here is not None:
            holder = _paired(target, here)
            if holder is not None and holder is not flow:
                return None
            target.pairs[here.address] = flow.id
        flow.pairs[port.address] = target.id
        return target

    def _may_come(self, flow: Flow[Handle], peer: KnownPeer, source: Flow[Handle] | None) -> bool:
        """Whether what comes from our own IP address is of a flow that this one is with, or is allowed there."""
        source = self._by_relayed.get(peer.address) if source is None else source
        if source is None:
            return not peer.permission.relayed_only and peer.address not in self._shared
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

    def _permitted(self, flow: Flow[Handle], address: SockAddr, now: float) -> KnownPeer | None:
        """The entry of an exact peer whose permission is live and that no other flow of the port owns."""
        permission = self._permission(flow, address, now)
        peer = None if permission is None else self._know(flow, address)
        if permission is not None and peer is not None:
            flow.permit(peer, permission)
        return peer

    def _why_not(self, flow: Flow[Handle], address: SockAddr, now: float) -> Drop:
        return Drop.NO_PERMISSION if self._permission(flow, address, now) is None else Drop.PEER_OF_ANOTHER


def _paired(flow: Flow[Handle], port: SharedPort[Flow[Handle]]) -> Flow[Handle] | None:
    """Whom on the port the flow means by the port's address."""
    flow_id = flow.pairs.get(port.address)
    return None if flow_id is None else port.flows.get(flow_id)


def _hears(
    target: Flow[Handle], flow: Flow[Handle], port: SharedPort[Flow[Handle]], source: SockAddr, now: float
) -> bool:
    """Whether `target`, which shares its address with nobody, takes what comes from the port for this flow's.

    `source` is the flow's relayed address there.

    The first one whom it permits is the one that it answers, for as long as that one lives.
    """
    holder = _paired(target, port)
    if holder is None and target.permits(source[0], now):
        target.pairs[port.address] = flow.id
    return holder is None or holder is flow

"""What Allocate does, once its user is proven: its checks and the ports that it takes (RFC 8656 §7). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address

import attrs

from tavern.addresses import IPAddress, source_key
from tavern.stun.attributes import (
    AddressFamily,
    decode_even_port,
    decode_lifetime,
    decode_requested_family,
    decode_requested_transport,
    encode_lifetime,
    encode_xor_address,
)
from tavern.stun.message import AttributeType, Message
from tavern.turn.allocation import Allocation, QuotaKey, granted_lifetime_s
from tavern.turn.allocations import AllocationTable
from tavern.turn.answers import ErrorCode, Refusal, UnknownAttributes, success
from tavern.turn.auth import Identity
from tavern.turn.commands import AddFlow, Effect, OpenRelaySocket
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.sessions import Circles, Owner

UDP_PROTOCOL = 17
MAX_PORT_TRIES = 8  # ports of the range that other programs hold; more in a row means the range is not ours
# Known, comprehension-required, and not built: refused at their step rather than ignored (RFC 8656 §7.2).
_UNSUPPORTED_IN_ALLOCATE = (AttributeType.DONT_FRAGMENT, AttributeType.RESERVATION_TOKEN)


@attrs.define(eq=False)
class PendingAllocation:
    """An Allocate that waits for the driver to open its relay socket; it never outlives the driver's call."""

    flow_id: int
    request: Message
    five_tuple: FiveTuple
    identity: Identity
    family: AddressFamily
    lifetime_s: int
    even: bool
    client_is_own: bool
    port: int = 0
    """The one that is tried now."""
    failed_ports: list[int] = attrs.field(factory=list)


class AllocateHandler:
    """Makes allocations. `handle` raises Refusal or MalformedMessage, and then nothing has changed."""

    def __init__(
        self,
        allocations: AllocationTable,
        *,
        advertised: Mapping[AddressFamily, IPAddress],
        is_own: Callable[[IPAddress], bool],
        circles: Callable[[Owner], Circles],
        user_quota: int,
        max_allocations: int,
    ) -> None:
        """`is_own`: whether an address is this machine's. `circles`: what an owner's sessions are, and where."""
        self._allocations = allocations
        self._advertised = advertised
        self._is_own = is_own
        self._circles = circles
        self._user_quota = user_quota
        self._max_allocations = max_allocations
        self._pending: dict[int, PendingAllocation] = {}
        self._last_id = 0

    def handle(self, request: Message, five_tuple: FiveTuple, identity: Identity) -> list[Effect]:
        """The checks of §7.2, in its order."""
        if self._allocations.find(five_tuple) is not None:
            raise Refusal(ErrorCode.ALLOCATION_MISMATCH)
        transport = request.get(AttributeType.REQUESTED_TRANSPORT)
        if transport is None:
            raise Refusal(ErrorCode.BAD_REQUEST)
        if decode_requested_transport(transport) != UDP_PROTOCOL:
            raise Refusal(ErrorCode.UNSUPPORTED_TRANSPORT)
        if unsupported := [kind for kind in _UNSUPPORTED_IN_ALLOCATE if request.get(kind) is not None]:
            raise UnknownAttributes([int(kind) for kind in unsupported])
        family = requested_family(request)
        if family is None or family not in self._advertised:
            raise Refusal(ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED)
        lifetime_s = granted_lifetime_s(asked_lifetime_s(request))
        even = request.get(AttributeType.EVEN_PORT)
        if self._allocations.held_by(_quota_key(identity, five_tuple)) >= self._user_quota:
            raise Refusal(ErrorCode.ALLOCATION_QUOTA_REACHED)
        if len(self._allocations) >= self._max_allocations:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        if even is not None and decode_even_port(even):
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)  # the next port cannot be reserved: nothing reserves yet
        self._last_id += 1
        pending = PendingAllocation(
            flow_id=self._last_id,
            request=request,
            five_tuple=five_tuple,
            identity=identity,
            family=family,
            lifetime_s=lifetime_s,
            even=even is not None,
            client_is_own=self._is_own(without_zone(five_tuple.client[0])),
        )
        opening = self._next_port(pending)
        if opening is None:
            self._release_failed(pending)
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        self._pending[pending.flow_id] = pending
        return [opening]

    def relay_opened(self, flow_id: int, now: float) -> tuple[PendingAllocation, list[Effect], bytes]:
        """The allocation that waited lives: its command and its success response."""
        pending = self._pending.pop(flow_id)
        self._release_failed(pending)
        address = self._advertised[pending.family]
        allocation = Allocation(
            id=flow_id,
            five_tuple=pending.five_tuple,
            username=pending.identity.username,
            key=pending.identity.key,
            quota_key=_quota_key(pending.identity, pending.five_tuple),
            family=pending.family,
            relayed_address=(str(address), pending.port),
            expires_at=now + pending.lifetime_s,
            owner=pending.identity.owner,
            client_is_own=pending.client_is_own,
            create_transaction_id=pending.request.transaction_id,
        )
        allocation.create_response = _allocate_response(pending, address)
        self._allocations.add(allocation)
        command = AddFlow(
            flow_id,
            pending.five_tuple,
            allocation.relayed_address,
            user=allocation.quota_key,
            circles=None if allocation.owner is None else self._circles(allocation.owner),
        )
        return pending, [command], allocation.create_response

    def relay_failed(self, flow_id: int) -> tuple[PendingAllocation, OpenRelaySocket | None]:
        """Another port to try; None when there is none or enough were tried, and the ports are free again."""
        pending = self._pending[flow_id]
        pending.failed_ports.append(pending.port)
        opening = self._next_port(pending)
        if opening is None:
            del self._pending[flow_id]
            self._release_failed(pending)
        return pending, opening

    def _next_port(self, pending: PendingAllocation) -> OpenRelaySocket | None:
        """The next port to try; None if there is none or enough were tried.

        Not one of a client on this machine: the client of that allocation may have been a relay socket, and would be
        one again.
        """
        while len(pending.failed_ports) < MAX_PORT_TRIES:
            port = self._allocations.ports[pending.family].take(even=pending.even)
            if port is None:
                break
            is_this_clients = pending.client_is_own and port == pending.five_tuple.client[1]
            if not is_this_clients and not self._allocations.is_own_clients_port(port):
                pending.port = port
                return OpenRelaySocket(pending.flow_id, pending.family, port)
            pending.failed_ports.append(port)
        return None

    def _release_failed(self, pending: PendingAllocation) -> None:
        for port in pending.failed_ports:
            self._allocations.ports[pending.family].release(port)


def _quota_key(identity: Identity, five_tuple: FiveTuple) -> QuotaKey:
    if identity.owner is not None:
        return identity.owner
    return identity.user, source_key(five_tuple.client[0])


def without_zone(host: str) -> IPAddress:
    """A client's host as an address."""
    return ip_address(host.partition("%")[0])


def requested_family(request: Message) -> AddressFamily | None:
    """IPv4 where none is asked for; None for one that nobody has defined."""
    value = request.get(AttributeType.REQUESTED_ADDRESS_FAMILY)
    return AddressFamily.IPV4 if value is None else decode_requested_family(value)


def asked_lifetime_s(request: Message) -> int | None:
    """LIFETIME; None without one."""
    value = request.get(AttributeType.LIFETIME)
    return None if value is None else decode_lifetime(value)


def _allocate_response(pending: PendingAllocation, relayed: IPAddress) -> bytes:
    request = pending.request
    host, port = pending.five_tuple.client
    mapped = without_zone(host)
    return success(
        request,
        (AttributeType.XOR_RELAYED_ADDRESS, encode_xor_address(relayed, pending.port, request.transaction_id)),
        (AttributeType.LIFETIME, encode_lifetime(pending.lifetime_s)),
        (AttributeType.XOR_MAPPED_ADDRESS, encode_xor_address(mapped, port, request.transaction_id)),
        key=pending.identity.key,
    )

"""What Allocate does, once its user is proven: its checks and the ports that it takes (RFC 8656 §7). Pure."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tavern.addresses import IPAddress, SocketAddress, source_key, without_zone
from tavern.stun.attributes import (
    AddressFamily,
    decode_even_port,
    decode_lifetime,
    decode_requested_family,
    decode_requested_transport,
    decode_reservation_token,
    encode_address_error_code,
    encode_lifetime,
    encode_xor_address,
)
from tavern.stun.message import Attribute, AttributeType, Message
from tavern.turn.advertised import AdvertisedAddresses
from tavern.turn.allocation import Allocation, QuotaKey, RelayedAddress, granted_lifetime_s
from tavern.turn.allocations import AllocationTable
from tavern.turn.answers import ErrorCode, Refusal, authenticated_error, success
from tavern.turn.auth import Identity
from tavern.turn.commands import AddFlow, AddRelayedAddress, Effect, OpenRelaySocket
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.reservations import Reservation
from tavern.turn.sessions import Circles, Owner
from tavern.turn.shared_ports import SharedPort

UDP_PROTOCOL = 17
MAX_PORT_TRIES = 8  # ports of the range that other programs hold; more in a row means the range is not ours
# So long the kernel's word on a client's own address counts: a browser that joins a mesh of 8 asks for 28 allocations
# at once. Peers' addresses are judged afresh every time: it is those that a client chooses.
_OWN_CLIENT_S = 1.0
_MAX_OWN_CLIENTS = 1024  # hosts of proven users in a second, 200 KiB
_FAMILIES = (AddressFamily.IPV4, AddressFamily.IPV6)
_NOT_WITH_A_TOKEN = (
    AttributeType.EVEN_PORT,
    AttributeType.REQUESTED_ADDRESS_FAMILY,
    AttributeType.ADDITIONAL_ADDRESS_FAMILY,
)


AllocateStep = tuple[list[Effect], bytes | None]
"""What to do, and the response; without one, the driver opens a relay socket and tells how that went."""


@attrs.define(eq=False)
class PendingAllocation:
    """An Allocate that waits for the driver to open its relay sockets; it never outlives the driver's calls."""

    flow_id: int
    request: Message
    five_tuple: FiveTuple
    identity: Identity
    quota_key: QuotaKey
    lifetime_s: int
    even: bool
    reserves_next: bool
    """The port after the one that it gets is to be reserved."""
    reservation: Reservation | None
    """The port that it gets, and no other one."""
    client_is_own: bool
    families: list[AddressFamily]
    """Those without a port yet; the first one's is tried now."""
    refused: dict[AddressFamily, ErrorCode]
    """The half of a dual allocation that cannot be granted."""
    port: int = 0
    """The one that is tried now."""
    failed_ports: list[int] = attrs.field(factory=list)
    opened: dict[AddressFamily, int] = attrs.field(factory=dict)
    """The ports that the driver opened."""
    shared: dict[AddressFamily, SharedPort] = attrs.field(factory=dict)
    """Where there was none: the ones that it has with others."""

    @property
    def tried_ports(self) -> list[int]:
        """The one that is tried now, with the one that is to be reserved."""
        return [self.port, self.port + 1] if self.reserves_next else [self.port]


class AllocateHandler:
    """Makes allocations. `handle` raises Refusal or MalformedMessage, and then nothing has changed."""

    def __init__(
        self,
        allocations: AllocationTable,
        *,
        advertised: AdvertisedAddresses,
        is_own: Callable[[IPAddress], bool],
        circles: Callable[[Owner], Circles],
        user_quota: int,
        address_quota: int,
        max_allocations: int,
        max_shared_allocations: int,
    ) -> None:
        """`is_own`: whether an address is this machine's. `circles`: what an owner's sessions are, and where.

        The quotas count relayed addresses, `max_allocations` those that have a socket of their own.
        """
        self._allocations = allocations
        self._advertised = advertised
        self._is_own = is_own
        self._circles = circles
        self._user_quota = user_quota
        self._address_quota = address_quota
        self._max_allocations = max_allocations
        self._max_shared_allocations = max_shared_allocations
        self._pending: dict[int, PendingAllocation] = {}
        self._own_clients: dict[str, tuple[float, bool]] = {}
        """Until when the kernel is not asked again whether a client's host is this machine's, and what it said."""
        self._last_id = 0
        self.is_open = True
        """Whether new allocations are made at all: not while the month's transfer budget is spent."""

    def handle(self, request: Message, five_tuple: FiveTuple, identity: Identity, now: float) -> AllocateStep:
        """The checks of §7.2, in its order."""
        if self._allocations.find(five_tuple) is not None:
            raise Refusal(ErrorCode.ALLOCATION_MISMATCH)
        _check_transport(request)
        key = _quota_key(identity, five_tuple)
        reservation = self._asked_reservation(request, key)
        families = self._asked_families(request) if reservation is None else [reservation.family]
        lifetime_s = granted_lifetime_s(asked_lifetime_s(request))
        even = request.get(AttributeType.EVEN_PORT)
        reserves_next = even is not None and decode_even_port(even)
        refused: dict[AddressFamily, ErrorCode] = {}
        source = source_key(five_tuple.client[0])
        if (code := self._full(key, source, 2 if reserves_next else 1, reservation)) is not None:
            raise Refusal(code)
        if reservation is not None:
            self._allocations.reservations.remove(reservation)  # the port is this one's now
        elif len(families) == 2 and (code := self._additional_refused(key, source)) is not None:
            refused[families.pop()] = code
        self._last_id += 1
        pending = PendingAllocation(
            flow_id=self._last_id,
            request=request,
            five_tuple=five_tuple,
            identity=identity,
            quota_key=key,
            lifetime_s=lifetime_s,
            even=even is not None,
            reserves_next=reserves_next,
            reservation=reservation,
            client_is_own=self._client_is_own(five_tuple.client[0], now),
            families=families,
            refused=refused,
        )
        self._pending[pending.flow_id] = pending
        return self._proceed(pending, now)

    def relay_opened(self, flow_id: int, now: float) -> tuple[PendingAllocation, AllocateStep]:
        """The port that was tried is the allocation's, which lives once it has all of its ports."""
        pending = self._pending[flow_id]
        pending.opened[self._end_tries(pending)] = pending.port
        return pending, self._proceed(pending, now)

    def relay_failed(self, flow_id: int, now: float) -> tuple[PendingAllocation, AllocateStep]:
        """Another port is tried, if there is one and not enough were tried; else that family cannot be granted."""
        pending = self._pending[flow_id]
        pending.failed_ports += pending.tried_ports
        return pending, self._proceed(pending, now)

    def _asked_reservation(self, request: Message, key: QuotaKey) -> Reservation | None:
        token = request.get(AttributeType.RESERVATION_TOKEN)
        if token is None:
            return None
        if any(request.get(kind) is not None for kind in _NOT_WITH_A_TOKEN):
            raise Refusal(ErrorCode.BAD_REQUEST)
        reservation = self._allocations.reservations.find(decode_reservation_token(token), key)
        if reservation is None:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        return reservation

    def _asked_families(self, request: Message) -> list[AddressFamily]:
        """One, or IPv4 and IPv6 for a dual allocation."""
        additional = request.get(AttributeType.ADDITIONAL_ADDRESS_FAMILY)
        if additional is not None and request.get(AttributeType.REQUESTED_ADDRESS_FAMILY) is not None:
            raise Refusal(ErrorCode.BAD_REQUEST)
        family = requested_family(request)
        if family is None or family not in self._advertised.current:
            raise Refusal(ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED)
        if additional is None:
            return [family]
        even = request.get(AttributeType.EVEN_PORT)
        if even is not None and decode_even_port(even):
            raise Refusal(ErrorCode.BAD_REQUEST)
        if decode_requested_family(additional) is not AddressFamily.IPV6:
            raise Refusal(ErrorCode.BAD_REQUEST)  # §18.11: no other value is valid
        return [AddressFamily.IPV4, AddressFamily.IPV6]

    def _full(
        self, key: QuotaKey, source: str, wanted: int, reservation: Reservation | None = None
    ) -> ErrorCode | None:
        """Why there may not be `wanted` more relayed addresses; what is reserved was counted for its user before."""
        if not self.is_open:
            return ErrorCode.ALLOCATION_QUOTA_REACHED
        if reservation is not None:
            came = reservation.source != source and self._allocations.held_at(source) >= self._address_quota
            return ErrorCode.ALLOCATION_QUOTA_REACHED if came else None
        if self._allocations.held_by(key) + wanted > self._user_quota:
            return ErrorCode.ALLOCATION_QUOTA_REACHED
        if self._allocations.held_at(source) + wanted > self._address_quota:
            return ErrorCode.ALLOCATION_QUOTA_REACHED
        return None

    def _additional_refused(self, key: QuotaKey, source: str) -> ErrorCode | None:
        if AddressFamily.IPV6 not in self._advertised.current:
            return ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED
        return self._full(key, source, 2)

    def _proceed(self, pending: PendingAllocation, now: float) -> AllocateStep:
        while pending.families:
            if self._take_port(pending):
                return [OpenRelaySocket(pending.flow_id, pending.families[0], pending.port)], None
            family = self._end_tries(pending)
            if (shared := self._take_shared(pending, family)) is not None:
                pending.shared[family] = shared
            else:
                pending.refused[family] = ErrorCode.INSUFFICIENT_CAPACITY
        del self._pending[pending.flow_id]
        if pending.opened or pending.shared:
            return self._complete(pending, now)
        refusal = Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        return [], authenticated_error(pending.request, refusal, pending.identity.key)

    def _take_port(self, pending: PendingAllocation) -> bool:
        """Takes the next port to try; False if there is none or enough were tried.

        Not one of a client on this machine: the client of that allocation may have been a relay socket, and would be
        one again.
        """
        while len(pending.failed_ports) < MAX_PORT_TRIES:
            port = self._next_port(pending)
            if port is None:
                break
            pending.port = port
            if not any(self._is_own_clients(pending, one) for one in pending.tried_ports):
                return True
            pending.failed_ports += pending.tried_ports
        return False

    def _next_port(self, pending: PendingAllocation) -> int | None:
        if pending.reservation is not None:
            return None if pending.failed_ports else pending.reservation.port
        taken = self._allocations.relayed_count + len(pending.opened)
        if taken + (2 if pending.reserves_next else 1) > self._max_allocations:
            return None
        ports = self._allocations.ports[pending.families[0]]
        return ports.take_pair() if pending.reserves_next else ports.take(even=pending.even)

    def _take_shared(self, pending: PendingAllocation, family: AddressFamily) -> SharedPort | None:
        """A place on a shared port; None if there is none, or the client wants more than one can be."""
        taken = self._allocations.shared_count
        if pending.even or pending.reservation is not None or taken >= self._max_shared_allocations:
            return None
        return self._allocations.shared[family].take(
            pending.quota_key,
            owned=pending.identity.owner is not None,
            avoid=lambda port: self._is_own_clients(pending, port),
        )

    def _is_own_clients(self, pending: PendingAllocation, port: int) -> bool:
        is_this_clients = pending.client_is_own and port == pending.five_tuple.client[1]
        return is_this_clients or self._allocations.is_own_clients_port(port)

    def _client_is_own(self, host: str, now: float) -> bool:
        known = self._own_clients.get(host)
        if known is None or known[0] <= now:
            if len(self._own_clients) >= _MAX_OWN_CLIENTS:
                self._own_clients.clear()
            known = self._own_clients[host] = now + _OWN_CLIENT_S, self._is_own(without_zone(host))
        return known[1]

    def _end_tries(self, pending: PendingAllocation) -> AddressFamily:
        """The family that was tried; the ports that failed are free again."""
        family = pending.families.pop(0)
        for port in pending.failed_ports:
            self._allocations.ports[family].release(port)
        pending.failed_ports = []
        return family

    def _complete(self, pending: PendingAllocation, now: float) -> AllocateStep:
        expires_at = now + pending.lifetime_s
        relayed: dict[AddressFamily, RelayedAddress] = {}
        for family in _FAMILIES:
            if (port := pending.opened.get(family)) is not None:
                relayed[family] = RelayedAddress((str(self._advertised.current[family]), port), expires_at)
            elif (shared := pending.shared.get(family)) is not None:
                address = self._allocations.shared[family].host, shared.number
                relayed[family] = RelayedAddress(address, expires_at, shared)
        allocation = Allocation(
            id=pending.flow_id,
            five_tuple=pending.five_tuple,
            username=pending.identity.username,
            key=pending.identity.key,
            quota_key=pending.quota_key,
            relayed=relayed,
            owner=pending.identity.owner,
            client_is_own=pending.client_is_own,
            create_transaction_id=pending.request.transaction_id,
        )
        token = self._reserve_next(pending, allocation, now) if pending.reserves_next else None
        allocation.create_response = _allocate_response(pending, allocation, token)
        self._allocations.add(allocation)
        first, *second = relayed.values()
        circles = None if allocation.owner is None else self._circles(allocation.owner)
        effects: list[Effect] = [
            AddFlow(
                allocation.id,
                pending.five_tuple,
                first.address,
                user=allocation.quota_key,
                circles=circles,
                shared=first.shared is not None,
            )
        ]
        effects += [AddRelayedAddress(allocation.id, one.address, one.shared is not None) for one in second]
        return effects, allocation.create_response

    def _reserve_next(self, pending: PendingAllocation, allocation: Allocation, now: float) -> bytes:
        [(family, port)] = pending.opened.items()
        source = source_key(allocation.five_tuple.client[0])
        reservations = self._allocations.reservations
        return reservations.add(allocation.quota_key, source, allocation.owner, family, port + 1, now).token


def _check_transport(request: Message) -> None:
    transport = request.get(AttributeType.REQUESTED_TRANSPORT)
    if transport is None:
        raise Refusal(ErrorCode.BAD_REQUEST)
    if decode_requested_transport(transport) != UDP_PROTOCOL:
        raise Refusal(ErrorCode.UNSUPPORTED_TRANSPORT)


def _quota_key(identity: Identity, five_tuple: FiveTuple) -> QuotaKey:
    if identity.owner is not None:
        return identity.owner
    return identity.user, source_key(five_tuple.client[0])


def requested_family(request: Message) -> AddressFamily | None:
    """IPv4 where none is asked for; None for one that nobody has defined."""
    value = request.get(AttributeType.REQUESTED_ADDRESS_FAMILY)
    return AddressFamily.IPV4 if value is None else decode_requested_family(value)


def asked_lifetime_s(request: Message) -> int | None:
    """LIFETIME; None without one."""
    value = request.get(AttributeType.LIFETIME)
    return None if value is None else decode_lifetime(value)


def _allocate_response(pending: PendingAllocation, allocation: Allocation, token: bytes | None) -> bytes:
    transaction_id = pending.request.transaction_id
    attributes: list[Attribute] = [
        (AttributeType.XOR_RELAYED_ADDRESS, _encode_address(one.address, transaction_id))
        for one in allocation.relayed.values()
    ]
    attributes.append((AttributeType.LIFETIME, encode_lifetime(pending.lifetime_s)))
    mapped = _encode_address(pending.five_tuple.client, transaction_id)
    attributes.append((AttributeType.XOR_MAPPED_ADDRESS, mapped))
    if token is not None:
        attributes.append((AttributeType.RESERVATION_TOKEN, token))
    for family, code in pending.refused.items():
        attributes.append((AttributeType.ADDRESS_ERROR_CODE, encode_address_error_code(family, code)))
    return success(pending.request, *attributes, key=pending.identity.key)


def _encode_address(address: SocketAddress, transaction_id: bytes) -> bytes:
    return encode_xor_address(without_zone(address[0]), address[1], transaction_id)

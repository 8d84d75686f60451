"""What Allocate, Refresh, CreatePermission and ChannelBind do, once their user is proven (RFC 8656 §7 to §12). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

import attrs

from tavern.addresses import IPAddress, SocketAddress, source_key
from tavern.stun.attributes import (
    AddressFamily,
    decode_channel_number,
    decode_even_port,
    decode_lifetime,
    decode_requested_family,
    decode_requested_transport,
    decode_xor_address,
    encode_lifetime,
    encode_xor_address,
    family_of,
)
from tavern.stun.message import AttributeType, Message, Method
from tavern.turn.allocation import (
    CHANNEL_LIFETIME_S,
    FIRST_CHANNEL,
    LAST_CHANNEL,
    MAX_CHANNELS,
    MAX_PERMISSIONS,
    PERMISSION_LIFETIME_S,
    Allocation,
    Channel,
    Permission,
    QuotaKey,
    granted_lifetime_s,
)
from tavern.turn.allocations import AllocationTable
from tavern.turn.answers import ErrorCode, Refusal, UnknownAttributes, success
from tavern.turn.auth import Identity
from tavern.turn.commands import (
    AddFlow,
    BindChannel,
    Effect,
    OpenRelaySocket,
    RemoveFlow,
    RevokePermission,
    SetPermission,
    UnbindChannel,
)
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.policy import OWN, PeerPolicy, Verdict

UDP_PROTOCOL = 17
MAX_PORT_TRIES = 8  # ports of the range that other programs hold; more in a row means the range is not ours
# Known, comprehension-required, and not built: refused at their step rather than ignored (RFC 8656 §7.2).
_UNSUPPORTED_IN_ALLOCATE = (AttributeType.DONT_FRAGMENT, AttributeType.RESERVATION_TOKEN)

Outcome = tuple[list[Effect], bytes | None]
"""Commands and then the response; None while the driver is opening the relay socket."""


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


class RequestHandler:
    """Handlers of the four TURN requests. They raise Refusal or MalformedMessage, and then nothing has changed."""

    def __init__(
        self,
        allocations: AllocationTable,
        *,
        advertised: Mapping[AddressFamily, IPAddress],
        policy: PeerPolicy,
        user_quota: int,
        max_allocations: int,
    ) -> None:
        self._allocations = allocations
        self._advertised = advertised
        self._policy = policy
        self._user_quota = user_quota
        self._max_allocations = max_allocations
        self._pending: dict[int, PendingAllocation] = {}
        self._last_id = 0

    def handle(self, request: Message, five_tuple: FiveTuple, identity: Identity, now: float) -> Outcome:
        """Executes one authenticated request of a TURN method."""
        if request.method == Method.ALLOCATE:
            return self._allocate(request, five_tuple, identity)
        allocation = self._allocations.find(five_tuple)
        if allocation is None:
            raise Refusal(ErrorCode.ALLOCATION_MISMATCH)
        if allocation.username != identity.username:
            raise Refusal(ErrorCode.WRONG_CREDENTIALS)
        if request.method == Method.REFRESH:
            return self._refresh(request, allocation, now)
        if request.method == Method.CREATE_PERMISSION:
            return self._create_permission(request, allocation, now)
        assert request.method == Method.CHANNEL_BIND
        return self._bind_channel(request, allocation, now)

    def is_own_relay(self, client: SocketAddress) -> bool:
        """Whether `client` is a relay socket of ours: it would make the relay its own client.

        One whose advertised address no interface has sends from whatever address of this machine leads there.
        """
        address = _without_zone(client[0])
        advertised = self._advertised.get(family_of(address))
        if advertised is None or self._allocations.relayed_at(advertised, client[1]) is None:
            return False
        return self._policy.is_own(address)

    def drop_expired(self, five_tuple: FiveTuple, now: float) -> list[Effect]:
        """Forgets this allocation's expired permissions and channels, here and in the data path.

        There they have no effect any more, but would hold memory. To be called before `handle`, so that a number or
        peer whose time has passed is free again.
        """
        allocation = self._allocations.find(five_tuple)
        return [] if allocation is None else _drop_expired(allocation, now)

    def sweep(self, now: float) -> list[Effect]:
        """The same for all allocations, also for those whose clients ask for nothing, half a minute late."""
        effects: list[Effect] = []
        for allocation in self._allocations.to_sweep(now):
            effects += _drop_expired(allocation, now)
        return effects

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
            client_is_own=pending.client_is_own,
            create_transaction_id=pending.request.transaction_id,
        )
        allocation.create_response = _allocate_response(pending, address)
        self._allocations.add(allocation)
        command = AddFlow(flow_id, pending.five_tuple, allocation.relayed_address)
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

    def set_local_addresses(self, addresses: frozenset[IPAddress]) -> list[Effect]:
        """Judges every permission and channel again where the interfaces have new addresses."""
        new = addresses - self._policy.local_addresses
        self._policy = attrs.evolve(self._policy, local_addresses=addresses)
        if not new:
            return []
        effects: list[Effect] = []
        for allocation in self._allocations:
            effects += self._judge_again(allocation)
        return effects

    def set_listeners(self, addresses: frozenset[SocketAddress]) -> None:
        """The relay itself listens there."""
        self._policy = attrs.evolve(self._policy, listener_ports=frozenset(port for _, port in addresses))

    def _judge_again(self, allocation: Allocation) -> list[Effect]:
        effects: list[Effect] = []
        for peer, permission in list(allocation.permissions.items()):
            verdict = self._policy.judge(peer, others_live=True)
            if verdict is Verdict.DENIED:
                del allocation.permissions[peer]
                effects.append(RevokePermission(allocation.id, str(peer)))
            elif verdict is Verdict.ALLOWED_OWN and not permission.own:
                permission.own = True
                effects.append(
                    SetPermission(allocation.id, str(peer), permission.expires_at, relayed_only=False, own=True)
                )
        for number, channel in list(allocation.channels.items()):
            host, port = channel.peer
            verdict = self._policy.judge(ip_address(host), others_live=True)
            if verdict is Verdict.DENIED or self._policy.is_listener(verdict, port):
                allocation.unbind(number)
                effects.append(UnbindChannel(allocation.id, number))
        return effects

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

    def _allocate(self, request: Message, five_tuple: FiveTuple, identity: Identity) -> Outcome:
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
        family = _requested_family(request)
        if family is None or family not in self._advertised:
            raise Refusal(ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED)
        lifetime_s = granted_lifetime_s(_asked_lifetime_s(request))
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
            client_is_own=self._policy.is_own(_without_zone(five_tuple.client[0])),
        )
        opening = self._next_port(pending)
        if opening is None:
            self._release_failed(pending)
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        self._pending[pending.flow_id] = pending
        return [opening], None

    def _refresh(self, request: Message, allocation: Allocation, now: float) -> Outcome:
        """§8. LIFETIME 0 ends the allocation."""
        names_family = request.get(AttributeType.REQUESTED_ADDRESS_FAMILY) is not None
        if names_family and _requested_family(request) is not allocation.family:
            raise Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
        asked_s = _asked_lifetime_s(request)
        effects: list[Effect] = []
        if asked_s == 0:
            lifetime_s = 0
            self._allocations.remove(allocation)
            effects.append(RemoveFlow(allocation.id))
        else:
            lifetime_s = granted_lifetime_s(asked_s)
            self._allocations.keep_until(allocation, now + lifetime_s)
        return effects, success(request, (AttributeType.LIFETIME, encode_lifetime(lifetime_s)), key=allocation.key)

    def _create_permission(self, request: Message, allocation: Allocation, now: float) -> Outcome:
        """§9.2: all of the peers or none. There are fewer than `MAX_ATTRIBUTES` of them, so that this takes no time."""
        values = request.get_all(AttributeType.XOR_PEER_ADDRESS)
        if not values:
            raise Refusal(ErrorCode.BAD_REQUEST)
        peers = dict.fromkeys(decode_xor_address(value, request.transaction_id)[0] for value in values)
        verdicts = {peer: self._judge(allocation, peer) for peer in peers}
        if len(allocation.permissions.keys() | peers) > MAX_PERMISSIONS:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        effects: list[Effect] = [self._permit(allocation, peer, verdict, now) for peer, verdict in verdicts.items()]
        return effects, success(request, key=allocation.key)

    def _bind_channel(self, request: Message, allocation: Allocation, now: float) -> Outcome:
        """§12.2. Also installs or refreshes the permission."""
        number_value = request.get(AttributeType.CHANNEL_NUMBER)
        peer_value = request.get(AttributeType.XOR_PEER_ADDRESS)
        if number_value is None or peer_value is None:
            raise Refusal(ErrorCode.BAD_REQUEST)
        number = decode_channel_number(number_value)
        address, port = decode_xor_address(peer_value, request.transaction_id)
        if not FIRST_CHANNEL <= number <= LAST_CHANNEL:
            raise Refusal(ErrorCode.BAD_REQUEST)
        peer: SocketAddress = (str(address), port)
        bound = allocation.channels.get(number)
        if (bound is not None and bound.peer != peer) or allocation.channel_of.get(peer, number) != number:
            raise Refusal(ErrorCode.BAD_REQUEST)
        verdict = self._judge(allocation, address)
        relayed_only = verdict is Verdict.RELAYED_ONLY
        other = self._allocations.relayed_at(address, port)
        if port == 0 or other is allocation or (relayed_only and other is None):
            raise Refusal(ErrorCode.FORBIDDEN)
        if self._policy.is_listener(verdict, port):
            raise Refusal(ErrorCode.FORBIDDEN)
        if bound is None and len(allocation.channels) >= MAX_CHANNELS:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        if address not in allocation.permissions and len(allocation.permissions) >= MAX_PERMISSIONS:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        channel = Channel(peer, now + CHANNEL_LIFETIME_S)
        allocation.bind(number, channel)
        # The sweep comes for the permission, which expires first, and then at the channel's time.
        effects: list[Effect] = [
            self._permit(allocation, address, verdict, now),
            BindChannel(allocation.id, number, peer, channel.expires_at, relayed_only),
        ]
        return effects, success(request, key=allocation.key)

    def _judge(self, allocation: Allocation, peer: IPAddress) -> Verdict:
        if family_of(peer) is not allocation.family:
            raise Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
        verdict = self._policy.judge(peer, others_live=self._allocations.others_live(allocation))
        if verdict is Verdict.DENIED:
            raise Refusal(ErrorCode.FORBIDDEN)  # never another code: Firefox drops the allocation on those
        return verdict

    def _permit(self, allocation: Allocation, peer: IPAddress, verdict: Verdict, now: float) -> SetPermission:
        permission = Permission(now + PERMISSION_LIFETIME_S, own=verdict in OWN)
        allocation.permissions[peer] = permission
        self._allocations.holds_until(allocation, permission.expires_at)
        return SetPermission(
            allocation.id,
            str(peer),
            permission.expires_at,
            relayed_only=verdict is Verdict.RELAYED_ONLY,
            own=permission.own,
        )


def _drop_expired(allocation: Allocation, now: float) -> list[Effect]:
    peers, numbers = allocation.drop_expired(now)
    effects: list[Effect] = [RevokePermission(allocation.id, str(peer)) for peer in peers]
    effects += [UnbindChannel(allocation.id, number) for number in numbers]
    return effects


def _quota_key(identity: Identity, five_tuple: FiveTuple) -> QuotaKey:
    return identity.user, source_key(five_tuple.client[0])


def _without_zone(host: str) -> IPAddress:
    return ip_address(host.partition("%")[0])


def _requested_family(request: Message) -> AddressFamily | None:
    value = request.get(AttributeType.REQUESTED_ADDRESS_FAMILY)
    return AddressFamily.IPV4 if value is None else decode_requested_family(value)


def _asked_lifetime_s(request: Message) -> int | None:
    value = request.get(AttributeType.LIFETIME)
    return None if value is None else decode_lifetime(value)


def _allocate_response(pending: PendingAllocation, relayed: IPAddress) -> bytes:
    request = pending.request
    host, port = pending.five_tuple.client
    mapped = _without_zone(host)
    return success(
        request,
        (AttributeType.XOR_RELAYED_ADDRESS, encode_xor_address(relayed, pending.port, request.transaction_id)),
        (AttributeType.LIFETIME, encode_lifetime(pending.lifetime_s)),
        (AttributeType.XOR_MAPPED_ADDRESS, encode_xor_address(mapped, port, request.transaction_id)),
        key=pending.identity.key,
    )

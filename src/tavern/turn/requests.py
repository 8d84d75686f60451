"""What Refresh, CreatePermission and ChannelBind do, once their user is proven (RFC 8656 §8 to §12). Pure."""

from __future__ import annotations

import attrs

from tavern.addresses import IPAddress, SocketAddress, without_zone
from tavern.stun.attributes import (
    decode_channel_number,
    decode_xor_address,
    encode_lifetime,
    family_of,
)
from tavern.stun.message import AttributeType, Message, Method
from tavern.turn.advertised import AdvertisedAddresses
from tavern.turn.allocate import AllocateHandler, asked_lifetime_s, requested_family
from tavern.turn.allocation import (
    CHANNEL_LIFETIME_S,
    FIRST_CHANNEL,
    LAST_CHANNEL,
    PERMISSION_LIFETIME_S,
    Allocation,
    Channel,
    Permission,
    granted_lifetime_s,
)
from tavern.turn.allocations import AllocationTable
from tavern.turn.answers import ErrorCode, Refusal, success
from tavern.turn.auth import Identity
from tavern.turn.commands import (
    BindChannel,
    Effect,
    RevokePermission,
    SetPermission,
    UnbindChannel,
)
from tavern.turn.exact_peers import ExactPeers, own_all
from tavern.turn.five_tuple import FiveTuple
from tavern.turn.reach import Judgement, Reach, set_permission
from tavern.turn.sessions import SessionTable

Outcome = tuple[list[Effect], bytes | None]
"""Commands and then the response; None while the driver is opening the relay socket."""


class RequestHandler:
    """Handlers of the four TURN requests. They raise Refusal or MalformedMessage, and then nothing has changed."""

    def __init__(
        self,
        allocations: AllocationTable,
        *,
        advertised: AdvertisedAddresses,
        reach: Reach,
        sessions: SessionTable,
        user_quota: int,
        address_quota: int,
        max_allocations: int,
        max_shared_allocations: int,
        max_permissions: int,
        max_channels: int,
    ) -> None:
        self._allocations = allocations
        self._advertised = advertised
        self._reach = reach
        self.allocate = AllocateHandler(
            allocations,
            advertised=advertised,
            is_own=reach.is_own,
            circles=sessions.circles,
            user_quota=user_quota,
            address_quota=address_quota,
            max_allocations=max_allocations,
            max_shared_allocations=max_shared_allocations,
        )
        self._exact_peers = ExactPeers(allocations, reach)
        self._max_permissions = max_permissions
        self._max_channels = max_channels

    def handle(self, request: Message, five_tuple: FiveTuple, identity: Identity, now: float) -> Outcome:
        """Executes one authenticated request of a TURN method."""
        if request.method == Method.ALLOCATE:
            return self.allocate.handle(request, five_tuple, identity, now)
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
        address = without_zone(client[0])
        family = family_of(address)
        hosts = [str(own) for own in self._advertised.all if family_of(own) is family]
        if not any(self._allocations.is_relayed_address(family, (host, client[1])) for host in hosts):
            return False
        return self._reach.is_own(address)

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

    def set_local_addresses(self, addresses: frozenset[IPAddress]) -> list[Effect]:
        """Judges every permission and channel again where the interfaces have new addresses."""
        new = addresses - self._reach.policy.local_addresses
        self._reach.policy = attrs.evolve(self._reach.policy, local_addresses=addresses)
        if not new:
            return []
        effects: list[Effect] = []
        for allocation in self._allocations:
            effects += self._reach.judge_again(allocation)
        return effects

    def set_listeners(self, addresses: frozenset[SocketAddress]) -> None:
        """The relay itself listens there."""
        self._reach.policy = attrs.evolve(self._reach.policy, listener_ports=frozenset(port for _, port in addresses))

    def _refresh(self, request: Message, allocation: Allocation, now: float) -> Outcome:
        """§8: of the relayed address of the family that is named, else of all. LIFETIME 0 ends it."""
        families = list(allocation.relayed)
        if request.get(AttributeType.REQUESTED_ADDRESS_FAMILY) is not None:
            family = requested_family(request)
            if family not in families:
                raise Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
            families = [family]
        asked_s = asked_lifetime_s(request)
        effects: list[Effect] = []
        if asked_s == 0:
            lifetime_s = 0
            effects += [self._allocations.release(allocation, family) for family in families]
        else:
            lifetime_s = granted_lifetime_s(asked_s)
            for family in families:
                self._allocations.keep_until(allocation, family, now + lifetime_s)
        return effects, success(request, (AttributeType.LIFETIME, encode_lifetime(lifetime_s)), key=allocation.key)

    def _create_permission(self, request: Message, allocation: Allocation, now: float) -> Outcome:
        """§9.2: all of the peers or none. There are fewer than `MAX_ATTRIBUTES` of them, so that this takes no time."""
        values = request.get_all(AttributeType.XOR_PEER_ADDRESS)
        if not values:
            raise Refusal(ErrorCode.BAD_REQUEST)
        peers = list(dict.fromkeys(decode_xor_address(value, request.transaction_id) for value in values))
        judgements = {host: self._judge(allocation, host) for host in dict.fromkeys(host for host, _ in peers)}
        exact = self._exact_peers.to_own(allocation, peers, judgements)
        former = self._exact_peers.former_owners(allocation, exact, now)
        if len(allocation.permissions.keys() | judgements.keys()) > self._max_permissions:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        effects = _drop_all_expired(former, now)
        for host, judgement in judgements.items():
            effects.append(self._permit(allocation, host, judgement, now))
            effects += own_all(allocation, host, [port for its_host, port in exact if its_host == host])
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
        judgement = self._judge(allocation, address)
        if not self._reach.may_bind(allocation, judgement, address, port):
            raise Refusal(ErrorCode.FORBIDDEN)
        exact = self._exact_peers.to_own(allocation, [(address, port)], {address: judgement})
        former = self._exact_peers.former_owners(allocation, exact, now)
        if bound is None and len(allocation.channels) >= self._max_channels:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        if address not in allocation.permissions and len(allocation.permissions) >= self._max_permissions:
            raise Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        channel = Channel(peer, now + CHANNEL_LIFETIME_S)
        allocation.bind(number, channel)
        # The sweep comes for the permission, which expires first, and then at the channel's time.
        effects = _drop_all_expired(former, now)
        effects += [
            self._permit(allocation, address, judgement, now),
            BindChannel(allocation.id, number, peer, channel.expires_at, judgement.relayed_only),
        ]
        for _ in exact:
            # The permission names it as well, since the data path knows the peer for as long as that lives; the channel
            # alone if it names too many.
            allocation.own(peer)
            allocation.name_exact(address, port)
        return effects, success(request, key=allocation.key)

    def _judge(self, allocation: Allocation, peer: IPAddress) -> Judgement:
        if family_of(peer) not in allocation.relayed:
            raise Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
        judgement = self._reach.judge(allocation, peer)
        if judgement is None:
            raise Refusal(ErrorCode.FORBIDDEN)  # never another code: Firefox drops the allocation on those
        return judgement

    def _permit(self, allocation: Allocation, peer: IPAddress, judgement: Judgement, now: float) -> SetPermission:
        former = allocation.permissions.get(peer)
        exact_ports = frozenset[int]() if former is None else former.exact_ports
        permission = Permission(now + PERMISSION_LIFETIME_S, judgement.own, judgement.claimed, exact_ports)
        allocation.permissions[peer] = permission
        self._allocations.holds_until(allocation, permission.expires_at)
        return set_permission(allocation, peer, permission.expires_at, judgement)


def _drop_all_expired(allocations: dict[int, Allocation], now: float) -> list[Effect]:
    effects: list[Effect] = []
    for allocation in allocations.values():
        effects += _drop_expired(allocation, now)
    return effects


def _drop_expired(allocation: Allocation, now: float) -> list[Effect]:
    peers, numbers = allocation.drop_expired(now)
    effects: list[Effect] = [RevokePermission(allocation.id, str(peer)) for peer in peers]
    effects += [UnbindChannel(allocation.id, number) for number in numbers]
    return effects

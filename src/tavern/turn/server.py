"""A TURN server without I/O: datagrams and time in, effects out (RFC 8656, STUN Binding of RFC 8489). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from random import Random

import attrs

from tavern.addresses import IPAddress, SocketAddress, source_key, without_zone
from tavern.stun.attributes import AddressFamily, encode_xor_address, family_of
from tavern.stun.message import Attribute, AttributeType, MalformedMessage, Message, MessageClass, Method, parse
from tavern.turn.address_changes import AddressChanges
from tavern.turn.advertised import AdvertisedAddresses
from tavern.turn.allocate import AllocateStep, PendingAllocation
from tavern.turn.allocations import AllocationTable
from tavern.turn.answers import (
    ErrorCode,
    Refusal,
    UnknownAttributes,
    authenticated_error,
    success,
    unauthenticated_error,
)
from tavern.turn.auth import Credentials, Identity, Nonces
from tavern.turn.closed import ClosedRelay
from tavern.turn.commands import CloseClient, Effect, RemoveFlow, SendToClient, SetTransfer
from tavern.turn.expiry import earliest
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.limiter import BURST_S, TokenBuckets, UnauthenticatedLimiter
from tavern.turn.policy import Network, PeerPolicy
from tavern.turn.ports import PortRange
from tavern.turn.reach import Reach
from tavern.turn.requests import RequestHandler
from tavern.turn.retransmissions import AnswerMemory
from tavern.turn.shared_ports import SharedPorts, SharedPortsMode, shared_range

_KNOWN_ATTRIBUTES = frozenset(kind.value for kind in AttributeType)
_TURN_METHODS = frozenset({Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND})


@attrs.frozen(kw_only=True)
class TurnConfig:
    """What an operator decides about a TURN server."""

    realm: str
    secrets: tuple[str, ...] = attrs.field(repr=False)
    """At least one; the first mints."""
    legacy_secret: str | None = attrs.field(default=None, repr=False)
    """What old clients carry in their code: accepted from where a session lives, and for what that one reaches."""
    static_credentials: bool = True
    """Whether users that are no sessions are accepted, under the general policy."""
    advertised_addresses: tuple[IPAddress, ...]
    """What relayed addresses carry; at most one of each family, and only these families are served."""
    min_relay_port: int
    max_relay_port: int
    allow_peers: tuple[Network, ...] = ()
    deny_peers: tuple[Network, ...] = ()
    user_quota: int
    """Relayed addresses that one user may hold at once from one address or /64, by whatever credentials."""
    address_quota: int
    """Relayed addresses that clients at one address or /64 may hold at once, whoever they are."""
    max_allocations: int
    """Relayed addresses of all users together that have a socket of their own."""
    shared_ports: SharedPortsMode = SharedPortsMode.NEVER
    max_shared_allocations: int = 16_384
    """Relayed addresses of all users together on shared ports: 8 KiB of memory each, 128 MB."""
    max_permissions: int
    """Of one allocation, as are channels."""
    max_channels: int
    unauthenticated_rate: float
    """Unauthenticated error answers per second and source."""
    datagram_answer_count: int = 1
    """What such an answer over UDP counts for: 2 where the data path gives half of them by itself."""


@attrs.define
class TurnCounters:
    """Since the start."""

    malformed: int = 0
    """What did not parse, or is nothing that a server answers; dropped."""
    unauthenticated: int = 0
    """401 and 400 answers to requests that proved no user, and 438 answers."""
    suppressed: int = 0
    """The same, but not sent: the source's limit was reached."""
    rejected: int = 0
    """Requests with credentials that are wrong, have run out, or belong to a session that is gone."""


class TurnServer:
    """Every decision of a TURN server.

    The driver passes each STUN message in, executes the effects in their order, and calls `handle_timer` when
    `next_deadline()` has come. `now` is any monotonic clock in seconds, the same one for all calls. Nothing raises on
    what clients send.
    """

    def __init__(
        self, config: TurnConfig, *, random: Random, nonce_key: bytes, is_local: Callable[[IPAddress], bool]
    ) -> None:
        """`random` draws relay ports and tokens: a SystemRandom outside of tests. `nonce_key`: 16 random bytes or more.

        `is_local` asks the kernel whether an address is this machine's own, listed by an interface or not.
        """
        self.counters = TurnCounters()
        self.credentials = Credentials(config.realm, config.secrets, config.legacy_secret)
        self.limiter = UnauthenticatedLimiter(config.unauthenticated_rate)
        self._datagram_answer_count = config.datagram_answer_count
        self._stale_answers = TokenBuckets(config.unauthenticated_rate, config.unauthenticated_rate * BURST_S)
        self.allocations = AllocationTable(_port_ranges(config, random), _shared_ports(config, random), random)
        self._realm = config.realm.encode()
        self._nonces = Nonces(nonce_key)
        self._answers = AnswerMemory()
        self._advertised = AdvertisedAddresses(config.advertised_addresses)
        self.closed = ClosedRelay(
            self.allocations,
            random,
            advertised=self._advertised,
            static_credentials=config.static_credentials,
        )
        policy = PeerPolicy(
            advertised_addresses=self._advertised.all,
            allow_peers=config.allow_peers,
            deny_peers=config.deny_peers,
            is_local=is_local,
        )
        reach = Reach(policy, self.closed.sessions, self.allocations)
        self._address_changes = AddressChanges(self._advertised, self.allocations, reach)
        self._handler = RequestHandler(
            self.allocations,
            advertised=self._advertised,
            reach=reach,
            sessions=self.closed.sessions,
            user_quota=config.user_quota,
            address_quota=config.address_quota,
            max_allocations=config.max_allocations,
            max_shared_allocations=config.max_shared_allocations,
            max_permissions=config.max_permissions,
            max_channels=config.max_channels,
        )

    def receive(self, data: bytes, five_tuple: FiveTuple, now: float, unix_time_s: float) -> list[Effect]:
        """What to do about `data`, one STUN message that came on `five_tuple`.

        What does not parse is dropped, and ends a stream: its other end is no STUN client.
        """
        try:
            message = parse(data)
        except MalformedMessage:
            return self.malformed(five_tuple)
        if message.message_class is not MessageClass.REQUEST:
            # Send indications are the data path's; a Binding indication keeps a NAT open and wants no answer.
            return []
        if message.method == Method.BINDING:
            return [SendToClient(five_tuple, _answer_binding(message, five_tuple))]
        if message.method not in _TURN_METHODS:
            self.counters.malformed += 1  # RFC 8489 §6.3: a method that is not supported is dropped
            return []
        if five_tuple.transport is Transport.UDP and self._handler.is_own_relay(five_tuple.client):
            self.counters.malformed += 1
            return []
        deadline = self.next_deadline()
        effects = [] if deadline is None or deadline > now else self.handle_timer(now)
        effects += self._handler.drop_expired(five_tuple, now)
        effects += self._handle_turn_request(message, five_tuple, now, unix_time_s)
        return effects

    def relay_opened(self, flow_id: int, now: float) -> list[Effect]:
        """The relay socket that `OpenRelaySocket` asked for is bound: once it was the last, the allocation lives."""
        return self._end_allocate(*self._handler.allocate.relay_opened(flow_id, now), now)

    def relay_failed(self, flow_id: int, now: float) -> list[Effect]:
        """The port cannot be bound: another one is tried, or the client gets 508."""
        return self._end_allocate(*self._handler.allocate.relay_failed(flow_id, now), now)

    def _end_allocate(self, pending: PendingAllocation, step: AllocateStep, now: float) -> list[Effect]:
        effects, answer = step
        if answer is None:
            return effects  # the next socket first
        return [*effects, self._final(pending.request, pending.five_tuple, answer, now)]

    def malformed(self, five_tuple: FiveTuple) -> list[Effect]:
        """What to do about a client that sent what cannot be read."""
        self.counters.malformed += 1
        return [] if five_tuple.transport is Transport.UDP else [CloseClient(five_tuple)]

    def client_gone(self, five_tuple: FiveTuple) -> list[Effect]:
        """The client's stream has ended: its allocation goes with it, and its port is free."""
        allocation = self.allocations.find(five_tuple)
        if allocation is None:
            return []
        self.allocations.remove(allocation)
        return [RemoveFlow(allocation.id)]

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to be called; None while nothing can expire."""
        return earliest(self.allocations.next_deadline(), self.closed.sessions.next_deadline())

    def handle_timer(self, now: float) -> list[Effect]:
        """Ends the allocations and lost sessions whose time has come; forgets what idle allocations hold no longer."""
        return self.allocations.release_expired(now) + self.closed.revoke_due(now) + self._handler.sweep(now)

    def set_local_addresses(self, addresses: frozenset[IPAddress]) -> list[Effect]:
        """This machine's interfaces have these addresses; permissions for what is denied by that are withdrawn."""
        return self._handler.set_local_addresses(addresses)

    @property
    def advertised(self) -> Mapping[AddressFamily, IPAddress]:
        """What new relayed addresses carry."""
        return self._advertised.current

    def advertise(self, addresses: Iterable[IPAddress], movable: frozenset[AddressFamily]) -> list[Effect]:
        """See AddressChanges."""
        return self._address_changes.advertise(addresses, movable)

    def set_listeners(self, addresses: frozenset[SocketAddress]) -> None:
        """The relay listens there (a host may be a wildcard); no peer is one of these ports of this machine.

        To be called before the first `receive`.
        """
        self._handler.set_listeners(addresses)

    @property
    def shared_addresses(self) -> tuple[SocketAddress, ...]:
        """The relayed addresses that allocations may share; the driver opens a socket for each."""
        return tuple(address for ports in self.allocations.shared.values() for address in ports.addresses)

    def shared_failed(self, address: SocketAddress) -> None:
        """This one cannot be bound, and is nobody's. To be called before the first `receive`."""
        self.allocations.shared[family_of(ip_address(address[0]))].drop(address[1])

    def set_budget_spent(self, is_spent: bool) -> list[Effect]:
        """While the month's transfer is used up, no allocation is made and no data relayed; all else goes on."""
        self._handler.allocate.is_open = not is_spent
        return [SetTransfer(allowed=not is_spent)]

    def _handle_turn_request(
        self, request: Message, five_tuple: FiveTuple, now: float, unix_time_s: float
    ) -> list[Effect]:
        if (known := self._retransmitted(request, five_tuple, now)) is not None:
            return [SendToClient(five_tuple, known)]
        try:
            identity = self._identify(request, five_tuple, now, unix_time_s)
        except Refusal as refusal:
            count = self._datagram_answer_count if five_tuple.transport is Transport.UDP else 1
            allowed = self.limiter.allows(five_tuple.client, now, count)
            return self._refuse_unauthenticated(request, five_tuple, refusal, allowed=allowed)
        if not self._nonces.accepts(request.get(AttributeType.NONCE) or b"", five_tuple.client, now):
            return self._refuse_nonce(request, five_tuple, identity, now)
        try:
            if unknown := request.unknown_required(_KNOWN_ATTRIBUTES):
                raise UnknownAttributes(unknown)
            effects, answer = self._handler.handle(request, five_tuple, identity, now)
        except MalformedMessage:
            effects, answer = [], authenticated_error(request, Refusal(ErrorCode.BAD_REQUEST), identity.key)
        except Refusal as refusal:
            effects, answer = [], authenticated_error(request, refusal, identity.key)
        if answer is None:
            return effects  # the answer comes when the relay socket is open or is not
        return [*effects, self._final(request, five_tuple, answer, now)]

    def _retransmitted(self, request: Message, five_tuple: FiveTuple, now: float) -> bytes | None:
        allocation = self.allocations.find(five_tuple)
        if (
            request.method == Method.ALLOCATE
            and allocation is not None
            and allocation.create_transaction_id == request.transaction_id
            and request.is_signed_with(allocation.key)
        ):
            return allocation.create_response
        return self._answers.find(five_tuple, request.transaction_id, request.raw, now)

    def _identify(self, request: Message, five_tuple: FiveTuple, now: float, unix_time_s: float) -> Identity:
        """RFC 8489 §9.2.4 up to the nonce, in its order: which error a client sees decides whether it tries again."""
        if request.integrity_offset is None:
            raise self._challenge(ErrorCode.UNAUTHORIZED, five_tuple, now)
        username = request.get(AttributeType.USERNAME)
        if username is None or request.get(AttributeType.NONCE) is None or request.get(AttributeType.REALM) is None:
            raise Refusal(ErrorCode.BAD_REQUEST)
        allocation = self.allocations.find(five_tuple)
        if allocation is not None and username == allocation.username and request.is_signed_with(allocation.key):
            # Holds beyond the username's expiry and its secret's rotation: a call does not end for those.
            identity = Identity(username=username, key=allocation.key, expires_at=0)
            expired = request.method == Method.ALLOCATE and self._is_expired(request, unix_time_s)
        else:
            found = self.credentials.identify(request)
            accepted = None if found is None else self.closed.identified(found, five_tuple.client)
            if accepted is None:
                self.counters.rejected += 1
                raise self._challenge(ErrorCode.UNAUTHORIZED, five_tuple, now)
            identity = accepted
            expired = identity.expires_at <= unix_time_s
        if expired:
            self.counters.rejected += 1
            raise self._challenge(ErrorCode.UNAUTHORIZED, five_tuple, now)
        return identity

    def _is_expired(self, request: Message, unix_time_s: float) -> bool:
        found = self.credentials.identify(request)
        return found is None or found.expires_at <= unix_time_s

    def _challenge(self, code: ErrorCode, five_tuple: FiveTuple, now: float) -> Refusal:
        realm: Attribute = (AttributeType.REALM, self._realm)
        return Refusal(code, realm, (AttributeType.NONCE, self._nonces.issue(five_tuple.client, now)))

    def _refuse_nonce(self, request: Message, five_tuple: FiveTuple, identity: Identity, now: float) -> list[Effect]:
        """438, limited by who signed and not by address, which can be forged; for an allocation's owner, not at all.

        Unheard, the owner could not refresh, and the allocation would end.
        """
        allocation = self.allocations.find(five_tuple)
        allowed = (allocation is not None and allocation.key == identity.key) or self._stale_answers.take(
            (identity.user, source_key(five_tuple.client[0])), now
        )
        challenge = self._challenge(ErrorCode.STALE_NONCE, five_tuple, now)
        return self._refuse_unauthenticated(request, five_tuple, challenge, allowed=allowed)

    def _refuse_unauthenticated(
        self, request: Message, five_tuple: FiveTuple, refusal: Refusal, *, allowed: bool
    ) -> list[Effect]:
        if not allowed:
            self.counters.suppressed += 1
            # Over a stream nobody asks again (RFC 8489 §6.2.2): in silence the client would wait 40 s.
            return [] if five_tuple.transport is Transport.UDP else [CloseClient(five_tuple)]
        self.counters.unauthenticated += 1
        return [SendToClient(five_tuple, unauthenticated_error(request, refusal))]

    def _final(self, request: Message, five_tuple: FiveTuple, answer: bytes, now: float) -> SendToClient:
        self._answers.remember(five_tuple, request.transaction_id, request.raw, answer, now)
        return SendToClient(five_tuple, answer)


def _answer_binding(request: Message, five_tuple: FiveTuple) -> bytes:
    """XOR-MAPPED-ADDRESS alone: no SOFTWARE, no MAPPED-ADDRESS, or the server would be an amplifier."""
    if unknown := request.unknown_required(_KNOWN_ATTRIBUTES):
        return unauthenticated_error(request, UnknownAttributes(unknown))
    host, port = five_tuple.client
    mapped = encode_xor_address(without_zone(host), port, request.transaction_id)
    return success(request, (AttributeType.XOR_MAPPED_ADDRESS, mapped))


def _port_ranges(config: TurnConfig, random: Random) -> Mapping[AddressFamily, PortRange]:
    """Those that are one allocation's each."""
    families = [family_of(address) for address in config.advertised_addresses]
    first = config.min_relay_port
    shared = _shared_range(config)
    # Of a range that is larger than what is shared by all, nothing else is used.
    last = first - 1 if config.shared_ports is SharedPortsMode.ALWAYS else config.max_relay_port - len(shared)
    return {family: PortRange(first, last, random) for family in families}


def _shared_ports(config: TurnConfig, random: Random) -> Mapping[AddressFamily, SharedPorts]:
    shared = _shared_range(config)
    return {family_of(address): SharedPorts(str(address), shared, random) for address in config.advertised_addresses}


def _shared_range(config: TurnConfig) -> range:
    return shared_range(config.shared_ports, config.min_relay_port, config.max_relay_port)

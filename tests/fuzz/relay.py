"""A relay in use, its clients, and what must hold for every packet that comes to it."""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

import attrs

from tavern.stun.attributes import AddressFamily, decode_error_code
from tavern.stun.integrity import long_term_key
from tavern.stun.message import (
    Attribute,
    AttributeType,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    encode,
    parse,
)
from tavern.turn.auth import Credentials
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow, sockaddr_of
from tavern.turn.forwarding import CONTROL, Reply, Unfragmented
from tavern.turn.indications import SockAddr
from tavern.turn.metering import Meter
from tavern.turn.shared_ports import SharedPortsMode
from tests.fuzz.calls import Calls
from tests.fuzz.peers import KERNELS_OWN, OWN, Networks, is_forbidden
from tests.turn.conftest import SERVER, World
from tests.twin import make_forwarder

REALM = b"example.org"
LEGACY_SECRET = "in-everybodys-hands"
QUOTA = 5
TURN_METHODS = (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND)
# RFC 8489 §18.6, RFC 8656 §19: what a server without the extensions answers.
CODES = frozenset({400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 486, 508})
BINDING_REQUEST = encode(Method.BINDING, MessageClass.REQUEST, bytes(12))


LITTLE: dict[str, Any] = {"max_permissions": 3, "max_channels": 2, "address_quota": 4, "max_allocations": 4}
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"allow_peers": tuple(map(ip_network, ("10.0.0.0/8", *OWN)))},
    {"deny_peers": tuple(map(ip_network, ("9.9.2.1", "2001:4860::/32", OWN[0])))},
    LITTLE,
    {"shared_ports": SharedPortsMode.ALWAYS, "max_relay_port": 50001},
    {"shared_ports": SharedPortsMode.AUTO, "max_relay_port": 50003, "allow_peers": tuple(map(ip_network, OWN))},
)


@lru_cache(maxsize=256)
def key_of(username: str, password: str) -> bytes:
    return long_term_key(username.encode(), REALM, password.encode())


@attrs.define(eq=False)
class Sender:
    """A client with its credential."""

    five_tuple: FiveTuple
    username: bytes
    key: bytes
    session: str | None = None
    """Whose credential it is, or who is at its address where it has the one of all old clients."""
    nonce: bytes = b""

    @property
    def sockaddr(self) -> SockAddr:
        return sockaddr_of(self.five_tuple.client)


class FuzzedRelay:
    """One relay with six clients: of a user of no call, of three sessions, one of which has two."""

    def __init__(self, variant: int) -> None:
        """`variant`: which of `VARIANTS` the operator has chosen."""
        settings = VARIANTS[variant]
        self.world = World(**{"user_quota": QUOTA, "legacy_secret": LEGACY_SECRET, **settings})
        self.allowed: Networks = settings.get("allow_peers", ())
        self.denied: Networks = settings.get("deny_peers", ())
        self.is_limited = settings is LITTLE
        """A rate may drop what everything else allows."""
        if self.is_limited:
            assert not self.world.server.shared_addresses
            self.world.forwarder = make_forwarder(frozenset(OWN), lambda: 0, frozenset({SERVER[1]}), Meter(1000, 3000))
        self.world.kernels_own.add(ip_address(KERNELS_OWN))
        hosts = ("9.9.1.1", "9.9.1.2", "9.9.1.3")
        self.sessions = [self.world.server.closed.open_session(host) for host in hosts]
        self.calls = Calls(dict(zip(self.sessions, hosts, strict=True)))
        self.lost: set[str] = set()
        self.spoken: set[tuple[int, str]] = set()
        self.transactions = 0
        self.reached: set[str] = set()
        """What requests were answered with, and where packets went."""
        bob, ada, ben = "bob", self.sessions[0], self.sessions[1]
        self.senders = [
            self._sender(bob, "203.0.113.7", 4000),
            self._sender(ada, "9.9.1.1", 4001, session=ada),
            self._sender(ben, "9.9.1.2", 4002, session=ben),
            self._sender("old", "9.9.1.3", 4003, session=self.sessions[2], legacy=True),
            self._sender(bob, "2001:4860::7", 4004, Transport.TCP),
            self._sender(ada, "9.9.1.1", 4005, session=ada),
        ]

    def _sender(
        self,
        user: str,
        host: str,
        port: int,
        transport: Transport = Transport.UDP,
        *,
        session: str | None = None,
        legacy: bool = False,
    ) -> Sender:
        world = self.world
        # What a program computes that has the secret, whichever.
        minting = Credentials(REALM.decode(), (LEGACY_SECRET if legacy else "north",))
        credential = minting.mint(user, 10**6, world.unix_time_s)
        return Sender(
            FiveTuple(transport, (host, port), SERVER if ":" not in host else ("2001:db8::1", SERVER[1])),
            credential.username.encode(),
            key_of(credential.username, credential.password),
            session,
        )

    def transaction_id(self) -> bytes:
        self.transactions += 1
        return self.transactions.to_bytes(12, "big")

    def sign(
        self,
        sender: Sender,
        method: int,
        attributes: list[Attribute],
        transaction_id: bytes = b"",
        *,
        fingerprint: bool = False,
    ) -> bytes:
        if not sender.nonce:
            challenge = self.exchange(sender, encode(Method.ALLOCATE, MessageClass.REQUEST, self.transaction_id()))
            assert challenge is not None
            sender.nonce = challenge.get(AttributeType.NONCE) or b""
        login = [
            (AttributeType.USERNAME, sender.username),
            (AttributeType.REALM, REALM),
            (AttributeType.NONCE, sender.nonce),
        ]
        return encode(
            method,
            MessageClass.REQUEST,
            transaction_id or self.transaction_id(),
            [*login, *attributes],
            integrity_key=sender.key,
            fingerprint=fingerprint,
        )

    def move(self, session: str, group: str | None) -> None:
        if session in self.lost:
            return
        self.world.execute(self.world.server.closed.move_session(session, group))
        if self.calls.move(session, group):
            self._has_none(session)

    def announce(self, session: str, host: str) -> None:
        self.world.server.closed.announce(session, self.sessions, frozenset({ip_address(host)}))
        self.calls.announce(session, str(ip_address(host)))

    def end(self, session: str, *, at_once: bool) -> None:
        """Its socket is gone, or it is replaced."""
        if session in self.lost:
            return
        self.lost.add(session)
        closed = self.world.server.closed
        self.world.execute(closed.revoke_session(session) if at_once else closed.lose_session(session, self.world.now))
        if self.calls.move(session, None) or at_once:
            self._has_none(session)

    def _has_none(self, session: str) -> None:
        clients = {sender.five_tuple for sender in self.senders if sender.session == session}
        assert not clients & self.clients(), "who left has allocations"

    # Deliveries, and what holds for each

    def deliver_unproven(self, sender: Sender, data: bytes) -> None:
        self.world.execute(self.world.server.handle_timer(self.world.now))
        before = self.state()
        answer = self.deliver(sender, data)
        assert self.state() == before, "nobody has changed something"
        if answer is None:
            return
        request = parse(data)
        code = code_of(answer)
        assert answer.integrity_offset is None
        if request.method == Method.BINDING:
            most = len(data) + 24 if code == 420 else 44 + (8 if request.get(AttributeType.FINGERPRINT) else 0)
        else:
            most = 60 + len(REALM) + -len(REALM) % 4
        assert len(answer.raw) <= most, "an answer to who may have forged its address is large"

    def exchange(self, sender: Sender, data: bytes) -> Message | None:
        answer = self.deliver(sender, data)
        if answer is not None and code_of(answer) == 438:
            sender.nonce = answer.get(AttributeType.NONCE) or b""
        return answer

    def deliver(self, sender: Sender, data: bytes) -> Message | None:
        """As the data path does; the answer."""
        world = self.world
        before = self.dropped()
        relayed_before = self._relayed()
        output = world.forwarder.from_client(data, sender.five_tuple, world.now, sender.sockaddr)
        if output is CONTROL:
            assert self.dropped() == before
            return self._control(sender, data)
        if isinstance(output, Reply):
            assert world.receive(data, sender.five_tuple) == output.data
            return parse(output.data)
        assert self.dropped() - before == (output is None), "each drop is counted, once"
        if isinstance(output, Unfragmented):
            output = output.flow, output.data, output.peer
        if output is not None:
            self._check_output(sender, *output)
            assert self._relayed() > relayed_before
        return None

    def _control(self, sender: Sender, data: bytes) -> Message | None:
        world = self.world
        counters = world.server.counters
        before = counters.malformed + counters.suppressed
        answered = world.receive(data, sender.five_tuple)
        dropped = counters.malformed + counters.suppressed - before
        if answered is None:
            assert dropped or parse(data).message_class is not MessageClass.REQUEST
            return None
        assert dropped == 0
        answer, request = parse(answered), parse(data)
        assert (answer.transaction_id, answer.method) == (request.transaction_id, request.method)
        self.reached.add(f"{Method(answer.method).name} {code_of(answer)}")
        if request.method in TURN_METHODS and answer.message_class is MessageClass.SUCCESS:
            assert answer.is_signed_with(sender.key)
            assert request.is_signed_with(sender.key)
        elif answer.message_class is not MessageClass.SUCCESS:
            assert answer.message_class is MessageClass.ERROR
            assert code_of(answer) in CODES
        return answer

    def _check_output(self, sender: Sender, flow: Flow[str], payload: bytes, peer: SockAddr | None) -> None:
        own = next(flow for flow in self.world.forwarder if flow.client_key == sender.five_tuple)
        self.reached.add("sent to a peer" if peer is not None else "handed over")
        if peer is None:
            assert flow is not own, "handed over to who sent it"
            if flow.is_shared or own.is_shared:
                self.reached.add("handed over at a shared port")
            assert self.calls.together(sender.session, self.session_of(flow)), "handed over to a stranger"
            return
        assert flow is own
        host = str(ip_address(peer[0]))
        assert not self.is_forbidden(host), "a packet leaves to a forbidden address"
        assert host not in OWN or peer[1] != SERVER[1], "the relay is its own client"
        allocation = self.world.server.allocations.find(sender.five_tuple)
        assert allocation is not None
        if allocation.owner is not None:
            assert host in self.calls.reachable(sender.session), "a closed relay reaches a stranger"
            assert payload[:2] == b"\0\1" or (flow.id, host) in self.spoken, "a claim is flooded"

    def session_of(self, flow: Flow[str]) -> str | None:
        """Whose flow it is."""
        return next(sender.session for sender in self.senders if sender.five_tuple == flow.client_key)

    def check_framed(self, framed: bytes, payload: bytes) -> None:
        self.reached.add("sent to a client")
        if framed[0] >= 0x40:
            assert framed[4:] == payload
            assert struct.unpack(">H", framed[2:4]) == (len(payload),)
        else:
            assert parse(framed).get(AttributeType.DATA) == payload

    def is_forbidden(self, host: str) -> bool:
        """Whether no packet may leave to `host`."""
        return is_forbidden(host, self.allowed, self.denied)

    # What holds always

    def agree(self) -> None:
        """Every port is held by who has it; the data path knows of every allocation what the server does."""
        world, table, now = self.world, self.world.server.allocations, self.world.now
        for family in AddressFamily:
            relayed = [one.relayed[family] for one in table if family in one.relayed]
            held = [one.address[1] for one in relayed if one.shared is None]
            reserved = [one.port for one in table.reservations if one.family is family]
            held += reserved
            assert len(held) == len(set(held))
            assert table.ports[family].taken == set(held), "a port is leaked"
            assert table.shared[family].count == len(relayed) - (len(held) - len(reserved)), "a place is leaked"
        assert not world.server._handler.allocate._pending
        flows = {flow.id: flow for flow in world.forwarder}
        assert flows.keys() == {one.id for one in table}
        for one in table:
            flow = flows[one.id]
            assert flow.client_key == one.five_tuple
            assert set(flow.relayed) == {sockaddr_of(relayed.address) for relayed in one.relayed.values()}
            known = {str(peer): held.expires_at for peer, held in one.permissions.items()}
            passing = {host: held.expires_at for host, held in flow.permissions.items()}
            assert _live(passing, now) == _live(known, now)
            beyond = {host for host, held in flow.permissions.items() if not held.relayed_only}
            assert not any(map(self.is_forbidden, beyond))
            session = self.session_of(flow)
            assert (one.owner is None) == (session is None)
            if session is not None:
                beyond |= {host for host, _ in one.channel_of}
                assert beyond <= self.calls.reachable(session) | {*OWN}, "what led to who left is not withdrawn"
            bound = {number: (sockaddr_of(held.peer), held.expires_at) for number, held in one.channels.items()}
            used = {number: (peer.address, peer.channel_expires_at) for number, peer in flow.channels.items()}
            if flow.is_shared:  # there another flow may own what the control side, which sees no packets, granted
                assert used.items() <= bound.items()
            else:
                assert bound == used
            assert table.held_by(one.quota_key) <= QUOTA
        self._agree_on_peers()
        deadline = world.server.next_deadline()
        assert deadline is None or deadline > now - 30

    def _agree_on_peers(self) -> None:
        """An exact peer at a shared port is one flow's, and one allocation's, which name it."""
        for port in self.world.forwarder._shared.values():
            for address, owner in port.owners.items():
                assert port.flows[owner.id] is owner
                assert address in owner.peers
        allocations = {one.id: one for one in self.world.server.allocations}
        for ports in self.world.server.allocations.shared.values():
            for address in ports.addresses:
                shared = ports.find(address)
                assert shared is not None
                for (host, number), owner_id in shared.owners.items():
                    one = allocations[owner_id]
                    permission = one.permissions.get(ip_address(host))
                    named = permission is not None and number in permission.exact_ports
                    assert named or (host, number) in one.channel_of

    def clients(self) -> set[FiveTuple]:
        return {one.five_tuple for one in self.world.server.allocations}

    def dropped(self) -> int:
        return sum(self.world.forwarder.drops.values())

    def _relayed(self) -> int:
        traffic = self.world.forwarder.traffic()
        return traffic.packets_from_clients

    def state(self) -> tuple[object, ...]:
        table = self.world.server.allocations
        now = self.world.now
        return (
            len(self.world.server._answers),
            frozenset(one.token for one in table.reservations),
            *(
                (
                    one.five_tuple,
                    tuple((relayed.address, relayed.expires_at) for relayed in one.relayed.values()),
                    tuple((peer, held.expires_at) for peer, held in one.permissions.items() if held.expires_at > now),
                    tuple((n, held.peer, held.expires_at) for n, held in one.channels.items() if held.expires_at > now),
                )
                for one in table
            ),
        )


def _live(held: dict[str, float], now: float) -> dict[str, float]:
    return {host: at for host, at in held.items() if at > now}


def is_message(data: bytes) -> bool:
    try:
        parse(data)
    except MalformedMessage:
        return False
    return True


def code_of(answer: Message) -> int:
    value = answer.get(AttributeType.ERROR_CODE)
    return 0 if value is None else decode_error_code(value)[0]

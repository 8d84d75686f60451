"""Whatever clients, strangers, peers, signaling and time do to a relay in use."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

from tavern.stun.attributes import AddressFamily, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode, parse
from tavern.turn.flows import sockaddr_of
from tests.fuzz.choices import Choices
from tests.fuzz.peers import HOSTS, OWN, PORTS
from tests.fuzz.relay import BINDING_REQUEST, TURN_METHODS, VARIANTS, FuzzedRelay, Sender, is_message
from tests.turn.conftest import SERVER
from tests.turn.shared import check

MOST_STEPS = 40
NUMBERS = (0x4000, 0x4001, 0x4002, 0x7FFF, 0x8000, 0x3FFF)
GROUPS = (None, "one room", "another room")
# What shows that a peer is in the call; the answer does after a check of the client.
PROOFS = (BINDING_REQUEST, encode(Method.BINDING, MessageClass.SUCCESS, bytes(12), integrity_key=b"ben"))
UNSIGNED_ANSWER = encode(Method.BINDING, MessageClass.SUCCESS, bytes(12))  # public STUN servers answer everybody
CHECKS = tuple(check(asked, own) for asked in ("a", "b") for own in ("a", "b"))
PAYLOADS = (b"", b"media", *PROOFS, *CHECKS, UNSIGNED_ANSWER, bytes(1200))


class TurnTarget(FuzzedRelay):
    """One relay and one input, which decides all that happens."""

    def __init__(self, data: bytes) -> None:
        self.choices = Choices(data)
        super().__init__(self.choices.byte() % len(VARIANTS))
        self.host = HOSTS[0]
        """The peer that was named last."""

    def run(self) -> None:
        if self.choices.byte() % 4:
            self._prepare()
        steps = (
            self.signed,
            self.signed,
            self.signed,
            self.data,
            self.data,
            self.meet,
            self.from_peer,
            self.unproven,
            self.raw,
            self.session,
            self.time,
            self.others,
        )
        for _ in range(MOST_STEPS):
            if not self.choices.left:
                break
            self.choices.of(steps)()
            self.agree()

    def _prepare(self) -> None:
        """Somebody without a call, and two in one: with allocations, permissions and channels."""
        bob, ada, ben = self.senders[:3]
        self.move(self.sessions[0], GROUPS[1])
        self.move(self.sessions[1], GROUPS[1])
        self.announce(self.sessions[1], "9.8.7.6")
        for sender in (bob, ada, ben):
            udp = (AttributeType.REQUESTED_TRANSPORT, b"\x11\0\0\0")
            both = (AttributeType.ADDITIONAL_ADDRESS_FAMILY, b"\2\0\0\0")
            self.exchange(sender, self.sign(sender, Method.ALLOCATE, [udp, both] if sender is bob else [udp]))
        for sender, method, host in (
            (bob, Method.CHANNEL_BIND, "9.9.2.1"),
            (bob, Method.CREATE_PERMISSION, OWN[0]),
            (ada, Method.CHANNEL_BIND, "9.8.7.6"),
            (ada, Method.CREATE_PERMISSION, OWN[0]),
            (ben, Method.CREATE_PERMISSION, OWN[0]),
        ):
            transaction_id = self.transaction_id()
            peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), 5000, transaction_id))
            number = (AttributeType.CHANNEL_NUMBER, b"\x40\0\0\0")
            self.exchange(sender, self.sign(sender, method, [number, peer], transaction_id))
        self.agree()

    # Steps

    def signed(self) -> None:
        """A request of a proven user; it is answered, whatever it holds."""
        sender = self.choices.of(self.senders)
        request = self._request(sender, self.transaction_id())
        answer = self.exchange(sender, request)
        if is_message(request) and (len(request) <= 1024 or sender.five_tuple in self.clients()):
            assert answer is not None, "a proven user waits for an answer"
        if answer is not None and answer.integrity_offset is not None and self.choices.byte() > 200:
            before = self.state()
            again = self.exchange(sender, request)
            assert again is not None
            assert again.raw == answer.raw
            assert self.state() == before, "a retransmission is another request"

    def unproven(self) -> None:
        """A request of nobody, or of somebody else; nothing changes by it."""
        sender = self.choices.of(self.senders)
        transaction_id = self.transaction_id()
        kind = self.choices.byte() % 3
        if kind == 0:
            method = self.choices.of((*TURN_METHODS, Method.BINDING))
            attributes = self._attributes(transaction_id)
            data = encode(
                method, MessageClass.REQUEST, transaction_id, attributes, fingerprint=self.choices.byte() > 127
            )
        elif kind == 1:
            data = self._request(attrs.evolve(sender, key=self.choices.chunk(16) + b"no"), transaction_id)
        else:
            whole = self._request(sender, transaction_id)
            # What follows MESSAGE-INTEGRITY is not signed.
            signed_size = (parse(whole).integrity_offset or 0) + 24 if is_message(whole) else len(whole)
            changed = bytearray(whole)
            changed[self.choices.number(2) % signed_size] ^= max(1, self.choices.byte())
            data = bytes(changed)
        self.deliver_unproven(sender, data)

    def raw(self) -> None:
        """Any datagram."""
        sender = self.choices.of(self.senders)
        data = self.choices.chunk(200)
        if self.choices.byte() > 127:
            data = struct.pack(">HH", int.from_bytes(data[:2], "big"), len(data[2:])) + b"\x21\x12\xa4\x42" + data[2:]
        self.deliver_unproven(sender, data)

    def data(self) -> None:
        """What carries media."""
        sender = self.choices.of(self.senders)
        payload = self._payload()
        if self.choices.byte() % 2:
            length = len(payload) if self.choices.byte() < 200 else self.choices.number(2)
            self.deliver(sender, struct.pack(">HH", self.choices.of(NUMBERS), length) + payload)
            return
        transaction_id = self.transaction_id()
        permitted = [
            host for flow in self.world.forwarder if flow.client_key == sender.five_tuple for host in flow.permissions
        ]
        host = self.choices.of(permitted) if permitted and self.choices.byte() % 2 else self._host()
        peer = encode_xor_address(ip_address(host), self._port(host), transaction_id)
        attributes: list[Attribute] = [(AttributeType.XOR_PEER_ADDRESS, peer), (AttributeType.DATA, payload)]
        if self.choices.byte() > 200:
            attributes += self._attributes(transaction_id)
        if self.choices.byte() > 200:
            attributes.reverse()
        self.deliver(sender, encode(Method.SEND, MessageClass.INDICATION, transaction_id, attributes))

    def meet(self) -> None:
        """Two clients check each other at their relayed addresses, as agents do."""
        one, other = self.choices.of(self.senders), self.choices.of(self.senders)
        payload = self.choices.of(CHECKS)
        for sender, target in ((one, other), (other, one), (one, other)):
            allocation = self.world.server.allocations.find(target.five_tuple)
            if allocation is None:
                return
            host, port = next(iter(allocation.relayed.values())).address
            transaction_id = self.transaction_id()
            peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction_id))
            data = (AttributeType.DATA, payload)
            self.deliver(sender, encode(Method.SEND, MessageClass.INDICATION, transaction_id, [peer, data]))

    def from_peer(self) -> None:
        """A datagram at a relay socket, often of somebody who is known there."""
        flows = list(self.world.forwarder)
        if not flows:
            return
        flow = self.choices.of(flows)
        host = self._host()
        address = sockaddr_of((host, self._port(host)))
        known = list(flow.peers)
        if known and self.choices.byte() % 2:
            address = self.choices.of(known)
        if self.choices.byte() > 220:
            icmp_type, code, mtu = self.choices.of((1, 2, 3, 11, 40)), self.choices.byte(), self.choices.number(4)
            said = self.world.forwarder.from_icmp(flow, address, icmp_type, code, mtu, self.world.now)
            assert said is None or parse(said[1]).get(AttributeType.ICMP) is not None
            return
        payload = self._payload()
        before = self.dropped()
        port = flow.shared_port(address)
        if port is not None:
            output = self.world.forwarder.from_shared(port.address, payload, address, self.world.now)
            flow = flow if output is None else output[0]
            assert output is None or port.flows[flow.id] is flow
            self.reached.add("came to a shared port" if output is not None else "lost at a shared port")
        else:
            output = self.world.forwarder.from_peer(flow, payload, address, self.world.now)
        if payload in (*PROOFS, *CHECKS) and (output is not None or self.is_limited):
            self.spoken.add((flow.id, address[0]))
        assert self.dropped() - before == (output is None)
        if output is None:
            return
        to, framed, peer = output
        assert to is flow
        assert peer is None
        self.check_framed(framed, payload)
        host = str(ip_address(address[0]))
        if host not in OWN:
            assert not self.is_forbidden(host), "a forbidden peer is heard"
            session = self.session_of(flow)
            assert session is None or host in self.calls.reachable(session), "a stranger is heard"

    def session(self) -> None:
        """What signaling tells."""
        session = self.choices.of(self.sessions)
        what = self.choices.byte() % 8
        if what < 4:
            self.move(session, GROUPS[what % 3])
        elif what < 6:
            self.announce(session, self._host())
        else:
            self.end(session, at_once=what == 7)
        if self.choices.byte() > 220:
            sender = self.choices.of(self.senders)
            self.world.execute(self.world.server.client_gone(sender.five_tuple))

    def time(self) -> None:
        """Time passes; the wall clock goes where it wants to."""
        self.world.tick(self.choices.of((0, 1, 1, 1, 1, 1, 29, 30, 30, 30, 30, 299, 300, 600, 3600, 86400 * 30)))
        if self.choices.byte() > 200:
            self.world.unix_time_s += self.choices.of((-(10**9), -3600, 3600, 10**9))

    def others(self) -> None:
        """Other programs hold ports, or the kernel opens no more sockets."""
        self.world.unbindable = {50000 + bit for bit in range(10) if self.choices.byte() > 127}
        families = self.choices.of(((), (), (AddressFamily.IPV4,), tuple(AddressFamily)))
        self.world.unbindable_families = set(families)

    # Made from choices

    def _payload(self) -> bytes:
        return self.choices.of((*PAYLOADS, self.choices.chunk(8)))

    def _peer(self, transaction_id: bytes) -> Attribute:
        host = self._host()
        return AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), self._port(host), transaction_id)

    def _request(self, sender: Sender, transaction_id: bytes) -> bytes:
        """A signed one, as clients send it or as none does."""
        method = self.choices.of(TURN_METHODS)
        attributes: list[Attribute] = []
        usual = self.choices.byte()
        if usual % 4:
            if method == Method.ALLOCATE:
                attributes.append((AttributeType.REQUESTED_TRANSPORT, b"\x11\0\0\0"))
            elif method == Method.CREATE_PERMISSION:
                attributes.append(self._peer(transaction_id))
            elif method == Method.CHANNEL_BIND:
                number = self.choices.of(NUMBERS)
                attributes.append((AttributeType.CHANNEL_NUMBER, struct.pack(">HH", number, 0)))
                attributes.append(self._peer(transaction_id))
        if usual % 4 != 1:
            attributes += self._attributes(transaction_id)
        return self.sign(sender, method, attributes, transaction_id, fingerprint=usual > 127)

    def _attributes(self, transaction_id: bytes) -> list[Attribute]:
        return [self._attribute(transaction_id) for _ in range(self.choices.byte() % 6)]

    def _attribute(self, transaction_id: bytes) -> Attribute:
        kind = self.choices.byte() % 12
        if kind == 0:
            return self.choices.number(2), self.choices.chunk()
        if kind == 1:
            return self.choices.of(tuple(AttributeType)), self.choices.chunk(24)
        if kind == 2:
            return self._peer(transaction_id)
        if kind == 3:
            return AttributeType.CHANNEL_NUMBER, struct.pack(">HH", self.choices.of(NUMBERS), 0)
        if kind == 4:
            return AttributeType.LIFETIME, self.choices.of((0, 1, 600, 3600, 2**32 - 1)).to_bytes(4, "big")
        if kind == 5:
            return AttributeType.REQUESTED_TRANSPORT, bytes([self.choices.of((17, 6, 0)), 0, 0, 0])
        if kind == 6:
            return AttributeType.REQUESTED_ADDRESS_FAMILY, bytes([self.choices.of((1, 2, 3)), 0, 0, 0])
        if kind == 7:
            return AttributeType.ADDITIONAL_ADDRESS_FAMILY, bytes([self.choices.of((2, 1, 3)), 0, 0, 0])
        if kind == 8:
            return AttributeType.EVEN_PORT, bytes([self.choices.of((0x80, 0, 0x7F))])
        if kind == 9:
            tokens = [one.token for one in self.world.server.allocations.reservations]
            return AttributeType.RESERVATION_TOKEN, self.choices.of((bytes(8), *tokens))
        if kind == 10:
            return AttributeType.DONT_FRAGMENT, b""
        size = self.choices.of((4, 16))
        address = IPv4Address(self.choices.number(4)) if size == 4 else IPv6Address(self.choices.number(16))
        return AttributeType.XOR_PEER_ADDRESS, encode_xor_address(address, self.choices.of(PORTS), transaction_id)

    def _port(self, host: str) -> int:
        """Of an address of the relay's own mostly one that is somebody's, or the listeners'."""
        chosen = self.choices.byte()
        if chosen > 240:
            return SERVER[1]
        table = self.world.server.allocations
        relayed = [one.address for allocation in table for one in allocation.relayed.values()]
        live = [port for own, port in relayed if own == host]
        return live[chosen % len(live)] if live and chosen < 200 else PORTS[chosen % len(PORTS)]

    def _host(self) -> str:
        """Often the one before: what is asked for is what is then sent to. Often the relay's own."""
        chosen = self.choices.byte()
        if chosen < 160:
            self.host = HOSTS[chosen % len(HOSTS)]
        elif chosen < 192:
            self.host = OWN[0]
        return self.host


def turn(data: bytes) -> None:
    """See TurnTarget."""
    TurnTarget(data).run()

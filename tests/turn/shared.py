"""A data path with shared relay ports, without a control side, and people whose flows are there."""

from __future__ import annotations

from ipaddress import ip_address

import attrs

from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode
from tavern.turn.commands import AddFlow, BindChannel, LearnPeer, RemoveFlow, SetPermission
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow
from tavern.turn.forwarding import Forwarder, Unfragmented
from tavern.turn.indications import SockAddr
from tests.twin import make_forwarder

RELAY = "198.51.100.1"
RELAY_6 = "2001:db8::1"
P1, P2 = (RELAY, 50008), (RELAY, 50009)
P1_6 = (RELAY_6, 50008, 0, 0)
UNIQUE = (RELAY, 50001)
TRANSACTION = b"0123456789ab"


def check(asked: str = "", own: str = "", username: bytes | None = None) -> bytes:
    """A connectivity check to who is called `asked`, of who is called `own`."""
    value = f"{asked}:{own}".encode() if username is None else username
    return encode(Method.BINDING, MessageClass.REQUEST, TRANSACTION, [(AttributeType.USERNAME, value)])


@attrs.define(eq=False)
class Person:
    """A client with its flow."""

    world: Shared
    flow: Flow[str]
    number: int = 0x4000

    @property
    def name(self) -> str:
        return self.flow.handle

    def permit(self, *hosts: str, until: float = 300.0, claimed: bool = False) -> None:
        for host in hosts:
            ours = self.world.is_relayed_only(host)
            self.world.forwarder.set_permission(
                SetPermission(self.flow.id, host, until, relayed_only=ours, own=ours, claimed=claimed)
            )

    def learn(self, peer: tuple[str, int]) -> None:
        self.world.forwarder.learn_peer(LearnPeer(self.flow.id, peer))

    def bind(self, peer: tuple[str, int], number: int = 0x4000, until: float = 600.0) -> None:
        ours = self.world.is_relayed_only(peer[0])
        self.world.forwarder.bind_channel(BindChannel(self.flow.id, number, peer, until, relayed_only=ours))

    def indicate(self, peer: SockAddr, payload: bytes) -> str | None:
        """Sends it; what becomes of it (see `said`)."""
        address = encode_xor_address(ip_address(peer[0]), peer[1], TRANSACTION)
        attributes = [(AttributeType.XOR_PEER_ADDRESS, address), (AttributeType.DATA, payload)]
        data = encode(Method.SEND, MessageClass.INDICATION, TRANSACTION, attributes)
        return self.world.said(self.world.forwarder.from_client(data, self.name, self.world.now))

    def channel(self, payload: bytes, number: int = 0x4000) -> str | None:
        data = number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload
        return self.world.said(self.world.forwarder.from_client(data, self.name, self.world.now))


class Shared:
    """A data path with shared ports, and people whose flows are there."""

    def __init__(self, own_hosts_allowed: bool = False) -> None:
        self.now = 0.0
        self.own_hosts_allowed = own_hosts_allowed
        self.forwarder: Forwarder[str] = make_forwarder(frozenset({RELAY, RELAY_6}), lambda: 7, frozenset({3478}))
        for address in (P1, P2, P1_6):
            self.forwarder.open_shared((address[0], address[1]))
        self._last_id = 0

    def add(self, name: str, address: SockAddr = P1, circles: set[str] | None = None) -> Person:
        self._last_id += 1
        client = FiveTuple(Transport.UDP, ("203.0.113.7", 4000 + self._last_id), (RELAY, 3478))
        shared = address in (P1, P2, P1_6)
        together = None if circles is None else frozenset(circles)
        command = AddFlow(self._last_id, client, address[:2], user=name, circles=together, shared=shared)
        return Person(self, self.forwarder.add_flow(command, name, name))

    def said(self, output: object) -> str | None:
        """Who gets it: the name of a flow, or a peer outside; None if nobody does."""
        assert not isinstance(output, Unfragmented)
        if output is None:
            return None
        assert isinstance(output, tuple)
        flow, _, peer = output
        return f"{flow.handle} -> {peer[0]}:{peer[1]}" if peer is not None else flow.handle

    def arrives(self, peer: SockAddr, payload: bytes = b"media", at: SockAddr = P1) -> str | None:
        return self.said(self.forwarder.from_shared(at, payload, peer, self.now))

    def is_relayed_only(self, host: str) -> bool:
        """As the control side judges."""
        return host in (RELAY, RELAY_6) and not self.own_hosts_allowed

    def remove(self, person: Person) -> None:
        assert self.forwarder.remove_flow(RemoveFlow(person.flow.id)) is person.flow

    @property
    def drops(self) -> dict[str, int]:
        return {reason: count for reason, count in self.forwarder.drops.items() if count}


def agree(shared: Shared) -> None:
    """What holds always: nothing is owned but by a live flow that knows the peer, and all that it knows outside is."""
    forwarder = shared.forwarder
    for port in forwarder._shared.values():
        for address, flow in port.owners.items():
            assert port.flows[flow.id] is flow
            assert address in flow.peers
        for flow in port.flows.values():
            assert forwarder._flows[flow.id] is flow
            assert port.address in flow.relayed
            outside = {one for one in flow.peers if len(one) == len(port.address) and one[0] not in (RELAY, RELAY_6)}
            assert outside <= {one for one, owner in port.owners.items() if owner is flow}
        named = {(fragment, one) for fragment, flows in port._by_fragment.items() for one in flows}
        assert named == {(fragment, one.id) for one in port.flows.values() for fragment in one.fragments}

"""A stateful model: after any operations and expiries, it and the server agree on every allocation, permission,
channel and port, and the data path passes exactly what the model allows."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tavern.stun.attributes import AddressFamily, encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
RELAY = "198.51.100.1"
HOSTS = ["9.9.2.1", "9.9.2.2", "10.0.0.1"]
QUOTA = 3
PORTS = range(50000, 50004)

clients = st.integers(0, 4)
hosts = st.sampled_from(HOSTS)
peer_ports = st.sampled_from([5000, 5001])
numbers = st.sampled_from([0x4000, 0x4001, 0x4002])


@attrs.define
class Model:
    """What one client should have."""

    expires_at: float
    port: int
    permissions: dict[str, float] = attrs.field(factory=dict)
    channels: dict[int, tuple[tuple[str, int], float]] = attrs.field(factory=dict)


class RelayMachine(RuleBasedStateMachine):
    make_world: type[World]

    @initialize()
    def start(self) -> None:
        self.world = self.make_world(min_relay_port=PORTS[0], max_relay_port=PORTS[-1], user_quota=QUOTA)
        self.clients: list[Client] = [
            self.world.client(port=4000 + index, user="bob" if index < 4 else "eve") for index in range(5)
        ]
        for client in self.clients:
            client.credential = self.world.credential(client.credential.username.partition(":")[2], 10**6)
        self.model: dict[int, Model] = {}

    @property
    def now(self) -> float:
        return self.world.now

    def expire(self) -> None:
        self.model = {index: one for index, one in self.model.items() if one.expires_at > self.now}
        for one in self.model.values():
            one.permissions = {host: at for host, at in one.permissions.items() if at > self.now}
            one.channels = {number: entry for number, entry in one.channels.items() if entry[1] > self.now}

    @rule(index=clients, asked=st.sampled_from([0, 600, 700, 3600]))
    def allocate(self, index: int, asked: int) -> None:
        username = self.clients[index].credential.username
        held = sum(self.clients[other].credential.username == username for other in self.model)
        code = self.clients[index].error(Method.ALLOCATE, UDP, (AttributeType.LIFETIME, asked.to_bytes(4, "big")))
        if index in self.model:
            assert code == 437
        elif held >= QUOTA:
            assert code == 486
        elif len(self.model) == len(PORTS) or self.world.unbindable == set(PORTS):
            assert code == 508
        elif code == 508:
            assert self.world.unbindable >= set(PORTS) - {one.port for one in self.model.values()}
        else:
            assert code == 0
            self.model[index] = Model(self.now + max(600, asked), self.world.opened[-1])

    @rule(index=clients, asked=st.sampled_from([0, 600, 1000]))
    def refresh(self, index: int, asked: int) -> None:
        code = self.clients[index].error(Method.REFRESH, (AttributeType.LIFETIME, asked.to_bytes(4, "big")))
        assert code == (0 if index in self.model else 437)
        if index in self.model:
            if asked == 0:
                del self.model[index]
            else:
                self.model[index].expires_at = self.now + asked

    @rule(index=clients, wanted=st.lists(hosts, min_size=1, max_size=3))
    def permit(self, index: int, wanted: list[str]) -> None:
        code = self.clients[index].permit(*wanted)
        if index not in self.model:
            assert code == 437
        elif "10.0.0.1" in wanted:
            assert code == 403
        else:
            assert code == 0
            self.model[index].permissions.update(dict.fromkeys(wanted, self.now + 300))

    @rule(index=clients, number=numbers, host=hosts, port=peer_ports)
    def bind(self, index: int, number: int, host: str, port: int) -> None:
        code = self.clients[index].bind(number, host, port)
        one = self.model.get(index)
        if one is None:
            assert code == 437
            return
        number_of = {peer: known for known, (peer, _) in one.channels.items()}
        elsewhere = number in one.channels and one.channels[number][0] != (host, port)
        if elsewhere or number_of.get((host, port), number) != number:
            assert code == 400
        elif host == "10.0.0.1":
            assert code == 403
        else:
            assert code == 0
            one.channels[number] = ((host, port), self.now + 600)
            one.permissions[host] = self.now + 300

    @rule(seconds=st.sampled_from([1, 100, 299, 300, 599, 600]))
    def pass_time(self, seconds: int) -> None:
        self.world.tick(seconds)
        for client in self.clients:
            client.nonce = None
        self.expire()

    @rule(ports=st.sets(st.sampled_from(list(PORTS))))
    def others_hold_ports(self, ports: set[int]) -> None:
        self.world.unbindable = ports

    @precondition(lambda self: self.model)
    @rule(data=st.data(), host=hosts, port=peer_ports)
    def packets(self, data: st.DataObject, host: str, port: int) -> None:
        index = data.draw(st.sampled_from(sorted(self.model)))
        one = self.model[index]
        forwarder, key = self.world.forwarder, self.clients[index].five_tuple
        transaction = bytes(12)
        peer = (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(host), port, transaction))
        sent = encode(Method.SEND, MessageClass.INDICATION, transaction, [peer, (AttributeType.DATA, b"up")])
        output = forwarder.from_client(sent, key, self.now)
        assert (output is not None) == (host in one.permissions)
        for number in (0x4000, 0x4001, 0x4002):
            framed = forwarder.from_client(struct.pack(">HH", number, 2) + b"up", key, self.now)
            assert (framed[2] if isinstance(framed, tuple) else None) == one.channels.get(number, (None, 0))[0]
        flow = next(flow for flow in forwarder if flow.client_key == key)
        down = forwarder.from_peer(flow, b"down", (host, port), self.now)
        assert (down is not None) == (host in one.permissions)
        if down is not None:
            number_of = {bound: number for number, (bound, _) in one.channels.items()}
            expected = number_of.get((host, port), 0x0017)
            assert down[1][:2] == expected.to_bytes(2, "big")

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "world"):
            return
        table = self.world.server.allocations
        relayed = {one.five_tuple.client[1] - 4000: one.relayed_address for one in table}
        assert relayed == {index: (RELAY, one.port) for index, one in self.model.items()}
        assert table.ports[AddressFamily.IPV4].taken == {one.port for one in self.model.values()}
        assert {flow.relayed[1] for flow in self.world.forwarder} == {one.port for one in self.model.values()}
        ends = [one.expires_at for one in self.model.values()]
        deadline = self.world.server.next_deadline()
        assert (deadline is not None and deadline <= min(ends)) if ends else deadline is None
        for flow in self.world.forwarder:
            assert all(one.expires_at > self.now - 30 for one in flow.permissions.values())
            assert all(one.channel_expires_at > self.now - 30 for one in flow.channels.values())
            assert all(one.permission in flow.permissions.values() or one.number for one in flow.peers.values())
            assert all(flow.peers[one.address] is one for one in flow.channels.values())
        for allocation in table:
            one = self.model[allocation.five_tuple.client[1] - 4000]
            live = {str(a): p.expires_at for a, p in allocation.permissions.items() if p.expires_at > self.now}
            assert live == one.permissions
            channels = {n: (c.peer, c.expires_at) for n, c in allocation.channels.items() if c.expires_at > self.now}
            assert channels == one.channels


def test_the_server_agrees_with_the_model(make_world: type[World]) -> None:
    RelayMachine.make_world = make_world
    run_state_machine_as_test(RelayMachine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None))

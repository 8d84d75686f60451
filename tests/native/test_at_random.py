"""Commands and packets at random, of flows on ports of their own and on shared ones: both implementations decide alike.

What scenarios leave out is here: what expired, was withdrawn or rebound a moment ago, in any order. A longer walk:
`python -m tests.native.test_at_random FIRST_SEED SEEDS STEPS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from ipaddress import ip_address
from random import Random

import attrs
import pytest

from tavern.addresses import SocketAddress
from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.commands import (
    AddFlow,
    AddOwnHost,
    AddRelayedAddress,
    BindChannel,
    LearnPeer,
    RemoveFlow,
    RemoveOwnHost,
    RemoveRelayedAddress,
    RevokePermission,
    SetCircles,
    SetPermission,
    SetTransfer,
    UnbindChannel,
)
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.flows import Flow, sockaddr_of
from tavern.turn.indications import SockAddr
from tavern.turn.metering import Meter
from tests.prerequisites import native_or_skip
from tests.twin import TwinForwarder

RELAYS = {4: "198.51.100.1", 6: "2001:db8::1"}
LISTENER = 3478
SHARED = [(RELAYS[4], 50008), (RELAYS[4], 50009), (RELAYS[6], 50008)]
MOVED = ["198.51.100.9", "2001:db8::9"]
"""The relay's own as well, now and then."""
PORTS = range(50000, 50006)
STRANGERS = ["9.9.2.1", "9.9.2.2", "2001:4860::9", "2002:909:203::1", str(ip_address("::ffff:9.9.2.4"))]
NEIGHBOUR = "192.0.2.77"
"""Now and then this machine's, so that the listener's port there is nobody's peer."""
NUMBERS = [0x4000, 0x4001, 0x4002, 0x4FFF, 0x7FFF]
NAMES = ["one", "two", "three", "x" * 256, "x" * 257, ""]
RATES = [(0, 0), (0, 0), (70_000, 0), (0, 70_000), (100_000, 150_000)]
MOST_FLOWS = 9


def family_of(host: str) -> int:
    return 6 if ":" in host else 4


@attrs.define(eq=False)
class Known:
    """What the control side knows of a flow."""

    flow: Flow[str]
    relayed: list[tuple[SocketAddress, bool]]
    was_dual: bool = False


class Walk:
    """One life of the two implementations."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)  # noqa: S311 - the same in every run
        self.now = 1000.0
        user_rate, rate = self.chance.choice(RATES)
        self.forwarder: TwinForwarder[str] = TwinForwarder(
            frozenset(RELAYS.values()), lambda: 7, frozenset({LISTENER, 5000}), Meter(user_rate, rate)
        )
        for address in SHARED:
            self.forwarder.open_shared(address)
        self.flows: dict[int, Known] = {}
        self.last_id = 0
        self.hosts = list(RELAYS.values())
        self.shared = list(SHARED)
        self.transaction_ids = [self.chance.randbytes(12) for _ in range(4)]
        usual: list[Callable[[], object]] = [
            self.permit,
            self.permit,
            self.bind,
            self.learn,
            *[self.channel_data] * 4,
            *[self.indication] * 6,
            *[self.arrives] * 4,
            *[self.arrives_shared] * 3,
        ]
        rare: list[Callable[[], object]] = [
            self.add,
            self.add,
            self.add_second,
            self.remove,
            self.remove_second,
            self.set_circles,
            self.revoke,
            self.revoke,
            self.unbind,
            self.unbind,
            self.icmp,
            self.garbage,
            self.binding,
            self.pass_time,
            self.move,
        ]
        very_rare: list[Callable[[], object]] = [self.know_many, self.set_transfer, self.come_and_go, self.pass_long]
        self.operations = usual, rare, very_rare

    def step(self) -> None:
        [operations] = self.chance.choices(self.operations, (800, 197, 3))
        self.chance.choice(operations)()

    # What there is

    def one(self) -> Known | None:
        return self.chance.choice(list(self.flows.values())) if self.flows else None

    def host(self) -> str:
        return self.chance.choice([*STRANGERS, NEIGHBOUR, *MOVED, *list(RELAYS.values()) * 3])

    def peer(self, flow: Flow[str] | None = None) -> SocketAddress:
        """Any; of a flow mostly one that it knows, or permits."""
        chance = self.chance.random()
        if flow is not None and flow.peers and chance < 0.2:
            return self.chance.choice(list(flow.peers))[:2]
        if chance < 0.5:
            return self.chance.choice([*self.shared, *(at for one in self.flows.values() for at, _ in one.relayed)])
        hosts = [self.host()] if flow is None or not flow.permissions else list(flow.permissions)
        return self.chance.choice(hosts), self.chance.choice([5001, 5002, 5003, 5000, LISTENER, 0, *PORTS])

    def payload(self) -> bytes:
        chance = self.chance.random()
        if chance < 0.3:
            return self.chance.randbytes(self.chance.choice([0, 1, 2, 3, 4, 17, 20, 21, 100, 1200]))
        if chance < 0.31:
            return bytes(self.chance.choice([65399, 65400, 65401, 65420]))
        username = f"{self.chance.choice(NAMES)}{self.chance.choice('::::.')}{self.chance.choice(NAMES)}".encode()
        message_class = self.chance.choice([MessageClass.REQUEST] * 3 + [MessageClass.SUCCESS])
        attributes: list[Attribute] = [
            (AttributeType.USERNAME, username),
            (AttributeType.MESSAGE_INTEGRITY, bytes(20)),
            (AttributeType.SOFTWARE, bytes(self.chance.choice([0, 1, 400, 600]))),
        ]
        self.chance.shuffle(attributes)
        kept = attributes[: self.chance.randint(0, 3)]
        message = encode(Method.BINDING, message_class, self.chance.choice(self.transaction_ids), kept)
        return self.spoilt(message) if self.chance.random() < 0.1 else message

    def spoilt(self, message: bytes) -> bytes:
        data = bytearray(message)
        for _ in range(self.chance.randint(1, 3)):
            data[self.chance.randrange(len(data))] = self.chance.choice([0, 1, 4, 0xFF, self.chance.randrange(256)])
        return bytes(data[: self.chance.choice([len(data)] * 3 + [self.chance.randint(0, len(data))])])

    def until(self) -> float:
        return self.now + self.chance.choice([1.0, 60.0, 300.0, 600.0])

    # Commands

    def circles(self) -> frozenset[str] | None:
        return self.chance.choice([None, frozenset(), *map(frozenset, ("a", "ab", "ab", "bc"))])

    def relayed(self, family: int) -> tuple[SocketAddress, bool] | None:
        """An address for one more flow, and whether it is shared."""
        taken = {address for one in self.flows.values() for address, _ in one.relayed}
        hosts = [host for host in self.hosts if family_of(host) == family]
        free = [(host, port) for port in PORTS for host in hosts if (host, port) not in taken]
        if not free or self.chance.random() < 0.6:
            return self.chance.choice([one for one in self.shared if family_of(one[0]) == family]), True
        return self.chance.choice(free), False

    def add(self) -> None:
        if len(self.flows) >= MOST_FLOWS:
            return self.remove()
        found = self.relayed(self.chance.choice([4, 4, 6]))
        assert found is not None
        address, shared = found
        self.last_id += 1
        client = FiveTuple(Transport.UDP, ("203.0.113.7", self.last_id), (RELAYS[4], LISTENER))
        user = self.chance.choice(["ann", "bob"])
        command = AddFlow(self.last_id, client, address, user=user, circles=self.circles(), shared=shared)
        flow = self.forwarder.add_flow(command, str(self.last_id), "")
        self.flows[self.last_id] = Known(flow, [(address, shared)])
        return None

    def add_second(self) -> None:
        one = self.one()
        if one is None or one.was_dual:
            return
        found = self.relayed(6 if family_of(one.relayed[0][0][0]) == 4 else 4)
        assert found is not None
        self.forwarder.add_relayed_address(AddRelayedAddress(one.flow.id, *found))
        one.relayed.append(found)
        one.was_dual = True

    def remove(self) -> None:
        if (one := self.one()) is not None:
            self.forwarder.remove_flow(RemoveFlow(one.flow.id))
            del self.flows[one.flow.id]

    def remove_second(self) -> None:
        one = self.one()
        if one is not None and len(one.relayed) == 2:
            address, _ = one.relayed.pop(self.chance.randrange(2))
            self.forwarder.remove_relayed_address(RemoveRelayedAddress(one.flow.id, address))

    def move(self) -> None:
        host = self.chance.choice(MOVED)
        if host not in self.hosts:
            shared = self.chance.random() < 0.7
            self.forwarder.add_own_host(AddOwnHost(host, shared))
            self.hosts.append(host)
            if shared:
                same = [port for other, port in SHARED if family_of(other) == family_of(host)]
                self.shared += [(host, port) for port in same]
        elif not any(address[0] == host for one in self.flows.values() for address, _ in one.relayed):
            self.forwarder.remove_own_host(RemoveOwnHost(host))
            self.hosts.remove(host)
            self.shared = [address for address in self.shared if address[0] != host]

    def come_and_go(self) -> None:
        """More users than have a bucket."""
        for _ in range(1030):
            self.last_id += 1
            client = FiveTuple(Transport.UDP, ("203.0.113.7", self.last_id), (RELAYS[4], LISTENER))
            command = AddFlow(self.last_id, client, SHARED[0], user=str(self.last_id), circles=None, shared=True)
            self.forwarder.add_flow(command, "passing", "")
            self.forwarder.remove_flow(RemoveFlow(self.last_id))

    def set_circles(self) -> None:
        if (one := self.one()) is not None and one.flow.circles is not None:
            self.forwarder.set_circles(SetCircles(one.flow.id, self.circles() or frozenset()))

    def permit(self) -> None:
        if (one := self.one()) is None:
            return
        host = self.host()
        ours = host in self.hosts
        command = SetPermission(
            one.flow.id,
            host,
            self.until(),
            relayed_only=ours and self.chance.random() < 0.7,
            own=ours or (host == NEIGHBOUR and self.chance.random() < 0.3),
            claimed=self.chance.random() < 0.2,
        )
        self.forwarder.set_permission(command)

    def revoke(self) -> None:
        if (one := self.one()) is not None:
            self.forwarder.revoke_permission(RevokePermission(one.flow.id, self.host()))

    def bind(self) -> None:
        if (one := self.one()) is not None:
            relayed_only = self.chance.random() < 0.3
            peer = self.peer(one.flow)
            command = BindChannel(one.flow.id, self.chance.choice(NUMBERS), peer, self.until(), relayed_only)
            self.forwarder.bind_channel(command)

    def unbind(self) -> None:
        if (one := self.one()) is not None:
            self.forwarder.unbind_channel(UnbindChannel(one.flow.id, self.chance.choice(NUMBERS)))

    def learn(self) -> None:
        if (one := self.one()) is not None:
            self.forwarder.learn_peer(LearnPeer(one.flow.id, self.peer(one.flow)))

    def set_transfer(self) -> None:
        self.forwarder.set_transfer(SetTransfer(False))
        for _ in range(9):
            self.chance.choice([self.indication, self.arrives])()
        self.forwarder.set_transfer(SetTransfer(True))

    def pass_time(self) -> None:
        self.now += self.chance.choice([0.01, 0.01, 0.3, 2.0, 10.0])

    def pass_long(self) -> None:
        self.now += 700.0

    # Packets

    def key(self) -> str:
        one = self.one()
        return "nobody" if one is None or self.chance.random() < 0.1 else str(one.flow.client_key)

    def channel_data(self) -> None:
        if (one := self.one()) is None:
            return
        payload = self.payload()
        said = max(0, len(payload) + self.chance.choice([0] * 8 + [-1, 1]))
        number = self.chance.choice(list(one.flow.channels) if one.flow.channels else NUMBERS)
        data = number.to_bytes(2, "big") + said.to_bytes(2, "big") + payload
        self.forwarder.from_client(data, one.flow.client_key, self.now)

    def indicated(self, peer: SocketAddress, payload: bytes, extra: int = 0) -> bytes:
        transaction = self.transaction_ids[0]
        attributes: list[Attribute] = [
            (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(peer[0]), peer[1], transaction)),
            (AttributeType.DATA, payload),
        ]
        known = [AttributeType.DONT_FRAGMENT, AttributeType.SOFTWARE, AttributeType.USERNAME]
        attributes += [(self.chance.choice(known), b"") for _ in range(extra)]
        if extra:
            self.chance.shuffle(attributes)
            if self.chance.random() < 0.1:
                unknown = self.chance.choice([AttributeType.LIFETIME, AttributeType.MESSAGE_INTEGRITY])
                attributes.insert(self.chance.randrange(len(attributes)), (unknown, b""))
        return encode(Method.SEND, MessageClass.INDICATION, transaction, attributes)

    def indication(self) -> None:
        if (one := self.one()) is None:
            return
        data = self.indicated(self.peer(one.flow), self.payload(), self.chance.choice([0, 0, 0, 1, 1, 2, 14, 15]))
        if self.chance.random() < 0.03:
            data = self.spoilt(data)
        self.forwarder.from_client(data, one.flow.client_key, self.now)

    def know_many(self) -> None:
        """More exact peers than a flow remembers."""
        if (one := self.one()) is None:
            return
        host = self.chance.choice(STRANGERS)
        self.forwarder.set_permission(SetPermission(one.flow.id, host, self.until(), False, False, False))
        first = self.chance.randrange(6000, 60000)
        for port in range(first, first + 2100):
            self.forwarder.from_client(self.indicated((host, port), b"hi"), one.flow.client_key, self.now)

    def own_socket(self) -> tuple[Flow[str], int] | None:
        """A flow with a relay socket of its own, and its family."""
        own = [(one.flow, at) for one in self.flows.values() for at, shared in one.relayed if not shared]
        if not own:
            return None
        flow, address = self.chance.choice(own)
        return flow, family_of(address[0])

    def arrives(self) -> None:
        if (found := self.own_socket()) is not None:
            self.forwarder.from_peer(found[0], self.payload(), self.source(*found), self.now)

    def arrives_shared(self) -> None:
        address = self.chance.choice(SHARED)
        there = [one.flow for one in self.flows.values() if any(at[1] == address[1] for at, _ in one.relayed)]
        source = self.source(self.chance.choice(there) if there else None, family_of(address[0]))
        self.forwarder.from_shared(sockaddr_of(address), self.payload(), source, self.now)

    def source(self, flow: Flow[str] | None, family: int) -> SockAddr:
        for _ in range(20):
            peer = self.peer(flow)
            if family_of(peer[0]) == family:
                return sockaddr_of(peer)
        return sockaddr_of((RELAYS[family], 5001))

    def icmp(self) -> None:
        said = self.chance.choice([0, 1, 2, 3, 3, 4, 11]), self.chance.choice([0, 3, 4, 255]), 1300, self.now
        if self.chance.random() < 0.5:
            address = self.chance.choice(SHARED)
            self.forwarder.from_shared_icmp(sockaddr_of(address), self.source(None, family_of(address[0])), *said)
        elif (found := self.own_socket()) is not None:
            self.forwarder.from_icmp(found[0], self.source(*found), *said)

    def garbage(self) -> None:
        size = self.chance.choice([0, 1, 3, 4, 19, 20, 21, 1024, 1025, 2048, 2049])
        start = self.chance.choice([b"", b"\x00\x16\x00\x00\x21\x12\xa4\x42", b"\x00\x03\x00\x00\x21\x12\xa4\x42"])
        self.forwarder.from_client((start + self.chance.randbytes(size))[:size], self.key(), self.now)

    def binding(self) -> None:
        data = encode(Method.BINDING, MessageClass.REQUEST, self.transaction_ids[1])
        self.forwarder.from_client(data, self.key(), self.now, self.source(None, self.chance.choice([4, 6])))

    def end(self) -> None:
        """Nothing is left of what there was."""
        for one in list(self.flows.values()):
            self.forwarder.remove_flow(RemoveFlow(one.flow.id))
        for port in self.forwarder._shared.values():
            assert not port.flows
            assert not port.owners
            assert not port._by_fragment


def walk(seed: int, steps: int) -> Walk:
    one = Walk(seed)
    for _ in range(steps):
        one.step()
    one.end()
    return one


@pytest.mark.parametrize("seed", range(8))
def test_they_decide_alike(seed: int) -> None:
    native_or_skip()
    one = walk(seed, 4000)
    assert one.forwarder.traffic().packets_to_clients > 20
    assert one.forwarder.traffic().packets_from_clients > 20


if __name__ == "__main__":
    first, seeds, steps = map(int, sys.argv[1:])
    for number in range(first, first + seeds):
        try:
            walked = walk(number, steps)
        except BaseException:
            print("seed", number)
            raise
        print(number, {reason: count for reason, count in walked.forwarder.drops.items() if count}, flush=True)

"""Rates of relayed data: what passes a bucket, whose bucket it is, and what the data path does with the rest."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tavern.stun.attributes import encode_xor_address
from tavern.stun.message import AttributeType, MessageClass, Method, encode
from tavern.turn.budget import sent_bytes
from tavern.turn.commands import AddFlow, BindChannel, RemoveFlow, SetPermission, SetTransfer
from tavern.turn.drops import Drop
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.forwarding import Forwarder
from tavern.turn.metering import HEADERS_SIZE, Meter, TokenBucket
from tests.twin import make_forwarder

if TYPE_CHECKING:
    from tavern.turn.flows import Flow

sizes = st.integers(0, 65_535)
rates = st.integers(1, 10**8)


@given(rates, st.lists(st.tuples(st.floats(0, 3, allow_nan=False), sizes), max_size=60))
def test_no_interval_passes_more_than_its_rate_and_one_burst(rate: int, arrivals: list[tuple[float, int]]) -> None:
    bucket = TokenBucket(rate)
    now = 1000.0
    passed: list[tuple[float, int]] = []
    for pause_s, size in arrivals:
        now += pause_s
        if bucket.holds(size, now):
            bucket.take(size)
            passed.append((now, size))
    for first in range(len(passed)):
        total = 0
        for at, size in passed[first:]:
            total += size
            assert total <= (at - passed[first][0]) * rate + bucket.burst + 1e-3


@given(rates, sizes)
def test_after_a_silence_any_datagram_passes(rate: int, size: int) -> None:
    bucket = TokenBucket(rate)
    while bucket.holds(1000, 0.0):
        bucket.take(1000)
    assert bucket.holds(size + HEADERS_SIZE, bucket.burst / rate + 1.0)


@given(rates, st.floats(0, 10**6, allow_nan=False))
def test_a_clock_that_goes_back_brings_nothing(rate: int, back_s: float) -> None:
    bucket = TokenBucket(rate)
    assert bucket.holds(int(bucket.burst), 10**6)
    bucket.take(int(bucket.burst))
    assert not bucket.holds(1, 10**6 - back_s)
    assert not bucket.holds(1 + 2 * rate, 10**6 + 1)


def test_a_steady_sender_below_his_rate_never_waits() -> None:
    meter = Meter(user_bytes_per_s=100 * (160 + HEADERS_SIZE), bytes_per_s=0)
    account = meter.join("alice")
    refused = [meter.refusal(account, 160, number * 0.01, leaves=True) for number in range(10_000)]
    assert set(refused) == {None}


def passes(meter: Meter, user: str, size: int = 936, now: float = 0.0) -> int:
    """How many packets of 1000 bytes pass at once."""
    account = meter.join(user)
    count = 0
    while (refusal := meter.refusal(account, size, now, leaves=True)) is None:
        count += 1
    meter.leave(user)
    assert refusal is Drop.OVER_USER_RATE
    return count


def test_a_user_shares_his_rate_with_nobody_and_his_flows_share_it() -> None:
    meter = Meter(user_bytes_per_s=100_000, bytes_per_s=0)
    first, second = meter.join("alice"), meter.join("alice")
    assert first is second
    assert passes(meter, "alice") == 100
    assert passes(meter, "bob") == 100
    assert meter.refusal(second, 936, 0.0, leaves=True) is Drop.OVER_USER_RATE
    assert meter.refusal(second, 936, 0.01, leaves=True) is None


def test_allocating_again_fills_no_bucket() -> None:
    meter = Meter(user_bytes_per_s=100_000, bytes_per_s=0)
    assert [passes(meter, "alice"), passes(meter, "alice", now=0.5), passes(meter, "alice", now=0.5)] == [100, 50, 0]


def test_accounts_of_users_who_are_gone_are_few() -> None:
    meter = Meter(user_bytes_per_s=100_000, bytes_per_s=0)
    for number in range(5000):
        meter.join(number)
        meter.leave(number)
    assert meter.accounts_kept == 1024
    unlimited = Meter(0, 0)
    unlimited.join("alice")
    assert unlimited.accounts_kept == 0


def test_empty_packets_are_not_free() -> None:
    meter = Meter(user_bytes_per_s=100_000, bytes_per_s=0)
    assert passes(meter, "alice", size=0) == 100_000 // HEADERS_SIZE


def test_what_all_together_may_not_costs_the_user_nothing() -> None:
    meter = Meter(user_bytes_per_s=100_000, bytes_per_s=70_000)
    account = meter.join("alice")
    refusals = [meter.refusal(account, 936, 0.0, leaves=True) for _ in range(200)]
    assert refusals.count(None) == 70
    assert refusals[70:] == [Drop.OVER_RATE] * 130
    # 30 of his 100 are left, for what does not leave.
    refusals = [meter.refusal(account, 936, 0.0, leaves=False) for _ in range(31)]
    assert refusals == [None] * 30 + [Drop.OVER_USER_RATE]


def test_only_limits_are_asked() -> None:
    assert [Meter(*rates).is_limiting for rates in ((0, 0), (1, 0), (0, 1))] == [False, True, True]


@pytest.mark.parametrize("rate", [0, 1])
def test_a_spent_budget_is_asked_until_it_is_not_spent(rate: int) -> None:
    meter = Meter(rate, 0)
    meter.set_budget_spent(True)
    assert meter.is_limiting
    assert meter.refusal(None, 0, 0.0, leaves=True) is Drop.OVER_BUDGET
    meter.set_budget_spent(False)
    assert meter.is_limiting == bool(rate)


class Accounts(RuleBasedStateMachine):
    """Whatever comes and goes: an account lives exactly while its user has flows, and few others are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter(user_bytes_per_s=1000, bytes_per_s=0)
        self.flows: list[int] = []

    @rule(user=st.integers(0, 3))
    def join(self, user: int) -> None:
        account = self.meter.join(user)
        self.flows.append(user)
        assert account is not None
        assert account.flows == self.flows.count(user)

    @precondition(lambda self: self.flows)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(self.flows))
        self.flows.remove(user)
        self.meter.leave(user)

    @invariant()
    def agrees(self) -> None:
        assert set(self.meter._accounts) == set(self.flows)
        assert not set(self.meter._idle) & set(self.flows)


TestAccounts = Accounts.TestCase

RELAY = "198.51.100.1"
PEER = "192.0.2.1"
SERVER = (RELAY, 3478)
SIZE = 1000 - HEADERS_SIZE


def two_users(meter: Meter) -> tuple[Forwarder[str], Flow[str], Flow[str]]:
    """Alice and Bob, each with a permission and channel for a peer and for each other."""
    forwarder: Forwarder[str] = make_forwarder(frozenset({RELAY}), lambda: 7, meter=meter)
    flows = []
    for number, user, other in ((1, "alice", 2), (2, "bob", 1)):
        five_tuple = FiveTuple(Transport.UDP, ("203.0.113.7", number), SERVER)
        flows.append(
            forwarder.add_flow(
                AddFlow(number, five_tuple, (RELAY, 50000 + number), user=user, circles=None), user, "sockets"
            )
        )
        for host in (PEER, RELAY):
            ours = host == RELAY
            forwarder.set_permission(SetPermission(number, host, 300.0, relayed_only=ours, own=ours, claimed=False))
        forwarder.bind_channel(BindChannel(number, 0x4000, (PEER, 5000), 600.0, relayed_only=False))
        forwarder.bind_channel(BindChannel(number, 0x4001, (RELAY, 50000 + other), 600.0, relayed_only=True))
    return forwarder, flows[0], flows[1]


def channel_data(number: int) -> bytes:
    return number.to_bytes(2, "big") + SIZE.to_bytes(2, "big") + bytes(SIZE)


def send_indication() -> bytes:
    attributes = [
        (AttributeType.XOR_PEER_ADDRESS, encode_xor_address(ip_address(PEER), 5000, bytes(12))),
        (AttributeType.DATA, bytes(SIZE)),
    ]
    return encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes)


@pytest.mark.parametrize("way", ["channel", "indication", "from peer", "hand-over"])
def test_every_way_through_the_relay_is_counted_and_others_lose_nothing(way: str) -> None:
    forwarder, alice, _ = two_users(Meter(user_bytes_per_s=100_000, bytes_per_s=0))
    for _ in range(150):
        if way == "channel":
            forwarder.from_client(channel_data(0x4000), "alice", 0.0)
        elif way == "indication":
            forwarder.from_client(send_indication(), "alice", 0.0)
        elif way == "from peer":
            forwarder.from_peer(alice, bytes(SIZE), (PEER, 5000), 0.0)
        else:
            forwarder.from_client(channel_data(0x4001), "alice", 0.0)
    assert alice.packets_from_client + alice.packets_to_client == 100
    assert {name: count for name, count in forwarder.drops.items() if count} == {Drop.OVER_USER_RATE: 50}
    outputs = [forwarder.from_client(channel_data(0x4000), "bob", 0.0) for _ in range(100)]
    assert outputs.count(None) == (100 if way == "hand-over" else 0)  # that came to Bob, whose bucket it took


WAYS = ("to peer", "from peer", "hand-over")


@given(
    st.integers(1, 200_000),
    st.integers(1, 300_000),
    st.lists(
        st.tuples(st.floats(0, 0.5), st.sampled_from(["alice", "bob"]), st.sampled_from(WAYS), st.integers(1, 60)),
        max_size=40,
    ),
)
def test_whatever_comes_each_user_and_all_together_stay_within_their_rates(
    user_rate: int, rate: int, steps: list[tuple[float, str, str, int]]
) -> None:
    forwarder, alice, bob = two_users(Meter(user_rate, rate))
    flows = {"alice": alice, "bob": bob}
    now = sent = 0.0
    for pause_s, user, way, count in steps:
        now += pause_s
        for _ in range(count):
            sent += 1
            if way == "from peer":
                forwarder.from_peer(flows[user], bytes(SIZE), (PEER, 5000), now)
            else:
                forwarder.from_client(channel_data(0x4000 if way == "to peer" else 0x4001), user, now)
    for flow in flows.values():
        used = 1000 * (flow.packets_from_client + flow.packets_to_client)
        assert used <= now * user_rate + TokenBucket(user_rate).burst + 1e-3
    assert sent_bytes(forwarder.traffic()) <= now * rate + TokenBucket(rate).burst + 1e-3
    handed_over = alice.packets_handed_over + bob.packets_handed_over
    passed = sum(flow.packets_from_client + flow.packets_to_client for flow in flows.values()) - handed_over
    assert passed + sum(forwarder.drops.values()) == sent


def test_what_is_handed_over_counts_once_for_all_together() -> None:
    forwarder, alice, bob = two_users(Meter(user_bytes_per_s=0, bytes_per_s=100_000))
    for _ in range(150):
        forwarder.from_client(channel_data(0x4001), "alice", 0.0)
    assert bob.packets_to_client == 100
    assert (alice.packets_handed_over, alice.bytes_handed_over) == (150, 150 * SIZE)
    assert forwarder.drops[Drop.OVER_RATE] == 50


def test_what_is_not_permitted_takes_nothing_from_the_rate() -> None:
    forwarder, alice, _ = two_users(Meter(user_bytes_per_s=100_000, bytes_per_s=100_000))
    for _ in range(1000):
        forwarder.from_peer(alice, bytes(SIZE), ("192.0.2.99", 5000), 0.0)
    assert forwarder.from_peer(alice, bytes(SIZE), (PEER, 5000), 0.0) is not None
    assert forwarder.drops[Drop.NO_PERMISSION] == 1000


def test_a_flow_that_is_gone_leaves_its_account() -> None:
    meter = Meter(user_bytes_per_s=100_000, bytes_per_s=0)
    forwarder, _, _ = two_users(meter)
    assert len(meter._accounts) == 2
    forwarder.remove_flow(RemoveFlow(1))
    forwarder.remove_flow(RemoveFlow(1))
    assert list(meter._accounts) == ["bob"]


def test_a_spent_budget_drops_data_and_answers_binding_and_requests() -> None:
    forwarder, alice, _ = two_users(Meter(0, 0))
    binding = encode(Method.BINDING, MessageClass.REQUEST, bytes(12))
    refresh = encode(Method.REFRESH, MessageClass.REQUEST, bytes(12))
    before = [forwarder.from_client(data, "alice", 0.0, ("203.0.113.7", 1)) for data in (binding, refresh)]
    forwarder.set_transfer(SetTransfer(allowed=False))
    for data in (channel_data(0x4000), channel_data(0x4001), send_indication()):
        assert forwarder.from_client(data, "alice", 0.0) is None
    assert forwarder.from_peer(alice, b"x", (PEER, 5000), 0.0) is None
    assert {name: count for name, count in forwarder.drops.items() if count} == {Drop.OVER_BUDGET: 4}
    assert forwarder.traffic().packets_from_clients == forwarder.traffic().packets_to_clients == 0
    assert [forwarder.from_client(data, "alice", 0.0, ("203.0.113.7", 1)) for data in (binding, refresh)] == before
    forwarder.set_transfer(SetTransfer(allowed=True))
    assert forwarder.from_client(channel_data(0x4000), "alice", 0.0) is not None

"""The closed relay under attack: what members and strangers may try, and what an honest client keeps meanwhile."""

from __future__ import annotations

import struct
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from tavern.stun.attributes import AddressFamily
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.claims import CheckLimiter, Claim
from tests.turn.test_closed import ADA_HOST, ANNOUNCED, BEN_HOST, RELAY, ROOM, Person, binding, in_a_call

if TYPE_CHECKING:
    from tests.turn.conftest import World


def test_a_channel_that_outlived_its_permission_goes_with_the_member(world: World) -> None:
    ada, ben = Person(world, ADA_HOST, 4001), Person(world, BEN_HOST, 4002)
    in_a_call(ada, ben)
    ben.tells(ada)
    assert ada.client.bind(0x4000, ANNOUNCED, 5000) == 0
    assert ada.hears(binding(), ANNOUNCED)
    world.tick(299)
    world.tick(31)
    assert not ada.sends(b"media", ANNOUNCED), "the permission has expired, and was swept"
    assert ada.sends_on(0x4000, b"media")
    ben.leaves()
    assert not ada.sends_on(0x4000, b"media")


def test_leaving_takes_nobody_elses_relayed_address_where_the_operator_allows_our_own(
    make_world: type[World],
) -> None:
    world = make_world(allow_peers=(ip_network("198.51.100.0/24"),))
    ada, ben, cleo = (Person(world, f"9.9.1.{n}", 4000 + n) for n in range(3))
    _, bens = in_a_call(ada, ben)
    cleo.joins(ROOM)
    cleos = cleo.client.allocate()
    ben.tells(ada, hosts=(RELAY,))  # as browsers do with their relay candidates
    assert ada.client.permit(RELAY) == cleo.client.permit(RELAY) == ben.client.permit(RELAY) == 0
    assert ada.client.bind(0x4000, *cleos) == ada.client.bind(0x4001, *bens) == 0
    assert ada.client.bind(0x4002, RELAY, 9) == 0
    assert ada.hears(binding(), RELAY, 9)
    assert ada.sends(b"to what is allowed there", RELAY, 9)
    ben.leaves()
    assert ada.sends(b"media", *cleos)
    assert [ada.sends_on(number, b"media") for number in (0x4000, 0x4001, 0x4002)] == [True, False, False]
    assert not ada.sends(b"media", *bens)
    assert not ada.sends(b"media", RELAY, 9)
    assert ada.client.bind(0x4002, RELAY, 9) == 403


IPV6: Attribute = (AttributeType.REQUESTED_ADDRESS_FAMILY, bytes([AddressFamily.IPV6, 0, 0, 0]))


@pytest.mark.parametrize(
    "hosts",
    [
        ["9.8.7.6"] * 8,
        ["2a00:1:2:3::1", "2a00:1:2:3::2", "2a00:1:2:3:ffff::", "2a00:1:2:3::4"],
        ["64:ff9b::908:706", "2002:908:706::1", "2002:908:706::2", "2002:908:706:2::", "2002:908:706:3::"],
    ],
)
def test_fifty_checks_a_second_however_many_members_and_disguises(make_world: type[World], hosts: list[str]) -> None:
    world = make_world(user_quota=50, max_relay_port=50100)
    members = [Person(world, f"9.9.{n}.1", 4000 + n) for n in range(8)]
    for one in members:
        one.joins(ROOM)
        one.client.allocate(*([IPV6] if ":" in hosts[0] else []))
    for one in members:
        one.tells(*(other for other in members if other is not one), hosts=tuple(hosts))
    for one in members:
        assert one.client.permit(*hosts) == 0
    sent = []
    for _ in range(500):
        world.now += 0.005
        sent += [world.now] * sum(one.sends(binding(), host) for one in members for host in set(hosts))
    assert all(sum(start <= at < start + 1 for at in sent) <= 50 for start in sent[:: len(sent) // 20])
    assert len(sent) >= 80


def test_who_names_a_whole_network_does_not_flood_it(make_world: type[World]) -> None:
    world = make_world()
    ada, *others = (Person(world, f"9.9.1.{n}", 4000 + n) for n in range(8))
    ada.joins(ROOM)
    ada.client.allocate()
    network = [[f"9.8.{n}.{host}" for host in range(60)] for n in range(7)]
    for other, hosts in zip(others, network, strict=True):
        other.joins(ROOM)
        other.tells(ada, hosts=tuple(hosts))
        assert ada.client.permit(*hosts) == 0
    sent = 0
    for _ in range(10):
        world.now += 0.1
        sent += sum(ada.sends(binding(), host) for hosts in network for host in hosts for _ in range(5))
    assert sent <= 2000


def test_a_stun_server_that_answers_everybody_is_in_no_call(world: World) -> None:
    ada, ben = Person(world, ADA_HOST, 4001), Person(world, BEN_HOST, 4002)
    in_a_call(ada, ben)
    ben.tells(ada)
    ada.client.permit(ANNOUNCED)
    check = binding()
    assert ada.sends(check, ANNOUNCED, 3478)
    mapped = [(AttributeType.XOR_MAPPED_ADDRESS, struct.pack(">BBHI", 0, 1, 9, 9))]
    assert ada.hears(encode(Method.BINDING, MessageClass.SUCCESS, check[8:20], mapped), ANNOUNCED, 3478)
    assert not ada.sends(b"flood", ANNOUNCED), "RFC 8445 §7.3: an ICE agent's answer is signed"
    assert ada.hears(binding(MessageClass.SUCCESS, check[8:20]), ANNOUNCED)
    assert ada.sends(b"media", ANNOUNCED)


def test_answers_prove_nothing_after_ten_seconds_and_checks_do_not_fill_the_memory() -> None:
    limiter = CheckLimiter()
    claim = Claim("ada", ANNOUNCED, limiter)
    check = binding()
    assert claim.may_leave(check, 0.0)
    for n in range(100_000):
        Claim(n, f"9.{n >> 16}.{n >> 8 & 255}.{n & 255}", limiter).may_leave(binding_of(n), 1.0)
    assert len(limiter._unanswered) <= 65536
    assert claim.may_leave(check, 2.0)
    assert claim.is_proven_by(binding(MessageClass.SUCCESS, check[8:20]))
    assert claim.may_leave(binding(), 12.0)
    assert len(limiter._unanswered) == 1
    assert not claim.is_proven_by(binding(MessageClass.SUCCESS, check[8:20]))


def binding_of(number: int) -> bytes:
    return struct.pack(">HHI12s", 1, 0, 0x2112A442, number.to_bytes(12, "big"))

"""The closed relay under attack: what members and strangers may try, and what an honest client keeps meanwhile."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

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

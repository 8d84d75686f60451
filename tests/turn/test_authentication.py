"""RFC 8489 §9.2.4 in its order, and the nonces and credentials that it rests on."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tavern.addresses import SocketAddress
from tavern.stun.message import Attribute, AttributeType, MessageClass, Method, encode
from tavern.turn.auth import Credential, Credentials, Nonces

if TYPE_CHECKING:
    from tests.turn.conftest import Client, World

UDP: Attribute = (AttributeType.REQUESTED_TRANSPORT, b"\x11\x00\x00\x00")
HERE: SocketAddress = ("203.0.113.7", 4000)


def code(client: Client, data: bytes) -> int:
    answer = client.exchange(data)
    assert answer is not None
    value = answer.get(AttributeType.ERROR_CODE)
    return 0 if value is None else value[2] * 100 + value[3]


@pytest.mark.clause("8489 §9.2.4: no MESSAGE-INTEGRITY -> 401 + REALM + NONCE")
def test_step_1_without_integrity_401(world: World) -> None:
    client = world.client()
    assert code(client, encode(Method.ALLOCATE, MessageClass.REQUEST, b"0123456789ab", [UDP])) == 401


@pytest.mark.clause("8489 §9.2.4: MESSAGE-INTEGRITY without USERNAME, REALM or NONCE -> 400")
@pytest.mark.parametrize("missing", [AttributeType.USERNAME, AttributeType.REALM, AttributeType.NONCE])
def test_step_2_integrity_without_one_of_three_400(world: World, missing: AttributeType) -> None:
    client = world.client()
    login = [
        (AttributeType.USERNAME, client.credential.username.encode()),
        (AttributeType.REALM, b"example.org"),
        (AttributeType.NONCE, b"x" * 24),
    ]
    kept = [UDP, *(attribute for attribute in login if attribute[0] != missing)]
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, b"0123456789ab", kept, integrity_key=client.key)
    assert code(client, request) == 400
    assert len(world.server.allocations) == 0


@pytest.mark.clause("8489 §9.2.4: unknown user, bad integrity, expired at Allocate -> 401, the same for all causes")
@pytest.mark.parametrize(
    "credential",
    [
        Credential(username="nobody", password="x", expires_at=0),
        Credential(username="1700000600:bob", password="wrong", expires_at=0),
        Credential(username="1699999999:bob", password="", expires_at=0),  # expired; the password is filled in below
        Credential(username="", password="x", expires_at=0),
        Credential(username="9" * 600, password="x", expires_at=0),
    ],
)
def test_step_3_all_causes_look_the_same_401(world: World, credential: Credential) -> None:
    if not credential.password:
        password = base64.b64encode(hmac.digest(b"north", credential.username.encode(), "sha1")).decode()
        credential = attrs.evolve(credential, password=password)
    client = attrs.evolve(world.client(), credential=credential)
    answer = client.request(Method.ALLOCATE, UDP)
    kinds = [kind for kind, _ in answer.attributes]
    assert kinds == [AttributeType.ERROR_CODE, AttributeType.REALM, AttributeType.NONCE]
    assert answer.get(AttributeType.ERROR_CODE) == b"\x00\x00\x04\x01"


@pytest.mark.clause("8489 §9.2.4: 401 is before 438")
def test_step_3_comes_before_step_4(world: World) -> None:
    client = attrs.evolve(world.client(), credential=Credential("1700000600:bob", "wrong", 0), nonce=b"stale")
    assert client.error(Method.ALLOCATE, UDP) == 401


@pytest.mark.clause("8489 §9.2.4: stale or unknown nonce -> 438 + a fresh NONCE + REALM")
@pytest.mark.parametrize("nonce", [b"", b"x" * 24, b"\xff" * 24, b"=" * 24])
def test_step_4_unknown_nonce_438_with_a_fresh_one(world: World, nonce: bytes) -> None:
    client = attrs.evolve(world.client(), nonce=nonce)
    answer = client.request(Method.ALLOCATE, UDP)
    assert answer.get(AttributeType.ERROR_CODE) == b"\x00\x00\x04\x26"
    assert answer.get(AttributeType.REALM) == b"example.org"
    client.nonce = answer.get(AttributeType.NONCE)
    client.allocate()


@pytest.mark.clause("8489 §9.2: nonces are stateless, of one client address, at most 1 h old")
def test_step_4_a_nonce_lives_an_hour(world: World) -> None:
    client = world.client()
    client.credential = world.credential(lifetime_s=100_000)
    client.allocate()
    for _ in range(6):
        world.tick(599)
        assert client.error(Method.REFRESH) == 0
    world.tick(599)
    assert client.error(Method.REFRESH) == 438


@pytest.mark.clause("8489 §9.2: the nonce differs for each source address and port")
def test_step_4_a_nonce_of_another_port_is_stale(world: World) -> None:
    client = world.client()
    client.encode(Method.REFRESH)
    other = attrs.evolve(client, five_tuple=attrs.evolve(client.five_tuple, client=("203.0.113.7", 4001)))
    assert other.error(Method.ALLOCATE, UDP) == 438


@pytest.mark.clause("8489 §9.2.4: successful responses carry MESSAGE-INTEGRITY")
def test_step_5_successes_are_signed(world: World) -> None:
    client = world.client()
    assert client.request(Method.ALLOCATE, UDP).is_signed_with(client.key)
    assert client.request(Method.REFRESH).is_signed_with(client.key)


@pytest.mark.clause("8489 §9.2.4: other methods accept the username of their allocation, expired or not")
def test_an_allocation_outlives_its_username_but_a_new_one_is_refused(world: World) -> None:
    again = world.client(port=4100)
    again.allocate((AttributeType.LIFETIME, (3600).to_bytes(4, "big")))
    world.tick(700)
    assert again.permit("9.9.2.1") == 0
    assert again.error(Method.REFRESH) == 0
    fresh = attrs.evolve(again, five_tuple=attrs.evolve(again.five_tuple, client=("203.0.113.7", 4200)), nonce=None)
    assert fresh.error(Method.ALLOCATE, UDP) == 401


@pytest.mark.clause("8656 §5: an allocation is its user's: an expired other one -> 401")
def test_an_expired_username_does_not_pass_for_another_ones_allocation(world: World) -> None:
    client = world.client()
    client.allocate((AttributeType.LIFETIME, (3600).to_bytes(4, "big")))
    stranger = attrs.evolve(client, credential=world.credential("eve"))
    assert stranger.error(Method.REFRESH) == 441
    world.tick(700)
    assert stranger.error(Method.REFRESH) == 401


@pytest.mark.clause("8489 §9.2.4: at Allocate an expired user -> 401")
def test_an_expired_username_gets_401_for_allocate_also_where_its_allocation_lives(world: World) -> None:
    client = world.client()
    client.allocate((AttributeType.LIFETIME, (3600).to_bytes(4, "big")))
    assert client.error(Method.ALLOCATE, UDP) == 437
    world.tick(700)
    assert client.error(Method.ALLOCATE, UDP) == 401
    assert client.error(Method.REFRESH) == 0


@pytest.mark.clause("8656 §5: an allocation's key proves its own username only")
def test_an_allocations_key_proves_its_own_username_only(world: World) -> None:
    client = world.client()
    client.allocate()
    assert client.nonce is not None
    login = (
        (AttributeType.USERNAME, world.credential("eve").username.encode()),
        (AttributeType.REALM, client.realm),
        (AttributeType.NONCE, client.nonce),
    )
    request = encode(Method.REFRESH, MessageClass.REQUEST, b"0123456789ab", login, integrity_key=client.key)
    assert code(client, request) == 401


@pytest.mark.clause("8489 §14.3: a username has less than 509 bytes")
@pytest.mark.parametrize(("length", "expected"), [(508, 0), (509, 401)])
def test_rfc8489_14_3_a_username_is_shorter_than_509_bytes(world: World, length: int, expected: int) -> None:
    username = "1700000600:".ljust(length, "x")
    password = base64.b64encode(hmac.digest(b"north", username.encode(), "sha1")).decode()
    client = attrs.evolve(world.client(), credential=Credential(username, password, 0))
    assert client.error(Method.ALLOCATE, UDP) == expected


@pytest.mark.clause("TURN REST API: a second secret is accepted while one is being rotated")
def test_a_second_secret_is_accepted_while_one_rotates(make_world: type[World]) -> None:
    old = make_world(secrets=("old",)).credential()
    world = make_world(secrets=("new", "old"))
    attrs.evolve(world.client(), credential=old).allocate()
    assert world.credential() == make_world(secrets=("new",)).credential()
    third = make_world(secrets=("third",)).credential()
    assert attrs.evolve(world.client(port=4001), credential=third).error(Method.ALLOCATE, UDP) == 401


@pytest.mark.clause("TURN REST API: password = base64(HMAC-SHA1(secret, username)), username = <expiry>[:id]")
def test_a_minted_credential_is_what_coturn_computes() -> None:
    credential = Credentials("example.org", ("s3cret",)).mint("bob", 600, 1_700_000_000.9)
    assert credential.username == "1700000600:bob"
    assert credential.expires_at == 1_700_000_600
    expected = hmac.new(b"s3cret", b"1700000600:bob", hashlib.sha1).digest()
    assert base64.b64decode(credential.password) == expected
    assert Credentials("example.org", ("s3cret",)).mint("", 600, 0).username == "600"
    assert "password" not in repr(credential)
    with pytest.raises(ValueError, match="508"):
        Credentials("example.org", ("s3cret",)).mint("x" * 600, 600, 0)


@pytest.mark.clause("8489 §9.2: no invented nonce is accepted")
@given(st.binary(max_size=30), st.floats(0, 2**31))
def test_no_invented_nonce_is_accepted(nonce: bytes, now: float) -> None:
    assert not Nonces(b"k" * 32).accepts(nonce, HERE, now)


@pytest.mark.clause("8489 §9.2: nonces are stateless, of one client address, at most 1 h old")
@example(now=1875.0, age_s=0.0, position=7, change=ord("_") ^ ord("/"))
@given(st.floats(0, 2**31), st.floats(0, 3599), st.integers(0, 23), st.integers(1, 255))
def test_a_nonce_is_accepted_from_its_client_until_it_is_old(
    now: float, age_s: float, position: int, change: int
) -> None:
    nonces = Nonces(b"k" * 32)
    nonce = nonces.issue(HERE, now)
    assert nonce.isascii()
    assert nonces.accepts(nonce, HERE, now + age_s)
    assert not nonces.accepts(nonce, HERE, now + 3602)
    assert not nonces.accepts(nonce, HERE, now - 2)
    assert not nonces.accepts(nonce, ("203.0.113.8", 4000), now)
    assert not Nonces(b"j" * 32).accepts(nonce, HERE, now)
    changed = nonce[:position] + bytes([nonce[position] ^ change]) + nonce[position + 1 :]
    assert not nonces.accepts(changed, HERE, now)


@pytest.mark.clause("8489 §9.2.4: no state is made for a packet that is not authenticated")
@given(st.binary(max_size=300))
def test_arbitrary_bytes_change_nothing(make_world: type[World], data: bytes) -> None:
    world = make_world()
    world.receive(data, world.client().five_tuple)
    assert len(world.server.allocations) == 0


# UDP, IPv6, R of EVEN-PORT
meaningful = [b"\x11\0\0\0", b"\2\0\0\0", b"\x80"]
known = st.sampled_from([kind.value for kind in AttributeType if kind not in {0x0008, 0x8028, 0x0006, 0x0014, 0x0015}])
attribute_lists = st.lists(st.tuples(known, st.one_of(st.binary(max_size=24), st.sampled_from(meaningful))), max_size=5)
turn_methods = st.sampled_from([Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND])


@pytest.mark.clause("8489 §6.3: every authenticated request gets exactly one answer")
@given(st.lists(st.tuples(turn_methods, attribute_lists), max_size=6))
def test_every_signed_request_gets_exactly_one_answer(
    make_world: type[World], requests: list[tuple[Method, list[Attribute]]]
) -> None:
    world = make_world()
    client = world.client()
    for method, attributes in requests:
        answer = client.request(method, *attributes)
        assert answer.method == method
        assert answer.is_signed_with(client.key)
    taken = [ports.taken for ports in world.server.allocations.ports.values()]
    assert world.server.allocations.relayed_count == sum(map(len, taken)), "a port is leaked"

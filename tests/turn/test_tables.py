"""The bounded tables: relay ports, expiry, the limiter of unauthenticated answers, remembered answers."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavern.turn import limiter as limiter_module
from tavern.turn import retransmissions
from tavern.turn.expiry import ExpiryQueue
from tavern.turn.five_tuple import FiveTuple, Transport
from tavern.turn.limiter import UnauthenticatedLimiter
from tavern.turn.ports import PortRange
from tavern.turn.retransmissions import AnswerMemory


def seeded() -> Random:
    return Random(7)  # noqa: S311 - the same in every run


@pytest.mark.clause("8656 §7, §8, §9, §12: lifetimes by absolute expiry; a port is never leaked")
@given(
    st.integers(1024, 1100),
    st.integers(0, 12),
    st.lists(st.one_of(st.none(), st.booleans(), st.just("pair"), st.integers(0, 20))),
)
def test_ports_are_taken_once_and_never_lost(first: int, more: int, steps: list[int | bool | str | None]) -> None:
    ports = PortRange(first, first + more, seeded())
    everything = set(range(first, first + more + 1))
    taken: list[int] = []
    for step in steps:
        if isinstance(step, str):
            port = ports.take_pair()
            free = [one for one in everything - set(taken) if one % 2 == 0 and one + 1 in everything - set(taken)]
            assert (port in free) if free else port is None
            taken += [] if port is None else [port, port + 1]
        elif step is None or isinstance(step, bool):
            even = bool(step)
            port = ports.take(even=even)
            free = [one for one in everything - set(taken) if not even or one % 2 == 0]
            assert (port in free) if free else port is None
            taken += [] if port is None else [port]
        elif taken:
            ports.release(taken.pop(step % len(taken)))
        assert ports.taken == set(taken)


@pytest.mark.clause("8656 §7.2: relay ports are drawn at random from the range")
def test_ports_are_drawn_from_all_of_the_range() -> None:
    ports = PortRange(50000, 50099, seeded())
    drawn = [ports.take() for _ in range(100)]
    assert sorted(port for port in drawn if port is not None) == list(range(50000, 50100))
    assert drawn != sorted(port for port in drawn if port is not None)


@pytest.mark.clause("8656 §7.2: relay ports are never below 1024")
@pytest.mark.parametrize(("first", "last"), [(1023, 2000), (2000, 1998), (60000, 65536)])
def test_ports_outside_1024_to_65535_or_an_empty_range_are_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="1024"):
        PortRange(first, last, seeded())


def test_a_port_released_twice_is_our_bug() -> None:
    ports = PortRange(50000, 50001, seeded())
    port = ports.take()
    assert port is not None
    ports.release(port)
    with pytest.raises(KeyError):
        ports.release(port)


@pytest.mark.clause("8656 §9, §12: permissions expire after 300 s, channels after 600 s")
@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 50)), st.integers(0, 3))))
def test_expiry_agrees_with_a_plain_table(steps: list[tuple[int, int | None, int]]) -> None:
    queue = ExpiryQueue()
    model: dict[int, float] = {}
    now = 0.0
    for key, lifetime, passed in steps:
        now += passed
        if lifetime is None:
            queue.discard(key)
            model.pop(key, None)
        else:
            queue.set(key, now + lifetime)
            model[key] = now + lifetime
        assert queue.next_deadline() == min(model.values(), default=None)
        if passed == 3:
            due = sorted((at, one) for one, at in model.items() if at <= now)
            assert sorted(queue.pop_expired(now)) == sorted(one for _, one in due)
            for _, one in due:
                del model[one]


def test_expiry_memory_stays_with_what_is_live() -> None:
    queue = ExpiryQueue()
    for step in range(10_000):
        queue.set(step, 1e9)
        queue.discard(step)
        queue.set(-1, 1e6 - step)
    assert len(queue._heap) < 300  # that nothing piles up is the point


@pytest.mark.clause("8489 §9.2.4: 401s are limited per source address (IPv6: per /64), 64 a second, burst 256")
def test_limiter_refills_at_its_rate() -> None:
    limiter = UnauthenticatedLimiter(10)
    assert sum(limiter.allows(("192.0.2.1", 4000), 5.0) for _ in range(100)) == 40
    assert sum(limiter.allows(("192.0.2.1", 4000), 6.0) for _ in range(100)) == 10
    assert sum(limiter.allows(("192.0.2.1", 4000), 1e6) for _ in range(100)) == 40


@pytest.mark.clause("8489 §9.2.4: 401s are limited per source address (IPv6: per /64), 64 a second, burst 256")
def test_an_answer_may_count_for_more() -> None:
    limiter = UnauthenticatedLimiter(10)
    assert sum(limiter.allows(("192.0.2.1", 4000), 5.0, 2) for _ in range(100)) == 20
    limiter.connected("192.0.2.9")
    assert sum(limiter.allows(("192.0.2.9", 4000), 5.0, 2) for _ in range(100)) == 20 + 4


def test_limiter_counts_ipv6_by_64() -> None:
    limiter = UnauthenticatedLimiter(10)
    assert sum(limiter.allows((f"2001:db8::{n:x}", 4000), 5.0) for n in range(100)) == 40
    assert limiter.allows(("2001:db8:0:1::1", 4000), 5.0)


@pytest.mark.clause("8489 §9.2.4: addresses with a live signaling connection have a bucket of their own")
def test_a_spoofer_that_empties_every_bucket_locks_no_signaling_client_out() -> None:
    limiter = UnauthenticatedLimiter(1)
    limiter.connected("192.0.2.1")
    limiter.connected("192.0.2.1")
    for n in range(3 << 16):
        limiter.allows((f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::", 4000), 5.0)
    assert not limiter.allows(("198.51.100.77", 4000), 5.0)
    assert sum(limiter.allows(("192.0.2.1", 4000), 5.0) for _ in range(100)) == 4 + 8
    limiter.disconnected("192.0.2.1")
    assert limiter.allows(("192.0.2.1", 4000), 6.0)
    limiter.disconnected("192.0.2.1")
    limiter.disconnected("192.0.2.1")  # one too many changes nothing
    assert not limiter.allows(("192.0.2.1", 4000), 6.0 - 1)


@pytest.mark.clause("8489 §9.2.4: a spoofer must not lock anyone out")
def test_who_forges_a_known_address_does_not_use_up_its_owners_port() -> None:
    limiter = UnauthenticatedLimiter(64)
    limiter.connected("192.0.2.1")
    answered = 0
    for step in range(20_000):
        limiter.allows(("192.0.2.1", step * 7919 % 65536 if step % 2 else 1), step / 1000)
        if step % 500 == 499:
            answered += limiter.allows(("192.0.2.1", 50000 + step % 7), step / 1000)
    assert answered >= 35  # of 40: a port may share its bucket with the flooded one


@pytest.mark.clause("8489 §9.2.4: addresses with a live signaling connection have a bucket of their own")
def test_a_known_address_has_its_bucket_while_one_of_its_connections_lives() -> None:
    limiter = UnauthenticatedLimiter(1)
    limiter.connected("192.0.2.1")
    limiter.connected("192.0.2.1")
    assert sum(limiter.allows(("192.0.2.1", 4000), 5.0) for _ in range(100)) == 4 + 8
    limiter.disconnected("192.0.2.1")
    assert not limiter.allows(("192.0.2.1", 4000), 5.0)
    limiter.disconnected("192.0.2.1")
    assert sum(limiter.allows(("192.0.2.1", 4000), 5.0) for _ in range(100)) == 4


@pytest.mark.clause("8489 §9.2.4: 401s are limited with a table of fixed size")
def test_known_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "_MAX_KNOWN_SOURCES", 2)
    limiter = UnauthenticatedLimiter(1)
    for n in range(3):
        limiter.connected(f"192.0.2.{n}")
    answers = [sum(limiter.allows((f"192.0.2.{n}", 4000), 5.0) for _ in range(100)) for n in range(3)]
    assert answers == [12, 12, 4]


@pytest.mark.clause("8489 §6.3.1: answers are kept 40 s, and few")
def test_remembered_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retransmissions, "_MAX_ANSWERS", 10)
    memory = AnswerMemory()
    here = FiveTuple(Transport.UDP, ("192.0.2.1", 1), ("192.0.2.2", 2))
    for n in range(50):
        memory.remember(here, bytes([n]) * 12, b"request", b"answer", 0.0)
    assert len(memory) == 10
    assert memory.find(here, bytes([49]) * 12, b"request", 39.0) == b"answer"
    assert memory.find(here, bytes([49]) * 12, b"another", 39.0) is None
    assert memory.find(here, bytes([49]) * 12, b"request", 40.0) is None
    memory.remember(here, b"x" * 12, b"request", b"answer", 41.0)
    assert len(memory) == 1

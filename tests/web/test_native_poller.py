"""The compiled poller passes on what Python would, as Python would, and hands over all else as it came."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from tavern.addresses import IPAddress
from tavern.signaling.candidates import announced_addresses, read_address
from tavern.signaling.limits import WindowLimit
from tavern.signaling.messages import Identity
from tavern.signaling.presence import Presence
from tavern.signaling.relaying import membership, pass_on
from tavern.signaling.rooms import Peer
from tavern.signaling.transport import Membership
from tavern.web.frames import FrameReader
from tavern.web.links import SocketLink
from tests.prerequisites import native_or_skip
from tests.web.native_lab import Channel, Lab, Member, masked, open_lab

CANDIDATE = "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.0.1 rport 0"


@pytest.fixture(scope="module", autouse=True)
def native() -> None:
    native_or_skip()


def message(kind: str = "offer", target: str = "b", **members: Any) -> bytes:
    members.setdefault("candidate" if kind == "ice-candidate" else "sdp", "v=0")
    return json.dumps({"type": kind, "target": target, **members}).encode()


# The same as Python

KEYS = ("a", "b", "c", "ü", 'q"')
HOSTS = ["203.0.113.7", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1", "1.2.3", "zz", "x.local", "1" * 46]
_candidates = st.builds(
    "{}andidate:{} {} {} {} {} {} typ {}".format,
    st.sampled_from("ccccC"),
    st.sampled_from(["842163049", "a+/Z_9", "x" * 32, "x" * 33, "", "-"]),
    st.sampled_from(["1", "2", "65535", "123456", "x"]),
    st.sampled_from(["udp", "UDP", "uDp", "tcp", "udpx"]),
    st.sampled_from(["1677729535", "0", "12345678901"]),
    st.sampled_from(HOSTS),
    st.sampled_from(["46154", "9", "123456", ""]),
    st.sampled_from(["host", "srflx raddr 10.0.0.1 rport 9", "host generation 0"]),
)
_texts = st.lists(
    _candidates
    | st.sampled_from(["v=0\r\n", "a=", '"', "\\", "/", " ", "candidate:", "\t", "ü", "\x00", "\x7f", "{}"]),
    max_size=6,
).map("".join)
_members = st.fixed_dictionaries(
    {"type": st.sampled_from(["offer", "answer", "ice-candidate", "join", "leave-channel", "offer "])},
    optional={
        "sdp": _texts | st.none() | st.integers(),
        "candidate": _texts | st.just({"candidate": "x"}),
        "target": st.sampled_from([*KEYS, "nobody", "", "b ", "B"]) | st.none(),
        "tavernId": st.sampled_from(["t", "other"]) | st.none(),
        "channelId": st.sampled_from(["c", "other"]),
        "from": st.sampled_from(["b", "nobody"]),
        "signature": _texts,
        "ü": st.just("x"),
        'q"': st.just("x"),
        "number": st.integers() | st.booleans() | st.lists(st.integers(), max_size=2),
    },
)
_plain = st.fixed_dictionaries(
    {"type": st.sampled_from(["offer", "answer", "ice-candidate"]), "target": st.sampled_from("bc")},
    optional={"sdp": _texts, "candidate": _texts, "tavernId": st.just("t"), "signature": _texts},
)


@st.composite
def _encoded(draw: st.DrawFn) -> bytes:
    """JSON as any library may write it, its members in any order, now and then one of them twice."""
    members = list(draw(_members | _plain).items())
    if draw(st.integers(0, 9)) == 0:
        members += [draw(st.sampled_from(members))]
    escaped = draw(st.booleans())
    blank = draw(st.sampled_from(["", " ", "\r\n\t "]))
    written = [
        f"{json.dumps(name, ensure_ascii=escaped)}{blank}:{blank}{json.dumps(value, ensure_ascii=escaped)}"
        for name, value in draw(st.permutations(members))
    ]
    return f"{blank}{{{f'{blank},{blank}'.join(written)}}}{blank}".encode()


class Twins:
    """The same channel to both sides."""

    def __init__(self, lab: Lab) -> None:
        presence = Presence()
        self.lab = lab
        self.peers = {key: Peer(f"id-{key}") for key in KEYS}
        self.members: dict[str, Member] = {}
        self.known: dict[Peer, set[IPAddress]] = {}
        """What has been announced to whom."""
        for key, peer in self.peers.items():
            presence.join_channel(peer, "t", "c", Identity(key, f"#{key}"))
            self.members[key] = lab.connect(key)
            self.members[key].watched.set_membership(membership(peer))

    def check(self, data: bytes) -> bool:
        """Whether it was passed on, as Python would have; else it was left to Python."""
        sender = self.members["a"]
        sender.watched.release()
        del sender.handed[:]
        self.lab.seen.announced.clear()
        before = self.lab.seen.count
        sender.client.send(masked(data))
        self.lab.turn()
        heard = {key: found for key, member in self.members.items() if (found := member.heard())}
        if self.lab.seen.count == before:
            assert sender.handed == [masked(data)]
            assert not heard
            assert not self.lab.seen.announced
            return False
        expected = pass_on(self.peers["a"], data.decode())
        assert expected is not None
        target, told, content = expected
        assert heard == {key: [told] for key, peer in self.peers.items() if peer is target}
        assert not sender.handed
        assert all((one, other) == (self.peers["a"], target) for one, other, _ in self.lab.seen.announced)
        read = (read_address(text) for _, _, text in self.lab.seen.announced)
        addresses = {address for address in read if address is not None}
        assert addresses <= announced_addresses(content)
        self.known[target] = self.known.get(target, set()) | addresses
        assert announced_addresses(content) <= self.known[target]
        return True

    def forget(self) -> None:
        """Nothing has been announced yet."""
        self.known.clear()
        self.members["a"].watched.set_membership(None)
        self.members["a"].watched.set_membership(membership(self.peers["a"]))


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    with open_lab() as (lab, _):
        yield Twins(lab)


@given(_encoded() | st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b'{"type":"offer","sdp":"\\u0063andidate:1 1 udp 1 192.0.2.1 9 typ host","target":"b"}')
@example(b'{"type":"offer","sdp":"x","target":"b"} ')
@example(b'{"type":"offer","sdp":"x","target":"b",}')
@example(b'{"type":"offer","sdp":"x","target":"b"}}')
@example(b'{"type":"offer","sdp":"x","target":"b"')
@example(b'{"type":"offer","sdp":"x","target":"a"}')
@example(b'{"type":"offer","sdp":"x","target":"q\\""}')
@example(b'{"type":"offer","type":"answer","sdp":"x","target":"b"}')
@example(b'{"type":"offer","sdp":"x","target":"c","target":"b"}')
@example(b'{"type":"offer","sdp":"x","target":"b","from":"b","from":"c"}')
@example(b'{"type":"offer","sdp":"x","target":"b","sdp":"y"}')
@example(b'{"type":"offer","sdp":"x","target":"b","extra":"1","extra":"2"}')
@example(b'{"type":"offer","sdp":"a\x01n","target":"b"}')
@example(b'{"type":"offer","sdp":"a\xc3n","target":"b"}')
@example('{"type":"offer","sdp":"\u0101n","target":"b"}'.encode())
@example(b'{"type":"offer","sdp":"x","target":"b","a\\n":"x","a\\"":"x"}')
@example(b"{}")
@example(b"")
def test_whatever_comes_is_passed_on_as_python_would_or_left_to_it(twins: Twins, data: bytes) -> None:
    twins.check(data)


@given(_texts)
def test_every_address_in_a_text_that_is_passed_on_is_announced(twins: Twins, text: str) -> None:
    twins.forget()
    twins.check(json.dumps({"type": "offer", "target": "b", "sdp": text}, ensure_ascii=False).encode())


_WORDS = ["candidate:842163049", "1", "udp", "1677729535", "198.51.100.9", "46154", "typ", "srflx"]


@pytest.mark.parametrize("position", range(len(_WORDS) + 1))
@pytest.mark.parametrize(
    "word",
    [
        "",
        "x",
        "0",
        "1" * 5,
        "1" * 6,
        "1" * 10,
        "1" * 11,
        "a" * 32,
        "a" * 33,
        "a" * 45,
        "a" * 46,
        "1:",
        "UDP",
        "udp ",
        "typ",
    ]
    + ["ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255"]
    + [f"candidate:{'a' * size}" for size in (0, 1, 32, 33)]
    + ["candidate:+/_", "candidate:a-b", "candidate:a:b", "xcandidate:1", "Candidate:1", "candidate:candidate:1"],
)
def test_candidates_are_told_from_what_is_nearly_one(twins: Twins, position: int, word: str) -> None:
    for words in ([*_WORDS[:position], word, *_WORDS[position + 1 :]], [*_WORDS[:position], word, *_WORDS[position:]]):
        dashed = f"{' '.join(words[:position])}-{' '.join(words[position:])}"
        for text in (" ".join(words), dashed, "\t".join(words), " ".join(words)[:-6]):
            twins.forget()
            assert twins.check(message(sdp=f"a={text}\r\na={CANDIDATE}"))


@pytest.mark.parametrize("where", [{}, {"tavernId": "t"}, {"tavernId": "t", "channelId": "c"}])
@pytest.mark.parametrize("kind", ["offer", "answer", "ice-candidate"])
@pytest.mark.parametrize("size", [1, *range(60, 100), 1500, 16_000])
def test_what_is_common_is_passed_on(twins: Twins, kind: str, where: dict[str, str], size: int) -> None:
    text = ("v=0\r\na=rtpmap:111 opus/48000/2\r\n" + CANDIDATE).ljust(size, "x")[:size]
    content = {"candidate" if kind == "ice-candidate" else "sdp": text}
    assert twins.check(message(kind, **content, **where))
    assert twins.check(message(kind, "c", **content, **where, signature="x", **{"from": "b"}))


def test_members_that_only_others_know_are_passed_on_up_to_sixteen(twins: Twins) -> None:
    assert twins.check(message(**{f"extra{number}": "x" for number in range(15)}))
    assert not twins.check(message(**{f"extra{number}": "x" for number in range(16)}))


# Whose turn it is


@pytest.mark.parametrize("count", [20, 63, 64, 160, 192])
def test_however_many_flood_another_has_its_turn(count: int) -> None:
    """What is handed over ends a turn early, and the kernel would give the same ones first again."""
    with open_lab() as (lab, _):
        flooders = [lab.connect(f"f{number}") for number in range(count)]
        a, b, channel = lab.connect("a"), lab.connect("b"), Channel()
        lab.join(a, channel)
        lab.join(b, channel)
        for flooder in flooders:
            flooder.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
            flooder.client.send(b"x" * 40_000)
        a.client.send(masked(message()))
        for _ in range(count):
            lab.turn()
            if b.heard():
                break
        else:
            pytest.fail("never read")
        # Each once before, and some again in the turn that came round.
        assert max(len(flooder.handed) for flooder in flooders) <= 2


def test_who_sends_more_than_a_read_is_read_once_a_turn() -> None:
    """What Python is told of the end, it is told once."""
    with open_lab() as (lab, _):
        ended = [lab.connect(f"e{number}") for number in range(40)]
        for one in ended:
            one.client.send(b"x" * 20_000)
            one.client.close()
        for _ in range(2 * len(ended)):
            before = [len(one.handed) for one in ended]
            lab.turn()
            assert all(len(one.handed) - had <= 1 for one, had in zip(ended, before, strict=True))
        assert all(b"".join(one.handed) == b"x" * 20_000 for one in ended)


# Frames


def test_each_of_many_in_one_read_goes_to_its_receiver_in_order() -> None:
    with open_lab("a", "b", "c") as (lab, (a, b, c)):
        sent = [message("ice-candidate", "b" if number % 3 else "c", number=str(number)) for number in range(60)]
        a.client.send(b"".join(map(masked, sent)))
        lab.turn()
        assert [json.loads(found)["number"] for found in b.heard()] == [str(n) for n in range(60) if n % 3]
        assert [json.loads(found)["number"] for found in c.heard()] == [str(n) for n in range(60) if not n % 3]
        assert lab.seen.count == 60
        assert not a.handed


_frames = st.one_of(
    st.integers(0, 200).map(lambda size: masked(message(filling="x" * size))),
    st.sampled_from(
        [
            masked(b"", first=0x89),
            masked(b"pong", first=0x8A),
            masked(message("offer", "nobody")),
            masked(b"hello"),
            masked("ü".encode()),
            masked(message(), first=0x01) + masked(b"", first=0x80),
            masked(message()[:9], first=0x01) + masked(b"", first=0x89) + masked(message()[9:], first=0x80),
            masked(message(filling="x" * 20_000)),
            masked(message(filling="x" * 60_000)),
        ]
    ),
)


@given(st.lists(_frames, min_size=1, max_size=12), st.lists(st.integers(1, 2000), max_size=40))
def test_however_a_stream_is_cut_nothing_is_lost_or_overtaken(frames: list[bytes], cuts: list[int]) -> None:
    """What is passed on and what Python reads together are what was sent, in its order."""
    stream = b"".join(frames)
    expected = [event for event in FrameReader(65536, 100).feed(stream) if isinstance(event, str)]
    with open_lab("a", "b") as (lab, (a, b)):
        a.reader = FrameReader(65536, 100)
        found: list[str] = []
        while stream:
            size = cuts.pop() if cuts else len(stream)
            sent = a.client.send(stream[:size])
            stream = stream[sent:]
            progress = (-1, -1)
            while progress != (progress := (lab.seen.count, len(a.handed))):
                lab.turn()
                # In one turn what was passed on came before what was handed over.
                found += [_canonical(heard.decode()) for heard in b.heard()]
                found += [_canonical(event) for event in a.events if isinstance(event, str)]
                a.events.clear()
        assert found == list(map(_canonical, expected))


def _canonical(text: str) -> str:
    """A message without what is written anew on the way."""
    if not text.startswith("{"):
        return text
    members = json.loads(text)
    return json.dumps(
        {name: value for name, value in members.items() if name not in ("from", "target")}, sort_keys=True
    )


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81" + message(),  # not masked, and its length is the text
        bytes((0x81, len(message()))) + masked(message())[2:],
        b"\xc1" + masked(message())[1:],  # a reserved bit
        b"\x82" + masked(message())[1:],
        b"\x01" + masked(message())[1:],
        masked(b"\x03\xe8", first=0x88),
        b"\x81\xfe" + len(message()).to_bytes(2, "big") + masked(message())[2:],  # fewer bytes would do
        b"\x81\xff" + len(message()).to_bytes(8, "big") + masked(message())[2:],
        b"\x81\xff" + (2**63).to_bytes(8, "big"),
        b"\x81",
        b"\x81\xfe",
        b"\x81\xfe\x01",
        masked(message())[:5],
        masked(message())[:-1],
        masked(b'{"type":"offer","sdp":"\xff","target":"b"}'),
        masked(b'{"type":"offer","sdp":"\x00","target":"b"}'),
    ],
)
def test_any_other_frame_is_handed_over_with_all_that_follows(frame: bytes) -> None:
    with open_lab("a", "b") as (lab, (a, b)):
        a.client.send(masked(message()) + frame + masked(message()))
        lab.turn()
        a.client.send(masked(message()))
        lab.turn()
        assert len(b.heard()) == 1
        assert a.handed == [frame + masked(message()), masked(message())]


@pytest.mark.parametrize("size", [0, 70, 71, 200])
def test_what_an_earlier_read_left_in_the_buffer_is_not_looked_at(size: int) -> None:
    frame = masked(message(filling="x" * size))
    with open_lab("a", "b") as (lab, (a, b)):
        for cut in range(1, len(frame)):
            a.client.send(frame)
            lab.turn()
            a.client.send(frame[:cut])
            lab.turn()
            assert a.handed == [frame[:cut]]
            assert len(b.heard()) == 1
            a.handed.clear()
            a.watched.release()


def test_the_end_is_handed_over_and_a_reset_as_well() -> None:
    with open_lab("a", "b") as (lab, (a, b)):
        a.client.close()
        lab.turn()
        assert a.handed == [b""]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        server.setblocking(False)
        handed: list[bytes] = []
        watched = lab.poller.watch(server.fileno(), b)
        watched.listen(handed.append)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        lab.turn()
        assert handed == [b""]
        watched.close()
        server.close()


# Who may


def test_a_held_connection_hands_all_over_until_it_is_released() -> None:
    with open_lab("a", "b") as (lab, (a, b)):
        for _ in range(2):
            a.watched.hold()
            a.client.send(masked(message()))
            lab.turn()
            assert a.handed == [masked(message())]
            assert not b.heard()
            a.handed.clear()
            a.watched.release()
            a.client.send(masked(message()))
            lab.turn()
            assert len(b.heard()) == 1
            assert not a.handed


def test_only_those_in_the_same_channel_are_reached() -> None:
    with open_lab("a", "b", "c") as (lab, (a, b, c)):
        other = Channel(channel="other")
        lab.join(b, other)
        for sender, target, reaches in [(a, "b", False), (b, "c", False), (a, "c", True), (c, "a", True)]:
            sender.handed.clear()
            sender.watched.release()
            sender.client.send(masked(message(target=target)))
            lab.turn()
            assert any(member.heard() for member in (a, b, c)) == reaches
            assert bool(sender.handed) != reaches
        lab.join(a, other)
        a.client.send(masked(message(target="b", channelId="other")) + masked(message(target="b", channelId="c")))
        lab.turn()
        assert len(b.heard()) == 1
        assert a.handed[-1] == masked(message(target="b", channelId="c"))


def test_who_left_is_not_reached_and_reaches_nobody() -> None:
    with open_lab("a", "b", "c") as (lab, (a, b, c)):
        b.watched.set_membership(None)
        c.watched.close()
        a.client.send(masked(message(target="b")))
        b.client.send(masked(message(target="a")))
        lab.turn()
        a.watched.release()
        a.client.send(masked(message(target="c")))
        lab.turn()
        assert len(a.handed) == 2
        assert len(b.handed) == 1
        assert not any(member.heard() for member in (a, b, c))


def test_who_goes_by_another_key_is_reached_and_named_by_it() -> None:
    with open_lab() as (lab, _):
        a, b, channel = lab.connect("a"), lab.connect("b"), Channel()
        lab.join(a, channel)
        lab.join(b, channel)
        lab.join(b, channel, key="new")
        a.client.send(masked(message(target="new")) + masked(message(target="b")))
        b.client.send(masked(message(target="a")))
        lab.turn()
        assert [json.loads(found)["from"] for found in a.heard()] == ["new"]
        assert len(b.heard()) == 1
        assert a.handed == [masked(message(target="b"))]


def test_a_ninth_in_a_channel_is_left_to_python() -> None:
    with open_lab(*"abcdefgh") as (lab, (a, *_others)):
        channel = a.watched.membership.group if a.watched.membership else None
        assert isinstance(channel, Channel)
        ninth = lab.connect("i")
        lab.join(ninth, channel)
        a.client.send(masked(message(target="i")))
        ninth.client.send(masked(message(target="a")))
        lab.turn()
        assert a.handed
        assert ninth.handed
        assert not a.heard()
        assert not ninth.heard()


# Limits


@given(st.integers(1, 40), st.lists(st.floats(0, 0.3) | st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=120))
def test_the_rate_is_counted_as_python_counts_it(limit: int, waits: list[float]) -> None:
    with open_lab("a") as (lab, (a,)):
        native, expected = a.watched.message_limit(limit), WindowLimit(limit, 1.0)
        now = lab.now
        for wait_s in waits:
            now += wait_s
            assert native.allow(now) == expected.allow(now)


def test_messages_that_are_passed_on_and_those_that_are_not_count_against_one_rate() -> None:
    with open_lab("a", "b") as (lab, (a, b)):
        limit = a.watched.message_limit(3)
        assert limit.allow(lab.now)
        a.client.send(masked(message()) * 3)
        lab.turn()
        assert len(b.heard()) == 2
        assert a.handed == [masked(message())]
        assert not limit.allow(lab.now)
        lab.now += 1.5
        a.watched.release()
        a.client.send(masked(message()) * 3)
        lab.turn()
        assert len(b.heard()) == 3


def test_what_the_kernel_does_not_take_is_handed_over_once_and_nothing_follows_it() -> None:
    with open_lab("a", "b") as (lab, (a, b)):
        b.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = [message(number=str(number), filling="x" * 1000) for number in range(400)]
        for data in sent:
            if b.rest:
                break
            a.client.send(masked(data))
            lab.turn()
        assert b.rest
        before = lab.seen.count
        assert not a.handed
        a.client.send(masked(message(number="late")))
        lab.turn()
        assert a.handed == [masked(message(number="late"))]
        under_way, size = b.rest_under_way, len(b.rest)
        # All that was counted is there, whole and in order, once the rest has been written.
        heard = b.heard()
        assert [json.loads(found)["number"] for found in heard] == [str(number) for number in range(before)]
        assert under_way == (size < 4 + len(heard[-1]))
        b.watched.unblock()
        a.watched.release()
        a.client.send(masked(message(number="again")))
        lab.turn()
        assert len(b.heard()) == 1


def test_what_grows_on_the_way_is_sent_in_several_goes() -> None:
    """A name is longer than all else of a short message."""
    with open_lab() as (lab, _):
        a, b, channel = lab.connect("a"), lab.connect("b"), Channel()
        lab.join(a, channel, raw=b'"' + b"\\u0007" * 128 + b'"')
        lab.join(b, channel)
        sent = b""
        while len(sent) < 16_000:
            sent += masked(b'{"type":"offer","target":"b","sdp":"%d"}' % len(sent))
        a.client.send(sent[: 16 * 1024])
        lab.turn()
        found = [json.loads(heard) for heard in b.heard()]
        assert lab.seen.count > 200
        assert all(one["from"] == "\a" * 128 for one in found)
        assert len(found) == lab.seen.count
        assert sum(map(len, a.handed)) == len(sent[: 16 * 1024]) - sum(
            len(masked(b'{"type":"offer","target":"b","sdp":"%d"}' % int(one["sdp"]))) for one in found
        )


def test_what_could_not_be_sent_is_known_before_anybody_answers() -> None:
    """Or else an answer to the receiver would be written in the middle of a message."""
    with open_lab("a", "b", "c") as (lab, (a, b, c)):
        b.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        waits: list[bool] = []
        c.watched.unlisten()
        c.watched.listen(lambda _data: waits.append(bool(b.rest)))
        while not b.rest:
            waits.clear()
            c.client.send(b"x")
            a.client.send(masked(message(filling="x" * 8000)))
            lab.turn()
        assert waits == [True]


def test_nothing_is_passed_on_to_one_for_whom_something_waits() -> None:
    with open_lab("a", "b", "c") as (lab, (a, b, c)):
        b.watched.block()
        a.client.send(masked(message(target="c")) + masked(message(target="b")))
        lab.turn()
        assert len(c.heard()) == 1
        assert a.handed == [masked(message(target="b"))]


async def test_nothing_is_passed_on_while_a_link_has_something_queued(nursery: trio.Nursery) -> None:
    with open_lab() as (lab, _), trio.fail_after(5):
        a, channel = lab.connect("a"), Channel()
        lab.join(a, channel)
        near, far = trio.socket.socketpair()
        link = SocketLink(near, nursery.start_soon, lab.poller)
        link.passing.set_membership(Membership("b", channel, b'"t"', b'"c"', b'"b"'))
        while not link.queued:
            link.write(b"x" * 10_000)
        a.client.send(masked(message()))
        lab.turn()
        assert a.handed == [masked(message())]
        while link.queued:
            await far.recv(1_000_000)
        await link.wait_flushed()
        await trio.testing.wait_all_tasks_blocked()
        a.handed.clear()
        a.watched.release()
        a.client.send(masked(message()))
        lab.turn()
        assert not a.handed
        link.detach()
        near.close()
        far.close()


async def test_nothing_is_passed_on_into_what_a_cancelled_link_has_sent_half() -> None:
    with open_lab() as (lab, _), trio.fail_after(5):
        a, channel = lab.connect("a"), Channel()
        lab.join(a, channel)
        near, far = trio.socket.socketpair()
        async with trio.open_nursery() as nursery:
            link = SocketLink(near, nursery.start_soon, lab.poller)
            link.passing.set_membership(Membership("b", channel, b'"t"', b'"c"', b'"b"'))
            while not link.queued:
                link.write(b"x" * 10_000)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with suppress(BlockingIOError):
            while os.read(far.fileno(), 1_000_000):
                pass
        a.client.send(masked(message()))
        lab.turn()
        assert a.handed == [masked(message())]
        link.detach()
        near.close()
        far.close()


async def test_nothing_is_passed_on_after_an_abort(nursery: trio.Nursery) -> None:
    with open_lab() as (lab, _):
        a, channel = lab.connect("a"), Channel()
        lab.join(a, channel)
        near, far = trio.socket.socketpair()
        link = SocketLink(near, nursery.start_soon, lab.poller)
        link.passing.set_membership(Membership("b", channel, b'"t"', b'"c"', b'"b"'))
        link.abort()
        a.client.send(masked(message()))
        lab.turn()
        assert a.handed == [masked(message())]
        link.detach()
        near.close()
        far.close()


def test_a_receiver_that_is_gone_is_said_to_be() -> None:
    with open_lab("a", "b", "c") as (lab, (a, b, c)):
        b.watched.unlisten()
        b.client.close()
        a.client.send(masked(message(target="b")) + masked(message(target="c")))
        lab.turn()
        assert b.aborted
        assert len(c.heard()) == 1


def test_what_many_hand_over_at_once_is_dealt_with_turn_by_turn() -> None:
    with open_lab() as (lab, _):
        members = [lab.connect(str(number)) for number in range(40)]
        for member in members:
            member.client.send(b"x" * 16_000)
        turns = 0
        while not all(member.handed for member in members):
            lab.turn()
            turns += 1
        assert turns > 1
        assert all(member.handed == [b"x" * 16_000] for member in members)


def test_a_connection_that_another_ones_message_closed_hears_nothing_more() -> None:
    with open_lab("a", "b") as (lab, (a, b)):
        for one, other in ((a, b), (b, a)):
            one.watched.unlisten()
            one.watched.listen(lambda _data, other=other: other.watched.close())  # type: ignore[misc]
        a.client.send(b"hello")
        b.client.send(b"hello")
        lab.turn()
        lab.turn()
        assert (a.watched.membership is None) != (b.watched.membership is None)


# What the relay has to know


def announce(lab: Lab, sender: Member, target: str, *addresses: str) -> list[tuple[object, object, bytes]]:
    text = "".join(f"a={CANDIDATE.replace('203.0.113.7', address)}\r\n" for address in addresses)
    lab.seen.announced.clear()
    sender.client.send(masked(message(target=target, sdp=text)))
    lab.turn()
    return lab.seen.announced


def test_an_address_is_announced_once_to_each_receiver() -> None:
    with open_lab("a", "b", "c") as (lab, (a, _b, _c)):
        assert announce(lab, a, "b", "192.0.2.1", "192.0.2.2") == [("a", "b", b"192.0.2.1"), ("a", "b", b"192.0.2.2")]
        assert announce(lab, a, "b", "192.0.2.2", "192.0.2.1") == []
        assert announce(lab, a, "c", "192.0.2.2", "2001:db8::1") == [
            ("a", "c", b"192.0.2.2"),
            ("a", "c", b"2001:db8::1"),
        ]


def test_it_is_announced_again_once_either_has_been_elsewhere() -> None:
    with open_lab("a", "b") as (lab, (a, b)):
        known = a.watched.membership
        assert known is not None
        channel = known.group
        assert isinstance(channel, Channel)
        for moved in (a, b):
            assert announce(lab, a, "b", "192.0.2.1") == [("a", "b", b"192.0.2.1")]
            assert announce(lab, a, "b", "192.0.2.1") == []
            moved.watched.set_membership(None)
            lab.join(moved, channel)
        assert announce(lab, a, "b", "192.0.2.1") == [("a", "b", b"192.0.2.1")]


def test_one_with_hundreds_of_addresses_is_heard() -> None:
    with open_lab("a", "b") as (lab, (a, _b)):
        addresses = [f"192.0.2.{number}" for number in range(120)]
        assert [found for _, _, found in announce(lab, a, "b", *addresses)] == [host.encode() for host in addresses]

"""Where TLS is spoken: a certificate authority's challenges, and people who type http://."""

from __future__ import annotations

import ssl

import attrs
import pytest
import trio
import trustme

from tavern.web.challenges import Challenges
from tavern.web.handshake import TlsSide, sent_to_https
from tavern.web.heads import Head
from tests.web.test_door import OpenDoor, get, open_door, parse

AUTHORITY = trustme.CA()


def server_context(name: str, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert(name).configure_cert(context)
    context.set_alpn_protocols(list(protocols))
    return context


def client_context(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


ORDINARY = server_context("localhost", "http/1.1")
CHALLENGE = server_context("challenge.example.com", "acme-tls/1")


@attrs.frozen
class Opened:
    door: OpenDoor
    challenges: Challenges

    async def shown_to(self, *protocols: str) -> tuple[str, str | None]:
        """Whose certificate a client gets that offers these, and what was agreed upon."""
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", self.door.port, ssl_context=client_context(*protocols)
        )
        with trio.fail_after(5):
            await stream.do_handshake()
        certificate = stream.getpeercert()
        agreed = stream.selected_alpn_protocol()
        await trio.aclose_forcefully(stream)
        return certificate["subjectAltName"][0][1], agreed


async def opened(nursery: trio.Nursery) -> Opened:
    challenges = Challenges()
    side = TlsSide(lambda: ORDINARY, "tavern.example.com", challenges)
    return Opened(await open_door(nursery, tls=side), challenges)


async def test_only_who_comes_for_the_challenge_sees_its_certificate(nursery: trio.Nursery) -> None:
    at = await opened(nursery)
    with at.challenges.tls(CHALLENGE):
        assert await at.shown_to("acme-tls/1") == ("challenge.example.com", "acme-tls/1")
        for protocols in ((), ("http/1.1",), ("acme-tls/1", "http/1.1"), ("http/1.1", "acme-tls/1")):
            name, agreed = await at.shown_to(*protocols)
            assert name == "localhost"
            assert agreed == ("http/1.1" if protocols else None)
    assert (await at.shown_to("acme-tls/1"))[0] == "localhost"
    assert at.door.door.metrics.failures == {}
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cut", [1, 3, 5, 6, 100])
async def test_a_hello_may_come_in_pieces_while_a_challenge_is_open(nursery: trio.Nursery, cut: int) -> None:
    at = await opened(nursery)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context("http/1.1").wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    whole = outgoing.read()
    with at.challenges.tls(CHALLENGE):
        async with await at.door.connect() as stream:
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            await stream.send_all(whole[:cut])
            with trio.move_on_after(0.05) as early:
                await stream.receive_some()
            assert early.cancelled_caught, "answered before the hello was there"
            await stream.send_all(whole[cut:])
            with trio.fail_after(5):
                assert (await stream.receive_some())[0] == 0x16
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sent", [b"\x16", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\xff\xff" + b"\x01" * 300])
async def test_who_ends_within_its_hello_is_let_go(nursery: trio.Nursery, sent: bytes) -> None:
    at = await opened(nursery)
    with at.challenges.tls(CHALLENGE):
        await at.door.exchange_and_end(sent)
    assert (await at.shown_to())[0] == "localhost"
    assert at.door.door.metrics.failures == {}
    nursery.cancel_scope.cancel()


async def test_the_challenge_over_http_is_answered_at_its_path_only(nursery: trio.Nursery) -> None:
    at = await opened(nursery)
    path = "/.well-known/acme-challenge/tok"
    with at.challenges.http("tok", "tok.thumbprint"):
        status, _headers, body = parse(await at.door.exchange(get(path)))
        assert (status, body) == (200, b"tok.thumbprint")
        assert parse(await at.door.exchange(get(path + "en")))[0] == 308
    assert parse(await at.door.exchange(get(path)))[0] == 308
    nursery.cancel_scope.cancel()


async def test_who_types_http_is_sent_to_https(nursery: trio.Nursery) -> None:
    at = await opened(nursery)
    status, headers, _body = parse(await at.door.exchange(get("/join/abc?x=1")))
    assert status == 308
    assert headers["location"].startswith("https://")
    assert headers["location"].endswith("/join/abc?x=1")
    assert parse(await at.door.exchange(b"garbage\r\n\r\n"))[0] == 400
    nursery.cancel_scope.cancel()


def asked(host: str | None, target: str = "/a", method: bytes = b"GET", upgrade: bytes = b"") -> Head:
    headers = [(b"host", host.encode())] if host is not None else []
    if upgrade:
        headers.append((b"upgrade", upgrade))
    return Head(method, target.encode(), headers, b"")


@pytest.mark.parametrize(
    ("host", "location"),
    [
        ("tavern.example.com", "https://tavern.example.com/a"),
        ("tavern.example.com:80", "https://tavern.example.com/a"),
        ("tavern.example.com:3001", "https://tavern.example.com:3001/a"),
        ("192.0.2.7:8080", "https://192.0.2.7:8080/a"),
        ("[2001:db8::7]:3001", "https://[2001:db8::7]:3001/a"),
        (None, "https://own.example.com/a"),
        ("bad host/", "https://own.example.com/a"),
        ("user@elsewhere.example", "https://own.example.com/a"),
    ],
)
def test_the_way_to_https_keeps_host_and_port(host: str | None, location: str) -> None:
    refused = sent_to_https(asked(host), "own.example.com")
    assert (refused.status, refused.extra_header) == ("308 Permanent Redirect", f"Location: {location}")


@pytest.mark.parametrize(
    "head",
    [
        asked("a.example", method=b"POST"),
        asked("a.example", upgrade=b"websocket"),  # no WebSocket client follows a way
        asked("a.example", target="http://b.example/"),
        asked("a.example", target="*"),
    ],
)
def test_what_follows_no_way_is_told_in_words(head: Head) -> None:
    refused = sent_to_https(head, "own.example.com")
    assert (refused.status, refused.line) == ("400 Bad Request", "This port speaks https and wss only.")

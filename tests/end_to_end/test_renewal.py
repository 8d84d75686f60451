"""A certificate is renewed when it is due, in a server whose clock the test holds, by a real authority."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
from cryptography import x509

from tavern.acme.authority import Authority, OrderFailed
from tavern.acme.files import CertificateFiles, key_pem, new_key
from tavern.acme.renewal import Renewal
from tavern.web.challenges import Challenges
from tavern.web.handshake import TlsSide
from tavern.web.tls import CHECK_INTERVAL_S, ServerCertificate
from tests.end_to_end.pebble import BLOCKED_DOMAIN, DOMAIN, Pebble
from tests.web.test_door import get, make_door, parse

DAY_S = 86_400.0

pytestmark = pytest.mark.end_to_end


@pytest.fixture(autouse=True)
def trusted(pebble: Pebble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pebble.ca_bundle))


@attrs.define
class Clock:
    days: float = 0

    def __call__(self) -> float:
        return time.time() + self.days * DAY_S


@attrs.frozen
class Server:
    files: CertificateFiles
    renewal: Renewal
    clock: Clock
    port: int
    trusting: ssl.SSLContext

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        tcp = await trio.open_tcp_stream("127.0.0.1", self.port)
        stream = trio.SSLStream(tcp, self.trusting, server_hostname=DOMAIN, https_compatible=True)
        try:
            with trio.fail_after(5):
                await stream.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.files.chain_pem()).serial_number


async def serve(nursery: trio.Nursery, pebble: Pebble, folder: Path, clock: Clock, *, port: int) -> Server:
    files = CertificateFiles.beside(folder, pebble.directory_url, DOMAIN)
    files.prepare()
    certificate = ServerCertificate(files.certificate, files.certificate)
    challenges = Challenges()
    door = make_door(tls=TlsSide(certificate.context, DOMAIN, challenges))
    await nursery.start(door.run)
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, door.handle, listeners)
    renewal = Renewal(files, challenges, pebble.directory_url, "ops@example.com", now=clock)
    nursery.start_soon(renewal.run)
    return Server(files, renewal, clock, listeners[0].socket.getsockname()[1], pebble.trusting())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        await trio.sleep(0.02)  # files are written by a thread
    raise AssertionError("never came true")


async def test_it_is_renewed_when_a_third_is_left_and_no_connection_ends(
    nursery: trio.Nursery, pebble: Pebble, tmp_path: Path
) -> None:
    clock = Clock()
    server = await serve(nursery, pebble, tmp_path, clock, port=pebble.tls_port)
    await until(lambda: server.files.renewal_due_at() is not None)
    first = server.serial()
    lifetime_days = _lifetime_s(server.files) / DAY_S
    before = await _connect_soon(server)
    # Not yet: a day before two thirds have passed.
    clock.days = lifetime_days * 2 / 3 - 1
    server.renewal.look_now()
    await trio.testing.wait_all_tasks_blocked(0.3)
    assert server.serial() == first
    clock.days += 1.1
    server.renewal.look_now()
    await until(lambda: server.serial() != first)
    await before.send_all(get("/health"))
    with trio.fail_after(5):
        answer = b""
        while not answer.endswith(b"}"):
            answer += await before.receive_some()
    assert parse(answer)[0] == 200
    await trio.aclose_forcefully(before)
    await trio.sleep(CHECK_INTERVAL_S)
    after = await server.connect()
    assert _serial_shown(after) == server.serial()
    await trio.aclose_forcefully(after)
    nursery.cancel_scope.cancel()


async def test_an_authority_that_is_away_costs_nothing_but_a_line(
    nursery: trio.Nursery, pebble: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = attrs.evolve(pebble, directory_url="https://localhost:9/dir")
    server = await serve(nursery, away, tmp_path, Clock(), port=0)
    with caplog.at_level(logging.WARNING):
        await until(lambda: len(caplog.records) == 1)
        server.renewal.look_now()
        await until(lambda: len(caplog.records) == 2)
    for record, again_in_s in zip(caplog.records, (1800, 3600), strict=True):
        fields = record.__dict__["fields"]
        assert record.getMessage() == "certificate-not-obtained"
        assert str(fields["reason"]).startswith("https://localhost:9/dir cannot be asked")
        assert (fields["domain"], fields["again_in_s"]) == (DOMAIN, again_in_s)
    assert server.files.renewal_due_at() is None
    nursery.cancel_scope.cancel()


async def test_after_a_restart_it_waits_where_it_has_failed_too_often_unless_it_is_asked(
    nursery: trio.Nursery, pebble: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = attrs.evolve(pebble, directory_url="https://localhost:9/dir")
    files = CertificateFiles.beside(tmp_path, away.directory_url, DOMAIN)
    files.prepare()
    said = ["certificate-not-obtained"] * 2 + ["certificate-waits", "certificate-not-obtained"]
    with caplog.at_level(logging.WARNING):
        for count in (1, 2, 3):
            async with trio.open_nursery() as life:
                renewal = Renewal(files, Challenges(), away.directory_url)
                life.start_soon(renewal.run)
                await until(lambda count=count: len(caplog.records) == count)  # type: ignore[misc]
                if count == 3:
                    renewal.look_now()
                    await until(lambda: len(caplog.records) == 4)
                await until(lambda count=count: len(files.failures()) == count)  # type: ignore[misc]
                life.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == said


async def test_who_looks_during_an_attempt_has_another_one(
    nursery: trio.Nursery, pebble: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason may have been mended after the attempt met it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        away = attrs.evolve(pebble, directory_url=f"https://localhost:{listener.getsockname()[1]}/dir")
        files = CertificateFiles.beside(tmp_path, away.directory_url, DOMAIN)
        files.prepare()
        renewal = Renewal(files, Challenges(), away.directory_url)
        with caplog.at_level(logging.WARNING):
            nursery.start_soon(renewal.run)
            asked, _ = await trio.to_thread.run_sync(listener.accept)
            renewal.look_now()
            asked.close()
            again, _ = await trio.to_thread.run_sync(listener.accept)
            again.close()
            await until(lambda: len(caplog.records) == 2)
        nursery.cancel_scope.cancel()


def test_the_account_is_the_same_as_long_as_its_key_is(pebble: Pebble, tmp_path: Path) -> None:
    files = CertificateFiles.beside(tmp_path, pebble.directory_url, DOMAIN)
    for _ in range(2):
        with closing(Authority(pebble.directory_url, files.account_key(), None)) as authority:
            order = authority.order(DOMAIN, _key(), "http-01")
        assert order.challenge is not None
        assert order.challenge.key_authorization.startswith(order.challenge.token + ".")


@pytest.mark.parametrize(
    ("domain", "method", "word"), [(DOMAIN, "dns-99", "offers no dns-99"), (BLOCKED_DOMAIN, "http-01", "blocked")]
)
def test_refusals_are_told_in_the_authority_s_words(
    pebble: Pebble, tmp_path: Path, domain: str, method: str, word: str
) -> None:
    account_key = CertificateFiles(tmp_path, domain).account_key()
    with (
        closing(Authority(pebble.directory_url, account_key, None)) as authority,
        pytest.raises(OrderFailed, match=word),
    ):
        authority.order(domain, _key(), method)


def test_a_page_that_is_no_authority_is_named(pebble: Pebble, tmp_path: Path) -> None:
    url = pebble.roots_url
    account_key = CertificateFiles(tmp_path, DOMAIN).account_key()
    with closing(Authority(url, account_key, None)) as authority, pytest.raises(OrderFailed, match=url):
        authority.order(DOMAIN, _key(), "http-01")


def _key() -> bytes:
    return key_pem(new_key())


def _lifetime_s(files: CertificateFiles) -> float:
    certificate = x509.load_pem_x509_certificate(files.chain_pem())
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds()


async def _connect_soon(server: Server) -> trio.SSLStream[trio.SocketStream]:
    """A connection that trusts the certificate: a new file is looked for once a second."""
    with trio.fail_after(10):
        while True:
            try:
                return await server.connect()
            except trio.BrokenResourceError:
                await trio.sleep(0.1)


def _serial_shown(stream: trio.SSLStream[trio.SocketStream]) -> int:
    return x509.load_der_x509_certificate(stream.getpeercert(binary_form=True)).serial_number

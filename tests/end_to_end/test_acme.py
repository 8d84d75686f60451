"""A server that gets its certificate by itself (TAVERN_ACME), from a real authority, and what people then see."""

from __future__ import annotations

import re
import socket
import ssl
import stat
import time
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from playwright.sync_api import sync_playwright

from tests.end_to_end.browser import TURN_URLS, IceChoice, Visitor, chromium, write_tone
from tests.end_to_end.pebble import DOMAIN, Pebble, running_pebble
from tests.end_to_end.server import free_port, running_server
from tests.end_to_end.test_control import tavern
from tests.end_to_end.test_doctor import doctor

PATIENCE_S = 30.0

pytestmark = pytest.mark.end_to_end


def settings(pebble: Pebble, **others: str) -> dict[str, str]:
    turns_port = str(free_port())
    return {
        **pebble.settings,
        "TAVERN_DOMAIN": DOMAIN,
        "TAVERN_EXTERNAL_IP": "127.0.0.1",
        "PORT": str(pebble.tls_port),
        "TAVERN_TURNS_PORT": turns_port,
        **others,
    }


def certificate_at(port: int, context: ssl.SSLContext, alpn: str = "http/1.1") -> x509.Certificate:
    """What is shown there; raises SSLError where the context does not trust it for DOMAIN."""
    context.set_alpn_protocols([alpn])
    with (
        closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as tcp,
        closing(context.wrap_socket(tcp, server_hostname=DOMAIN)) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


def trusted_within(port: int, context: ssl.SSLContext) -> x509.Certificate:
    """The server looks for a new file once a second."""
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return certificate_at(port, context)
        except ssl.SSLCertVerificationError:
            assert time.monotonic() < ends_at
            time.sleep(0.1)


def test_page_and_turns_get_a_certificate_that_outlives_a_restart(pebble: Pebble, tmp_path: Path) -> None:
    given = settings(pebble)
    trusting = pebble.trusting()
    with running_server(given, tmp=tmp_path) as server:
        assert "method=tls-alpn-01" in server.wait_for_line("certificate-obtained")
        first = trusted_within(pebble.tls_port, trusting)
        assert certificate_at(int(given["TAVERN_TURNS_PORT"]), trusting, "stun.turn") == first
        assert f"being asked for at {pebble.directory_url.split('/')[2].replace(':', '-')};" in "".join(server.lines)
        assert server.stop() == 0
    kept = sorted(path for path in (tmp_path / "acme").rglob("*") if path.is_file())
    assert [path.name for path in kept] == ["account-key.pem", f"{DOMAIN}.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in kept} == {0o700}
    with running_server(given, tmp=tmp_path) as server:
        assert certificate_at(pebble.tls_port, trusting) == first
        server.stop()
        assert "certificate-obtained" not in "".join(server.lines)
        assert f"{DOMAIN}.pem, renewed by itself" in "".join(server.lines)


def test_where_only_port_80_is_open_it_is_asked_over_http(pebble: Pebble, tmp_path: Path) -> None:
    given = settings(pebble, PORT="0", TAVERN_REDIRECT_PORT=str(pebble.http_port))
    with running_server(given, tmp=tmp_path) as server:
        assert "method=http-01" in server.wait_for_line("certificate-obtained")
        trusted_within(server.http_port, pebble.trusting())
        assert f":{pebble.http_port} (TCP: sent to https)" in "".join(server.lines)


def test_it_says_why_there_is_none_serves_meanwhile_and_tries_again_when_asked(pebble: Pebble, tmp_path: Path) -> None:
    given = settings(pebble, PORT="0")
    with running_server(given, tmp=tmp_path) as server:
        told = server.wait_for_line("certificate-not-obtained")
        for word in ("again_in_s=1800", DOMAIN, "neither on port 443 nor on port 80"):
            assert word in told
        failed = [line for line in server.lines if "challenge-failed" in line]
        assert re.findall(r"method=(\S+)", "".join(failed)) == ["tls-alpn-01", "http-01"]
        assert all("onnect" in line for line in failed), failed
        placeholder = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        placeholder.check_hostname = False
        placeholder.verify_mode = ssl.CERT_NONE
        shown = certificate_at(server.http_port, placeholder)
        assert "no certificate yet" in shown.subject.rfc4514_string()
        with pytest.raises(ssl.SSLCertVerificationError):
            certificate_at(server.http_port, pebble.trusting())
        assert tavern(tmp_path, "ctl", "reload").returncode == 0
        server.wait_for_line("again_in_s=3600")


def test_the_doctor_says_that_there_is_none_yet_and_then_until_when(pebble: Pebble, tmp_path: Path) -> None:
    given = settings(pebble, TAVERN_STORE="sqlite", TAVERN_DB_PATH=str(tmp_path / "tavern.db"))
    _code, found = doctor(settings=given)
    assert found["certificate"]["level"] == "problem"
    assert f"has issued none for {DOMAIN} yet" in found["certificate"]["what"]
    with running_server(given) as server:
        server.wait_for_line("certificate-obtained")
    _code, found = doctor(settings=given)
    assert found["certificate"]["level"] == "ok"
    assert found["certificate"]["what"].startswith(f"for {DOMAIN}, until ")


def test_a_known_domain_is_not_asked_for_again(tmp_path: Path) -> None:
    for folder in ("pebble", "one", "two"):
        (tmp_path / folder).mkdir()
    with running_pebble(tmp_path / "pebble", reuses_authorizations=True) as reusing:
        with running_server(settings(reusing), tmp=tmp_path / "one") as server:
            server.wait_for_line("certificate-obtained")
            server.stop()
        account = next((tmp_path / "one").rglob("account-key.pem"))
        copied = tmp_path / "two" / account.relative_to(tmp_path / "one")
        copied.parent.mkdir(parents=True)
        copied.write_bytes(account.read_bytes())
        # Nothing is reachable where the authority would look: it does not.
        with running_server(settings(reusing, PORT="0"), tmp=tmp_path / "two") as server:
            server.wait_for_line("certificate-obtained")


def test_browsers_talk_over_https_wss_and_turns(pebble: Pebble, tmp_path: Path) -> None:
    """All through the page's own port, as on 443."""
    given = settings(pebble)
    tone = write_tone(tmp_path / "tone.wav")
    with running_server(given, tmp=tmp_path) as server:
        server.wait_for_line("certificate-obtained")
        certificate = trusted_within(pebble.tls_port, pebble.trusting())
        here = [f"--host-resolver-rules=MAP {DOMAIN} 127.0.0.1"]
        with sync_playwright() as playwright, chromium(playwright, tone=tone, more_flags=here) as browser:
            choice = IceChoice(turn=TURN_URLS["tls"])
            page = f"https://{DOMAIN}:{server.http_port}/"
            ada = Visitor.arrive(browser.new_context(), page, choice)
            link = ada.create_tavern("Friday night")
            assert link.startswith(page + "join/")
            ada.join("Ada")
            ben = Visitor.arrive(browser.new_context(), link, choice)
            ben.join("Ben")
            for visitor, other in ((ada, "Ben"), (ben, "Ada")):
                visitor.talks_relayed(other, "tls")
        assert DOMAIN in certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)

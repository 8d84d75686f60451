"""`tavern doctor` names what is wrong: each fault is provoked on the running program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme

from tavern.doctor.findings import Level
from tavern.doctor.live import judge_client_address
from tests.end_to_end.server import environment, free_port, running_server

pytestmark = pytest.mark.end_to_end
# On loopback everything is private: what people elsewhere have public addresses for is allowed here.
LOOPBACK = {"TAVERN_EXTERNAL_IP": "127.0.0.1", "TAVERN_TURN_ALLOW_PEERS": "127.0.0.0/8", "TAVERN_HOST": "127.0.0.1"}


def doctor(*arguments: str, settings: Mapping[str, str] | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the findings by subject."""
    ran = subprocess.run(
        [sys.executable, "-m", "tavern", "doctor", "--json", *arguments],
        env={**environment(), **(settings or {})},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert not ran.stderr, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["ok"] == (ran.returncode == 0)
    for finding in answer["findings"]:
        assert bool(finding["why"]) or finding["level"] in ("ok", "note"), finding
    return ran.returncode, {finding["subject"]: finding for finding in answer["findings"]}


@pytest.mark.parametrize("shared_ports", ["never", "always"])
def test_a_server_that_works_is_found_to_work_by_each_way(shared_ports: str) -> None:
    with running_server({**LOOPBACK, "TAVERN_TURN_SHARED_PORTS": shared_ports}) as server:
        code, found = doctor(f"http://127.0.0.1:{server.http_port}/")
        metrics = server.get_json("/metrics")
    for subject in ("health", "WebSocket", "call", "credentials", "TURN over UDP, IPv4", "TURN over TCP, IPv4"):
        assert found[subject]["level"] == "ok", found[subject]
    assert found["relay ports"]["level"] == "ok"
    assert found["amplification"]["level"] == "ok"
    # Which is what TAVERN_TURN_ALLOW_PEERS asks for here.
    assert "sends to 127.0.0.1 for" in found["private peers"]["what"]
    assert code == 1
    assert (metrics["totalTaverns"], metrics["activeTaverns"]) == (0, 0)  # it leaves nothing behind


def test_private_addresses_are_refused_where_nobody_allows_them() -> None:
    with running_server({"TAVERN_EXTERNAL_IP": "127.0.0.1"}) as server:
        code, found = doctor(f"localhost:{server.http_port}".replace("localhost", "http://localhost"))
    assert found["private peers"]["level"] == "ok"
    assert found["relay ports"]["level"] == "note"  # from loopback they cannot be tried
    assert code == 0


def test_over_tls_the_certificate_is_judged_and_turns_is_tried(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(tmp_path / "cert.pem", append=True)
    settings = {
        **LOOPBACK,
        "TAVERN_TLS_CERT": str(tmp_path / "cert.pem"),
        "TAVERN_TLS_KEY": str(tmp_path / "key.pem"),
        "TAVERN_TURNS_PORT": str(free_port()),
    }
    with running_server(settings) as server:
        code, found = doctor(f"https://localhost:{server.http_port}/")
        assert "browsers refuse it" in found["certificate"]["what"]
        assert code == 1
        _, found = doctor(
            f"https://localhost:{server.http_port}/", settings={"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        )
        assert found["certificate"]["level"] == "ok"
        assert found["TURN over TLS, IPv4"]["level"] == "ok"


def test_a_relay_port_that_nothing_reaches_is_named_with_its_protocol() -> None:
    dead = free_port()
    urls = f"turn:127.0.0.1:{dead},turn:127.0.0.1:{dead}?transport=tcp"
    with running_server({**LOOPBACK, "TAVERN_ICE_URLS": urls}) as server:
        code, found = doctor(f"http://127.0.0.1:{server.http_port}/")
    assert code == 1
    assert found["TURN over UDP, IPv4"]["mend"].startswith(f"open port {dead}/udp in the firewall")
    assert found["TURN over TCP, IPv4"]["mend"].startswith(f"open port {dead}/tcp in the firewall")
    assert "relay ports" not in found


def test_a_server_without_turn_is_said_to_have_none() -> None:
    with running_server({**LOOPBACK, "TAVERN_ICE_URLS": "stun:127.0.0.1:3478"}) as server:
        code, found = doctor(f"http://127.0.0.1:{server.http_port}/")
    assert (code, found["credentials"]["level"]) == (1, "problem")


def test_where_no_server_is_nobody_answers() -> None:
    code, found = doctor(f"http://127.0.0.1:{free_port()}/")
    assert (code, found["health"]["level"]) == (1, "problem")
    assert "docker compose" in found["health"]["mend"]
    code, found = doctor("https://no-such-name.invalid/")
    assert (code, found["name"]["level"]) == (1, "problem")


def test_a_server_that_calls_itself_otherwise_and_one_with_an_invite() -> None:
    settings = {**LOOPBACK, "TAVERN_DOMAIN": "tavern.example.com", "TAVERN_TURN_SECRET": "s" * 32}
    with running_server({**settings, "TAVERN_INVITE": "w" * 16}) as server:
        url = f"http://127.0.0.1:{server.http_port}/"
        code, found = doctor(url)
        assert code == 1
        assert found["call"]["mend"] == "give its invite: tavern doctor --invite WORD URL"
        _, found = doctor("--invite", "w" * 16, url)
    assert found["call"]["level"] == "ok"
    assert found["server's name"]["mend"] == "set TAVERN_DOMAIN=127.0.0.1"


@contextmanager
def proxy_without_upgrades() -> Iterator[int]:
    """What nginx is without the two headers: it answers for the server, and passes no upgrade on."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = b'{"status": "ok", "taverns": 0}' if self.path == "/health" else b"<!doctype html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield proxy.server_address[1]
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def test_a_proxy_that_passes_no_upgrade_on_is_told_from_a_server_that_is_down() -> None:
    with proxy_without_upgrades() as port:
        code, found = doctor(f"http://127.0.0.1:{port}/")
    assert code == 1
    assert found["health"]["level"] == "ok"
    assert "headers Upgrade and Connection" in found["WebSocket"]["mend"]


def test_on_a_terminal_each_finding_is_said_in_words() -> None:
    with running_server(LOOPBACK) as server:
        command = [sys.executable, "-m", "tavern", "doctor", f"http://127.0.0.1:{server.http_port}/"]
        ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=50)
    assert " ok  TURN over UDP, IPv4: 127.0.0.1:" in ran.stdout
    assert "     why: " in ran.stdout
    assert ran.stdout.rstrip().endswith(" things.")
    assert max(map(len, ran.stdout.splitlines())) <= 100


@pytest.mark.parametrize("url", ["ftp://example.com", "https://", "http:///x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    command = [sys.executable, "-m", "tavern", "doctor", url]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=20)
    assert ran.returncode == 2
    assert "is no address of a server" in ran.stderr


# Inside


@pytest.mark.parametrize(
    ("settings", "subject", "level", "words"),
    [
        ({}, "settings", "ok", ""),
        ({"TAVERN_TURN_PORT": "banana"}, "settings", "problem", "set TAVERN_TURN_PORT"),
        ({"TAVERN_TRUN_PORT": "3478"}, "settings", "warning", "mend or remove"),
        ({"TAVERN_TURN_SECRET": "short"}, "secret", "warning", "openssl rand"),
        ({"TAVERN_TURN_SECRET": "tavern-dev-secret"}, "secret", "warning", "unset TAVERN_TURN_SECRET"),
        ({"TAVERN_MIN_FREE_MB": "1000000000"}, "disk", "problem", "make room"),
        ({"TAVERN_DB_PATH": "/dev/null", "TAVERN_STORE": "sqlite"}, "database", "problem", ""),
        ({"TAVERN_STORE": "memory"}, "database", "note", ""),
        (
            {"TAVERN_DOMAIN": "tavern.invalid", "TAVERN_EXTERNAL_IP": "10.1.2.3"},
            "relay's address",
            "problem",
            "set TAVERN_EXTERNAL_IP",
        ),
        ({"TAVERN_EXTERNAL_IP": "203.0.113.9"}, "relay's address", "note", ""),
        (
            {"TAVERN_DOMAIN": "tavern.invalid", "TAVERN_EXTERNAL_IP": "203.0.113.9"},
            "certificate",
            "warning",
            "TLS_CERT",
        ),
    ],
)
def test_what_is_wrong_with_a_machine_or_its_settings_is_named(
    tmp_path: Path, settings: dict[str, str], subject: str, level: str, words: str
) -> None:
    own = {"TAVERN_STORE": "sqlite", "TAVERN_DB_PATH": str(tmp_path / "tavern.db"), **settings}
    _, found = doctor(settings=own)
    assert found[subject]["level"] == level, found[subject]
    assert words in found[subject]["mend"]


def test_a_damaged_database_is_named_with_what_brings_it_back(tmp_path: Path) -> None:
    path = tmp_path / "tavern.db"
    path.write_bytes(b"damaged" * 1000)
    code, found = doctor(settings={"TAVERN_STORE": "sqlite", "TAVERN_DB_PATH": str(path)})
    assert code == 1
    assert "tavern restore" in found["database"]["mend"]


def test_a_certificate_for_somebody_else_is_named(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("other.example.com")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls = {"TAVERN_TLS_CERT": str(tmp_path / "cert.pem"), "TAVERN_TLS_KEY": str(tmp_path / "key.pem")}
    external = {"TAVERN_EXTERNAL_IP": "203.0.113.9", "TAVERN_TURN_SECRET": "s" * 32}
    code, found = doctor(settings={**tls, **external, "TAVERN_DOMAIN": "tavern.invalid"})
    assert code == 1
    assert "other.example.com" in found["certificate"]["what"]
    _, found = doctor(settings={**tls, **external, "TAVERN_DOMAIN": "other.example.com"})
    assert found["certificate"]["level"] == "ok"


def test_a_port_that_is_taken_is_named() -> None:
    with running_server(LOOPBACK) as server:
        _, found = doctor(settings={"PORT": str(server.http_port), "TAVERN_TURN_PORT": str(server.turn_port)})
    assert found[f"port {server.http_port}/TCP"]["level"] == "note"
    assert found[f"port {server.turn_port}/UDP"]["level"] == "note"
    if os.geteuid():
        _, found = doctor(settings={"PORT": "81"})
        assert found["port 81/TCP"]["level"] == "problem"


@pytest.mark.parametrize(
    ("own", "counted", "level"),
    [
        ("192.168.1.5", "9.9.2.1", Level.OK),  # a router's, on the way
        ("9.9.2.1", "9.9.2.1", Level.OK),
        ("192.168.1.5", "192.168.1.5", Level.OK),
        ("127.0.0.1", "172.31.255.1", Level.NOTE),
        ("192.168.1.5", "172.31.255.1", Level.WARNING),
        ("9.9.2.1", "127.0.0.1", Level.WARNING),
        ("2001:4860::1", "fd00::1", Level.WARNING),
    ],
)
def test_who_is_counted_as_a_proxy_is_told(own: str, counted: str, level: Level) -> None:
    found = judge_client_address(ip_address(own), ip_address(counted))
    assert found.level is level
    assert (level is Level.WARNING) == ("TAVERN_TRUSTED_PROXIES" in found.mend)

"""The health check's program against servers that answer well, badly, or not at all."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

HEALTHCHECK = Path(__file__).parents[2] / "compose" / "healthcheck.py"


class Handler(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


class Draining(Handler):
    status = 503


@contextmanager
def serving(handler: type[Handler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(**environment: str) -> tuple[int, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PORT" and not name.startswith("TAVERN_")}
    done = subprocess.run(
        [sys.executable, HEALTHCHECK], env={**inherited, **environment}, capture_output=True, text=True, timeout=20
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_server_that_answers_is_healthy() -> None:
    with serving(Handler) as port:
        assert check(PORT=str(port)) == (0, "")
        # As compose passes what is not set, and with every interface asked for.
        assert check(PORT=str(port), TAVERN_HOST="", TAVERN_TLS_CERT="") == (0, "")
        assert check(PORT=str(port), TAVERN_ACME="off") == (0, "")
        assert check(PORT=str(port), TAVERN_HOST="0.0.0.0") == (0, "")
        assert check(PORT=str(port), TAVERN_HOST="127.0.0.1") == (0, "")


def test_a_proxy_in_the_environment_is_not_asked() -> None:
    with serving(Handler) as port:
        assert check(PORT=str(port), http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1") == (0, "")


def test_a_draining_server_is_not_healthy() -> None:
    with serving(Draining) as port:
        code, said = check(PORT=str(port))
    assert code == 1
    assert "503" in said


@pytest.mark.parametrize("port", ["1", "no port"])
def test_no_server_is_one_line_and_no_traceback(port: str) -> None:
    code, said = check(PORT=port)
    assert code == 1
    assert said.startswith("unhealthy: ")
    assert said.count("\n") == 1


def test_with_a_certificate_it_asks_over_tls_whatever_the_name() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("tavern.example.com").configure_cert(context)
    with serving(Handler, context) as port:
        assert check(PORT=str(port), TAVERN_TLS_CERT="/certs/chain.pem") == (0, "")
        for on in ("on", "1", "ON"):
            assert check(PORT=str(port), TAVERN_ACME=on) == (0, "")

"""Behind the nginx that the README promises: health, the page, signaling, and limits by the client's own address."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tavern.client import ServerError, open_client
from tavern.client.websocket import open_websocket
from tests.end_to_end.server import RunningServer, free_port, running_server
from tests.end_to_end.test_doctor import doctor
from tests.prerequisites import find_program, skip_unless

PROXY_HOST = "127.0.0.7"
README = Path(__file__).parents[2] / "README.md"
NGINX = find_program("nginx")

pytestmark = [
    pytest.mark.end_to_end,
    skip_unless(NGINX is not None, "nginx is not installed (apt-get install nginx-light)"),
]


def promised_location() -> str:
    """The README's own location block."""
    block = README.read_text().partition("```nginx\n")[2].partition("```")[0]
    found = re.search(r"location / \{.*?\n    \}", block, re.DOTALL)
    assert found
    return found[0]


def location_of_older_guides() -> str:
    """Without X-Forwarded-For, as in the configurations that people have: nginx passes the client's own through."""
    lines = promised_location().splitlines()
    kept = [line for line in lines if "X-Forwarded-For" not in line]
    assert len(kept) == len(lines) - 1
    return "\n".join(kept)


@contextmanager
def running_nginx(folder: Path, location: str, upstream_port: int) -> Iterator[int]:
    port = free_port()
    location = location.replace("127.0.0.1:3001", f"127.0.0.1:{upstream_port}")
    scratch = "".join(
        f"  {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\n  access_log off;\n{scratch}"
        # Another loopback address than its clients have: only so is a client no trusted proxy itself.
        f"  proxy_bind {PROXY_HOST};\n"
        f"  server {{ listen 127.0.0.1:{port}; server_name localhost;\n{location}\n  }}\n}}\n"
    )
    assert NGINX is not None
    process = subprocess.Popen(
        [NGINX, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        # It listens before it is asked: refused connections until then are retried, a bounded number of times.
        for _ in range(2000):
            assert process.poll() is None, "nginx ended at once"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                continue
        yield port
    finally:
        process.terminate()
        process.wait(10)


Setup = tuple[int, RunningServer]


@pytest.fixture(scope="module", params=[promised_location, location_of_older_guides])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """nginx's port, and the server behind it, which trusts nginx alone."""
    settings = {"TAVERN_RATE_CREATE": "1", "TAVERN_TRUSTED_PROXIES": f"{PROXY_HOST}/32"}
    with (
        running_server(settings) as server,
        running_nginx(tmp_path_factory.mktemp("nginx"), request.param(), server.http_port) as port,
    ):
        yield port, server


def test_health_and_the_page_come_through(setup: Setup) -> None:
    port, _server = setup
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        assert answer.read() == b'{"status":"ok","taverns":0}'
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/join/x", timeout=5) as answer:
        assert b"<!doctype html>" in answer.read()


async def test_signaling_comes_through_and_limits_count_the_client_not_the_proxy(setup: Setup) -> None:
    port, server = setup
    async with open_client(f"ws://127.0.0.1:{port}/") as client:
        await client.create_tavern("Pony")
        with pytest.raises(ServerError, match="rate-limited"):
            await client.create_tavern("Pony")
        # nginx passes the host on without its port.
        here = f"127.0.0.1:{server.turn_port}"
        urls = (await client.ice_servers()).iceServers[0].urls
        assert urls == [f"turn:{here}?transport=udp", f"turn:{here}?transport=tcp"]
    assert "client=127.0.0.1\n" in "".join(server.lines)


async def test_nobody_makes_up_an_address_through_the_proxy(setup: Setup) -> None:
    """Each claim another address: all of them together have at most one allowance, and none of anybody else's."""
    port, server = setup
    created = 0
    for number in range(5):
        claims = [(name, f"203.0.113.{number}".encode()) for name in (b"X-Forwarded-For", b"X-Real-IP")]
        async with open_websocket(f"ws://127.0.0.1:{port}/", extra_headers=claims) as websocket:
            await websocket.send_message('{"type":"create-tavern","name":"Pony"}')
            created += '"tavern-created"' in await websocket.get_message()
    assert created <= 1
    assert "client=203.0.113" not in "".join(server.lines)


@pytest.mark.parametrize(("trusted", "level"), [(PROXY_HOST, "ok"), ("", "note")])
def test_the_doctor_sees_whether_the_proxy_is_believed(tmp_path: Path, trusted: str, level: str) -> None:
    with (
        running_server({"TAVERN_EXTERNAL_IP": "127.0.0.1", "TAVERN_TRUSTED_PROXIES": trusted}) as server,
        running_nginx(tmp_path, promised_location(), server.http_port) as port,
    ):
        _, found = doctor(f"http://127.0.0.1:{port}/")
    assert found["client address"]["level"] == level
    counted = "127.0.0.1" if trusted else PROXY_HOST
    assert f"counts you as {counted}" in found["client address"]["what"]

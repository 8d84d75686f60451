"""Behind the nginx that the README promises: health, the page, signaling, and limits by the client's own address."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tavern.client import ServerError, open_client
from tavern.client.websocket import open_websocket
from tests.end_to_end.server import RunningServer, free_port, running_server

README = Path(__file__).parents[2] / "README.md"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin:/usr/local/bin:/usr/local/sbin")

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)"),
]


def promised_location() -> str:
    """The README's own location block."""
    block = README.read_text().partition("```nginx\n")[2].partition("```")[0]
    found = re.search(r"location / \{.*?\n    \}", block, re.DOTALL)
    assert found
    return found[0]


@contextmanager
def running_nginx(folder: Path, upstream_port: int) -> Iterator[int]:
    port = free_port()
    location = promised_location().replace("127.0.0.1:3001", f"127.0.0.1:{upstream_port}")
    scratch = "".join(
        f"  {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\n  access_log off;\n{scratch}"
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


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server({"TAVERN_RATE_CREATE": "1"}) as server:
        yield server


@pytest.fixture(scope="module")
def nginx(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_nginx(tmp_path_factory.mktemp("nginx"), server.http_port) as port:
        yield port


def test_health_and_the_page_come_through(nginx: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{nginx}/health", timeout=5) as answer:
        assert answer.read() == b'{"status":"ok","taverns":0}'
    with urllib.request.urlopen(f"http://127.0.0.1:{nginx}/join/x", timeout=5) as answer:
        assert b"<!doctype html>" in answer.read()


async def test_signaling_comes_through_and_limits_count_the_client_not_the_proxy(
    nginx: int, server: RunningServer
) -> None:
    async with open_client(f"ws://127.0.0.1:{nginx}/") as client:
        await client.create_tavern("Pony")
        with pytest.raises(ServerError, match="rate-limited"):
            await client.create_tavern("Pony")
        # nginx passes the host on without its port.
        assert (await client.ice_servers()).iceServers[0].urls == [f"turn:127.0.0.1:{server.turn_port}?transport=udp"]
    # Somebody else, as nginx would say of a client elsewhere.
    headers = [(b"X-Real-IP", b"198.51.100.9")]
    async with open_websocket(server.ws_url, extra_headers=headers) as websocket:
        await websocket.send_message('{"type":"create-tavern","name":"Pony"}')
        assert '"tavern-created"' in await websocket.get_message()
    assert "client=198.51.100.9" in "".join(server.lines)
    assert "client=127.0.0.1" in "".join(server.lines)

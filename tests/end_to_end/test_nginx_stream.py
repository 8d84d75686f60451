"""Behind the nginx that passes TLS through by name, as the README says: page, signaling and TURN on its one port."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from tavern.client import Client, open_client
from tavern.stun.message import MessageClass, Method, encode, parse
from tests.end_to_end.server import RunningServer, free_port, running_server
from tests.prerequisites import find_program, skip_unless

README = Path(__file__).parents[2] / "README.md"
NGINX = find_program("nginx")
MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

pytestmark = [
    pytest.mark.end_to_end,
    skip_unless(NGINX is not None and MODULE.exists(), "nginx's stream module is missing (libnginx-mod-stream)"),
]


def promised_stream(port: int, upstream_port: int, other_port: int) -> str:
    """The README's own block, on ports that are free and for a name that leads here."""
    block = README.read_text().partition("```nginx\nstream")[2].partition("```")[0]
    for promised, here in (
        ("tavern.example.com 127.0.0.1:3001;", f"localhost 127.0.0.1:{upstream_port};"),
        ("127.0.0.1:8443;", f"127.0.0.1:{other_port};"),
        ("listen 443;", f"listen 127.0.0.1:{port};"),
        ("listen [::]:443;", ""),
    ):
        assert block.count(promised) == 1, promised
        block = block.replace(promised, here)
    return "stream" + block


@contextmanager
def running_nginx(folder: Path, stream: str) -> Iterator[None]:
    (folder / "nginx.conf").write_text(
        f"load_module {MODULE}; daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{}}\n{stream}"
    )
    assert NGINX is not None
    process = subprocess.Popen(
        [NGINX, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@attrs.frozen
class Setup:
    """nginx's port, the server behind it, and what trusts the server's certificate."""

    port: int
    server: RunningServer
    context: ssl.SSLContext

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        """nginx listens soon after it was started."""
        with trio.fail_after(10):
            while True:
                with suppress(OSError):
                    stream = await trio.open_ssl_over_tcp_stream(
                        "localhost", self.port, ssl_context=self.context, https_compatible=True
                    )
                    await stream.do_handshake()
                    return stream


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = {"TAVERN_TLS_CERT": str(tmp_path / "cert.pem"), "TAVERN_TLS_KEY": str(tmp_path / "key.pem")}
    with running_server(settings) as server:
        port = free_port()
        with running_nginx(tmp_path, promised_stream(port, server.http_port, free_port())):
            yield Setup(port, server, context)


async def test_one_port_of_nginx_carries_page_signaling_and_turn(setup: Setup) -> None:
    stream = await setup.connect()
    await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await first_bytes(stream)).startswith(b"HTTP/1.1 200")
    async with open_client(f"wss://localhost:{setup.port}/", ssl_context=setup.context) as client:
        assert await turn_urls(client) == [
            f"turn:localhost:{setup.server.turn_port}?transport=udp",
            f"turns:localhost:{setup.port}?transport=tcp",
        ]
    stream = await setup.connect()
    await stream.send_all(encode(Method.BINDING, MessageClass.REQUEST, bytes(12)))
    assert parse(await first_bytes(stream)).message_class is MessageClass.SUCCESS


async def turn_urls(client: Client) -> object:
    return (await client.ice_servers()).iceServers[0].urls


async def first_bytes(stream: trio.SSLStream[trio.SocketStream]) -> bytes:
    with trio.fail_after(10):
        data = bytes(await stream.receive_some())
    await trio.aclose_forcefully(stream)
    return data

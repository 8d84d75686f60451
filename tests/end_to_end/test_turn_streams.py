"""TURN over TCP and TLS with the real program and coturn's client, on every TCP port that it opens."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from tavern.client import open_client
from tests.end_to_end.server import RunningServer, free_port, running_server
from tests.prerequisites import find_program, skip_unless
from tests.relay.test_end_to_end import peers

pytestmark = pytest.mark.end_to_end

SECRET = "a secret of the operator's own"
RELAY = {
    "TAVERN_TURN_SECRET": SECRET,
    "TAVERN_TURN_ALLOW_PEERS": "127.0.0.0/8,::1",
    "TAVERN_EXTERNAL_IP": "127.0.0.1,::1",
}
needs_coturn = skip_unless(
    find_program("turnutils_uclient") is not None and find_program("turnutils_peer") is not None,
    "coturn's clients are not installed (apt-get install coturn)",
)


async def expect_no_loss(port: int, *options: str, host: str = "127.0.0.1") -> None:
    """coturn's client loses nothing; its exit code says little."""
    command = ["turnutils_uclient", "-W", SECRET, "-u", "bob", "-p", str(port), "-n", "5", "-z", "10", "-c"]
    with trio.fail_after(50):
        done = await trio.run_process(
            [*command, *options, host], capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    output = done.stdout.decode(errors="replace")
    assert "Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)" in output, (port, options, output)


@attrs.frozen
class Certificate:
    """Files of a certificate that the clients' `context` trusts."""

    authority: trustme.CA
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"TAVERN_TLS_CERT": str(self.folder / "cert.pem"), "TAVERN_TLS_KEY": str(self.folder / "key.pem")}

    def issue(self) -> None:
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")
        issued.private_key_pem.write_to_path(self.folder / "key.pem")

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    certificate = Certificate(trustme.CA(), tmp_path)
    certificate.issue()
    return certificate


@attrs.frozen
class Secured:
    """A server with a certificate."""

    server: RunningServer
    turns_port: int

    @property
    def ports(self) -> tuple[int, int, int]:
        return self.server.http_port, self.server.turn_port, self.turns_port


@pytest.fixture
def secured(certificate: Certificate) -> Iterator[Secured]:
    port = free_port()
    with running_server(RELAY | certificate.settings | {"TAVERN_TURNS_PORT": str(port)}) as server:
        yield Secured(server, port)


@needs_coturn
async def test_any_tcp_port_takes_tls_and_plain_tcp(secured: Secured) -> None:
    async with trio.open_nursery() as nursery:
        for port in secured.ports:
            for options in ("-t -S -y", "-t -S -s -y", "-t -y"):
                nursery.start_soon(expect_no_loss, port, *options.split())


@needs_coturn
async def test_page_signaling_and_turn_share_one_tls_port(secured: Secured, certificate: Certificate) -> None:
    """For people behind a firewall that lets one port out: while one talks on it, the others do as well."""
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(peers("127.0.0.1"))
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(
            expect_no_loss, secured.server.http_port, "-t", "-S", "-e", "127.0.0.1", "-r", ports["127.0.0.1"]
        )
        async with open_client(secured.server.ws_url, ssl_context=certificate.context) as client:
            await client.create_tavern("Pony")
            turn, _stun = (await client.ice_servers()).iceServers
        assert turn.urls == [
            f"turn:127.0.0.1:{secured.server.turn_port}?transport=udp",
            f"turns:127.0.0.1:{secured.server.http_port}?transport=tcp",
        ]
        assert (await get_page(secured.server.http_port, certificate.context)).startswith(b"HTTP/1.1 200")


async def get_page(port: int, context: ssl.SSLContext) -> bytes:
    stream = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=context, https_compatible=True)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        with trio.fail_after(10):
            while data := await stream.receive_some():
                answer += data
    return answer


async def serial_number(port: int, context: ssl.SSLContext) -> object:
    stream = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=context, https_compatible=True)
    async with stream:
        await stream.do_handshake()
        return stream.getpeercert()["serialNumber"]


def test_what_is_open_is_said(secured: Secured) -> None:
    printed = "".join(secured.server.lines)
    assert f"STUN and TURN    0.0.0.0:{secured.server.turn_port}, [::]:{secured.server.turn_port} (UDP, TCP)" in printed


async def test_a_renewed_certificate_needs_no_restart(secured: Secured, certificate: Certificate) -> None:
    before = await serial_number(secured.server.http_port, certificate.context)
    async with open_client(secured.server.ws_url, ssl_context=certificate.context) as client:
        certificate.issue()
        with trio.fail_after(10):
            while await serial_number(secured.server.http_port, certificate.context) == before:
                await trio.lowlevel.checkpoint()
        after = {await serial_number(port, certificate.context) for port in secured.ports}
        assert len(after) == 1
        assert after != {before}
        await client.create_tavern("Pony")  # who was connected before stays so


def test_a_taken_tcp_port_is_one_clear_line(certificate: Certificate) -> None:
    for variable, extra in (
        ("TAVERN_TURN_PORT", {}),
        ("TAVERN_TURNS_PORT", certificate.settings),
        ("PORT", {}),
    ):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            line = refusal({"TAVERN_HOST": "127.0.0.1", variable: str(port)} | extra)
        assert f"TCP 127.0.0.1:{port} is in use" in line
        assert line.endswith(f"or set {variable}\n")


def refusal(settings: dict[str, str]) -> str:
    """What the server says that does not start."""
    with pytest.raises(AssertionError) as failed, running_server(settings):
        pass
    text = str(failed.value)
    assert "the server ended at once (2)" in text
    return text.partition("\n")[2]


def test_one_port_number_is_enough(certificate: Certificate) -> None:
    """443 for everything, TURN's UDP included."""
    port = str(free_port())
    same = {"PORT": port, "TAVERN_TURN_PORT": port, "TAVERN_TURNS_PORT": port}
    with running_server(same | certificate.settings) as server:
        assert (server.http_port, server.turn_port) == (int(port), int(port))

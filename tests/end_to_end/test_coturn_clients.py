"""coturn's client against the real program: each transport with each family, and one that breaks the protocol."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from tests.end_to_end.server import RunningServer, free_port, running_server
from tests.prerequisites import program
from tests.relay.test_end_to_end import HOSTS, peers

pytestmark = pytest.mark.end_to_end

SECRET = "a secret of the operator's own"
RELAY = {
    "TAVERN_TURN_SECRET": SECRET,
    "TAVERN_TURN_ALLOW_PEERS": "127.0.0.0/8,::1",
    "TAVERN_EXTERNAL_IP": "127.0.0.1,::1",
}
TRANSPORTS = {"udp": (), "tcp": ("-t",), "tls": ("-t", "-S")}
CLIENT_TIMEOUT_S = 40


@attrs.frozen
class Secured:
    server: RunningServer
    turns_port: int

    def command(self, transport: str, *options: str, host: str) -> list[str]:
        """Four messages, quickly."""
        port = self.turns_port if transport == "tls" else self.server.turn_port
        login = ["-W", SECRET, "-u", "bob", "-p", str(port)]
        family = ["-x"] if ":" in host else []
        client = program("turnutils_uclient", "coturn")
        return [client, *login, "-n", "4", "-z", "5", "-c", *TRANSPORTS[transport], *family, *options, host]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    certificate = tmp_path_factory.mktemp("server") / "server.pem"
    trustme.CA().issue_cert("localhost", *HOSTS).private_key_and_cert_chain_pem.write_to_path(certificate)
    port = free_port()
    tls = {"TAVERN_TLS_CERT": str(certificate), "TAVERN_TLS_KEY": str(certificate), "TAVERN_TURNS_PORT": str(port)}
    with running_server(RELAY | tls) as server:
        yield Secured(server, port)


async def expect_no_loss(command: list[str]) -> None:
    """The exit code says little."""
    with trio.fail_after(CLIENT_TIMEOUT_S):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode(errors="replace")
    assert "Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)" in output, (command, output)


async def test_nothing_is_lost_over_any_transport_in_either_family(secured: Secured) -> None:
    """ChannelData, Send indications (`-s`), and ChannelData that is padded over UDP as well (`-D`)."""
    with peers(*HOSTS) as ports:
        async with trio.open_nursery() as nursery:
            for transport, host in product(TRANSPORTS, HOSTS):
                for options in ([], ["-s"], ["-D"]):
                    to_peer = ["-e", host, "-r", ports[host]]
                    nursery.start_soon(expect_no_loss, secured.command(transport, *options, *to_peer, host=host))


async def test_who_breaks_the_protocol_harms_nobody_else(secured: Secured, tmp_path: Path) -> None:
    """`-R` changes random bytes of its requests, and sends them again for as long as no answer comes.

    Over UDP such a request is dropped (RFC 8489 §6.3), over TCP its connection is closed.
    """
    said = tmp_path / "hostile"
    with peers("127.0.0.1") as ports, said.open("wb") as output:
        to_peer = ["-e", "127.0.0.1", "-r", ports["127.0.0.1"]]

        async def break_the_protocol(transport: str) -> None:
            command = secured.command(transport, "-R", "-v", *to_peer, host="127.0.0.1")
            await trio.run_process(command, stdout=output, stderr=subprocess.STDOUT, check=False)

        async with trio.open_nursery() as hostile:
            for transport in [*TRANSPORTS] * 3:
                hostile.start_soon(break_the_protocol, transport)
            async with trio.open_nursery() as nursery:
                for transport in TRANSPORTS:
                    nursery.start_soon(expect_no_loss, secured.command(transport, *to_peer, host="127.0.0.1"))
            hostile.cancel_scope.cancel()
    assert said.read_text(errors="replace").count("allocate sent") >= len(TRANSPORTS)
    printed = "".join(secured.server.lines)
    assert "Traceback" not in printed
    assert " error " not in printed

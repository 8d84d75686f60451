"""Servers whose relay is reached in one way, of those that a firewall may leave: UDP, down to the page's own port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trustme

from tests.end_to_end.server import RunningServer, free_port, running_server

WAYS = ("udp", "tcp", "tls", "tls on the page's port")


@attrs.frozen
class Way:
    """A server, and how its relay is to be reached."""

    server: RunningServer
    transport: str
    """`udp`, `tcp` or `tls`."""
    ca: Path | None
    """Who signed the server's certificate, if it has one."""


@contextmanager
def serving(name: str, folder: Path) -> Iterator[Way]:
    """A server that offers the way called `name`, of WAYS; its files are in `folder`."""
    transport = name.partition(" ")[0]
    ca = folder / "ca.pem"
    settings: dict[str, str] = {}
    if transport == "tls":
        authority = trustme.CA()
        authority.cert_pem.write_to_path(ca)
        certificate = folder / "server.pem"
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        settings |= dict.fromkeys(("TAVERN_TLS_CERT", "TAVERN_TLS_KEY"), str(certificate))
    if name.endswith("the page's port"):
        port = str(free_port())
        settings |= {"PORT": port, "TAVERN_ICE_URLS": f"turns:localhost:{port}?transport=tcp"}
    with running_server(settings) as server:
        yield Way(server, transport, ca if transport == "tls" else None)

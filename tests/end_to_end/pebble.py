"""Let's Encrypt's small authority for tests, with a name server of its own in which every name is this machine."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import trustme

from tests.end_to_end.server import free_port
from tests.prerequisites import program

DOMAIN = "tavern.example.com"
BLOCKED_DOMAIN = "blocked.example.com"
"""It issues nothing for this one."""

_TRIES = 2000
"""Refused connections until it listens are retried so often."""


@attrs.frozen
class Pebble:
    """A running one."""

    directory_url: str
    ca_bundle: Path
    """What its own page is signed by."""
    roots_url: str
    http_port: int
    """Where it expects a domain's port 80."""
    tls_port: int
    """Where it expects a domain's port 443."""

    @property
    def settings(self) -> dict[str, str]:
        """For a server that is to ask it."""
        return {
            "TAVERN_ACME": "1",
            "TAVERN_ACME_DIRECTORY": self.directory_url,
            "REQUESTS_CA_BUNDLE": str(self.ca_bundle),
        }

    def trusting(self) -> ssl.SSLContext:
        """A client that trusts what it issued, and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with urllib.request.urlopen(self.roots_url, timeout=5, context=self._own()) as answer:
            context.load_verify_locations(cadata=answer.read().decode())
        return context

    def _own(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_bundle))

    def wait_until_up(self) -> None:
        for _ in range(_TRIES):
            try:
                urllib.request.urlopen(self.roots_url, timeout=5, context=self._own()).close()
            except OSError:
                continue
            return
        raise AssertionError("pebble did not start")


@contextmanager
def running_pebble(folder: Path, *, reuses_authorizations: bool = False, host: str = "localhost") -> Iterator[Pebble]:
    """It is up; its files are in `folder`. `host`: the name that servers elsewhere than here know this machine by."""
    pebble, names = program("pebble", "pebble"), program("pebble-challtestsrv", "pebble")
    api, management, dns, dns_management = (free_port() for _ in range(4))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert("localhost", host)
    own.cert_chain_pems[0].write_to_path(folder / "own.pem")
    own.private_key_pem.write_to_path(folder / "own-key.pem")
    told = Pebble(
        directory_url=f"https://{host}:{api}/dir",
        ca_bundle=folder / "ca.pem",
        roots_url=f"https://localhost:{management}/roots/0",
        http_port=free_port(),
        tls_port=free_port(),
    )
    config = {
        "listenAddress": f"{'127.0.0.1' if host == 'localhost' else '0.0.0.0'}:{api}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(folder / "own.pem"),
        "privateKey": str(folder / "own-key.pem"),
        "httpPort": told.http_port,
        "tlsPort": told.tls_port,
        "ocspResponderURL": "",
        "domainBlocklist": [BLOCKED_DOMAIN],
        "externalAccountBindingRequired": False,
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    environment = {
        **os.environ,
        "PEBBLE_VA_NOSLEEP": "1",
        "PEBBLE_WFE_NONCEREJECT": "0",
        "PEBBLE_AUTHZREUSE": "100" if reuses_authorizations else "0",
    }
    name_server = [names, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
    name_server += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{dns_management}"]
    with ExitStack() as stack:
        server = [pebble, "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"]
        for number, command in enumerate((name_server, server)):
            log = stack.enter_context((folder / f"log-{number}").open("wb"))
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
        told.wait_until_up()
        yield told

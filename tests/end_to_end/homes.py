"""Browsers in homes behind NAT, and a server that their pages may trust with a microphone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme
from playwright.sync_api import Browser, sync_playwright

from tests.end_to_end.browser import chromium, chromium_path, write_tone
from tests.end_to_end.network import SERVER, Network
from tests.end_to_end.server import RunningServer, running_server

SETTINGS = {"TAVERN_DOMAIN": SERVER, "TAVERN_EXTERNAL_IP": SERVER}


@contextmanager
def chromium_at_home(network: Network, folder: Path) -> Iterator[tuple[Browser, Browser]]:
    """One in each home, each with a microphone; what they need is written to `folder`."""
    tone = write_tone(folder / "tone.wav")
    with sync_playwright() as playwright, ExitStack() as stack:
        started = []
        for number, client in enumerate(network.clients):
            starter = folder / f"chromium-{number}"
            starter.write_text(f'#!/bin/sh\nexec {shlex.join([*client.inside, chromium_path()])} "$@"\n')
            starter.chmod(0o755)
            started.append(stack.enter_context(chromium(playwright, tone=tone, executable=starter)))
        yield started[0], started[1]


@contextmanager
def secured(network: Network, folder: Path, **settings: str) -> Iterator[RunningServer]:
    """A server with TLS on the public machine: pages get a microphone there."""
    certificate = trustme.CA().issue_cert(SERVER)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    tls = dict.fromkeys(("TAVERN_TLS_CERT", "TAVERN_TLS_KEY"), str(folder / "server.pem"))
    with running_server(SETTINGS | tls | settings, inside=network.server.inside) as server:
        yield server


def page_url(server: RunningServer) -> str:
    """Where its page is for those at home."""
    return f"https://{SERVER}:{server.http_port}/"

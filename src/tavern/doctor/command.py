"""`tavern doctor`: runs what was asked for, and says what it finds as it finds it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

import trio

from tavern.doctor.findings import Finding, as_json, exit_code, shown, summary
from tavern.doctor.inside import examine_machine
from tavern.doctor.live import examine_server

EXIT_USAGE = 2
_SCHEMES = {"ws": "http", "wss": "https"}


def run_doctor(environment: Mapping[str, str], url: str, *, json: bool, invite: str | None) -> int:
    """Without a URL it looks at this machine and its settings. Exit code 1 where there is a problem, 2 for no URL."""
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not json:
            for line in shown(finding):
                print(line, flush=True)

    if url:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        scheme = _SCHEMES.get(parts.scheme, parts.scheme)
        if scheme not in ("http", "https") or not parts.hostname:
            print(
                f"tavern: {url!r} is no address of a server: https://tavern.example.com, for instance", file=sys.stderr
            )
            return EXIT_USAGE
        trio.run(partial(examine_server, f"{scheme}://{parts.netloc}/", invite, report))
    else:
        trio.run(partial(examine_machine, environment, report))
    print(as_json(findings) if json else f"\n{summary(findings)}")
    return exit_code(findings)

"""What a supervisor that waits for readiness is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.end_to_end.server import running_server

pytestmark = pytest.mark.end_to_end


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_ready_once_it_listens_and_stops_when_it_drains(tmp_path: Path, abstract: bool) -> None:
    name = f"tavern-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(f"\0{name}" if abstract else name)
        supervisor.settimeout(5)
        with running_server({"NOTIFY_SOCKET": f"@{name}" if abstract else name}) as server:
            assert supervisor.recv(100).decode() == f"READY=1\nMAINPID={server.process.pid}"
            assert server.get_json("/health")["status"] == "ok"
            assert server.stop() == 0
            assert supervisor.recv(100).decode().startswith("STOPPING=1\n")


def test_a_supervisor_that_is_gone_keeps_nobody_from_serving(tmp_path: Path) -> None:
    with running_server({"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as server:
        assert server.get_json("/health")["status"] == "ok"
        assert server.stop() == 0
    assert "supervisor-not-told" in "".join(server.lines)

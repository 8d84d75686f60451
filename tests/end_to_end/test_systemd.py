"""The unit file: systemd accepts it, and what it takes away the server does without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tavern.client import Keypair, open_client
from tests.end_to_end.server import running_server
from tests.prerequisites import find_program

pytestmark = pytest.mark.end_to_end
UNIT = Path(__file__).parents[2] / "systemd" / "tavern.service"

# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), as the kernel itself does it: what MemoryDenyWriteExecute asks for.
CONFINE = (
    "import ctypes, os, sys; libc = ctypes.CDLL(None); libc.prctl(38, 1, 0, 0, 0); "
    "code = libc.prctl(65, 1, 0, 0, 0); assert code == 0, 'no MDWE'; os.execv(sys.executable, sys.argv[1:])"
)


def has_mdwe() -> bool:
    probe = subprocess.run(
        [sys.executable, "-c", "import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0)"]
    )
    return probe.returncode == 0


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    analyze = find_program("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: the unit is not verified (apt-get install systemd)")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/tavern/bin/tavern serve", "/bin/true"))
    verified = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    own = [line for line in verified.stderr.splitlines() if UNIT.name in line]
    assert own == []
    judged = subprocess.run([analyze, "security", "--offline=true", "--no-pager", unit], capture_output=True, text=True)
    [exposure] = re.findall(r"Overall exposure level for .*: ([\d.]+)", judged.stdout)
    assert float(exposure) < 2.5


async def test_it_serves_where_no_memory_can_be_made_executable() -> None:
    if not has_mdwe():
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    inside = (sys.executable, "-c", CONFINE)
    with running_server(inside=inside) as server:
        async with open_client(server.ws_url) as alice:
            await alice.prove_identity(Keypair.generate())
            await alice.create_tavern("Pony")
            await alice.ice_servers()
        assert "compiled code" in "".join(server.lines)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status

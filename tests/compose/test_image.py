"""Every step of the image, executed; then the image run as the compose file says, used, stopped and started again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "compose"
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
LIMIT_S = 280
"""Above the stand-in engine's own limits, which say more."""

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(LIMIT_S + 20)]


def refusal(scratch: Path) -> str | None:
    """Why no stand-in for an engine can run here; None where it can."""
    if os.geteuid():
        return "this needs root (mounts, chroot)"
    if shutil.which("unshare") is None:
        return "there is no unshare (util-linux)"
    probe = (
        f"mount -t tmpfs tmpfs '{scratch}' && cd '{scratch}' && mkdir upper inner root && "
        "mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=inner root && exec unshare --net true"
    )
    tried = subprocess.run([*UNSHARE, "sh", "-c", probe], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"mounts or namespaces are not permitted here: {tried.stderr.strip()}"


def make_context(target: Path) -> None:
    """What an engine would be sent: `.dockerignore`'s exceptions, without its patterns. Its other forms fail here."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules.pop(0) == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    left_out = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    assert len(kept) + len(left_out) == len(rules)
    for name in kept:
        source, destination = REPOSITORY / name, target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, ignore=shutil.ignore_patterns(*left_out))
        else:
            shutil.copy2(source, destination)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, service: Any) -> Any:
    """The stand-in engine's report; it builds once for all tests here."""
    scratch = tmp_path_factory.mktemp("image")
    work, context = scratch / "work", scratch / "context"
    work.mkdir()
    reason = refusal(work)
    if reason is not None:
        pytest.skip(f"THE IMAGE WAS NOT TRIED: {reason}")
    make_context(context)
    plan = {
        "context": str(context),
        "dockerfile": str(REPOSITORY / service["build"]["dockerfile"]),
        "work": str(work),
        "environment": service["environment"],
        "healthcheck": service["healthcheck"]["test"][1:],
        "tmpfs": service["tmpfs"],
        "volumes": [volume.partition(":")[2] for volume in service["volumes"]],
        "read_only": service["read_only"],
        "cap_drop_all": service["cap_drop"] == ["ALL"],
        "no_new_privileges": "no-new-privileges:true" in service["security_opt"],
        "stop_grace_s": float(service["stop_grace_period"].removesuffix("s")),
    }
    engine = [*UNSHARE, sys.executable, "-m", "tests.compose.engine"]
    ran = subprocess.run(
        engine, cwd=REPOSITORY, input=json.dumps(plan), capture_output=True, text=True, timeout=LIMIT_S
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_image_starts_serves_and_keeps_its_data(report: Any) -> None:
    first, second = report["runs"]
    assert report["entrypoint"] == ["tavern", "serve"]
    assert first["health"] == {"status": "ok", "taverns": 0}
    assert first["created"]["type"] == "tavern-created"
    assert first["created"]["tavern"]["name"] == "The Stand-in"
    assert second["health"] == {"status": "ok", "taverns": 1}


def test_the_relays_compiled_part_is_in_it(report: Any) -> None:
    assert report["native"] == ""


def test_it_stops_cleanly_in_time(report: Any) -> None:
    for run in report["runs"]:
        assert run["exit_code"] == 0, run["log"]
        assert run["stop_s"] < 10, run["log"]  # half of the grace period: a slow disk still has the other half


def test_it_runs_as_nobody_in_particular_who_may_do_nothing(report: Any) -> None:
    assert report["root_is_read_only"]
    for run in report["runs"]:
        status = run["status"]
        assert status["Uid"].split() == ["10001"] * 4
        assert status["Gid"].split() == ["0"] * 4
        assert status["Groups"] == ""
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"


def test_its_data_is_its_own(report: Any) -> None:
    data = report["data"]
    assert data["."] == [0o700, 10001]
    assert data["tavern.db"] == [0o640, 10001]
    for name, (mode, owner) in data.items():
        assert mode & 0o077 == (0o040 if name == "tavern.db" else 0), name
        assert owner == 10001, name


def test_its_log_has_no_traceback_and_no_warning_from_python(report: Any) -> None:
    for run in report["runs"]:
        assert "Traceback" not in run["log"]
        assert "Warning" not in run["log"]

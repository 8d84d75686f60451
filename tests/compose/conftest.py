"""The compose file as users' engines read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

COMPOSE = Path(__file__).parents[2] / "compose"


def interpolated(value: Any, environment: dict[str, str]) -> Any:
    """`${NAME:-default}` replaced everywhere, as Compose does it; any other form of `$` fails the test."""
    if isinstance(value, dict):
        return {key: interpolated(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, environment) for inner in value]
    if isinstance(value, str):
        filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1]) or found[2], value)
        assert "$" not in filled, value
        return filled
    return value


@pytest.fixture(scope="session")
def compose_source() -> Any:
    """The compose file with its variables unresolved."""
    return yaml.safe_load((COMPOSE / "docker-compose.yml").read_text())


@pytest.fixture(scope="session")
def interpolate() -> Any:
    return interpolated


@pytest.fixture(scope="session")
def compose(compose_source: Any) -> Any:
    """What `docker compose up` starts where nothing is set."""
    return interpolated(compose_source, {})


@pytest.fixture(scope="session")
def service(compose: Any) -> Any:
    return compose["services"]["signaling"]

"""Whatever comes over the network: answered or dropped, and what must hold holds. The targets that `run.py` fuzzes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.peers import is_forbidden
from tests.fuzz.targets import TARGETS
from tests.fuzz.turn_target import TurnTarget

SEED = 8656


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str) -> None:
    """Longer and more of them than hypothesis makes; the same in every run."""
    choices = random.Random(SEED)  # noqa: S311
    for _ in range(300 if name == "turn" else 4000):
        TARGETS[name](choices.randbytes(choices.randrange(500)))


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_made_smaller_where_they_fail(name: str) -> None:
    @settings(max_examples=100, derandomize=True)
    @given(st.binary(max_size=300))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


def test_the_turn_target_reaches_what_it_is_for() -> None:
    """A fuzzer that is refused everywhere finds nothing."""
    choices = random.Random(SEED)  # noqa: S311
    reached: set[str] = set()
    for _ in range(200):
        target = TurnTarget(choices.randbytes(500))
        target.run()
        reached |= target.reached
    assert reached >= {
        "ALLOCATE 0",
        "ALLOCATE 401",
        "ALLOCATE 437",
        "ALLOCATE 508",
        "REFRESH 0",
        "CREATE_PERMISSION 0",
        "CREATE_PERMISSION 403",
        "CHANNEL_BIND 0",
        "CHANNEL_BIND 400",
        "BINDING 0",
        "sent to a peer",
        "handed over",
        "sent to a client",
        "came to a shared port",
    }


@pytest.mark.parametrize(
    ("host", "forbidden"),
    [
        ("9.9.2.1", False),
        ("2001:4860::9", False),
        ("64:ff9b::909:201", False),
        ("64:ff9b::a00:1", True),
        ("2002:a00:1::", True),
        ("::ffff:127.0.0.1", True),
        ("2001:4860::5efe:10.0.0.1", True),
        ("fd00::1", True),
    ],
)
def test_what_the_targets_take_for_forbidden(host: str, forbidden: bool) -> None:
    assert is_forbidden(host) == forbidden

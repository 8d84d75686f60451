"""What several of these modules start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.pebble import Pebble, running_pebble


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with running_pebble(tmp_path_factory.mktemp("pebble")) as started:
        yield started

"""What several of these modules start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from tests.end_to_end.browser import chromium, write_tone
from tests.end_to_end.pebble import Pebble, running_pebble
from tests.end_to_end.server import RunningServer, running_server


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with running_pebble(tmp_path_factory.mktemp("pebble")) as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """With its settings as they are, in memory."""
    with running_server({}) as started:
        yield started


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What microphones play."""
    return write_tone(tmp_path_factory.mktemp("sound") / "tone.wav")


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tone: Path) -> Iterator[Browser]:
    """Chromium, whose microphone plays a voice."""
    with chromium(playwright, tone=tone) as started:
        yield started

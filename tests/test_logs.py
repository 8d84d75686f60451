"""Log lines: one line for each event, whatever a client's name holds."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from tavern.logs import TRACE, configure_logging, log_event


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("tavern").setLevel(logging.NOTSET)


def test_an_event_is_one_line_with_its_fields(stream: io.StringIO) -> None:
    configure_logging("info", stream)
    log_event(logging.getLogger("tavern.signaling"), logging.INFO, "peer-connected", peer="p1", client="::1", n=3)
    assert stream.getvalue().endswith("Z info tavern.signaling peer-connected peer=p1 client=::1 n=3\n")


def test_nobody_forges_a_line_with_what_it_sends(stream: io.StringIO) -> None:
    configure_logging("info", stream)
    log_event(logging.getLogger("tavern.x"), logging.INFO, "joined", name='a\nb error "x" \x1b[2J', long="y" * 1000)
    [line] = stream.getvalue().splitlines()
    assert r'name="a\nb error \"x\" \u001b[2J"' in line
    assert len(line) < 400


def test_levels_below_the_set_one_are_silent(stream: io.StringIO) -> None:
    configure_logging("warn", stream)
    logger = logging.getLogger("tavern.x")
    log_event(logger, logging.INFO, "silent")
    log_event(logger, logging.WARNING, "heard")
    assert "heard" in stream.getvalue()
    assert "silent" not in stream.getvalue()


def test_trace_is_below_debug(stream: io.StringIO) -> None:
    configure_logging("trace", stream)
    log_event(logging.getLogger("tavern.x"), TRACE, "message")
    assert " trace tavern.x message" in stream.getvalue()


def test_a_traceback_follows_its_line(stream: io.StringIO) -> None:
    configure_logging("error", stream)
    logging.getLogger("tavern.x").error("room failed", exc_info=ZeroDivisionError("boom"))
    assert "ZeroDivisionError: boom" in stream.getvalue()


def test_as_json_a_line_is_one_object(stream: io.StringIO) -> None:
    configure_logging("info", stream, as_json=True)
    logger = logging.getLogger("tavern.signaling")
    log_event(logger, logging.INFO, "joined", peer="p1", name='a\nb "x"', n=3, time="forged")
    try:
        raise ValueError("what went wrong")
    except ValueError:
        logger.exception("a bug")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info",
        "logger": "tavern.signaling",
        "event": "joined",
        "peer": "p1",
        "name": 'a\nb "x"',
        "n": "3",
    }
    assert (second["level"], second["event"]) == ("error", "a bug")
    assert "ValueError: what went wrong" in second["traceback"]

"""Structured log lines, one per event whatever the values hold: `time level logger event key=value ...`, or JSON."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

TRACE = 5
_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {number: name for name, number in _LEVELS.items()}
_PLAIN = re.compile(r"[\w.:/@+\-\[\]]+\Z", re.ASCII)
_MAX_VALUE = 200  # values are often a client's: a line stays a line


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "..."


def _value(value: object) -> str:
    text = _cut(str(value))
    # JSON escapes line breaks and control characters: nobody forges a line with a display name.
    return text if _PLAIN.match(text) else json.dumps(text)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname.lower())


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        message = record.getMessage() if fields else _value(record.getMessage())
        parts = [_moment(record), _level(record), record.name, message]
        parts += [f"{key}={_value(value)}" for key, value in fields.items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `event`, the event's own fields as strings, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        shown = {key: _cut(str(value)) for key, value in fields.items()}
        about = {"time": _moment(record), "level": _level(record), "logger": record.name, "event": record.getMessage()}
        if record.exc_info:
            about["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**shown, **about})


def configure_logging(level: str, stream: TextIO | None = None, *, as_json: bool = False) -> None:
    """The project's loggers write lines of `level` and above to `stream` (stderr); libraries warn and no less."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _HumanFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("tavern").setLevel(_LEVELS[level])
    logging.addLevelName(TRACE, "TRACE")


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """One structured line, at the cost of one check where the level is off. `event` is a constant of ours."""
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"fields": fields})

"""Structured log lines: `time level logger event key=value ...`, one line per event whatever the values hold."""

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


def _value(value: object) -> str:
    text = str(value)
    if len(text) > _MAX_VALUE:
        text = text[:_MAX_VALUE] + "..."
    # JSON escapes line breaks and control characters: nobody forges a line with a display name.
    return text if _PLAIN.match(text) else json.dumps(text)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = _NAMES.get(record.levelno, record.levelname.lower())
        fields: dict[str, object] = getattr(record, "fields", {})
        parts = [moment, level, record.name, _value(record.getMessage()) if not fields else record.getMessage()]
        parts += [f"{key}={_value(value)}" for key, value in fields.items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """The project's loggers write lines of `level` and above to `stream` (stderr); libraries warn and no less."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("tavern").setLevel(_LEVELS[level])
    logging.addLevelName(TRACE, "TRACE")


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """One structured line, at the cost of one check where the level is off. `event` is a constant of ours."""
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"fields": fields})

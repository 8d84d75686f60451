"""What the doctor found, as people and scripts read it. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum

import attrs

_WIDTH = 100


class Level(Enum):
    """How bad it is. Only a PROBLEM makes the exit code 1."""

    OK = "ok"
    NOTE = "note"
    """Could not be seen from here, or is as one may want it."""
    WARNING = "warning"
    PROBLEM = "problem"


_MARKS = {Level.OK: "ok", Level.NOTE: "--", Level.WARNING: "!!", Level.PROBLEM: "XX"}


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    """What was looked at, in a few words; the same in every run."""
    what: str
    """What was seen."""
    why: str = ""
    """What comes of it for people who talk. Empty where all is well."""
    mend: str = ""
    """The one line that mends it."""


def shown(finding: Finding) -> Iterator[str]:
    """As lines for a terminal."""
    first = f" {_MARKS[finding.level]}  {finding.subject}: {finding.what}"
    yield from textwrap.wrap(first, _WIDTH, subsequent_indent=" " * 5, break_long_words=False)
    for label, text in (("why", finding.why), ("do", finding.mend)):
        if text:
            yield from textwrap.wrap(
                f"{label}: {text}", _WIDTH, initial_indent=" " * 5, subsequent_indent=" " * 10, break_long_words=False
            )


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    warnings = sum(finding.level is Level.WARNING for finding in findings)
    if not problems and not warnings:
        return f"All is well: {len(findings)} things were looked at."
    return f"{_counted(problems, 'problem')} and {_counted(warnings, 'warning')} in {len(findings)} things."


def as_json(findings: Sequence[Finding]) -> str:
    """For scripts: `{"ok": ..., "findings": [{"level", "subject", "what", "why", "mend"}, ...]}`."""
    objects = [{**attrs.asdict(finding), "level": finding.level.value} for finding in findings]
    return json.dumps({"ok": exit_code(findings) == 0, "findings": objects}, indent=2)


def exit_code(findings: Sequence[Finding]) -> int:
    return int(any(finding.level is Level.PROBLEM for finding in findings))


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

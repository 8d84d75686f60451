"""The project's errors: whose fault it is decides what happens.

Their fault (`RemoteError`) carries what to answer to the one who sent it. The settings' fault (`SettingsError`,
`StartupError`) ends the program with one clear line and exit code 2. Everything else is our bug: it crashes its task.
"""

from __future__ import annotations

import attrs


class TavernError(Exception):
    """Base of every error that the project raises on purpose."""


class RemoteError(TavernError):
    """The other side sent something we refuse; subclasses carry the answer."""


class StartupError(TavernError):
    """The server cannot start; the message is one line that says what is wrong and what mends it."""


@attrs.frozen
class SettingsProblem:
    """One setting with a value that is not allowed."""

    variable: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.variable}={self.value!r}: {self.allowed}"


class SettingsError(StartupError):
    """One or more settings have values that are not allowed; every one of them is listed."""

    def __init__(self, problems: tuple[SettingsProblem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))

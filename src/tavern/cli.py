"""The command line: `tavern serve`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from tavern import __version__
from tavern.app import serve
from tavern.config import SETTINGS, load_settings, unknown_variables
from tavern.errors import StartupError
from tavern.logs import configure_logging

EXIT_SETTINGS = 2
_SWITCH_INTERVAL_S = 0.0002
"""The relay's thread waits this long for the interpreter while signaling computes. With Python's own 5 ms, a packet
was up to 5.5 ms late (p99) beside a busy trio thread; with this 1.9 ms."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 after a clean stop, 2 where it could not start."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return EXIT_SETTINGS
    given = {name: value for name, value in vars(options).items() if name != "command" and value is not None}
    return _serve({**os.environ, **given})


def _serve(environment: Mapping[str, str]) -> int:
    try:
        settings = load_settings(environment)
        configure_logging(settings.log_level)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        for line in unknown_variables(environment):
            _say(f"warning: {line}")
        trio.run(partial(serve, settings, environment, _say), strict_exception_groups=True)
    except* StartupError as group:
        for error in _leaves(group):
            for line in str(error).splitlines():
                print(f"tavern: {line}", file=sys.stderr)
        return_code = EXIT_SETTINGS
    else:
        return_code = 0
    return return_code


def _leaves(group: BaseExceptionGroup[StartupError]) -> list[StartupError]:
    leaves: list[StartupError] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tavern", description="Your own voice server in one process: signaling, rooms and a TURN relay."
    )
    parser.add_argument("--version", action="version", version=f"tavern {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve_command = commands.add_parser(
        "serve",
        help="run the server until SIGTERM or SIGINT",
        description="Run the server. Every option is also an environment variable; the option wins.",
    )
    for setting in SETTINGS:
        serve_command.add_argument(
            setting.option,
            dest=setting.variable,
            metavar="VALUE",
            # argparse formats help with %: none of ours may be taken for that.
            help=f"{setting.text}; {setting.variable} (default: {setting.default})".replace("%", "%%"),
        )
    return parser

"""The command line: `tavern serve`, and what operators do beside it.

What takes long to import is imported inside functions: Ctrl-C ends the program quietly from its first moments on.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TextIO

from tavern import __version__

if TYPE_CHECKING:
    from tavern.config import SettingHelp
    from tavern.errors import StartupError

EXIT_SETTINGS = 2
EXIT_INTERRUPTED = 130
_CTL_ARGUMENTS = frozenset({"peer", "allocation", "user", "lifetime_s"})
_SWITCH_INTERVAL_S = 0.0002
"""The relay's thread waits this long for the interpreter while signaling computes. With Python's own 5 ms, a packet
was up to 5.5 ms late (p99) beside a busy trio thread; with this 1.9 ms."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 after a clean stop, 2 where it could not start, 130 where Ctrl-C
    came before it had."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what the terminal's encoding does not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return_code = _run(arguments)
    except* KeyboardInterrupt:
        return_code = EXIT_INTERRUPTED
    return return_code


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return EXIT_SETTINGS
    given = {name: value for name, value in vars(options).items() if name.isupper() and value is not None}
    environment = {**os.environ, **given}
    if options.command == "serve":
        return _serve(environment)
    if options.command == "top":
        from tavern.operator_commands import run_top

        return run_top(environment, once=options.once)
    if options.command == "ctl":
        from tavern.operator_commands import run_ctl

        told = {name: value for name, value in vars(options).items() if name in _CTL_ARGUMENTS and value is not None}
        return run_ctl(environment, options.operation, told)
    if options.command == "doctor":
        from tavern.doctor.command import run_doctor

        return run_doctor(environment, options.url, json=options.json, invite=options.invite)
    from tavern.data_commands import run_data_command

    return run_data_command(options.command, environment, options.file)


def _serve(environment: Mapping[str, str]) -> int:
    import trio

    from tavern.app import STOP_SIGNALS, serve
    from tavern.config import load_settings, unknown_variables
    from tavern.errors import StartupError
    from tavern.logs import configure_logging

    try:
        settings = load_settings(environment)
        configure_logging(settings.log_level, as_json=settings.log_format == "json")
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        for line in unknown_variables(environment):
            _say(f"warning: {line}")
        # What comes before the server listens for them waits until it does. What comes after would kill Python while
        # it finalizes, and a clean end would look like none.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # What is imported by now stays: a full collection looks at 46,000 objects less, for which nobody is answered
        # during some 20 ms.
        gc.collect()
        gc.freeze()
        trio.run(partial(serve, settings, environment, _say), strict_exception_groups=True)
    except* StartupError as group:
        for error in _leaves(group):
            for line in str(error).splitlines():
                _complain(line)
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
    """A full disk or a closed pipe behind the output is no reason to end: what is said is lost, serving goes on."""
    try:
        print(line, flush=True)
    except OSError as error:
        _silence(sys.stdout)
        with suppress(OSError):
            print(f"tavern: cannot write to standard output ({error.strerror}): serving without it", file=sys.stderr)


def _complain(line: str) -> None:
    try:
        print(f"tavern: {line}", file=sys.stderr)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """What is left in its buffer goes nowhere. Python would fail on it once more at its end, and exit with 120."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _parser() -> argparse.ArgumentParser:
    from tavern.config import SETTINGS

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
        _add_setting(serve_command, setting)
    _add_operator_commands(commands)
    _add_doctor(commands)
    _add_data_commands(commands)
    return parser


def _add_setting(command: argparse.ArgumentParser, setting: SettingHelp) -> None:
    command.add_argument(
        setting.option,
        dest=setting.variable,
        metavar="VALUE",
        # argparse formats help with %: none of ours may be taken for that.
        help=f"{setting.text}; {setting.variable} (default: {setting.default})".replace("%", "%%"),
    )


def _add_operator_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = commands.add_parser(
        "top",
        help="show who is here and what is relayed, live",
        description="Taverns, people, allocations and rates of the server that runs here, drawn anew every two "
        "seconds. A name with * is proven. Ctrl-C ends it.",
    )
    top.add_argument("--once", action="store_true", help="print it once")
    ctl = commands.add_parser(
        "ctl",
        help="ask the server that runs here for something",
        description="Over its control socket, which only the server's user and root may open. Exit code 1: it refused, "
        "or there is no server.",
    )
    operations = ctl.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    operations.add_parser("status", help="all that there is, as JSON")
    kick = operations.add_parser("kick", help="close a client's connection")
    kick.add_argument("peer", metavar="PEER", help="its id, as status has it")
    close = operations.add_parser("close-allocation", help="end an allocation of the relay")
    close.add_argument("allocation", metavar="NUMBER", type=int, help="as status has it")
    mint = operations.add_parser("mint", help="make a TURN credential that belongs to no call")
    mint.add_argument("user", metavar="NAME", help="whose it is, for quotas")
    mint.add_argument("--lifetime-s", dest="lifetime_s", metavar="SECONDS", type=int, help="default: a day")
    operations.add_parser("reload", help="read the certificate again now")
    operations.add_parser("drain", help="tell everybody, and stop")


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say what is wrong with a server, and what mends it",
        description="Without a URL: look at this machine and the settings in its environment. With one: look at that "
        "server from here, as its users see it: name, certificate, page, WebSocket, credentials, and the relay by each "
        "way to it with data through and back. Exit code 1: there is a problem.",
    )
    doctor.add_argument("url", metavar="URL", nargs="?", default="", help="such as https://tavern.example.com")
    doctor.add_argument("--json", action="store_true", help="for scripts: one JSON object at the end")
    doctor.add_argument("--invite", metavar="WORD", help="the server's own invite (TAVERN_INVITE), where it has one")


def _add_data_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from tavern.config import SETTINGS

    backup = commands.add_parser(
        "backup",
        help="copy the database into one file, while the server runs",
        description="Copy the database, as it is at one moment, into one file that is checked before it takes the "
        "place of an older one. The server goes on meanwhile. Exit code 1: there is no new copy.",
    )
    backup.add_argument("file", metavar="FILE", help="the copy; - writes it to standard output")
    restore = commands.add_parser(
        "restore",
        help="put a copy in the database's place, while no server runs",
        description="Check a copy and put it in the database's place. What was there before is kept beside it. "
        "Stop the server first. Exit code 1: nothing was changed.",
    )
    restore.add_argument("file", metavar="FILE", help="the copy; - reads it from standard input")
    check = commands.add_parser(
        "check",
        help="verify the database, or a copy",
        description="Read all of a database and say whether it is whole. Changes nothing; the server may run. "
        "Exit code 1: it is not, or cannot be read.",
    )
    check.add_argument("file", metavar="FILE", nargs="?", default="", help="a copy (default: the database itself)")
    for command in (backup, restore, check):
        for setting in SETTINGS:
            if setting.variable == "TAVERN_DB_PATH":
                _add_setting(command, setting)

"""Measures the relay against coturn and the kernel's limit, from a checkout: `python -m benchmarks.relay`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from benchmarks.lacks import Lacking
from benchmarks.machine import choose_cpus, describe, pinned, raise_descriptor_limit
from benchmarks.relay.bench import Bench, Options
from benchmarks.relay.build import build_echo, build_generator
from benchmarks.relay.parts import PARTS
from benchmarks.relay.report import report
from benchmarks.relay.servers import SERVERS, ServerName, coturn_version

RESULTS = Path(__file__).parent / "RESULTS.md"
EXIT_LACKING = 2
_MAX_ROUNDS = 50
_QUIET_LOAD = 0.5
_MAX_SECONDS = 5.0  # a permission lives for 300 s, and all measurements of a group of servers must end before


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a run, 2 where something is missing without which there is none."""
    given = _parser().parse_args(arguments)
    try:
        build_generator()
        build_echo()
    except Lacking as error:
        print(f"this needs {error}", file=sys.stderr)
        return EXIT_LACKING
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    bench = Bench(_options(given), choose_cpus(), raise_descriptor_limit(), say)
    _note_lacks(bench)
    with pinned({bench.cpus.generator}):
        try:
            _run(bench)
        except KeyboardInterrupt:
            bench.note(f"interrupted in round {bench.round_number + 1} of {bench.options.rounds}")
    text = report(bench.figures, bench.options, describe(("coturn", coturn_version() or "not installed")))
    print(text)
    if given.write:
        RESULTS.write_text(_results_file(text, sys.argv[1:]), encoding="utf-8")
        say(f"written to {RESULTS}")
    return 0


def _run(bench: Bench) -> None:
    options = bench.options
    functions = dict.fromkeys(function for name, (_, function) in PARTS.items() if name in options.parts)
    for number in range(options.rounds):
        bench.round_number = number
        for function in functions:
            names = ", ".join(name for name, part in PARTS.items() if part[1] is function and name in options.parts)
            bench.say(f"round {number + 1} of {options.rounds}: {names}")
            function(bench)


def _options(given: argparse.Namespace) -> Options:
    servers = tuple(name for name in SERVERS if name in given.servers)
    parts = frozenset(given.only)
    if not given.quick:
        return Options(servers, parts, given.rounds or 5, given.seconds or 1.0)
    return Options(
        servers,
        parts,
        given.rounds or 1,
        given.seconds or 0.1,
        sizes=(1, 10),
        allocations=60,
        held=(50, 150),
        idle=60,
        talking=28,
    )


def _note_lacks(bench: Bench) -> None:
    if not bench.cpus.are_apart:
        bench.note("one CPU for servers and load generator: the figures mean little, two are needed")
    one_minute = os.getloadavg()[0]
    if one_minute > _QUIET_LOAD:
        bench.note(f"other programs were running: the load average was {one_minute:.1f} at the start")


def _results_file(text: str, arguments: Sequence[str]) -> str:
    command = " ".join(["python -m benchmarks.relay", *arguments])
    lead = f"The output of `{command}`. What each part does is in `python -m benchmarks.relay --help`."
    return f"# The relay, measured\n\n{lead}\n\n{text}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.relay",
        description="CPU time, latency and memory of the relay, beside coturn's and a plain echo's. Servers run on one "
        "core, the load generator on another, all on 127.0.0.1, one after the other in each round.",
        epilog="parts: " + "; ".join(f"{name}: {text}" for name, (text, _) in PARTS.items()),
    )
    parser.add_argument("--rounds", type=_between(1, _MAX_ROUNDS), help="how often all is measured (default: 5)")
    parser.add_argument(
        "--seconds", type=_seconds, help=f"how long each measurement sends, up to {_MAX_SECONDS:g} (default: 1)"
    )
    parser.add_argument(
        "--only", type=_names(tuple(PARTS)), default=tuple(PARTS), metavar="PART,...", help="leave out other parts"
    )
    parser.add_argument(
        "--servers",
        type=_names(get_args(ServerName)),
        default=SERVERS,
        metavar="SERVER,...",
        help=f"leave out other servers; there are {', '.join(SERVERS)} (ratios need coturn)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round with few allocations, to see that all works: no figures"
    )
    parser.add_argument("--write", action="store_true", help=f"write the results to {RESULTS.name} as well")
    return parser


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {low} to {high}")
        return value

    return parse


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"must be 0.05 to {_MAX_SECONDS:g}")
    return value


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(filter(None, text.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())

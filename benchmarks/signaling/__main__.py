"""Measures signaling against a minimal Node.js `ws` relay, from a checkout: `python -m benchmarks.signaling`."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lacks import Lacking, ServerFailed
from benchmarks.machine import choose_cpus, describe, pinned, raise_descriptor_limit
from benchmarks.signaling.measures import LIMITED, MEASURES, QUICK, Scale
from benchmarks.signaling.report import report
from benchmarks.signaling.servers import SERVERS, fetch_peer, node_version, running

RESULTS = Path(__file__).parent / "RESULTS.md"
EXIT_LACKING = 2
_MAX_ROUNDS = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a run, 1 where a server failed, 2 where something is missing."""
    given = _parser().parse_args(arguments)
    try:
        fetch_peer()
        peer = ("Peer", node_version())
    except Lacking as error:
        print(f"this needs {error}", file=sys.stderr)
        return EXIT_LACKING
    raise_descriptor_limit()
    cpus = choose_cpus()
    scale = QUICK if given.quick else Scale()
    rounds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in SERVERS}
    started_at = time.monotonic()
    gc.disable()  # of the load generator: its pauses would be taken for the server's
    for number in range(1 if given.quick else given.rounds):
        for measure in given.only:
            for name in SERVERS if number % 2 == 0 else SERVERS[::-1]:
                try:
                    with (
                        pinned({cpus.generator}),
                        running(name, cpus.server, given.python, limited=measure in LIMITED) as server,
                    ):
                        figures = MEASURES[measure](server, scale)
                except ServerFailed as error:
                    print(f"{measure} of {name}: {error}", file=sys.stderr)
                    return 1
                for figure, value in figures.items():
                    rounds[name][figure].append(value)
                shown = ", ".join(f"{figure} {value:.3g}" for figure, value in figures.items())
                print(
                    f"{time.monotonic() - started_at:6.0f} s  {number + 1} {measure} {name}: {shown}", file=sys.stderr
                )
                gc.collect()
    text = report(rounds, describe(peer))
    print(text)
    if given.write:
        command = " ".join(["python -m benchmarks.signaling", *sys.argv[1:]])
        head = f"# Signaling, measured against Node.js\n\nMade by `{command}`; how, says [NOTES.md](NOTES.md).\n\n"
        RESULTS.write_text(head + text, encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.signaling", description=__doc__)
    parser.add_argument("--rounds", type=_rounds, default=3, help="how often all is measured (3)")
    parser.add_argument("--only", type=_measures, default=list(MEASURES), help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--quick", action="store_true", help="a little of everything, once: shows that it runs")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that our server runs on")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    return parser


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_ROUNDS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MAX_ROUNDS}")
    return int(text)


def _measures(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(MEASURES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())

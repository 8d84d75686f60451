"""`tavern ctl` and `tavern top`: what an operator asks a running server."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tavern.config import load_settings
from tavern.control.client import ask
from tavern.control.messages import ControlRefused
from tavern.errors import StartupError
from tavern.startup import control_path

EXIT_REFUSED = 1
EXIT_SETTINGS = 2
INTERVAL_S = 2.0

_CLEAR = "\x1b[H\x1b[2J"


def run_ctl(environment: Mapping[str, str], command: str, arguments: Mapping[str, Any]) -> int:
    """Asks once, and prints what comes back; returns the exit code."""
    return _reporting(environment, lambda path: print(_told(command, ask(path, {"command": command, **arguments}))))


def run_top(environment: Mapping[str, str], *, once: bool) -> int:
    """A table that is drawn anew until Ctrl-C; once where that was asked for, or nobody looks at a terminal."""

    def draw(path: Path) -> None:
        former: tuple[float, dict[str, Any]] | None = None
        while True:
            seen = time.monotonic(), ask(path, {"command": "status"})
            lines = list(table(seen[1], _rates(former, seen)))
            if once or not sys.stdout.isatty():
                print("\n".join(lines))
                return
            size = shutil.get_terminal_size()
            shown = [line[: size.columns] for line in lines[: size.lines - 1]]
            print(_CLEAR + "\n".join(shown), flush=True)
            former = seen
            time.sleep(INTERVAL_S)

    return _reporting(environment, draw)


def _reporting(environment: Mapping[str, str], work: Callable[[Path], None]) -> int:
    try:
        path = control_path(load_settings(environment), environment)
        if path is None:
            raise ControlRefused("there is no control socket: set TAVERN_CONTROL_SOCKET to a path")
        work(path)
    except ControlRefused as refused:
        print(f"tavern: {refused}", file=sys.stderr)
        return EXIT_REFUSED
    except StartupError as error:
        print(f"tavern: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    return 0


def _told(command: str, answer: dict[str, Any]) -> str:
    if command == "reload":
        return f"reloaded: {answer['reloaded']}"
    return json.dumps(answer, indent=2, ensure_ascii=False) if answer else "done"


def table(status: Mapping[str, Any], rates: Mapping[str, float]) -> Iterator[str]:
    """The lines of `tavern top`. Control characters in names are shown as what they are."""
    minutes = int(status["uptime_s"] // 60)
    draining = "   DRAINING" if status["draining"] else ""
    yield f"Tavern, up {minutes // 1440} d {minutes // 60 % 24:02} h {minutes % 60:02} min{draining}"
    yield (
        f"people {status['peers']}   taverns {status['taverns']}   messages {rates['messages']:.1f}/s   "
        f"errors {rates['errors']:.1f}/s"
    )
    yield (
        f"allocations {len(status['allocations'])}   relayed {rates['relayed_bytes'] * 8 / 1000:,.0f} kbit/s, "
        f"{rates['relayed_packets']:,.0f} packets/s   dropped {rates['dropped_packets']:.1f}/s   "
        f"this month {status['month_bytes'] / 1e9:.2f} GB"
    )
    yield ""
    yield f"{'TAVERN':<24} {'CHANNEL':<16} {'PEOPLE':>6}  WHO"
    for room in sorted(status["rooms"], key=lambda room: -len(room["peers"])):
        names = ", ".join(f"{'*' if peer['verified'] else ''}{_plain(peer['name'] or '?')}" for peer in room["peers"])
        yield f"{_cut(room['name'], 24)} {_cut(room['channel'], 16)} {len(room['peers']):>6}  {names}"
    if status["elsewhere"]:
        yield f"{'(in no channel)':<41} {len(status['elsewhere']):>6}"
    if status["allocations"]:
        yield ""
        yield f"{'ALLOCATION':>10}  {'OVER':<4} {'CLIENT':<28} {'RELAYED ADDRESS':<28} {'ENDS IN':>8}"
        for one in status["allocations"]:
            relayed, ends_in = ", ".join(one["relayed"]), f"{one['expires_in_s']} s"
            yield f"{one['allocation']:>10}  {one['transport']:<4} {one['client']:<28} {relayed:<28} {ends_in:>8}"


def _rates(former: tuple[float, dict[str, Any]] | None, now: tuple[float, dict[str, Any]]) -> dict[str, float]:
    """Per second since the former look, or since the start."""
    names = ("messages", "errors", "relayed_bytes", "relayed_packets", "dropped_packets")
    if former is None:
        return {name: now[1][name] / max(now[1]["uptime_s"], 1.0) for name in names}
    elapsed_s = max(now[0] - former[0], 0.001)
    return {name: (now[1][name] - former[1][name]) / elapsed_s for name in names}


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _cut(text: str, width: int) -> str:
    shown = _plain(text)
    return f"{shown if len(shown) <= width else shown[: width - 1] + '…':<{width}}"

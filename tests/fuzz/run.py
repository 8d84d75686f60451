"""Fuzzes one target, guided by what its inputs reach: `python -m tests.fuzz.run TARGET [CORPUS] [libFuzzer options]`.

A finding is written to `crash-...` in the working directory; its bytes go among those of `test_targets.py`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tavern", "tests.fuzz"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Runs until it is interrupted, or as long as `-max_total_time=SECONDS` says."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.run {{{','.join(TARGETS)}}} [CORPUS] [libFuzzer options]")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

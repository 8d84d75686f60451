"""`tavern serve` with a task beside it that keeps its main thread busy: so many milliseconds of every so many.

python -m benchmarks.relay.busy_server 5 10
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import trio

from tavern import app, cli
from tavern.config import Settings


async def _burn(busy_s: float, period_s: float) -> None:
    while True:
        started = time.perf_counter()
        while time.perf_counter() - started < busy_s:
            pass
        await trio.sleep(period_s - busy_s)


def main() -> int:
    busy_s, period_s = (int(argument) / 1000 for argument in sys.argv[1:3])
    serve = app.serve

    async def serve_and_burn(
        settings: Settings, environment: Mapping[str, str], announce: Callable[[str], None]
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_burn, busy_s, period_s)
            await serve(settings, environment, announce)
            nursery.cancel_scope.cancel()

    app.serve = serve_and_burn  # type: ignore[assignment]  # the command line passes no task_status
    return cli.main(["serve"])


if __name__ == "__main__":
    sys.exit(main())

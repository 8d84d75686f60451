"""The queues between a stream's task and the data path's thread: nothing that was put waits unannounced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from tavern.relay.stream_links import FromStream, PythonStreamLink, PythonStreamLinks, ToStream
from tavern.turn.five_tuple import FiveTuple, Transport

FIVE_TUPLE = FiveTuple(Transport.TCP, ("203.0.113.7", 4000), ("198.51.100.1", 3478))


def put_media(links: PythonStreamLinks, link: PythonStreamLink, data: bytes) -> None:
    assert links.thread_put_media(link, data)


def put_answer(links: PythonStreamLinks, link: PythonStreamLink, data: bytes) -> None:
    links.thread_execute(ToStream(link, data))


@pytest.mark.parametrize(
    ("put", "steps"),
    [(put_media, ("_has_output", "thread_put_media")), (put_answer, ("_has_output", "thread_put"))],
    ids=["media", "answer"],
)
@pytest.mark.parametrize("step", [0, 1])
async def test_what_the_thread_puts_while_trio_looks_is_taken(
    put: Callable[[PythonStreamLinks, PythonStreamLink, bytes], None],
    steps: tuple[str, str],
    step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever of the thread's steps trio's turn comes after: over a stream nobody sends an answer again."""
    commands: list[FromStream | ToStream] = []
    for_trio: list[Callable[[], None]] = []
    links = PythonStreamLinks(commands.append, for_trio.append)
    link = links.open(FIVE_TUPLE)
    taken: list[bytes] = []

    async def write() -> None:
        while (data := link.take_output()) is not None:
            if data:
                taken.append(data)
            else:
                await link.wait_output()

    async def trios_turn() -> None:
        while for_trio:
            for_trio.pop(0)()
        await trio.testing.wait_all_tasks_blocked()

    owner = PythonStreamLinks if steps[step] == "_has_output" else PythonStreamLink
    real = getattr(owner, steps[step])

    def interrupted(*arguments: object) -> object:
        result = real(*arguments)
        trio.from_thread.run(trios_turn)
        return result

    def thread() -> None:
        put(links, link, b"one ")
        links.thread_announce()
        with monkeypatch.context() as patched:
            patched.setattr(owner, steps[step], interrupted)
            put(links, link, b"two ")
        links.thread_announce()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trios_turn()
        await trio.to_thread.run_sync(thread)
        await trios_turn()
        nursery.cancel_scope.cancel()
    assert b"".join(taken) == b"one two "

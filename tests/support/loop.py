"""Time limits of clients without waiting for them: an event loop whose clock can be set forward.

What the loop's timers are set for is due at once then; sessions go by another clock and notice nothing::

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())  # in which pass_time(60.0) is called

And a loop of which nothing is left (:func:`running`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import uvloop
from tests.support.sink import Sink

T = TypeVar("T")

Run = Callable[[Coroutine[Any, Any, T]], T]
"""Runs a coroutine to its end."""

uvloop.new_event_loop().close()  # the first one opens a pair of descriptors for the life of the process


@contextmanager
def running(make: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Run[Any]]:
    """Run coroutines on a loop; afterwards no task, callback, descriptor or thread of them is left."""
    before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    with asyncio.Runner(loop_factory=make) as runner:

        async def clean(main: Coroutine[Any, Any, T]) -> T:
            result = await main
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        yield lambda main: runner.run(clean(main))
    assert set(threading.enumerate()) <= threads
    assert set(os.listdir("/proc/self/fd")) <= before


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock is ``ahead`` of others."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def pass_time(seconds: float) -> None:
    """Set the clock of the running loop forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.ahead += seconds


async def until(wait: Callable[..., object], *arguments: object) -> None:
    """Wait in a thread, as for a server, and leave no thread behind."""
    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, wait, *arguments)


def has_content(sink: Sink) -> bool:
    """Whether the last octet of a message has come."""
    return any(transaction.complete for transaction in sink.transactions)

"""An event loop whose clock jumps: waits of hours are over in microseconds, and always go the same way.

Where nobody can go on, the clock moves to the next timer. Work in threads is allowed and waited for in real time as
long as :meth:`VirtualLoop.outside` says that some is under way; then the clock stands still.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Waits for nobody: a wait moves the clock on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert self.loop is not None
        if timeout == 0:
            return [] if self.loop.alone else super().select(0)
        if self.loop.outside():
            return super().select(0.05 if timeout is None else min(timeout, 0.05))
        ready = [] if self.loop.alone else super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. ``now`` is its time, and that of :attr:`wall` but for ``offset``, which tests may change."""

    alone = False
    """Whether nothing outside can wake it: no threads, no sockets."""

    def __init__(self, outside: Callable[[], bool] = lambda: False) -> None:
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self
        self.now = 1000.0
        self.offset = 1_900_000_000.0
        self.outside = outside

    def time(self) -> float:
        return self.now

    def wall(self) -> float:
        """Seconds since 1970, in this world."""
        return self.now + self.offset


def run(
    main: Callable[[Any], Coroutine[Any, Any, T]],
    outside: Callable[[], bool] = lambda: False,
    *,
    make: Callable[[Callable[[], bool]], VirtualLoop] = VirtualLoop,
) -> T:
    """Run a coroutine to its end in virtual time; it is given the loop, one of the class ``make``."""
    loop = make(outside)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        try:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

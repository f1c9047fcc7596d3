"""Time limits of clients without waiting for them: an event loop whose clock can be set forward.

What the loop's timers are set for is due at once then; sessions go by another clock and notice nothing::

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())  # in which pass_time(60.0) is called
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.sink import Sink


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

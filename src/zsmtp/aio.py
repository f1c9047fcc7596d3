"""The library for asyncio programs.

uvloop's event loop works as well as asyncio's own; :func:`run` uses it if it is installed::

    async with zsmtp.aio.Client(relay="smtp://mail.example.org") as client:
        async for result in client.stream(messages):
            print(result)

:class:`Queue` keeps messages until they are delivered, also across crashes (``zsmtp.queue.queue``);
:class:`ShardedQueue` submits to several of them (``zsmtp.queue.sharded``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from zsmtp.client.client import Client, Submission, deliver

if TYPE_CHECKING:
    from zsmtp.queue.ingest import QueueSubmission as QueueSubmission
    from zsmtp.queue.queue import Queue as Queue
    from zsmtp.queue.sharded import ShardedQueue as ShardedQueue

T = TypeVar("T")

__all__ = ["Client", "Queue", "QueueSubmission", "ShardedQueue", "Submission", "deliver", "run"]


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, on uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def __getattr__(name: str) -> object:
    """Import the queue at its first use (PEP 562)."""
    if name not in ("Queue", "QueueSubmission", "ShardedQueue"):
        raise AttributeError(f"module 'zsmtp.aio' has no attribute {name!r}")
    from zsmtp.queue.ingest import QueueSubmission
    from zsmtp.queue.queue import Queue
    from zsmtp.queue.sharded import ShardedQueue

    globals().update(Queue=Queue, QueueSubmission=QueueSubmission, ShardedQueue=ShardedQueue)
    return globals()[name]

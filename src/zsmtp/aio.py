"""Delivering from asyncio programs.

uvloop's event loop does as well as asyncio's own; :func:`run` uses it where it is installed::

    async with zsmtp.aio.Client(relay="smtp://mail.example.org") as client:
        async for result in client.stream(messages):
            print(result)
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from zsmtp.client.client import Client, Submission, deliver

T = TypeVar("T")

__all__ = ["Client", "Submission", "deliver", "run"]


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)

"""An event loop in a thread of its own, for ``zsmtp.Queue`` and ``zsmtp.Client`` in programs without a loop.

Any thread of the process may call; calls of several threads run concurrently on the loop. A thread that is interrupted
while it waits (Ctrl-C) cancels its call. A child process has no such thread, so use after a fork is refused.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A thread with an event loop. ``begin`` runs on it first; its exception is raised here.

    ``noun`` names the user of the thread in errors of the class ``refusal``: it is closed, or was opened before a fork.
    """

    def __init__(self, noun: str, refusal: type[Exception], begin: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._noun = noun
        self._refusal = refusal
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(begun, begin), name=f"zsmtp {noun}", daemon=True)
        self._thread.start()
        begun.result()

    def _run(self, begun: Future[None], begin: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            asyncio.run(self._main(begun, begin))
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    async def _main(self, begun: Future[None], begin: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        await begin()
        begun.set_result(None)
        await self._over.wait()

    # ------------------------------------------------------------------ calling

    @property
    def closed(self) -> bool:
        """Whether it is closed, or being closed."""
        return self._closed

    def check(self) -> None:
        """Raise the error of use after the end, or after a fork."""
        if os.getpid() != self._process:
            raise self._refusal(f"this {self._noun} was opened before a fork; the child is to open it for itself")
        if self._closed:
            raise self._refusal(f"this {self._noun} is closed")

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start work on the loop."""
        try:
            self.check()
            with self._lock:
                self.check()
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            work.close()
            raise

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work on the loop and wait for it; an interrupt of the waiting thread cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except CancelledError:
            raise self._refusal(f"this {self._noun} was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call a function on the loop, without waiting for it."""
        self.check()
        with self._lock:
            self.check()
            self._loop.call_soon_threadsafe(callback, *arguments)

    def close(self, last: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """End the thread; ``last`` runs before. Several threads may call it, also repeatedly: all wait for the end."""
        if os.getpid() != self._process:
            return
        with self._lock:
            first, self._closed = not self._closed, True
            closing = asyncio.run_coroutine_threadsafe(last(), self._loop) if first else None
        try:
            if closing is not None:
                closing.result()
        finally:
            if first:
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()

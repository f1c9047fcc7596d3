"""Waits on one descriptor in an event loop, registered once for many waits, for ``zsmtp.net.aio``.

Its reader stays registered from one wait to the next, since nearly every wait is for reading; a reader called without a
wait is unregistered, so that it does not spin. Its timer keeps running when the deadline moves on, as all do, and
checks the new deadline when it fires. Call :meth:`DescriptorWatch.end` before closing the descriptor.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable

from zsmtp.net.operations import READABLE, WRITABLE


class DescriptorWatch:
    """The descriptor ``fd`` in ``loop``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._reading = self._writing = False
        self._ready = 0
        self._waiter: asyncio.Future[None] | None = None
        self._callback: Callable[[], None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._poll = select.poll()
        self._poll.register(fd, READABLE | WRITABLE)

    def ready_now(self) -> int:
        """The events that the descriptor is ready for, without waiting."""
        events = self._poll.poll(0)
        return events[0][1] if events else 0

    def is_due(self) -> bool:
        """Whether the descriptor is ready although the loop has not called back yet."""
        wanted = READABLE | (WRITABLE if self._writing else 0)
        return bool(self.ready_now() & (wanted | ~(READABLE | WRITABLE)))

    def wait_for(self, interest: int, deadline: float | None, waiter: asyncio.Future[None]) -> None:
        """Wake ``waiter`` when the descriptor is ready, or at the deadline (time.monotonic)."""
        self._waiter = waiter
        self._ready = 0
        self._callback = None
        self._read()
        if interest & WRITABLE and not self._writing:
            self._loop.add_writer(self._fd, self._on_writable)
            self._writing = True
        self._deadline = deadline
        if deadline is not None:
            left = max(deadline - time.monotonic(), 0.0)
            if self._timer is not None and self._timer.when() > self._loop.time() + left:
                self._timer.cancel()
                self._timer = None
            if self._timer is None:
                self._timer = self._loop.call_later(left, self._on_time)

    def heard(self) -> int:
        """End the wait; returns the events that the descriptor was ready for."""
        self._waiter = None
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        return self._ready

    def when_it_stirs(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` if there is something to read before the next wait."""
        self._callback = callback
        self._read()

    def end(self) -> None:
        """Stop watching, before the descriptor is closed."""
        self._callback = None
        if self._reading:
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._reading = self._writing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        if not self._reading:
            self._loop.add_reader(self._fd, self._on_readable)
            self._reading = True

    def _on_readable(self) -> None:
        if self._waiter is not None:
            self._ready |= READABLE
            self._wake()
            return
        if not self.ready_now() & ~WRITABLE:
            return  # already read since the loop's poll
        self._loop.remove_reader(self._fd)
        self._reading = False
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def _on_writable(self) -> None:
        self._ready |= WRITABLE
        self._wake()

    def _on_time(self) -> None:
        self._timer = None
        if self._waiter is None or self._deadline is None:
            return
        left = self._deadline - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._on_time)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

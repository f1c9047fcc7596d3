"""The rate of messages: decides which pool may begin a message now, and wakes the others when it is time.

A pool that may not begin yet is put into a queue and called back in its turn (:meth:`Paced.rate_opened`), first in,
first out, as many pools as the rate has room for. The rule is ``zsmtp.delivery.gate.MessageRate``; this module adds the
loop's clock and its timers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from zsmtp.delivery.gate import MessageRate

LEAST_PAUSE = 0.01  # seconds between two looks: a clock may be a little early


class Paced(Protocol):
    """A pool, which begins messages."""

    def rate_opened(self) -> None:
        """Called when this pool may begin a message."""


class MessagePacer:
    """Applies ``rate``. The callbacks in ``begun`` are called whenever a message was begun."""

    def __init__(self, rate: MessageRate) -> None:
        self._rate = rate
        self._waiting: OrderedDict[Paced, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self.begun: set[Callable[[], None]] = set()

    def most_waiting(self, seconds: float) -> int:
        """The number of messages that may begin within ``seconds``."""
        return max(int(self._rate.slowest * seconds), 1)

    def may_begin(self, pool: Paced) -> bool:
        """Count a message of ``pool`` as begun; False if it is too early: ``pool`` is called back when it is time."""
        if not self._rate.take(asyncio.get_running_loop().time()):
            self._note(pool)
            return False
        self._waiting.pop(pool, None)
        for call in self.begun:
            call()
        return True

    def is_open(self, pool: Paced) -> bool:
        """Whether a message may begin now; if not, ``pool`` is called back when it is time."""
        if self._rate.room(asyncio.get_running_loop().time()):
            return True
        self._note(pool)
        return False

    def forget(self, pool: Paced) -> None:
        """Remove a pool that ended."""
        self._waiting.pop(pool, None)

    def _note(self, pool: Paced) -> None:
        self._waiting[pool] = None
        self._keep_looking()

    def _keep_looking(self) -> None:
        if self._timer is None and self._waiting:
            loop = asyncio.get_running_loop()
            now = loop.time()
            pause = max(self._rate.opens_at(now) - now, LEAST_PAUSE)
            self._timer = loop.call_later(pause, self._look)

    def _look(self) -> None:
        self._timer = None
        room = self._rate.room(asyncio.get_running_loop().time())
        for pool in list(self._waiting)[:room]:
            del self._waiting[pool]
            pool.rate_opened()
        self._keep_looking()

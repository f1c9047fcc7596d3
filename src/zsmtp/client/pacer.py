"""The rate of messages: which pool may begin one now, and who is woken when it is time.

A pool that finds it is not time yet is noted, and hears of it when it is (:meth:`Paced.rate_opened`); those that were
noted first hear of it first, as many as there is room for. The rule is ``zsmtp.delivery.gate.MessageRate``; here are
the loop's clock and its timers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from zsmtp.delivery.gate import MessageRate

LEAST_PAUSE = 0.01  # seconds between two looks: a clock may be a little early


class Paced(Protocol):
    """What begins messages: a pool."""

    def rate_opened(self) -> None:
        """It is time for a message of this pool."""


class MessagePacer:
    """Keeps ``rate``. ``begun`` are called whenever a message was begun."""

    def __init__(self, rate: MessageRate) -> None:
        self._rate = rate
        self._waiting: OrderedDict[Paced, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self.begun: set[Callable[[], None]] = set()

    def most_waiting(self, seconds: float) -> int:
        """How many messages can be begun in so many seconds."""
        return max(int(self._rate.slowest * seconds), 1)

    def may_begin(self, pool: Paced) -> bool:
        """Count a message of ``pool`` as begun; False if it is not time yet: it is told when it is."""
        if not self._rate.take(asyncio.get_running_loop().time()):
            self._note(pool)
            return False
        self._waiting.pop(pool, None)
        for call in self.begun:
            call()
        return True

    def is_open(self, pool: Paced) -> bool:
        """Whether a message may be begun now; if not, ``pool`` is told when it is time."""
        if self._rate.room(asyncio.get_running_loop().time()):
            return True
        self._note(pool)
        return False

    def forget(self, pool: Paced) -> None:
        """A pool ended."""
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

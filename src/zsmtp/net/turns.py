"""A limit on how long the runs of a driver hold an event loop in one of its turns.

Everything on a loop waits while one callback runs. Long work is done in pieces (``GiveWay`` of ``zsmtp.effects``);
handshakes and replies come in bursts of hundreds, each of them short. All runs on a loop share its :class:`LoopTurns`
and report when they begin to wait and when they are woken; a run that finds the time over waits for the next turn::

    turns = turns_of(loop)
    if turns.woken():  # or turns.used_up(), in the middle of work
        await turns.next_turn()
    ...
    turns.waits()
    await future

:func:`in_turns` does so for long work that belongs to no run.

asyncio does not report when a turn of its loop begins. Two signs stand for it: a time without work of any run, and a
run that waited for a turn and is resumed.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from zsmtp.effects import Operation, checked_pause

T = TypeVar("T")

SHARE = 0.005
"""Seconds of one turn of the loop after which long work gives way; the piece that goes beyond it is the last one."""

MOST = 0.01
"""Seconds that all runs together may work in one turn: replies that are read together are answered in fewer writes."""

IDLE = 0.0005
"""Seconds without work of any run after which a new turn is assumed."""

WOKEN = 8
"""Runs that are resumed for one turn; those that find its time over wait again."""


class LoopTurns:
    """The turns of one loop; ``clock`` gives seconds, ``cpu`` those that its thread has worked."""

    __slots__ = ("_began", "_began_cpu", "_clock", "_cpu", "_fresh", "_queue", "_reported", "_tickets", "_waking")

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._cpu = cpu
        self._began_cpu = 0.0
        self._clock = clock
        self._began = self._reported = 0.0  # the turn; the last report of a run
        self._queue: list[tuple[int, asyncio.Future[None]]] = []  # a heap of the runs that wait for a turn
        self._tickets = 0
        self._fresh = False  # none of the runs that were resumed for this turn has run yet
        self._waking = False

    def waits(self) -> None:
        """Note that a run begins to wait."""
        self._reported = self._clock()

    def woken(self) -> bool:
        """Note that a run goes on after a wait; return True if the time of this turn is over."""
        now, reported = self._clock(), self._reported
        self._reported = now
        if now - reported >= IDLE:
            self._begin(now)
            return False
        return now - self._began >= MOST and self._cpu() - self._began_cpu >= MOST

    def worked_enough(self) -> bool:
        """Return True if the time of this turn is over, for a run that goes from one reply to the next.

        Time in which the system ran other programs does not count: a wait for a turn costs as much as a reply.
        """
        self._reported = now = self._clock()
        return now - self._began >= MOST and self._cpu() - self._began_cpu >= MOST

    def used_up(self) -> bool:
        """Return True if the time of this turn is over, in the middle of long work: time of the disk counts as well."""
        self._reported = now = self._clock()
        return now - self._began >= SHARE

    async def next_turn(self) -> None:
        """Wait for a turn of the loop that has time left; the run that has waited longest is the first."""
        loop = asyncio.get_running_loop()
        self._tickets += 1
        ticket = self._tickets
        while True:
            waiter = loop.create_future()
            heapq.heappush(self._queue, (ticket, waiter))
            if not self._waking:
                self._waking = True
                loop.call_soon(self._wake)
            await waiter
            if self._fresh:  # the first run of this turn
                self._fresh = False
                self._reported = self._clock()
                self._begin(self._reported)
                return
            if not self.worked_enough():
                return

    def _begin(self, now: float) -> None:
        """A turn begins."""
        self._began, self._began_cpu = now, self._cpu()

    def _wake(self) -> None:
        """Resume the runs that have waited longest in the next turn: a few, since the first may use all its time."""
        self._fresh = True
        self._waking = False
        for _ in range(min(len(self._queue), WOKEN)):
            waiter = heapq.heappop(self._queue)[1]
            if not waiter.done():  # it was cancelled
                waiter.set_result(None)
        if self._queue:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)


_ALL: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopTurns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> LoopTurns:
    """The turns of a loop, one object for all drivers on it."""
    turns = _ALL.get(loop)
    if turns is None:
        turns = _ALL[loop] = LoopTurns()
    return turns


async def in_turns(work: Operation[T]) -> T:
    """Run work that awaits only :class:`~zsmtp.effects.GiveWay`, in as many turns of the loop as it needs."""
    turns = turns_of(asyncio.get_running_loop())
    try:
        while True:
            checked_pause(work.send(None))
            if turns.used_up():
                await turns.next_turn()
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        work.close()
        turns.waits()

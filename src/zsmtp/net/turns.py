"""How long the runs of drivers may hold an event loop: whoever finds the time over waits for the next turn of the loop.

Everything on a loop waits while one callback runs. Long work is done in pieces (``GiveWay`` of ``zsmtp.effects``);
handshakes and replies come in bursts of hundreds, each of them short. All runs on a loop share its :class:`LoopTurns`
and tell it when they wait and when they are woken::

    turns = turns_of(loop)
    if turns.woken():  # or turns.used_up(), in the middle of work
        await turns.next_turn()
    ...
    turns.waits()
    await future

asyncio does not tell when a turn of its loop begins. Time without work of any run is taken for the end of one, and so
is that a run which waited for a turn comes back.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

SHARE = 0.005
"""Seconds of one turn of the loop after which long work gives way; the piece that goes beyond it is the last one."""

MOST = 0.01
"""Seconds that runs may work in one turn in all: replies that are read together are answered with fewer writes."""

IDLE = 0.0005
"""Seconds without work of any run after which the loop has waited, or others have had it."""


WOKEN = 8
"""Runs that are woken for a turn; those who find its time over wait on."""


class LoopTurns:
    """The turns of one loop; ``clock`` gives seconds, ``cpu`` those that its thread has worked."""

    __slots__ = ("_began", "_began_cpu", "_clock", "_cpu", "_fresh", "_heard", "_queue", "_tickets", "_waking")

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._cpu = cpu
        self._began_cpu = 0.0
        self._clock = clock
        self._began = self._heard = 0.0  # the turn; the last word of a run
        self._queue: list[tuple[int, asyncio.Future[None]]] = []  # a heap of those who wait for a turn
        self._tickets = 0
        self._fresh = False  # nobody has come back who waited for the turn that comes
        self._waking = False

    def waits(self) -> None:
        """A run has nothing to do until it is woken."""
        self._heard = self._clock()

    def woken(self) -> bool:
        """A run goes on after it waited: whether the time of this turn is over."""
        now, heard = self._clock(), self._heard
        self._heard = now
        if now - heard >= IDLE:
            self._begin(now)
            return False
        return now - self._began >= MOST and self._cpu() - self._began_cpu >= MOST

    def worked_enough(self) -> bool:
        """Whether the time of this turn is over, asked by a run that goes from one piece of work to the next.

        Time in which the system had other programs run does not count: to wait for a turn costs as much as a reply.
        """
        self._heard = now = self._clock()
        return now - self._began >= MOST and self._cpu() - self._began_cpu >= MOST

    def used_up(self) -> bool:
        """Whether the time of this turn is over, asked in the middle of long work: what a disk took counts as well."""
        self._heard = now = self._clock()
        return now - self._began >= SHARE

    async def next_turn(self) -> None:
        """Wait for a turn of the loop that has time left. The longest wait ends first, one in each turn."""
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
            if self._fresh:  # the first that comes back
                self._fresh = False
                self._heard = self._clock()
                self._begin(self._heard)
                return
            if not self.worked_enough():
                return

    def _begin(self, now: float) -> None:
        """A turn begins."""
        self._began, self._began_cpu = now, self._cpu()

    def _wake(self) -> None:
        """Have those who have waited longest go on in the next turn: a few, since the first may take all its time."""
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
    """The turns of a loop, the same for everybody."""
    turns = _ALL.get(loop)
    if turns is None:
        turns = _ALL[loop] = LoopTurns()
    return turns

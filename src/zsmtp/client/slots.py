"""Limits of connections: in all (:class:`ConnectionSlots`), and to one destination (:class:`DestinationLimit`).

A connection at work uses a slot. Pools ask for one and are given it in the order of asking, those with the fewest
connections first; whatever waits, each step costs the same. A connection that has waited for its peer for about
``SLOW_AFTER`` seconds in all since it last finished a message costs nothing but memory: it uses no slot any more, up to
a limit on all connections together, so that slow servers do not hold up mail for others.

A destination that refuses a connection while others of its connections stand has told how many it takes. It is asked
for one more after a while, and more rarely each time it refuses.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

TICK = 0.5  # seconds between two looks at who waits for a peer
SLOW_AFTER = 2.0  # seconds
PAUSE = 30.0  # seconds until a destination that refused a connection is asked for one more
LONGEST_PAUSE = 960.0  # seconds

_SLOW_TICKS = round(SLOW_AFTER / TICK)


class Asking(Protocol):
    """What asks for connections: a pool."""

    def wants_worker(self) -> bool:
        """Whether it has work for one more connection now."""

    def start_worker(self) -> None:
        """Start one; it gives its slot back by :meth:`ConnectionSlots.release`."""


class Holder(Protocol):
    """What holds a slot: the worker of a connection."""

    @property
    def awaits_peer(self) -> bool:
        """Whether it waits for something outside that has not come."""

    def wake(self) -> None:
        """Leave off being idle: somebody else wants the connection."""


class ConnectionSlots:
    """``count`` connections at work, ``most`` in all."""

    def __init__(self, count: int, most: int) -> None:
        self._count = count
        self._most = max(count, most)
        self._at_work: dict[Holder, int] = {}  # those that use a slot, with the looks at which they waited
        self._slow: dict[Holder, int] = {}  # those that use none, likewise
        self._asleep: set[Holder] = set()  # those that wait until they may connect; they do not count
        self._returning: OrderedDict[Holder, Callable[[], None]] = OrderedDict()  # of those, who would go on
        self._pools: dict[Holder, Asking] = {}
        self._held: Counter[Asking] = Counter()
        self._asking: dict[Asking, int] = {}  # with how many connections each has
        self._queues: dict[int, OrderedDict[Asking, None]] = {}  # those by that number, in the order of asking
        self._timer: asyncio.TimerHandle | None = None
        self.idle: OrderedDict[Holder, None] = OrderedDict()  # with a connection and no work, longest first

    def wanted_besides(self, pool: Asking | None = None) -> bool:
        """Whether another one than ``pool`` waits for a connection."""
        return len(self._asking) > (pool in self._asking) or bool(self._returning)

    def ask(self, pool: Asking) -> None:
        """Have a worker of ``pool`` started: now, if there is room, or when there is."""
        if pool in self._asking:
            return
        if self._has_room():
            pool.start_worker()
            return
        self._enqueue(pool)
        for holder in self.idle:
            holder.wake()
            break
        self._keep_looking()

    def withdraw(self, pool: Asking) -> None:
        """It asks no more."""
        if pool in self._asking:
            self._dequeue(pool)

    def take(self, holder: Holder, pool: Asking) -> None:
        """A worker of ``pool`` starts."""
        self._at_work[holder] = 0
        self._pools[holder] = pool
        self._hold(pool, 1)
        self._keep_looking()

    def release(self, holder: Holder) -> None:
        """A worker ends: its slot goes to the pool with the fewest connections of those that ask."""
        self._at_work.pop(holder, None)
        self._slow.pop(holder, None)
        self._asleep.discard(holder)
        self._returning.pop(holder, None)
        self._hold(self._pools.pop(holder), -1)
        self._give_out()

    def sleep(self, holder: Holder) -> None:
        """A worker waits until it may connect: others use its slot."""
        self._at_work.pop(holder, None)
        self._slow.pop(holder, None)
        self._asleep.add(holder)
        self._give_out()

    def ask_back(self, holder: Holder, wake: Callable[[], None]) -> bool:
        """Whether a worker that slept may go on; if not, ``wake`` is called when it has a slot again."""
        if holder not in self._asleep:
            return True
        if not self._has_room():
            self._returning[holder] = wake
            for idle in self.idle:
                idle.wake()
                break
            self._keep_looking()
            return False
        self.wake_up(holder)
        return True

    def wake_up(self, holder: Holder) -> None:
        """A worker that slept goes on, or ends; it counts again, whether there is room or not."""
        self._returning.pop(holder, None)
        if holder in self._asleep:
            self._asleep.remove(holder)
            self._at_work[holder] = 0

    def progressed(self, holder: Holder) -> None:
        """A worker has finished a message. If it was slow, and that did not take it long, it uses a slot again."""
        if holder in self._at_work:
            self._at_work[holder] = 0
        elif self._slow.get(holder, _SLOW_TICKS) < _SLOW_TICKS:
            del self._slow[holder]
            self._at_work[holder] = 0
        elif holder in self._slow:
            self._slow[holder] = 0

    def end(self) -> None:
        """Nobody is given a slot any more."""
        self._asking.clear()
        self._queues.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._pools)

    # ------------------------------------------------------------------ inside

    def _has_room(self) -> bool:
        return len(self._at_work) < self._count and len(self._pools) - len(self._asleep) < self._most

    def _give_out(self) -> None:
        while self._returning and self._has_room():
            holder, wake = next(iter(self._returning.items()))
            self.wake_up(holder)
            wake()
        while self._asking and self._has_room():
            pool = next(iter(self._queues[min(self._queues)]))
            self._dequeue(pool)
            if pool.wants_worker():
                pool.start_worker()

    def _enqueue(self, pool: Asking) -> None:
        held = self._held[pool]
        self._asking[pool] = held
        self._queues.setdefault(held, OrderedDict())[pool] = None

    def _dequeue(self, pool: Asking) -> None:
        held = self._asking.pop(pool)
        queue = self._queues[held]
        del queue[pool]
        if not queue:
            del self._queues[held]

    def _hold(self, pool: Asking, change: int) -> None:
        """Account for a connection more or less; a pool that asks is put where it belongs then."""
        asking = pool in self._asking
        if asking:
            self._dequeue(pool)
        self._held[pool] += change
        if asking:
            self._enqueue(pool)
        if not self._held[pool]:
            del self._held[pool]

    def _look(self) -> None:
        """Find connections that keep waiting for their peers.

        Looks are counted, not seconds: a peer is not slow because this program has no time for it.
        """
        self._timer = None
        for holders in (self._slow, self._at_work):
            for holder, looks in list(holders.items()):
                if holder.awaits_peer:
                    holders[holder] = looks + 1
        for holder in [one for one, looks in self._at_work.items() if looks >= _SLOW_TICKS]:
            self._slow[holder] = self._at_work.pop(holder)
        self._give_out()
        self._keep_looking()

    def _keep_looking(self) -> None:
        """See to the next look, if slots are or may soon be wanted."""
        if self._timer is None and (self._asking or self._returning or 2 * len(self._at_work) > self._count):
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)


class SlotPlace:
    """The slot of one worker, as its runs leave it while they sleep (:class:`zsmtp.net.aio.Place`)."""

    def __init__(self, slots: ConnectionSlots, holder: Holder) -> None:
        self._slots = slots
        self._holder = holder

    def leave(self) -> None:
        """See :meth:`ConnectionSlots.sleep`."""
        self._slots.sleep(self._holder)

    def ask_back(self, wake: Callable[[], None]) -> bool:
        """See :meth:`ConnectionSlots.ask_back`."""
        return self._slots.ask_back(self._holder, wake)

    def take_back(self) -> None:
        """See :meth:`ConnectionSlots.wake_up`."""
        self._slots.wake_up(self._holder)


class DestinationLimit:
    """How many connections one destination takes: ``most``, until it refuses one. Time is an argument, in seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known = most
        self._pause = 0.0
        self._again = 0.0

    def allowed(self, now: float) -> int:
        """How many there may be now."""
        return min(self._known + (self._known < self._most and now >= self._again), self._most)

    def refused(self, standing: int, now: float) -> None:
        """It refused one more than the ``standing`` ones."""
        self._known = max(min(standing, self._known), 1)
        self._pause = min(max(2 * self._pause, PAUSE), LONGEST_PAUSE)
        self._again = now + self._pause

    def took(self, standing: int, now: float) -> None:
        """So many connections stand, one of them new."""
        if standing > self._known:
            self._known = standing
            self._pause = 0.0
            self._again = now + PAUSE

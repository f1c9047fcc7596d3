"""Limits on connections: in all (:class:`ConnectionSlots`), and to one destination (:class:`DestinationLimit`).

A connection at work uses a slot. Pools request slots and get them in order, those with the fewest connections first;
the cost of a step does not grow with the number of requests. A connection that has waited for its peer for about
``SLOW_AFTER`` seconds in all since it last finished a message costs only memory: it uses no slot any more, up to a
limit on all connections together, so that slow servers do not delay mail for others.

A destination that refuses a connection while others are established shows its own limit. One more is tried after a
pause, which grows with each refusal.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

TICK = 0.5  # seconds between two checks for connections that wait for their peers
SLOW_AFTER = 2.0  # seconds
PAUSE = 30.0  # seconds until a further connection to a destination that refused one
LONGEST_PAUSE = 960.0  # seconds

_SLOW_TICKS = round(SLOW_AFTER / TICK)


class Asking(Protocol):
    """A pool, which requests connections."""

    def wants_worker(self) -> bool:
        """Whether it has work for one more connection now."""

    def start_worker(self) -> None:
        """Start a worker; it returns its slot by :meth:`ConnectionSlots.release`."""


class Holder(Protocol):
    """The worker of a connection, which holds a slot."""

    @property
    def awaits_peer(self) -> bool:
        """Whether it waits for input from outside."""

    def wake(self) -> None:
        """End the idle wait: another pool requests the connection."""


class ConnectionSlots:
    """``count`` connections at work, ``most`` in all."""

    def __init__(self, count: int, most: int) -> None:
        self._count = count
        self._most = max(count, most)
        self._at_work: dict[Holder, int] = {}  # users of a slot, with the number of checks at which they waited
        self._slow: dict[Holder, int] = {}  # holders without a slot, likewise
        self._asleep: set[Holder] = set()  # holders that wait until they may connect; they do not count
        self._returning: OrderedDict[Holder, Callable[[], None]] = OrderedDict()  # those that request a slot again
        self._pools: dict[Holder, Asking] = {}
        self._held: Counter[Asking] = Counter()
        self._asking: dict[Asking, int] = {}  # pools with a request, and the number of connections of each
        self._queues: dict[int, OrderedDict[Asking, None]] = {}  # these pools by that number, first come first
        self._timer: asyncio.TimerHandle | None = None
        self.idle: OrderedDict[Holder, None] = OrderedDict()  # holders of idle connections, longest idle first

    def wanted_besides(self, pool: Asking | None = None) -> bool:
        """Whether a pool other than ``pool`` requests a connection."""
        return len(self._asking) > (pool in self._asking) or bool(self._returning)

    def ask(self, pool: Asking) -> None:
        """Request a worker for ``pool``: it is started now, or once there is room."""
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
        """Withdraw the request of ``pool``."""
        if pool in self._asking:
            self._dequeue(pool)

    def take(self, holder: Holder, pool: Asking) -> None:
        """Count a new worker of ``pool``."""
        self._at_work[holder] = 0
        self._pools[holder] = pool
        self._hold(pool, 1)
        self._keep_looking()

    def release(self, holder: Holder) -> None:
        """Count out a worker that ended: its slot goes to the requesting pool with the fewest connections."""
        self._at_work.pop(holder, None)
        self._slow.pop(holder, None)
        self._asleep.discard(holder)
        self._returning.pop(holder, None)
        self._hold(self._pools.pop(holder), -1)
        self._give_out()

    def sleep(self, holder: Holder) -> None:
        """Free the slot of a worker that waits until it may connect."""
        self._at_work.pop(holder, None)
        self._slow.pop(holder, None)
        self._asleep.add(holder)
        self._give_out()

    def ask_back(self, holder: Holder, wake: Callable[[], None]) -> bool:
        """Whether a worker that slept may go on; if not, ``wake`` is called once it has a slot again."""
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
        """Count a worker that slept and goes on, or ends, whether or not there is room."""
        self._returning.pop(holder, None)
        if holder in self._asleep:
            self._asleep.remove(holder)
            self._at_work[holder] = 0

    def progressed(self, holder: Holder) -> None:
        """Note that a worker finished a message. If it was slow, and this one was not, it uses a slot again."""
        if holder in self._at_work:
            self._at_work[holder] = 0
        elif self._slow.get(holder, _SLOW_TICKS) < _SLOW_TICKS:
            del self._slow[holder]
            self._at_work[holder] = 0
        elif holder in self._slow:
            self._slow[holder] = 0

    def end(self) -> None:
        """Start no further worker and give no slot."""
        self._asking.clear()
        self._queues.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        """The number of connections."""
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
        """Count a connection more or less; a requesting pool moves to the queue of its new number."""
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

        It counts checks instead of seconds: a delay of this program does not make a peer slow.
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
        """Schedule the next check, if slots are or may soon be requested."""
        if self._timer is None and (self._asking or self._returning or 2 * len(self._at_work) > self._count):
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)


class SlotPlace:
    """The slot of one worker, which its operations free while they sleep (:class:`zsmtp.net.aio.Place`)."""

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
    """The number of connections to one destination: ``most``, until it refuses one. Times are arguments, in seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known = most
        self._pause = 0.0
        self._again = 0.0

    def allowed(self, now: float) -> int:
        """The number of connections allowed now."""
        return min(self._known + (self._known < self._most and now >= self._again), self._most)

    def refused(self, standing: int, now: float) -> None:
        """Note a refusal while ``standing`` connections are established."""
        self._known = max(min(standing, self._known), 1)
        self._pause = min(max(2 * self._pause, PAUSE), LONGEST_PAUSE)
        self._again = now + self._pause

    def took(self, standing: int, now: float) -> None:
        """Note a new connection; ``standing`` are established with it."""
        if standing > self._known:
            self._known = standing
            self._pause = 0.0
            self._again = now + PAUSE

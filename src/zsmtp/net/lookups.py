"""Lookups on an event loop: any number of queries at a time, without threads (RFC 5452 9.2).

``zsmtp.dns.questioning`` has the rules, ``zsmtp.dns.transport`` the exchange with a server; this module waits. Each
query to a name server has a socket of its own until its reply, up to a maximum (:func:`most_sockets`); further queries
wait for their turn. Only a resolver without ``resolve`` is called in threads.

All callers share one cache, and callers with the same query share one lookup::

    lookups = AsyncLookups(make_resolver, in_thread)
    found = lookups.find(query, deadline)      # an Answer, or a future that has it by the deadline
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from zsmtp.dns.answer import Answer, Query
from zsmtp.dns.cache import AnswerCache
from zsmtp.dns.nameserver import AskServer, Heard
from zsmtp.dns.resolver import CallResolver, Resolver, find_answer
from zsmtp.dns.transport import WRITABLE, SocketWait, exchange
from zsmtp.effects import Effect, Operation, ReadClock, unknown_effect

MAX_SOCKETS = 500
"""Concurrent queries to name servers."""
SHARE = 8
"""They use at most this fraction (one in so many) of the files that may be open: connections need the rest."""

InThread = Callable[[Callable[[], Answer]], asyncio.Future[Answer]]
"""Runs a call in a thread."""


def most_sockets() -> int:
    """The maximum of concurrent queries, within the files that this process may have open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_SOCKETS if files == resource.RLIM_INFINITY else min(MAX_SOCKETS, max(files // SHARE, 1))


class AsyncLookups:
    """The lookups of one driver. ``make_resolver`` is called for the first of them."""

    def __init__(self, make_resolver: Callable[[], Resolver], in_thread: InThread) -> None:
        self._make_resolver = make_resolver
        self._resolver: Resolver | None = None
        self._in_thread = in_thread
        self._servers = ServerExchanges(most_sockets())
        self._cache = AnswerCache()
        self._asked: dict[Query, asyncio.Task[Answer]] = {}

    def find(self, query: Query, deadline: float) -> Answer | asyncio.Future[Answer]:
        """The cached answer, or a future that several callers may share; it goes on if a caller is cancelled."""
        known = self._cache.get(query, time.monotonic())
        if known is not None:
            return known
        asked = self._asked.get(query)
        if asked is not None:
            return asked
        if self._resolver is None:
            self._resolver = self._make_resolver()
        work = find_answer(self._resolver, query, deadline)
        try:
            effect = work.send(None)
        except StopIteration as end:
            return self._keep(end.value)
        task = asyncio.get_running_loop().create_task(self._carry_out(work, effect))
        task.add_done_callback(partial(self._answered, query))
        self._asked[query] = task
        return task

    def close(self) -> set[asyncio.Future[Answer]]:
        """Send no more queries. Returns the running lookups; those that wait for a server end at once."""
        self._servers.close()
        return set(self._asked.values())

    async def _carry_out(self, work: Operation[Answer], effect: Effect[Any]) -> Answer:
        """Continue an operation that awaits ``effect``."""
        answer: object
        try:
            while True:
                if type(effect) is AskServer:
                    answer = await self._servers.ask(effect)
                elif type(effect) is ReadClock:
                    answer = time.monotonic()
                elif type(effect) is CallResolver:
                    answer = await self._in_thread(partial(effect.resolver.lookup, effect.query, effect.deadline))
                else:
                    raise unknown_effect(effect)
                effect = work.send(answer)
        except StopIteration as end:
            found: Answer = end.value
            return found
        finally:
            work.close()

    def _answered(self, query: Query, task: asyncio.Task[Answer]) -> None:
        del self._asked[query]
        if not task.cancelled() and task.exception() is None:
            self._keep(task.result())

    def _keep(self, answer: Answer) -> Answer:
        self._cache.put(answer, time.monotonic())
        return answer


class ServerExchanges:
    """Queries to name servers, at most ``most`` at a time.

    Queries without a reply before have half of the places, and wait behind all others, so that zones with dead servers
    do not block the rest.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._closed = False
        self._new = _Places()
        self._again = _Places()
        self._starved: deque[asyncio.Future[bool]] = deque()  # waiters that got no socket
        self._waiters: set[asyncio.Future[None]] = set()

    def close(self) -> None:
        """End all waits."""
        self._closed = True
        for waiter in self._waiters:
            _wake(waiter)
        for place in (*self._new.queue, *self._again.queue, *self._starved):
            _decide(place, granted=False)

    async def ask(self, effect: AskServer) -> Heard:
        """Carry out the effect when it has its turn. If no socket is available, wait until another query closes one."""
        places = self._again if effect.again else self._new
        try:
            while not self._closed and await self._take_place(places, effect.deadline):
                try:
                    result = await self._exchange(effect)
                finally:
                    self._leave_place(places)
                if not result.starved or not self._open:
                    return result
                await _wait_in(self._starved, asyncio.get_running_loop().create_future(), effect.deadline)
        finally:
            _grant_first(self._starved)
        return Heard() if self._closed else Heard(problem="too many questions were under way to ask it in time")

    async def _exchange(self, effect: AskServer) -> Heard:
        steps = exchange(effect, time.monotonic)
        wanted = None
        try:
            while True:
                wanted = await self._wait(steps.send(wanted))
        except StopIteration as end:
            result: Heard = end.value
            return result
        finally:
            steps.close()

    async def _wait(self, wait: SocketWait) -> bool:
        loop = asyncio.get_running_loop()
        fd = wait.socket.fileno()
        writes = bool(wait.interest & WRITABLE)
        waiter: asyncio.Future[None] = loop.create_future()
        (loop.add_writer if writes else loop.add_reader)(fd, _wake, waiter)
        timer = loop.call_later(max(wait.deadline - time.monotonic(), 0.0), _wake, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            (loop.remove_writer if writes else loop.remove_reader)(fd)
            timer.cancel()
        return not self._closed

    @property
    def _open(self) -> int:
        return self._new.taken + self._again.taken

    def _has_room(self, places: _Places) -> bool:
        if self._open >= self._most:
            return False
        return places is self._new or places.taken < max(self._most // 2, 1)

    async def _take_place(self, places: _Places, deadline: float) -> bool:
        """Wait for one of the places with a socket; False if there is none by the deadline."""
        if not places.queue and self._has_room(places):
            places.taken += 1
            return True
        place = asyncio.get_running_loop().create_future()
        try:
            return await _wait_in(places.queue, place, deadline)
        except asyncio.CancelledError:
            if not place.cancelled() and place.result():  # granted, but not used
                self._leave_place(places)
            raise

    def _leave_place(self, places: _Places) -> None:
        """Give the place to the longest waiter."""
        places.taken -= 1
        for others in (self._new, self._again):
            while others.queue and self._has_room(others):
                others.taken += _grant_first(others.queue)


class _Places:
    """The places of one kind of queries: the number taken, and the waiters."""

    def __init__(self) -> None:
        self.taken = 0  # sockets, and places of waiters that are about to open one
        self.queue: deque[asyncio.Future[bool]] = deque()


async def _wait_in(queue: deque[asyncio.Future[bool]], place: asyncio.Future[bool], deadline: float) -> bool:
    """Wait in a queue until ``place`` is granted; False at the deadline, or when lookups end."""
    queue.append(place)
    timer = asyncio.get_running_loop().call_later(
        max(deadline - time.monotonic(), 0.0), partial(_decide, place, granted=False)
    )
    try:
        return await place
    finally:
        timer.cancel()


def _grant_first(queue: deque[asyncio.Future[bool]]) -> bool:
    """Grant a place to the first active waiter of a queue; False if there is none."""
    while queue:
        place = queue.popleft()
        if not place.done():
            place.set_result(True)
            return True
    return False


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _decide(place: asyncio.Future[bool], *, granted: bool) -> None:
    if not place.done():
        place.set_result(granted)

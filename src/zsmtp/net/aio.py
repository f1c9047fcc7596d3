"""The asyncio driver: carries out the effects of any number of generators at a time, on one event loop.

How an exchange, a handshake and a race of connections go is in ``zsmtp.net.waits``; here is the waiting. Each run waits
for one thing at a time: a descriptor, by the loop's readers and writers, or a name server, asked in a thread. Answers
are kept by one cache for all runs, and a question that is being asked is not asked twice. uvloop's loop does as well::

    driver = AsyncDriver(resolver)
    plan = await driver.run(plan_destination(request))
    await driver.aclose()

A run ends early in one of two ways. :class:`Stop` ends it by the rules: the generator hears of it and settles what it
has to. Cancelling the task ends it at once: the generator is closed, and so is every connection it had touched.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from zsmtp.dns.answer import Answer, Query
from zsmtp.dns.cache import AnswerCache
from zsmtp.dns.destination import OwnAddresses
from zsmtp.dns.resolver import Resolver
from zsmtp.errors import LocalError
from zsmtp.events import LookupDone, LookupStarted, Observer, ignore
from zsmtp.net import waits
from zsmtp.net.effects import Close, Connect, Exchange, ReadClock, StartTLS, TLSResult
from zsmtp.net.identity import own_addresses
from zsmtp.net.transport import SocketStream
from zsmtp.net.waits import WRITABLE, SocketsWait, Source, StreamWait, Wait
from zsmtp.net.watch import Watch

if TYPE_CHECKING:
    from zsmtp.net.stspolicies import PolicyKeeper

LOOKUP_THREADS = 16
GRACE = 1.0  # seconds that calls in threads have to end when the driver is closed
TURNS = 16  # waits that a run may find fulfilled one after the other before others have their turn

T = TypeVar("T")
A = TypeVar("A")


class Stop:
    """Tells one run or several to end by the rules; a :class:`zsmtp.net.waits.Stopping`."""

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self.reason = ""
        self._listeners: set[Callable[[], None]] = set()

    def request(self, reason: str, *, at_once: bool = False) -> None:
        """Tell them, and why. ``at_once`` does not wait for final replies either; it may follow a milder request."""
        self.requested = True
        self.at_once = self.at_once or at_once
        self.reason = self.reason or reason
        for wake in tuple(self._listeners):
            wake()

    def listen(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called at each request."""
        self._listeners.add(wake)

    def ignore(self, wake: Callable[[], None]) -> None:
        """Do not call ``wake`` any more."""
        self._listeners.discard(wake)


class AsyncDriver:
    """Carries out effects. ``resolver`` is called for the first lookup, and the resolver it gives in threads.

    ``policies`` carries out what MTA-STS asks for, in threads as well; without it such effects are not known here.
    """

    def __init__(
        self, resolver: Callable[[], Resolver], source: Source | None = None, policies: PolicyKeeper | None = None
    ) -> None:
        self._make_resolver = resolver
        self._resolver: Resolver | None = None
        self._cache = AnswerCache()
        self._asked: dict[Query, asyncio.Future[Answer]] = {}
        self.policies = policies
        self._threads: ThreadPoolExecutor | None = None
        self._shelf: ThreadPoolExecutor | None = None  # one thread: what is remembered of policies
        self._calls: set[asyncio.Future[Any]] = set()
        self._end = -1  # is closed to end fetches under way, which watch the other end
        self._interrupt = -1
        self._watches: dict[int, Watch] = {}
        self.source = source or Source()

    async def run(self, work: Generator[Any, Any, T], *, stop: Stop | None = None, observer: Observer = ignore) -> T:
        """Run ``work`` to its end and return its result."""
        run: _Run[T] = _Run(self, work, stop or Stop(), observer)
        return await run.to_its_end()

    def notify(self, stream: SocketStream, stirred: Callable[[], None]) -> None:
        """Call ``stirred`` when the peer of a stream that no run uses says something, or closes the connection."""
        self._watch(stream.fileno()).when_it_stirs(stirred)

    def close_stream(self, stream: SocketStream) -> None:
        """Close a stream that no run uses."""
        watch = self._watches.pop(stream.fileno(), None)
        if watch is not None:
            watch.end()
        stream.close()

    async def aclose(self) -> None:
        """End the threads; the driver is of no use any more. Lookups under way have been ended by whoever made the
        resolver, if it can be; one that cannot is left to its own deadline after a moment.
        """
        if self._end >= 0:
            os.close(self._end)
            self._end = -1
        hung = (await asyncio.wait(self._calls, timeout=GRACE))[1] if self._calls else None
        if self._shelf is not None and self.policies is not None:
            await asyncio.get_running_loop().run_in_executor(self._shelf, self.policies.close)
        for threads in (self._threads, self._shelf):
            if threads is not None:
                threads.shutdown(wait=not hung, cancel_futures=True)
        if self._interrupt >= 0 and not hung:
            os.close(self._interrupt)
            self._interrupt = -1

    # ------------------------------------------------------------ for the runs

    def _watch(self, fd: int) -> Watch:
        watch = self._watches.get(fd)
        if watch is None:
            watch = self._watches[fd] = Watch(asyncio.get_running_loop(), fd)
        return watch

    def _lookup(self, query: Query, deadline: float) -> Answer | asyncio.Future[Answer]:
        """What is known already, or a future that several runs may wait for."""
        now = time.monotonic()
        known = self._cache.get(query, now)
        if known is not None:
            return known
        asked = self._asked.get(query)
        if asked is None:
            if self._resolver is None:
                self._resolver = self._make_resolver()
            asked = self._in_thread(partial(self._resolver.lookup, query, deadline))
            asked.add_done_callback(partial(self._answered, query))
            self._asked[query] = asked
        return asked

    def _answered(self, query: Query, asked: asyncio.Future[Answer]) -> None:
        del self._asked[query]
        if not asked.cancelled() and asked.exception() is None:
            self._cache.put(asked.result(), time.monotonic())

    def _policy(self, effect: object) -> asyncio.Future[object]:
        """Carry out an effect of MTA-STS: fetches in any thread, what is remembered in one of its own."""
        from zsmtp.tls.mtasts import FetchPolicy

        assert self.policies is not None
        if isinstance(effect, FetchPolicy):
            if self._end < 0:
                self._interrupt, self._end = os.pipe2(os.O_CLOEXEC)
            return self._in_thread(partial(self.policies.carry_out, effect, interrupt=self._interrupt))
        if self._shelf is None:
            self._shelf = ThreadPoolExecutor(1, thread_name_prefix="zsmtp policies")
        return self._in_thread(partial(self.policies.carry_out, effect), self._shelf)

    def _in_thread(self, call: Callable[[], A], threads: ThreadPoolExecutor | None = None) -> asyncio.Future[A]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="zsmtp")
        future = asyncio.get_running_loop().run_in_executor(threads or self._threads, call)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future


class _Run(Generic[T]):
    """One generator on its way."""

    def __init__(self, driver: AsyncDriver, work: Generator[Any, Any, T], stop: Stop, observer: Observer) -> None:
        self._driver = driver
        self._work = work
        self._stop = stop
        self._observe = observer
        self._loop = asyncio.get_running_loop()
        self._clock = time.monotonic
        self._lookups_end = self._clock() + waits.LOOKUPS_TIME
        self._waiter: asyncio.Future[None] | None = None
        self._touched: set[SocketStream] = set()
        self._turns = 0

    async def to_its_end(self) -> T:
        """Carry out its effects; a run that is cancelled, or whose generator raises, leaves nothing open."""
        self._stop.listen(self._wake)
        answer: object = None
        try:
            while True:
                effect = self._work.send(answer)
                if isinstance(effect, Exchange):
                    answer = effect.session.next_event()  # most events wait behind the one before
                    if answer is None:
                        answer = await self._exchange(effect)
                else:
                    answer = await self._perform(effect)
        except StopIteration as end:
            result: T = end.value
            return result
        except BaseException:
            self._work.close()
            for stream in self._touched:
                self._driver.close_stream(stream)
            raise
        finally:
            self._stop.ignore(self._wake)

    async def _perform(self, effect: object) -> object:
        if isinstance(effect, Query):
            return await self._look_up(effect)
        if isinstance(effect, Connect):
            made = await self._wait_through(
                waits.connect(effect, self._driver.source, self._clock, self._stop, self._observe)
            )
            if made.stream is not None:
                self._touched.add(cast(SocketStream, made.stream))
            return made
        if isinstance(effect, Close):
            self._close(cast(SocketStream, effect.stream))
            return None
        if isinstance(effect, StartTLS):
            return await self._start_tls(effect)
        if isinstance(effect, ReadClock):
            return self._clock()
        if isinstance(effect, OwnAddresses):
            return own_addresses()
        if self._driver.policies is not None:
            return await self._carry_out_policy(effect)
        raise LocalError(f"not an effect this driver knows: {effect!r}")

    async def _exchange(self, effect: Exchange) -> object:
        stream = cast(SocketStream, effect.stream)
        self._touched.add(stream)
        return await self._wait_through(waits.exchange(stream, effect.session, self._clock, self._stop))

    async def _start_tls(self, effect: StartTLS) -> TLSResult:
        stream = cast(SocketStream, effect.stream)
        result = await self._wait_through(waits.start_tls(effect, self._clock, self._stop))
        if result.stream is None:
            self._close(stream)
        else:
            self._touched.discard(stream)
            self._touched.add(cast(SocketStream, result.stream))
        return result

    def _close(self, stream: SocketStream) -> None:
        self._touched.discard(stream)
        self._driver.close_stream(stream)

    # ----------------------------------------------------------------- waiting

    async def _wait_through(self, steps: Generator[Wait, Any, A]) -> A:
        """Carry out the waits of ``steps``; they are closed if this run is cancelled meanwhile."""
        answer: object = None
        try:
            while True:
                wait = steps.send(answer)
                if isinstance(wait, StreamWait):
                    answer = await self._wait_on_stream(wait)
                elif isinstance(wait, SocketsWait):
                    answer = await self._wait_on_sockets(wait)
                else:
                    answer = await self._look_up(wait)
        except StopIteration as end:
            result: A = end.value
            return result
        finally:
            steps.close()

    async def _wait_on_stream(self, wait: StreamWait) -> int:
        """The events the stream is ready for, in the bits of poll(2)."""
        watch = self._driver._watch(wait.stream.fileno())
        if wait.interest & WRITABLE:  # most often it is at once
            ready = watch.ready_now()
            if ready:
                await self._take_turns()
                return ready
        self._waiter = waiter = self._loop.create_future()
        watch.wait_for(wait.interest, wait.deadline, waiter)
        self._turns = 0
        try:
            await waiter
        finally:
            self._waiter = None
            ready = watch.heard()
        return ready

    async def _take_turns(self) -> None:
        """A peer that takes all that is written must not keep the others waiting."""
        self._turns += 1
        if self._turns >= TURNS:
            self._turns = 0
            await asyncio.sleep(0)

    async def _wait_on_sockets(self, wait: SocketsWait) -> set[int]:
        """The descriptors that are ready for writing, or failed."""
        ready: set[int] = set()
        self._waiter = waiter = self._loop.create_future()

        def heard(fd: int) -> None:
            ready.add(fd)
            self._wake()

        descriptors = [sock.fileno() for sock in wait.sockets]
        timer = None
        try:
            for fd in descriptors:
                self._loop.add_writer(fd, heard, fd)
            if wait.deadline is not None:
                timer = self._loop.call_later(max(wait.deadline - self._clock(), 0.0), self._wake)
            await waiter
        finally:
            self._waiter = None
            for fd in descriptors:
                self._loop.remove_writer(fd)
            if timer is not None:
                timer.cancel()
        return ready

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ----------------------------------------------------------------- lookups

    async def _look_up(self, query: Query) -> Answer:
        if self._observe is ignore:
            return await self._ask(query)
        self._observe(LookupStarted(query))
        answer = await self._ask(query)
        self._observe(LookupDone(answer))
        return answer

    async def _ask(self, query: Query) -> Answer:
        deadline = waits.lookup_deadline(query, self._clock(), self._lookups_end, self._stop)
        if isinstance(deadline, Answer):
            return deadline
        asked = self._driver._lookup(query, deadline)
        if isinstance(asked, Answer):
            return asked
        await self._wait_on_thread(asked)
        if asked.done():
            return asked.result()
        late = waits.lookup_deadline(query, self._clock(), self._clock(), self._stop)
        assert isinstance(late, Answer)
        return late

    async def _carry_out_policy(self, effect: object) -> object:
        called = self._driver._policy(effect)
        await self._wait_on_thread(called)
        if called.done():
            return called.result()
        from zsmtp.tls.mtasts import FetchedPolicy, FetchPolicy, RecalledPolicy, RecallPolicy
        from zsmtp.tls.problem import Problem

        if isinstance(effect, FetchPolicy):
            return FetchedPolicy(failure=Problem.STS_POLICY_FETCH_ERROR, problem=self._stop.reason)
        return RecalledPolicy(None, time.time()) if isinstance(effect, RecallPolicy) else None

    async def _wait_on_thread(self, called: asyncio.Future[Any]) -> None:
        """Until the call is done, or there is a stop; it goes on by itself for whoever else waits for it."""
        self._waiter = waiter = self._loop.create_future()

        def done(_: object) -> None:
            self._wake()

        called.add_done_callback(done)
        try:
            await waiter
        finally:
            self._waiter = None
            called.remove_done_callback(done)

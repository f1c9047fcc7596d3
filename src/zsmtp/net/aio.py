"""The asyncio driver: carries out the effects of any number of operations at a time, on one event loop.

How an exchange, a handshake and a race of connections go is in ``zsmtp.net.operations``; here is the waiting. Each run
waits for one thing at a time: a descriptor, by the loop's readers and writers, or a lookup. All runs share their
lookups (``zsmtp.net.lookups``), and one that knows what it is going to ask has that asked side by side. uvloop's loop
does as well::

    driver = AsyncDriver(resolver)
    plan = await driver.run(plan_destination(request))
    await driver.aclose()

A run ends early in one of two ways. :class:`Stop` ends it by the rules: the operation learns of it and settles what it
has to. Cancelling the task ends it at once: the operation is closed, and so is every connection it had touched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

from zsmtp.dns.answer import Answer, AskAhead, Query, Status
from zsmtp.dns.resolver import Resolver
from zsmtp.effects import (
    AllowCompletion,
    Close,
    Connect,
    ConnectResult,
    Effect,
    Exchange,
    FetchPolicy,
    GiveWay,
    KeepPolicy,
    Operation,
    OwnAddresses,
    ReadClock,
    ReadStop,
    RecallPolicy,
    Sleep,
    StartTLS,
    TLSResult,
    unknown_effect,
)
from zsmtp.errors import INTERRUPTED
from zsmtp.events import LookupDone, LookupStarted, Observer, ignore
from zsmtp.net import operations
from zsmtp.net.identity import own_addresses
from zsmtp.net.operations import WRITABLE, LocalBinding, SocketsWait, StreamWait, Wait
from zsmtp.net.transport import SocketStream
from zsmtp.net.turns import turns_of
from zsmtp.net.watch import DescriptorWatch

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from zsmtp.net.lookups import AsyncLookups
    from zsmtp.net.policies import AsyncPolicies
    from zsmtp.net.stspolicies import PolicyKeeper
    from zsmtp.tls.mtasts import FetchedPolicy, RecalledPolicy

THREADS = 16  # for resolvers of the program's own, and for files
GRACE = 1.0  # seconds that calls in threads have to end when the driver is closed
TURNS = 16  # waits that a run may find fulfilled one after the other before others have their turn
PAUSE = 0.01  # seconds that a reply in many pieces is left to come on its way, doubled for each further piece
LONGEST_PAUSE = 1.0  # seconds; peers that send octet by octet are read that often

_NOT_ASKED = (0.0, None)

T = TypeVar("T")
A = TypeVar("A")


class Stop:
    """Tells one run or several to end by the rules; a :class:`zsmtp.net.operations.Stopping`."""

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
    """Carries out effects. ``resolver`` is called for the first lookup, and gives the resolver.

    A resolver that has no more than ``lookup`` is called in threads. ``policies`` is what the effects of MTA-STS are
    carried out with; without it they are refused.
    """

    def __init__(
        self, resolver: Callable[[], Resolver], source: LocalBinding | None = None, policies: PolicyKeeper | None = None
    ) -> None:
        self._make_resolver = resolver
        self._lookups: AsyncLookups | None = None
        self._keeper = policies
        self._policies: AsyncPolicies | None = None
        self._end = Stop()  # of the fetches under way
        self._threads: ThreadPoolExecutor | None = None
        self._calls: set[asyncio.Future[Any]] = set()
        self._watches: dict[int, DescriptorWatch] = {}
        self.source = source or LocalBinding()

    async def run(self, work: Operation[T], *, stop: Stop | None = None, observer: Observer = ignore) -> T:
        """Run ``work`` to its end and return its result."""
        return await Run(self, work, stop or Stop(), observer).to_its_end()

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
        """End lookups and threads; the driver is of no use any more. A resolver that is called in a thread and goes on
        is left to its own deadline after a moment.
        """
        self._end.request(INTERRUPTED)
        asked: set[asyncio.Future[Any]] = set(self._lookups.close()) if self._lookups is not None else set()
        if self._policies is not None:
            asked |= self._policies.fetches
        under_way = self._calls | asked
        hung = (await asyncio.wait(under_way, timeout=GRACE))[1] if under_way else None
        for late in asked:
            late.cancel()
        if asked:
            await asyncio.wait(asked)
        if self._policies is not None:
            await self._policies.aclose()
        if self._threads is not None:
            self._threads.shutdown(wait=not hung, cancel_futures=True)

    # ------------------------------------------------------------ for the runs

    def find(self, query: Query, deadline: float) -> Answer | asyncio.Future[Answer]:
        """What is known of a question already, or a future that has its answer by the deadline."""
        if self._lookups is None:
            from zsmtp.net.lookups import AsyncLookups  # mail for addresses does without

            self._lookups = AsyncLookups(self._make_resolver, self.in_thread)
        return self._lookups.find(query, deadline)

    def _watch(self, fd: int) -> DescriptorWatch:
        watch = self._watches.get(fd)
        if watch is None:
            watch = self._watches[fd] = DescriptorWatch(asyncio.get_running_loop(), fd)
        return watch

    def policies_for(self, effect: RecallPolicy | FetchPolicy | KeepPolicy) -> AsyncPolicies:
        """What carries out an effect of MTA-STS. Raises LocalError."""
        if self._policies is None:
            from zsmtp.net.policies import AsyncPolicies

            self._policies = AsyncPolicies(operations.keeper_for(effect, self._keeper), self._fetch)
        return self._policies

    def _fetch(self, work: Operation[FetchedPolicy]) -> Coroutine[Any, Any, FetchedPolicy]:
        """A run beside sessions of SMTP: observers of those do not hear of it, and it leaves from any address."""
        return Run(self, work, self._end, ignore, source=LocalBinding()).to_its_end()

    def in_thread(self, call: Callable[[], A]) -> asyncio.Future[A]:
        """The result of a call that may block."""
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor  # most programs need none

            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="zsmtp")
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future


def _keep_nothing(result: ConnectResult) -> None:
    """Default of ``connected``."""


class Place(Protocol):
    """The place of a run among others, which it does not need while it sleeps."""

    def leave(self) -> None:
        """The run sleeps."""

    def ask_back(self, wake: Callable[[], None]) -> bool:
        """Whether the run may go on; if not, ``wake`` is called when it is worth asking again."""

    def take_back(self) -> None:
        """The run goes on, or ends."""


async def _allow_all(asked: AllowCompletion) -> bool:
    """Default of ``allow``."""
    return True


class Run(Generic[T]):
    """One operation in progress: :meth:`to_its_end` carries it out.

    ``connected`` is told what came of connecting; ``allow`` answers whether transactions may be completed; ``place`` is
    left while the operation sleeps; ``source`` is where its connections come from (None: that of the driver).
    """

    def __init__(
        self,
        driver: AsyncDriver,
        work: Operation[T],
        stop: Stop,
        observer: Observer,
        connected: Callable[[ConnectResult], None] = _keep_nothing,
        allow: Callable[[AllowCompletion], Awaitable[bool]] = _allow_all,
        place: Place | None = None,
        source: LocalBinding | None = None,
    ) -> None:
        self._place = place
        self._source = source or driver.source
        self._connected = connected
        self._allow = allow
        self._watched: DescriptorWatch | None = None  # what it waits for, if that is a stream
        self._driver = driver
        self._work = work
        self._stop = stop
        self._observe = observer
        self._loop = asyncio.get_running_loop()
        self._clock = time.monotonic
        self._lookups_end = self._clock() + operations.LOOKUPS_TIME
        self._ahead: dict[Query, tuple[float, Answer | asyncio.Future[Answer]]] = {}  # asked, and good until then
        self._waiter: asyncio.Future[None] | None = None
        self._touched: set[SocketStream] = set()
        self._loop_turns = turns_of(self._loop)
        self._turns = 0
        self._pieces: int | None = None  # times that this exchange waited for something to read, since it last wrote
        self._pause = 0.0  # what its peer was given to send more of a reply

    async def to_its_end(self) -> T:
        """Carry out its effects; a run that is cancelled, or whose operation raises, leaves nothing open."""
        self._stop.listen(self._wake)
        answer: object = None
        try:
            if self._loop_turns.woken():
                await self._loop_turns.next_turn()
            while True:
                effect = self._work.send(answer)
                if type(effect) is Exchange:
                    answer = effect.session.next_event()  # most events wait behind the one before
                    if answer is None:
                        answer = await self._exchange(effect)
                elif (answer_at_once := self._at_once.get(type(effect))) is not None:
                    answer = answer_at_once(self, effect)
                elif (perform := self._performers.get(type(effect))) is not None:
                    answer = await perform(self, effect)
                else:
                    raise unknown_effect(effect)
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
            self._loop_turns.waits()

    async def _give_way(self, effect: GiveWay) -> None:
        load = None
        if effect.reads is not None:
            from zsmtp.net.filecache import needs_loading  # only large files are read ahead

            load = needs_loading(effect.reads)
        if load is not None:
            await self._wait_on_others(self._driver.in_thread(load))
        elif self._loop_turns.used_up():
            await self._loop_turns.next_turn()

    async def _connect(self, effect: Connect) -> ConnectResult:
        made = await self._wait_through(
            operations.connect(effect, self._source, self._clock, self._stop, self._observe)
        )
        if made.stream is not None:
            self._touched.add(cast(SocketStream, made.stream))
        self._connected(made)
        return made

    async def _exchange(self, effect: Exchange[Any]) -> object:
        stream = cast(SocketStream, effect.stream)
        self._touched.add(stream)
        self._pieces = 0
        event = await self._wait_through(operations.exchange(stream, effect.session, self._clock, self._stop))
        if self._pieces <= 1:
            self._pause = 0.0
        self._pieces = None
        return event

    async def _sleep(self, effect: Sleep) -> None:
        """Sleep until it is time, and until there is a place for this run again; a stop ends both."""
        began, place = self._clock(), self._place
        if place is not None:
            place.leave()
        try:
            while not self._stop.requested and (left := effect.until - self._clock()) > 0:
                await self._wait_for_wake(left)
            while place is not None and not self._stop.requested and not place.ask_back(self._wake):
                await self._wait_for_wake(None)
        finally:
            if place is not None:
                place.take_back()
            self._lookups_end += self._clock() - began  # what lookups may take in all does not pass meanwhile

    async def _start_tls(self, effect: StartTLS) -> TLSResult:
        stream = cast(SocketStream, effect.stream)
        result = await self._wait_through(operations.start_tls(effect, self._clock, self._stop))
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

    async def _wait_through(self, steps: Coroutine[Wait, Any, A]) -> A:
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
            if self._pieces is not None:
                self._pieces = 0
            ready = watch.ready_now()
            if ready:
                await self._take_turns()
                return ready
        elif self._pieces is not None:
            self._pieces += 1
            if self._pieces > 2 or (self._pieces == 2 and self._pause):
                await self._let_more_come(wait.deadline)
                if ready := watch.ready_now() & ~WRITABLE:
                    return ready
        self._waiter = waiter = self._loop.create_future()
        watch.wait_for(wait.interest, wait.deadline, waiter)
        self._watched = watch
        self._turns = 0
        self._loop_turns.waits()
        try:
            await waiter
        finally:
            self._waiter = self._watched = None
            ready = watch.heard()
        if self._loop_turns.woken():
            await self._loop_turns.next_turn()
        return ready

    async def _let_more_come(self, deadline: float | None) -> None:
        """Leave a reply that comes piece by piece to the system for a while: each look at it costs as much as a reply.

        A thousand peers that send an octet now and then must not hold up those that have something to say.
        """
        self._pause = min(max(2 * self._pause, PAUSE), LONGEST_PAUSE)
        left = self._pause if deadline is None else min(self._pause, deadline - self._clock())
        if left <= 0 or self._stop.requested:
            return
        await self._wait_for_wake(left)

    async def _wait_for_wake(self, seconds: float | None) -> None:
        """Until :meth:`_wake`, for so many seconds at most."""
        self._waiter = waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self._wake)
        self._loop_turns.waits()
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if self._loop_turns.woken():
            await self._loop_turns.next_turn()

    @property
    def waits(self) -> bool:
        """Whether it waits for something outside that has not come: a peer, or an answer to a lookup."""
        if self._waiter is None or self._waiter.done():
            return False
        return self._watched is None or not self._watched.is_due()

    async def _take_turns(self) -> None:
        """A peer that takes all that is written must not keep the others waiting."""
        self._turns += 1
        if self._turns >= TURNS:
            self._turns = 0
            await asyncio.sleep(0)
        elif self._loop_turns.worked_enough():
            await self._loop_turns.next_turn()

    async def _wait_on_sockets(self, wait: SocketsWait) -> set[int]:
        """The descriptors that are ready for writing, or failed."""
        ready: set[int] = set()

        def on_ready(fd: int) -> None:
            self._loop.remove_writer(fd)  # it stays ready until this run has its turn
            ready.add(fd)
            self._wake()

        descriptors = {sock.fileno() for sock in wait.sockets}
        try:
            for fd in descriptors:
                self._loop.add_writer(fd, on_ready, fd)
            await self._wait_for_wake(None if wait.deadline is None else max(wait.deadline - self._clock(), 0.0))
        finally:
            for fd in descriptors - ready:
                self._loop.remove_writer(fd)
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
        deadline = operations.lookup_deadline(query, self._clock(), self._lookups_end, self._stop)
        if isinstance(deadline, Answer):
            return deadline
        good_until, asked = self._ahead.pop(query, _NOT_ASKED)
        if asked is None or self._clock() >= good_until:
            asked = self._driver.find(query, deadline)
        if isinstance(asked, Answer):
            return asked
        await self._wait_on_others(asked)
        if asked.cancelled():
            return Answer(query, Status.TIMEOUT, problem="lookups have ended")
        if asked.done():
            return asked.result()
        late = operations.lookup_deadline(query, self._clock(), self._clock(), self._stop)
        assert isinstance(late, Answer)
        return late

    def _ask_ahead(self, effect: AskAhead) -> None:
        """Ask now; an answer counts when it is awaited soon, also one that no cache may keep."""
        self._ahead.clear()
        for query in effect.queries:
            deadline = operations.lookup_deadline(query, self._clock(), self._lookups_end, self._stop)
            if isinstance(deadline, Answer):
                return
            self._ahead[query] = (deadline, self._driver.find(query, deadline))

    async def _recall_policy(self, effect: RecallPolicy) -> RecalledPolicy:
        recalled = self._driver.policies_for(effect).recall(effect)
        if not isinstance(recalled, asyncio.Future):
            return recalled
        await self._wait_on_others(recalled)
        if recalled.done():
            return recalled.result()
        from zsmtp.tls.mtasts import RecalledPolicy

        return RecalledPolicy(None, time.time())

    async def _fetch_policy(self, effect: FetchPolicy) -> FetchedPolicy:
        from zsmtp.net.policies import not_fetched

        policies = self._driver.policies_for(effect)
        if not self._stop.requested:
            began, fetched = self._clock(), policies.fetch(effect)
            await self._wait_on_others(fetched)
            self._lookups_end += self._clock() - began  # a fetch has a deadline of its own
            if fetched.done() and not fetched.cancelled():
                return fetched.result()
        return not_fetched(self._stop.reason or INTERRUPTED)

    async def _keep_policy(self, effect: KeepPolicy) -> None:
        kept = self._driver.policies_for(effect).keep(effect)
        await self._wait_on_others(kept)
        if kept.done():
            kept.result()

    async def _wait_on_others(self, called: asyncio.Future[Any]) -> None:
        """Until the lookup or the call is done, or there is a stop; it goes on for whoever else waits for it."""
        if self._stop.requested:
            return

        def done(_: object) -> None:
            self._wake()

        called.add_done_callback(done)
        try:
            await self._wait_for_wake(None)
        finally:
            called.remove_done_callback(done)

    _at_once: ClassVar[Mapping[type[Effect[Any]], Callable[[Run[Any], Any], object]]] = {
        ReadClock: lambda self, _: self._clock(),
        ReadStop: lambda self, _: operations.why_stopped(self._stop),
        OwnAddresses: lambda _self, _: own_addresses(),
        AskAhead: _ask_ahead,
        Close: lambda self, effect: self._close(effect.stream),
    }
    _performers: ClassVar[Mapping[type[Effect[Any]], Callable[[Run[Any], Any], Awaitable[object]]]] = {
        Query: _look_up,
        GiveWay: _give_way,
        Connect: _connect,
        Sleep: _sleep,
        StartTLS: _start_tls,
        AllowCompletion: lambda self, effect: self._allow(effect),
        RecallPolicy: _recall_policy,
        FetchPolicy: _fetch_policy,
        KeepPolicy: _keep_policy,
    }

"""The connections to one destination, and the jobs that wait for them.

A :class:`Lane` has a queue and up to a few workers. A :class:`Worker` is one connection after the other: it takes the
first job, opens a session unless it has one, and hands the engine further jobs while messages are on their way, so
that they ride (``zsmtp.delivery.flight``). A worker without work keeps its connection for a while, and gives it up at
once if its peer stirs or another destination waits for one of the :class:`Slots`, of which there are as many as
connections are allowed in all. A free one goes to the destination that has the fewest; a worker that has had its share
while others wait gives its own up.

One connection serves as many messages as can be under way on it. Only if more wait, or they wait for long, another one
is opened beside it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zsmtp.client.destinations import Destination
from zsmtp.client.parcel import Job
from zsmtp.client.report import Attempt
from zsmtp.delivery.content import Targets
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.opening import Link
from zsmtp.delivery.outcome import from_loss, in_doubt
from zsmtp.delivery.pace import MAX_MESSAGES
from zsmtp.delivery.pool import Route
from zsmtp.errors import LocalError
from zsmtp.net.aio import Stop
from zsmtp.net.effects import ConnectResult, overheard
from zsmtp.net.transport import SocketStream

if TYPE_CHECKING:
    from zsmtp.client.client import Client

SHARE = 100  # messages a worker takes while other destinations wait for a connection
PATIENCE = 1.0  # seconds the first job may wait before another connection is opened

T = TypeVar("T")


class Slots:
    """The right to have a connection, ``count`` times in all."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[Lane] = Counter()
        self._waiting: dict[asyncio.Future[None], Lane] = {}  # in the order of asking
        self.resting: dict[Worker, None] = {}  # workers with a connection and no work, longest first

    def wanted_besides(self, lane: Lane | None = None) -> bool:
        """Whether somebody waits for one who is not of ``lane``."""
        return any(other is not lane for other in self._waiting.values())

    async def acquire(self, lane: Lane) -> None:
        """Wait for a free one."""
        if not self._free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting[turn] = lane
            for worker in tuple(self.resting)[:1]:
                worker.wake()
            try:
                await turn
            except asyncio.CancelledError:
                self._waiting.pop(turn, None)
                if not turn.cancelled():  # it was given one already
                    self.release(lane)
                raise
            return
        self._free -= 1
        self._held[lane] += 1

    def release(self, lane: Lane) -> None:
        """Give one back: it goes to the lane with the fewest of those that wait, the first to ask among equals."""
        self._held[lane] -= 1
        if not self._held[lane]:
            del self._held[lane]
        while self._waiting:
            turn = min(self._waiting, key=lambda one: self._held[self._waiting[one]])
            other = self._waiting.pop(turn)
            if not turn.done():  # who was cancelled may not know yet
                self._held[other] += 1
                turn.set_result(None)
                return
        self._free += 1


class Lane:
    """The way to one destination."""

    def __init__(self, client: Client, destination: Destination) -> None:
        self.client = client
        self.destination = destination
        self.workers: set[Worker] = set()
        self._waiting: deque[Job] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        self._waiting.append(job)
        for worker in self.workers:
            if worker in self.client.slots.resting:
                worker.wake()
                return
        self.staff()

    def put_back(self, jobs: list[Job]) -> None:
        """Put jobs at the head of the queue, the first of them first."""
        self._waiting.extendleft(reversed(jobs))

    def take(self) -> Job | None:
        """The next job; None if there is none."""
        while self._waiting:
            job = self._waiting.popleft()
            if not job.settled:
                return job
        return None

    def staff(self) -> None:
        """See that there are workers enough; called when a job came or a worker left."""
        busy = len(self.workers)
        while self._waiting and self._waiting[0].settled:
            self._waiting.popleft()
        if not self._waiting:
            if not busy:
                self.client.forget(self)
            return
        if self._may_grow() and (not busy or len(self._waiting) > MAX_MESSAGES * busy):
            self.workers.add(Worker(self))
        if self._timer is None:
            self._timer = self.client.loop.call_later(PATIENCE, self._look_again, self._waiting[0])

    def _may_grow(self) -> bool:
        return len(self.workers) < self.client.config.limits.per_destination

    def _look_again(self, first: Job) -> None:
        """A job that still waits after a while gets a connection of its own."""
        self._timer = None
        if self._waiting and self._waiting[0] is first and not first.settled and self._may_grow():
            self.workers.add(Worker(self))
        self.staff()

    def end(self) -> None:
        """No timer is to go off any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Worker:
    """One connection at a time to the destination of a lane. ``stop`` stops what it does now."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._client = lane.client
        self._loop = lane.client.loop
        self._driver = lane.client.driver_for(lane.destination)
        self._courier, self._observe = lane.client.courier_for(lane.destination)
        self._route = Route(lane.destination.request, lane.destination.given)
        self.targets = Targets(lane.client.wanted)
        self.lmtp = lane.destination.relay is not None and lane.destination.relay.lmtp
        self.stop = Stop()
        self._flying: set[Job] = set()
        self._attempts: list[Attempt] = []
        self._link: Link | None = None  # the one that ``_reused`` speaks of
        self._reused: tuple[Attempt, ...] = ()
        self._share = SHARE
        self._last_use = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._leaving = False
        self.task = self._loop.create_task(self._work(), name=f"zsmtp to {lane.destination.name}")

    async def _work(self) -> None:
        try:
            await self._client.slots.acquire(self._lane)
            try:
                await self._serve()
            finally:
                link, self._route.link = self._route.link, None
                if link is not None:  # cancelled while it rested
                    self._driver.close_stream(cast(SocketStream, link.stream))
                self._client.slots.release(self._lane)
        finally:
            self._lane.workers.discard(self)
        self._lane.staff()

    async def _serve(self) -> None:
        """Do jobs until there are none, or it is the turn of others; then say good-bye."""
        slots = self._client.slots
        while not self._leaving:
            job = self._lane.take()
            if job is not None:
                await self._carry(job)
                if self._share <= 0 and slots.wanted_besides(self._lane):
                    break
            elif not await self._rest():
                break
        try:
            await self._run(self._courier.close(self._route, "no more to send"))
        except Exception as error:
            self._complain(error)

    async def _carry(self, job: Job) -> None:
        """Deliver a job, and others that ride with it."""
        lane, route, resting = self._lane, self._route, self._client.resting
        rest = resting.get(lane.destination, self._loop.time(), job.wish) if route.link is None else None
        if rest is not None:  # it failed as a whole a moment ago
            job.settle_all(rest[1])
            return
        if self.stop.requested:
            self.stop = Stop()
        self._attempts.clear()
        route.failure = None
        delivery = self._take(job)
        idle = self._loop.time() - self._last_use
        try:
            await self._run(self._courier.deliver(route, delivery, self._more, idle=idle))
        except Exception as error:  # a bug must never cost anybody a result, nor the program that uses this
            self._complain(error)
            self._settle_flying(f"this program failed: {type(error).__name__}: {error}")
        except BaseException:
            self._settle_flying("the program ended")
            raise
        self._last_use = self._loop.time()
        resting.remember(lane.destination, route.failure, self._last_use)
        self._send_again()

    async def _run(self, work: Generator[Any, Any, T]) -> T:
        return await self._driver.run(_noting(work, self._attempts), stop=self.stop, observer=self._observe)

    def _more(self) -> Delivery | None:
        """Another job for the engine, to ride with those under way."""
        if self.stop.requested or (self._share <= 0 and self._client.slots.wanted_besides(self._lane)):
            return None
        job = self._lane.take()
        if job is None:
            return None
        return self._take(job)

    def _take(self, job: Job) -> Delivery:
        self._share -= 1
        self._flying.add(job)
        link = self._route.link
        if link is not None and link is not self._link:
            endpoint = link.peer.endpoint
            self._link = link
            self._reused = (Attempt(host=endpoint.host, address=endpoint.address, port=endpoint.port, reused=True),)
        return job.take(self, self._loop.time(), len(self._attempts), self._reused if link is not None else ())

    def settled(self, job: Job) -> None:
        """A job needs nothing more."""
        self._flying.discard(job)
        if self.stop.requested and self._flying:
            self.give_up(self.stop.reason, patient=True)

    def give_up(self, reason: str, *, patient: bool) -> None:
        """Stop what is under way; ``patient``: not before those are answered for whose sake it need not be stopped."""
        self.stop.request(reason, at_once=not patient or all(job.over for job in self._flying))

    def attempts_since(self, known: int) -> tuple[Attempt, ...]:
        """The attempts made since there were so many."""
        return tuple(self._attempts[known:])

    def _send_again(self) -> None:
        """Who was let go because another parcel's time was over is sent again."""
        flying, self._flying = self._flying, set()
        left = [job.rest() for job in flying]
        self._lane.put_back([job for job in left if job is not None])

    def _complain(self, error: Exception) -> None:
        """Tell of a bug where the program looks for such.

        The task goes by name only: the loop would have its handler run in the task's own context, which is entered.
        """
        self._loop.call_exception_handler({"message": f"a delivery broke: {self.task.get_name()}", "exception": error})

    def _settle_flying(self, reason: str) -> None:
        """The driver gave up: who may have been sent to over a session that stood is in doubt."""
        verdict = from_loss(LocalError(reason), "", None)
        if self._route.link is not None:
            self._route.link = None
            verdict = in_doubt(verdict)
        for job in tuple(self._flying):
            job.settle_all(verdict)

    # ------------------------------------------------------------------- rest

    async def _rest(self) -> bool:
        """Keep the connection for a while; whether there is work again, and a connection to do it on."""
        link, slots, seconds = self._route.link, self._client.slots, self._client.config.limits.idle
        if link is None or seconds <= 0 or slots.wanted_besides():
            return False
        self._share = SHARE
        self._waiter = waiter = self._loop.create_future()
        slots.resting[self] = None
        self._driver.notify(cast(SocketStream, link.stream), self.leave)
        timer = self._loop.call_later(seconds, self.leave)
        try:
            await waiter
        finally:
            timer.cancel()
            slots.resting.pop(self, None)
            self._waiter = None
        return not self._leaving and not slots.wanted_besides()

    def wake(self) -> None:
        """There is work, or somebody else wants the connection."""
        self._client.slots.resting.pop(self, None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        """Give up the connection when nothing is under way on it, or only what nobody waits for."""
        self._leaving = True
        if self._flying and self.stop.requested:
            self.give_up(self.stop.reason, patient=True)
        self.wake()

    def leave_at_once(self, reason: str) -> None:
        """Give up whatever is under way, and do not wait for anybody to say good-bye."""
        self.stop.request(reason, at_once=True)
        self.leave()


def _noting(work: Generator[Any, Any, T], attempts: list[Attempt]) -> Generator[Any, Any, T]:
    """``work``, with every attempt to connect noted on the way."""

    def answered(effect: object, answer: object) -> None:
        if isinstance(answer, ConnectResult):
            for endpoint, problem in answer.failures:
                attempts.append(
                    Attempt(host=endpoint.host, address=endpoint.address, port=endpoint.port, problem=problem)
                )
            if answer.endpoint is not None:
                made = answer.endpoint
                attempts.append(Attempt(host=made.host, address=made.address, port=made.port))

    return overheard(work, answered)

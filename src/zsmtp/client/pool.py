"""The connections to one destination, and the jobs that wait for them.

A :class:`DestinationPool` has a queue and up to a few workers. A :class:`ConnectionWorker` has one connection after the
other: it takes the first job, opens a session unless it has one, and gives the engine further jobs while messages are
under way, so that they are pipelined (``zsmtp.delivery.pipeline``). A worker without work keeps its connection for a
while; it closes it as soon as the server sends data or closes, or another destination waits for a connection
(``zsmtp.client.slots``). A worker that has had its share while others wait closes its own.

One connection serves as many messages as can be under way on it. A further one is opened only if more messages wait, or
wait for long, and never before the present ones are established. A worker whose connection is refused while others are
established ends: its job goes back to the queue unchanged, and the pool lowers its limit for the destination. A refusal
decides about mail only if no connection is established.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zsmtp.client.destinations import Destination
from zsmtp.client.report import Attempt
from zsmtp.client.slots import ConnectionSlots, DestinationLimit, SlotPlace
from zsmtp.client.tracker import DestinationJob
from zsmtp.delivery.content import Targets
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Scope, Verdict, from_loss, in_doubt
from zsmtp.delivery.pace import MAX_MESSAGES
from zsmtp.delivery.pool import Route
from zsmtp.delivery.route import RouteDeliverer
from zsmtp.delivery.sessionopener import OpenSession
from zsmtp.effects import AllowCompletion, ConnectResult, Operation
from zsmtp.errors import LocalError
from zsmtp.net.aio import Run, Stop
from zsmtp.net.transport import SocketStream

if TYPE_CHECKING:
    from zsmtp.client.client import Client

SHARE = 100  # messages a worker takes while other destinations wait for a connection
PATIENCE = 1.0  # seconds the first job waits before another connection is opened
MAX_RETURNS = 3  # connections closed at their first command that a job may meet

_CLOSING = (4, 3, 2)  # the enhanced status of recipients left undecided by a 421

T = TypeVar("T")


class DestinationPool:
    """The connections to one destination, and its queue."""

    def __init__(self, client: Client, destination: Destination) -> None:
        self.client = client
        self.slots: ConnectionSlots = client.slots
        self.destination = destination
        self.workers: set[ConnectionWorker] = set()
        self.limit = DestinationLimit(client.config.limits.per_destination)
        self._waiting: deque[DestinationJob] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._impatient = False  # the first job has waited for PATIENCE
        self._adding = False
        self._error: Exception | None = None

    def add(self, job: DestinationJob) -> None:
        """Put a job at the end of the queue. Raises exceptions of the program's own observers."""
        self._waiting.append(job)
        if self._wake_idle():
            return
        self._adding = True
        try:
            self.staff()
        finally:
            self._adding = False
        error, self._error = self._error, None
        if error is not None:
            raise error

    def put_back(self, jobs: list[DestinationJob]) -> None:
        """Put jobs at the head of the queue, the first of them first."""
        if jobs:
            self._waiting.extendleft(reversed(jobs))
            if not self._wake_idle():
                self.staff()

    def take(self) -> DestinationJob | None:
        """The next job; None without one, or if the rate does not allow it yet."""
        self._impatient = False
        while self._waiting:
            if not self._waiting[0].settled:
                pacer = self.client.pacer
                return self._waiting.popleft() if pacer is None or pacer.may_begin(self) else None
            self._waiting.popleft()
        return None

    def staff(self) -> None:
        """Start workers if needed; called when a job came, a connection was established or a worker ended."""
        waiting = self._waiting
        while waiting and waiting[0].settled:
            waiting.popleft()
        if not waiting:
            self.slots.withdraw(self)
            if not self.workers:
                self.client.forget(self)
        elif self.wants_worker():
            self.slots.ask(self)
        elif self._timer is None and self._may_grow():
            self._timer = self.client.loop.call_later(PATIENCE, self._look_again, waiting[0])

    def wants_worker(self) -> bool:
        """Whether one more connection is wanted now."""
        busy = len(self.workers)
        if not self._waiting or self.client.closed:
            return False
        if self.client.pacer is not None and not self.client.pacer.is_open(self):
            return False
        if not busy:
            return True
        if not self._impatient and len(self._waiting) <= MAX_MESSAGES * busy:
            return False
        now = self.client.loop.time()
        return self._may_grow() and busy < self.limit.allowed(now) and self._gate_is_open()

    def rate_opened(self) -> None:
        """Begin a message: the rate of messages allows it."""
        if not self._wake_idle():
            self.staff()

    @property
    def backlog(self) -> int:
        """The number of waiting jobs."""
        return len(self._waiting)

    def start_worker(self) -> None:
        """Start a worker; it has a slot."""
        self._impatient = False
        try:
            worker = ConnectionWorker(self)
        except Exception as error:  # raised by objects of the program: its observers, its resolver
            self._failed(error)
            return
        self.workers.add(worker)
        self.slots.take(worker, self)

    def left(self, worker: ConnectionWorker) -> None:
        """Remove a worker that ended."""
        self.workers.discard(worker)
        self.slots.release(worker)
        self.staff()

    def stands(self) -> None:
        """Note that a connection was established."""
        self.limit.took(self.standing(), self.client.loop.time())
        self.staff()

    def standing(self, besides: ConnectionWorker | None = None) -> int:
        """The number of connections that take messages."""
        return sum(worker.stands for worker in self.workers if worker is not besides)

    def end(self) -> None:
        """Stop the timers, and open no further connection."""
        self.slots.withdraw(self)
        if self.client.pacer is not None:
            self.client.pacer.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _may_grow(self) -> bool:
        """Whether this side's limit allows another connection, and all present ones are established."""
        return len(self.workers) < self.client.config.limits.per_destination and all(w.stands for w in self.workers)

    def _gate_is_open(self) -> bool:
        """Whether a connection may be begun now: beside established ones, a worker that waits is of no use."""
        gate, request = self.client.gate, self.destination.request
        now = time.monotonic()  # the clock of the drivers
        return gate is None or gate.opens_at((request.destination, request.port), now) <= now

    def _look_again(self, first: DestinationJob) -> None:
        """Let a job that still waits after a while have a connection of its own."""
        self._timer = None
        self._impatient = bool(self._waiting) and self._waiting[0] is first
        self.staff()

    def _wake_idle(self) -> bool:
        """Have a worker without work look for some; False if there is none."""
        for worker in self.workers:
            if worker in self.slots.idle:
                worker.wake()
                return True
        return False

    def _failed(self, error: Exception) -> None:
        """Handle a worker that could not be made: the caller of :meth:`add` gets the error, or its mail is deferred."""
        if self._adding:
            self._error = error
            return
        self.client.loop.call_exception_handler(
            {"message": f"no connection to {self.destination.name}: this program failed", "exception": error}
        )
        verdict = from_loss(LocalError(f"this program failed: {type(error).__name__}: {error}"), "", None)
        while self._waiting:
            self._waiting.popleft().settle_all(verdict)


class ConnectionWorker:
    """One connection at a time to the destination of a pool. ``stop`` stops its present operation."""

    def __init__(self, pool: DestinationPool) -> None:
        client = pool.client
        self._pool = pool
        self._slots = pool.slots
        self._idle_time = client.config.limits.idle
        self._before_completion = client.before_completion
        self._loop = client.loop
        self._driver = client.driver_for(pool.destination)
        self._courier, self.observe = client.courier_for(pool.destination)
        self._deliverer = RouteDeliverer(self._courier, client.resting, self.observe)
        self._route = Route(pool.destination.request, pool.destination.given, opened=pool.stands)
        self.targets = Targets(client.wanted)
        self.lmtp = pool.destination.relay is not None and pool.destination.relay.lmtp
        self.stop = Stop()
        self._run_now: Run[Any] | None = None
        self._flying: dict[Ledger, DestinationJob] = {}
        self._attempts: list[Attempt] = []
        self._link: OpenSession | None = None  # the one that ``_reused`` is about
        self._reused: tuple[Attempt, ...] = ()
        self._share = SHARE
        self._waiter: asyncio.Future[None] | None = None
        self._leaving = False
        self.task = self._loop.create_task(self._work(), name=f"zsmtp to {pool.destination.name}")

    @property
    def stands(self) -> bool:
        """Whether it has an established connection, and keeps it."""
        return self._route.link is not None and not self._leaving

    @property
    def awaits_peer(self) -> bool:
        """Whether it waits for input from outside."""
        return self._run_now is not None and self._run_now.waits

    async def _work(self) -> None:
        try:
            await self._serve()
        finally:
            link, self._route.link = self._route.link, None
            if link is not None:  # cancelled while it was idle
                self._driver.close_stream(cast(SocketStream, link.stream))
            self._pool.left(self)

    async def _serve(self) -> None:
        """Do jobs until there are none, or other destinations wait; then send QUIT."""
        slots = self._slots
        while not self._leaving:
            job = self._pool.take()
            if job is not None:
                await self._carry(job)
                if self._share <= 0 and slots.wanted_besides(self._pool):
                    break
            elif not await self._stay():
                break
        self._leaving = True
        try:
            await self._run(self._courier.close(self._route, "no more to send"))
        except Exception as error:
            self._report_bug(error)

    async def _carry(self, job: DestinationJob) -> None:
        """Deliver a job, and others that are pipelined behind it."""
        if self.stop.requested:
            self.stop = Stop()
        self._attempts.clear()
        delivery = self._take(job)
        place = self._pool.destination
        try:
            await self._run(
                self._deliverer.deliver(
                    self._route,
                    delivery,
                    self._more,
                    place=place,
                    returns=self._returns,
                    asks=self._before_completion is not None,
                )
            )
        except Exception as error:  # a bug must not cost a result, nor stop the program
            self._report_bug(error)
            self._settle_flying(f"this program failed: {type(error).__name__}: {error}")
        except BaseException:
            self._settle_flying("the program ended")
            raise
        self._send_again()

    async def _run(self, work: Operation[T]) -> T:
        place = SlotPlace(self._slots, self)  # not kept: the two would be garbage for the collector
        run = Run(self._driver, work, self.stop, self.observe, self._note, self._leave_for, place)
        self._run_now = run
        try:
            return await run.to_its_end()
        finally:
            self._run_now = None

    async def _leave_for(self, asked: AllowCompletion) -> bool:
        """Call ``before_completion``: may these messages be completed?"""
        if self._before_completion is None:
            return True
        flying = self._flying
        about = tuple([flying[delivery.ledger].completing(numbers) for delivery, numbers in asked.transactions])
        return await self._before_completion(about)

    def _note(self, result: ConnectResult) -> None:
        """Keep the attempts to connect, for the results of the jobs concerned."""
        for endpoint, problem in result.failures:
            self._attempts.append(
                Attempt(host=endpoint.host, address=endpoint.address, port=endpoint.port, problem=problem)
            )
        if result.endpoint is not None:
            made = result.endpoint
            self._attempts.append(Attempt(host=made.host, address=made.address, port=made.port))

    def _more(self) -> Delivery | None:
        """Another job for the engine, to be pipelined behind those under way."""
        if self.stop.requested or (self._share <= 0 and self._slots.wanted_besides(self._pool)):
            return None
        job = self._pool.take()
        if job is None:
            return None
        return self._take(job)

    def _take(self, job: DestinationJob) -> Delivery:
        self._share -= 1
        link = self._route.link
        if link is not None and link is not self._link:
            endpoint = link.peer.endpoint
            self._link = link
            self._reused = (Attempt(host=endpoint.host, address=endpoint.address, port=endpoint.port, reused=True),)
        reused = self._reused if link is not None else ()
        delivery = job.take(self, self._loop.time(), len(self._attempts), reused)
        self._flying[delivery.ledger] = job
        return delivery

    def _returns(self, delivery: Delivery, verdict: Verdict) -> bool:
        """Whether an undecided job goes back to the queue.

        The time of another message was over, or this connection was refused while others are established: one too many.
        """
        job = self._flying[delivery.ledger]
        if job.over:
            return False
        if self.stop.requested:
            return verdict.reply is None and not verdict.in_doubt
        standing = self._pool.standing(besides=self)
        if not standing:
            return False
        if verdict.level is not Scope.HOST:
            job.returned += 1
            if verdict.status != _CLOSING or verdict.in_doubt or job.returned > MAX_RETURNS:
                return False
        self._pool.limit.refused(standing, self._loop.time())
        self._leaving = True
        return True

    def settled(self, ledger: Ledger) -> None:
        """Note that a job is finished."""
        self._flying.pop(ledger, None)
        self._slots.progressed(self)
        if self.stop.requested and self._flying:
            self.give_up(self.stop.reason, patient=True)

    def give_up(self, reason: str, *, patient: bool) -> None:
        """Stop the present operation; ``patient``: only after the replies for messages that are not to be stopped."""
        self.stop.request(reason, at_once=not patient or all(job.over for job in self._flying.values()))

    def attempts_since(self, known: int) -> tuple[Attempt, ...]:
        """The attempts after the first ``known`` ones."""
        return tuple(self._attempts[known:])

    def _send_again(self) -> None:
        """Put jobs that were taken back undecided before those that wait."""
        flying, self._flying = self._flying, {}
        self._pool.put_back([job for job in flying.values() if job.give_back()])

    def _report_bug(self, error: Exception) -> None:
        """Report a bug to the exception handler of the program's loop.

        The context names the task only as text: the loop would run its handler in the task's own context, which is
        entered.
        """
        self._loop.call_exception_handler({"message": f"a delivery broke: {self.task.get_name()}", "exception": error})

    def _settle_flying(self, reason: str) -> None:
        """Settle after an error of the driver: recipients sent to over an established session are in doubt."""
        verdict = from_loss(LocalError(reason), "", None)
        if self._route.link is not None:
            self._route.link = None
            verdict = in_doubt(verdict)
        for job in tuple(self._flying.values()):
            job.settle_all(verdict)

    # ------------------------------------------------------------- without work

    async def _stay(self) -> bool:
        """Keep the connection for a while; True if there is work again and the connection is still open."""
        link, slots, seconds = self._route.link, self._slots, self._idle_time
        if link is None or seconds <= 0 or slots.wanted_besides():
            return False
        self._share = SHARE
        self._waiter = waiter = self._loop.create_future()
        slots.idle[self] = None
        self._driver.notify(cast(SocketStream, link.stream), self.leave)
        timer = self._loop.call_later(seconds, self.leave)
        try:
            await waiter
        finally:
            timer.cancel()
            slots.idle.pop(self, None)
            self._waiter = None
        return not self._leaving and not slots.wanted_besides()

    def wake(self) -> None:
        """End the idle wait: there is work, or another destination waits for the connection."""
        self._slots.idle.pop(self, None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        """Close the connection once nothing is under way on it, or only cancelled messages."""
        self._leaving = True
        if self._flying and self.stop.requested:
            self.give_up(self.stop.reason, patient=True)
        self.wake()

    def leave_at_once(self, reason: str) -> None:
        """Abort everything under way, and close without waiting for the reply to QUIT."""
        self.stop.request(reason, at_once=True)
        self.leave()

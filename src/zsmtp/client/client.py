"""The client: delivers messages over shared connections, and returns exactly one result for each recipient.

:class:`Client` runs on one event loop. Any number of tasks may deliver with it; deliveries to the same destination
share its connections, so that many messages need few of them::

    async with Client(config) as client:
        report = await client.deliver(message, sender="a@example.org", recipients=["b@example.net"])
        async for result in client.stream(messages):
            print(result)

A delivery that is cancelled ends at once and gives no results. Leaving the ``async with`` block ends all deliveries and
sends QUIT to the servers. :func:`deliver` sends one message without a client of the caller's.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from zsmtp.client.addresslist import read_address, usable_addresses
from zsmtp.client.config import Config, Limits, Relay
from zsmtp.client.destinations import Destination, Destinations, load_signing, try_logins
from zsmtp.client.drivers import Couriers, Drivers
from zsmtp.client.dsn import DSN, due
from zsmtp.client.message import Letter, MessageLike, octets_first, path_text
from zsmtp.client.pacer import MessagePacer
from zsmtp.client.pool import DestinationPool
from zsmtp.client.report import Completing, Fate, Report, Result
from zsmtp.client.retrying import OnRetry, RetryingMessage, RetrySettings, ignore_retry
from zsmtp.client.slots import ConnectionSlots
from zsmtp.client.tracker import MessageTracker
from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.backoff import HostBackoff
from zsmtp.delivery.gate import ConnectionRate, MessageRate
from zsmtp.errors import LocalError, SubmissionError
from zsmtp.escape import described
from zsmtp.events import Observer, combine, ignore
from zsmtp.net.aio import AsyncDriver
from zsmtp.proto.mailoptions import NO_OPTIONS, checked, options_of
from zsmtp.proto.mailoptions import MailOptions as MailOptions
from zsmtp.records import dataclass, replace

if TYPE_CHECKING:
    from zsmtp.delivery.deliveryplan import DeliveryPlan
    from zsmtp.observers.files import Tracing
    from zsmtp.proto.mailoptions import OptionArguments

ObserverFor = Callable[[str], Observer]
"""Returns the observer for one connection to the named destination (a domain, or ``host:port`` of a relay)."""

BeforeCompletion = Callable[[Sequence[Completing]], Awaitable[bool]]
"""Called before the last octet of messages is sent; False keeps it back, and they are deferred."""

_Tracked = MessageTracker | RetryingMessage
_NO_RETRY = RetrySettings(0.0)

_YIELD_AFTER = 32  # messages a stream takes in before it yields to other tasks
_OVERHEAD = 4096  # octets of memory of an undelivered message besides its content
_RECIPIENT = 1024  # octets for each of its recipients: an address, a verdict, a result
_OTHER_FILES = 64  # descriptors left to the program if few may be open


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission(MailOptions):
    """A message with its envelope, for :meth:`Client.stream`. Results have ``name`` instead of its Message-ID.

    ``dsn`` and the options (:class:`~zsmtp.proto.mailoptions.MailOptions`) are as in :meth:`Client.deliver`.
    """

    message: MessageLike
    sender: str | bytes | None = None
    recipients: str | bytes | Iterable[str | bytes] | None = None
    name: str = ""
    dsn: DSN | None = None


class Client:
    """Delivers messages by ``config``; ``relay`` (a value or a URL) replaces the one in it.

    ``observe`` returns an observer for each connection, see ``zsmtp.events``. ``trace`` is a directory for a trace of
    each delivery, or a file (``zsmtp.observers.files``). ``plans`` were made beforehand, as by ``zsmtp explain``: mail
    for their destinations is delivered by them unchanged, without any lookup. ``before_completion`` is awaited before
    messages may be complete at their servers: a program that must know after a crash which servers may have a message
    writes that down in it, and returns True.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        relay: Relay | str | None = None,
        observe: ObserverFor | None = None,
        trace: str | PathLike[str] | None = None,
        plans: Iterable[DeliveryPlan] = (),
        before_completion: BeforeCompletion | None = None,
    ) -> None:
        self.config = through(config or Config(), relay)
        try_logins(self.config)
        self.before_completion = before_completion
        self._destinations = Destinations(self.config, plans)
        tracing = None if trace is None else _tracing(trace)
        self._pools: dict[Destination, DestinationPool] = {}
        rate = self.config.limits.connections_per_minute
        self.gate = ConnectionRate(rate) if rate else None
        rates = self.config.limits.message_rates
        self.pacer = MessagePacer(MessageRate(rates)) if rates else None
        self._couriers = Couriers(self._destinations, _observing(observe, tracing), self.gate)
        self._drivers = Drivers(self._destinations, self.config.local_address)
        self._trackers: set[_Tracked] = set()
        self.wanted = self._destinations.target()
        self._signing = load_signing(self.config, self.wanted, time.time)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.slots = ConnectionSlots(*_connections(self.config.limits))
        self.resting = HostBackoff()

    # -------------------------------------------------------------- deliveries

    async def deliver(
        self,
        message: MessageLike,
        *,
        sender: str | bytes | None = None,
        recipients: str | bytes | Iterable[str | bytes] | None = None,
        timeout: float | None = None,
        name: str = "",
        dsn: DSN | None = None,
        retry_for: float = 0.0,
        **options: Unpack[OptionArguments],
    ) -> Report:
        """Deliver one message to all its recipients and return a report.

        Without ``sender`` and ``recipients`` they are taken from the header. ``timeout`` in seconds replaces
        ``config.message_timeout``. For ``retry_for`` seconds deferred recipients are tried again, by the schedules of
        the queue (``zsmtp.delivery.retry``) and once more at the end of that time; ``timeout`` applies to each try
        then. ``dsn`` requests notifications for the sender. The options are the fields of
        :class:`~zsmtp.proto.mailoptions.MailOptions`: ``require_tls`` requires authenticated TLS on every hop
        (REQUIRETLS, RFC 8689), a field ``TLS-Required: No`` asks for the opposite; ``priority`` is that of MT-PRIORITY;
        ``hold_for`` or ``hold_until`` has the server hold the message back (FUTURERELEASE). Raises SubmissionError for
        a message or an address that cannot be sent, OSError for a file that cannot be read; failures of servers and
        networks are in the report.
        """
        retry = RetrySettings(retry_for)
        letter = Letter(
            await octets_first(message),
            sender=sender,
            recipients=recipients,
            name=name,
            add_missing=self.config.content.add_missing,
            dsn=dsn,
            options=checked(MailOptions(**options)) if options else NO_OPTIONS,
            signing=self._signing,
        )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tracker = self._take(letter, timeout, None, partial(_finish, done), retry=retry)
        try:
            await done
        except asyncio.CancelledError:
            tracker.end("cancelled", patient=True)
            raise
        finally:
            self._trackers.discard(tracker)
        return tracker.report

    async def stream(
        self,
        submissions: Iterable[Submission | MessageLike] | AsyncIterable[Submission | MessageLike],
        *,
        retry_for: float = 0.0,
        on_retry: OnRetry = ignore_retry,
    ) -> AsyncGenerator[Result, None]:
        """Deliver any number of messages; yield one result for each recipient as soon as it is known.

        Messages are read while results come out, as long as the unfinished ones take less memory than
        ``config.limits.waiting``. A message that cannot be sent at all has a failed result for each of its given
        recipients, or one without recipient. For ``retry_for`` seconds the deferred recipients of each message are
        tried again, as for :meth:`deliver`; ``on_retry`` is called for each retry. Leaving the loop early ends
        unfinished deliveries.
        """
        flow = _Flow(self, submissions, RetrySettings(retry_for, on_retry))
        try:
            async for result in flow.results():
                yield result
        finally:
            await flow.aclose()

    def _take(
        self,
        letter: Letter,
        timeout: float | None,
        on_result: Callable[[Result], None] | None,
        finished: Callable[[_Tracked], None],
        submission: Submission | None = None,
        retry: RetrySettings = _NO_RETRY,
    ) -> _Tracked:
        """Pass a prepared message to the pools."""
        if self._closed:
            letter.close()
            raise LocalError("the client is closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        elif self._loop is not asyncio.get_running_loop():
            letter.close()
            raise LocalError("the client lives on another event loop")
        seconds = self.config.message_timeout if timeout is None else timeout
        tracker: _Tracked
        if retry.seconds:
            tracker = retrying = RetryingMessage(
                letter, self._loop, seconds, on_result, finished, submission, retry, self._start
            )
            begin = retrying.begin
        else:
            tracker = once = MessageTracker(letter, self._loop, seconds, on_result, finished, submission)
            begin = partial(self._start, once)
        self._trackers.add(tracker)
        try:
            begin()
        except BaseException:  # raised by objects of the program: its observers, its resolver
            tracker.end("not taken")
            self._trackers.discard(tracker)
            raise
        return tracker

    def _start(self, tracker: MessageTracker) -> None:
        """Add the jobs of a message to the pools."""
        for destination, job in tracker.jobs(self._destinations):
            if tracker.insists:
                self.resting.forget(destination)
            pool = self._pools.get(destination)
            if pool is None:
                pool = self._pools[destination] = DestinationPool(self, destination)
            pool.add(job)

    # --------------------------------------------------------------- for pools

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop on which it runs."""
        assert self._loop is not None
        return self._loop

    @property
    def closed(self) -> bool:
        """Whether it is closed, or being closed: no further connection is opened."""
        return self._closed

    @property
    def is_behind(self) -> bool:
        """Whether more messages wait than the rate of messages allows within their time limits."""
        if self.pacer is None:
            return False
        most = self.pacer.most_waiting(self.config.message_timeout / 4)
        return sum(pool.backlog for pool in self._pools.values()) >= most

    def forget(self, pool: DestinationPool) -> None:
        """Remove a pool without jobs and connections."""
        pool.end()
        self._pools.pop(pool.destination, None)

    def driver_for(self, destination: Destination) -> AsyncDriver:
        """The driver for sessions with this destination."""
        return self._drivers.of(destination)

    def courier_for(self, destination: Destination) -> tuple[Courier, Observer]:
        """The courier for this destination, and the observer of its connection."""
        return self._couriers.of(destination)

    # ------------------------------------------------------------------ ending

    async def aclose(self, *, polite: bool = True, reason: str = "the client is closed") -> None:
        """End everything: undecided recipients are deferred or in doubt, connections are closed. Idempotent.

        ``reason`` is the text in the results of undecided recipients. With ``polite`` it sends QUIT to servers and
        waits for their replies, for ``config.timeouts.quit`` at most.
        """
        self._closed = True
        for tracker in tuple(self._trackers):
            tracker.end(reason)
        workers = [worker for pool in self._pools.values() for worker in pool.workers]
        for worker in workers:
            worker.leave() if polite else worker.leave_at_once(reason)
        try:
            if workers:
                await asyncio.wait([worker.task for worker in workers])
        finally:
            for pool in tuple(self._pools.values()):
                pool.end()
            self.slots.end()
            left = [worker.task for worker in workers if worker.task.cancel()]
            if left:
                await asyncio.wait(left)
            await self._drivers.aclose()

    async def __aenter__(self) -> Client:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(polite=kind is None)


def _observing(observe: ObserverFor | None, tracing: Tracing | None) -> ObserverFor | None:
    """The factory of observers for connections: the program's own, and those that write traces."""
    if tracing is None:
        return observe
    return lambda name: combine(ignore if observe is None else observe(name), tracing.observer())


class _Flow:
    """One stream: submissions in, results out."""

    def __init__(
        self,
        client: Client,
        submissions: Iterable[Submission | MessageLike] | AsyncIterable[Submission | MessageLike],
        retry: RetrySettings,
    ) -> None:
        self._client = client
        self._retry = retry
        self._room = client.config.limits.waiting  # octets of memory left
        self._freed = asyncio.Event()
        self._results: deque[Result | int] = deque()  # a number: a submission that took so much is done
        self._changed = asyncio.Event()
        self._trackers: set[_Tracked] = set()
        self._feeder = asyncio.get_running_loop().create_task(self._feed(submissions), name="zsmtp stream")
        self._feeder.add_done_callback(lambda _: self._changed.set())
        if client.pacer is not None:
            client.pacer.begun.add(self._freed.set)

    async def results(self) -> AsyncIterator[Result]:
        """The results as they come. An exception from reading the submissions is raised here, after them."""
        while True:
            while self._results:
                result = self._results.popleft()
                if isinstance(result, Result):
                    yield result
                else:
                    self._room += result
                    self._freed.set()
            if self._feeder.done() and not self._trackers and not self._results:
                self._feeder.result()
                return
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """End unfinished deliveries."""
        if self._client.pacer is not None:
            self._client.pacer.begun.discard(self._freed.set)
        self._feeder.cancel()
        for tracker in tuple(self._trackers):
            tracker.end("cancelled", patient=True)
        await asyncio.wait([self._feeder])

    async def _feed(
        self, submissions: Iterable[Submission | MessageLike] | AsyncIterable[Submission | MessageLike]
    ) -> None:
        if isinstance(submissions, AsyncIterable):
            async for submission in submissions:
                await self._wait_for_room()
                await self._submit(submission)
            return
        for number, submission in enumerate(submissions):
            await self._wait_for_room()
            await self._submit(submission)
            if number % _YIELD_AFTER == _YIELD_AFTER - 1:
                await asyncio.sleep(0)

    async def _wait_for_room(self) -> None:
        while self._room <= 0 or self._client.is_behind:
            self._freed.clear()
            await self._freed.wait()

    async def _submit(self, given: Submission | MessageLike) -> None:
        one = known = given if isinstance(given, Submission) else Submission(message=given)
        recipients = one.recipients
        try:
            if isinstance(recipients, Iterable) and not isinstance(recipients, str | bytes):
                one = replace(one, recipients=tuple(recipients))  # an iterator would be used up
                one = self._without_unusable(one, known)
            letter = Letter(
                await octets_first(one.message),
                sender=one.sender,
                recipients=one.recipients,
                name=one.name,
                add_missing=self._client.config.content.add_missing,
                dsn=one.dsn,
                options=options_of(one),
                signing=self._client._signing,
            )
        except Exception as error:  # later submissions are still sent
            self._refuse(one, error, known)
            return
        memory = _OVERHEAD + letter.memory + _RECIPIENT * len(letter.recipients)
        self._room -= memory
        finished = partial(self._finished, memory)
        self._trackers.add(self._client._take(letter, None, self._add_result, finished, known, self._retry))

    def _refuse(self, one: Submission, error: Exception, known: Submission) -> None:
        """Give a failed result for each recipient of a submission."""
        results = _refused(one, error, known)
        memory = _RECIPIENT * len(results)
        for result in results:
            self._add_result(result)
        self._results.append(memory)
        self._room -= memory

    def _without_unusable(self, one: Submission, known: Submission) -> Submission:
        """The submission without invalid recipients, which fail alone if there are valid ones."""
        assert isinstance(one.recipients, tuple)
        good, bad = usable_addresses(one.recipients, "recipient")
        if not good or not bad:
            return one
        for text, error in bad:
            self._refuse(replace(one, recipients=(text,)), error, known)
        return replace(one, recipients=good)

    def _finished(self, memory: int, tracker: _Tracked) -> None:
        self._trackers.discard(tracker)
        self._client._trackers.discard(tracker)
        self._results.append(memory)
        self._changed.set()

    def _add_result(self, result: Result) -> None:
        self._results.append(result)
        self._changed.set()


def _refused(one: Submission, error: Exception, known: Submission) -> list[Result]:
    """The results of a submission that cannot be sent at all; ``known`` is the program's own object."""
    given = one.recipients
    if isinstance(given, str | bytes) or not isinstance(given, Iterable | None):
        given = (given,)
    recipients = dict.fromkeys(map(_shown, given)) if isinstance(given, tuple) else ()  # or it is no iterable
    action = due(one.dsn, "failed", null_sender=_is_null(one.sender)) if isinstance(one.dsn, DSN) else ""
    message = (one.name if isinstance(one.name, str) else "") or path_text(one.message)
    text = str(error) if isinstance(error, SubmissionError) else described(error)
    return [
        Result(
            message=message,
            recipient=name,
            fate=Fate.FAILED,
            status="5.6.0",
            reason=text,
            text=text,
            dsn_action=action,
            attempted=False,
            submission=known,
        )
        for name in recipients or ("",)
    ]


def _shown(recipient: object) -> str:
    """A recipient, of any type, as text."""
    if isinstance(recipient, bytes):
        return recipient.decode("utf-8", "replace")
    try:
        return str(recipient)
    except Exception:
        return type(recipient).__name__


def _is_null(sender: str | bytes | None) -> bool:
    """Whether ``sender`` is given and is the null reverse-path."""
    try:
        return sender is not None and not read_address(sender, "sender")
    except SubmissionError:
        return False


def _tracing(path: str | PathLike[str]) -> Tracing:
    from zsmtp.observers.files import Tracing  # imported only if used

    return Tracing(path)


def _connections(limits: Limits) -> tuple[int, int]:
    """The most connections at work and in all, by the limit of this process on open files."""
    wanted = limits.connections + limits.slow_connections
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY or files - _OTHER_FILES >= wanted:
        return limits.connections, wanted
    most = max(files - _OTHER_FILES, 1)
    return min(limits.connections, max(most - limits.slow_connections, most // 2, 1)), most


def _finish(done: asyncio.Future[None], tracker: _Tracked) -> None:
    if not done.done():
        done.set_result(None)


def through(config: Config, relay: Relay | str | None) -> Config:
    """The configuration, with ``relay`` (a value or a URL) for all mail if given."""
    if relay is None:
        return config
    return replace(config, relay=Relay.from_url(relay) if isinstance(relay, str) else relay)


async def deliver(
    message: MessageLike,
    *,
    sender: str | bytes | None = None,
    recipients: str | bytes | Iterable[str | bytes] | None = None,
    config: Config | None = None,
    relay: Relay | str | None = None,
    timeout: float | None = None,
    dsn: DSN | None = None,
    observe: ObserverFor | None = None,
    trace: str | PathLike[str] | None = None,
    retry_for: float = 0.0,
    **options: Unpack[OptionArguments],
) -> Report:
    """Deliver one message to all its recipients and return a report; see :meth:`Client.deliver`."""
    async with Client(config, relay=relay, observe=observe, trace=trace) as client:
        return await client.deliver(
            message,
            sender=sender,
            recipients=recipients,
            timeout=timeout,
            dsn=dsn,
            retry_for=retry_for,
            **options,
        )

"""The client: takes messages, keeps connections, and gives one result for each recipient, whatever happens.

:class:`Client` lives on one event loop. Deliveries may be asked for from any number of tasks; those to the same
destination share its connections, so that many messages cost few of them::

    async with Client(config) as client:
        report = await client.deliver(message, sender="a@example.org", recipients=["b@example.net"])
        async for result in client.stream(messages):
            print(result)

A delivery that is cancelled ends at once; nobody hears of its recipients then. Leaving the ``async with`` block ends
everything, and says good-bye to the servers. :func:`deliver` is for one message without a client of one's own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING

from zsmtp.client.address import read_address
from zsmtp.client.config import Config, Relay
from zsmtp.client.destinations import Destination, Destinations
from zsmtp.client.dsn import DSN, due
from zsmtp.client.lane import Lane, Slots
from zsmtp.client.message import Letter, MessageLike
from zsmtp.client.parcel import Parcel
from zsmtp.client.report import Fate, Report, Result
from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.rest import Resting, Unreached
from zsmtp.errors import LocalError, SubmissionError
from zsmtp.events import Observer, combine, ignore
from zsmtp.net.aio import AsyncDriver
from zsmtp.net.identity import parse_identity
from zsmtp.net.waits import Source

if TYPE_CHECKING:
    from zsmtp.delivery.plan import DeliveryPlan
    from zsmtp.observers.files import Tracing

ObserverFor = Callable[[str], Observer]
"""Gives the observer for one connection to the destination named (a domain, or ``host:port`` of a relay)."""

_BREATH = 32  # messages a stream takes in before others have their turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A message with its envelope, for :meth:`Client.stream`. ``name`` stands in results for its Message-ID.

    ``require_tls`` and ``dsn`` are as in :meth:`Client.deliver`.
    """

    message: MessageLike
    sender: str | bytes | None = None
    recipients: str | bytes | Iterable[str | bytes] | None = None
    name: str = ""
    require_tls: bool = False
    dsn: DSN | None = None


class Client:
    """Delivers messages as ``config`` says; ``relay`` (a value or a URL) takes the place of the one in it.

    ``observe`` is asked for an observer for each connection, see ``zsmtp.events``. ``trace`` is a directory where a
    trace of each delivery is kept, or a file (``zsmtp.observers.files``). ``plans`` were made beforehand, as by ``zsmtp
    explain``: mail for their destinations is delivered by them as they are, and nothing is looked up for it.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        relay: Relay | str | None = None,
        observe: ObserverFor | None = None,
        trace: str | PathLike[str] | None = None,
        plans: Iterable[DeliveryPlan] = (),
    ) -> None:
        self.config = through(config or Config(), relay)
        self._destinations = Destinations(self.config, plans)
        self._observe = observe
        self._tracing = None if trace is None else _tracing(trace)
        self._lanes: dict[Destination, Lane] = {}
        self._couriers: dict[Hashable, Courier] = {}
        self._drivers: dict[bool, AsyncDriver] = {}
        self._parcels: set[Parcel] = set()
        self.wanted = self._destinations.target()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.slots = Slots(self.config.limits.connections)
        self.resting = Resting()
        self._unreached = Unreached()

    # -------------------------------------------------------------- deliveries

    async def deliver(
        self,
        message: MessageLike,
        *,
        sender: str | bytes | None = None,
        recipients: str | bytes | Iterable[str | bytes] | None = None,
        timeout: float | None = None,
        name: str = "",
        require_tls: bool = False,
        dsn: DSN | None = None,
    ) -> Report:
        """Deliver one message to all its recipients and report.

        Without ``sender`` and ``recipients`` they are what the header says. ``timeout`` in seconds is in place of
        ``config.message_timeout``. ``require_tls`` asks for authenticated TLS on every hop, or no delivery (REQUIRETLS,
        RFC 8689); a field ``TLS-Required: No`` asks for the opposite. ``dsn`` says what the sender wants to be notified
        of. Raises SubmissionError for a message or an address that cannot be sent, OSError for a file that cannot be
        read; what servers and networks do is in the report.
        """
        letter = Letter(
            message,
            sender=sender,
            recipients=recipients,
            name=name,
            add_missing=self.config.content.add_missing,
            require_tls=require_tls,
            dsn=dsn,
        )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        parcel = self._take(letter, timeout, None, partial(_finish, done))
        try:
            await done
        except asyncio.CancelledError:
            parcel.end("cancelled", patient=True)
            raise
        finally:
            self._parcels.discard(parcel)
        return parcel.report

    async def stream(
        self, submissions: Iterable[Submission | MessageLike] | AsyncIterable[Submission | MessageLike]
    ) -> AsyncIterator[Result]:
        """Deliver any number of messages; their results come as they are known, one for each recipient.

        Messages are taken in while results come out, ``config.limits.waiting`` at most are on their way. One that
        cannot be sent at all has a failed result for each recipient that was given with it, or one without recipient.
        Leaving the loop early ends what is still on its way.
        """
        flow = _Flow(self, submissions)
        try:
            async for result in flow.results():
                yield result
        finally:
            await flow.aclose()

    def _take(
        self,
        letter: Letter,
        timeout: float | None,
        told: Callable[[Result], None] | None,
        finished: Callable[[Parcel], None],
    ) -> Parcel:
        """Take a letter into the lanes."""
        if self._closed:
            letter.close()
            raise LocalError("the client is closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        elif self._loop is not asyncio.get_running_loop():
            letter.close()
            raise LocalError("the client lives on another event loop")
        seconds = self.config.message_timeout if timeout is None else timeout
        parcel = Parcel(letter, self._loop, seconds, told, finished)
        self._parcels.add(parcel)
        try:
            for destination, job in parcel.jobs(self._destinations):
                lane = self._lanes.get(destination)
                if lane is None:
                    lane = self._lanes[destination] = Lane(self, destination)
                lane.add(job)
        except BaseException:  # raised by what the program gave: its observers, its resolver
            parcel.end("not taken")
            self._parcels.discard(parcel)
            raise
        return parcel

    # --------------------------------------------------------------- for lanes

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it lives on."""
        assert self._loop is not None
        return self._loop

    def forget(self, lane: Lane) -> None:
        """A lane has neither jobs nor connections."""
        lane.end()
        self._lanes.pop(lane.destination, None)

    def driver_for(self, destination: Destination) -> AsyncDriver:
        """The driver: names of relays are looked up in the hosts file, those of exchangers are not."""
        relayed = destination.relay is not None
        driver = self._drivers.get(relayed)
        if driver is None:
            local = self.config.local_address
            driver = self._drivers[relayed] = AsyncDriver(
                self._destinations.relay_resolver if relayed else self._destinations.resolver,
                Source(parse_identity(local) if local else None),
                None if relayed else self._destinations.policies(),
            )
        return driver

    def courier_for(self, destination: Destination) -> tuple[Courier, Observer]:
        """Who carries messages there, and who hears of it.

        Which addresses did not answer is known to all; what else was learned of peers is shared where nobody listens.
        """
        settings = self._destinations.settings_for(destination.relay)
        observer = ignore if self._observe is None else self._observe(destination.name)
        if self._tracing is not None:
            observer = combine(observer, self._tracing.observer())
        if observer is not ignore:
            return Courier(settings, observer, self._unreached), observer
        courier = self._couriers.get(destination.relay)
        if courier is None:
            courier = self._couriers[destination.relay] = Courier(settings, unreached=self._unreached)
        return courier, ignore

    # ------------------------------------------------------------------ ending

    async def aclose(self, *, polite: bool = True, reason: str = "the client is closed") -> None:
        """End everything: what is undecided is deferred or in doubt, connections are closed. May be called again.

        ``reason`` stands in the results of what is undecided. ``polite`` says QUIT to servers and waits for their
        answer, for ``config.timeouts.quit`` at most.
        """
        self._closed = True
        for parcel in tuple(self._parcels):
            parcel.end(reason)
        workers = [worker for lane in self._lanes.values() for worker in lane.workers]
        for worker in workers:
            worker.leave() if polite else worker.leave_at_once(reason)
        try:
            if workers:
                await asyncio.wait([worker.task for worker in workers])
        finally:
            for lane in tuple(self._lanes.values()):
                lane.end()
            left = [worker.task for worker in workers if worker.task.cancel()]
            if left:
                await asyncio.wait(left)
            self._destinations.close()
            for driver in self._drivers.values():
                await driver.aclose()

    async def __aenter__(self) -> Client:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(polite=kind is None)


class _Flow:
    """One stream: submissions in, results out."""

    def __init__(
        self, client: Client, submissions: Iterable[Submission | MessageLike] | AsyncIterable[Submission | MessageLike]
    ) -> None:
        self._client = client
        self._room = asyncio.Semaphore(client.config.limits.waiting)
        self._results: deque[Result | None] = deque()  # None: all of one submission's are out
        self._stirred = asyncio.Event()
        self._parcels: set[Parcel] = set()
        self._feeder = asyncio.get_running_loop().create_task(self._feed(submissions), name="zsmtp stream")
        self._feeder.add_done_callback(lambda _: self._stirred.set())

    async def results(self) -> AsyncIterator[Result]:
        """The results as they come. What taking the submissions in raised is raised here, behind them."""
        while True:
            while self._results:
                result = self._results.popleft()
                if result is not None:
                    yield result
                else:
                    self._room.release()
            if self._feeder.done() and not self._parcels and not self._results:
                self._feeder.result()
                return
            self._stirred.clear()
            await self._stirred.wait()

    async def aclose(self) -> None:
        """End what is on its way."""
        self._feeder.cancel()
        for parcel in tuple(self._parcels):
            parcel.end("cancelled", patient=True)
        await asyncio.wait([self._feeder])

    async def _feed(
        self, submissions: Iterable[Submission | MessageLike] | AsyncIterable[Submission | MessageLike]
    ) -> None:
        if isinstance(submissions, AsyncIterable):
            async for submission in submissions:
                await self._room.acquire()
                self._submit(submission)
            return
        for number, submission in enumerate(submissions):
            await self._room.acquire()
            self._submit(submission)
            if number % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)

    def _submit(self, given: Submission | MessageLike) -> None:
        one = given if isinstance(given, Submission) else Submission(message=given)
        recipients = one.recipients
        if isinstance(recipients, Iterable) and not isinstance(recipients, str | bytes):
            one = replace(one, recipients=tuple(recipients))  # what can be gone through only once is named, too
        try:
            letter = Letter(
                one.message,
                sender=one.sender,
                recipients=one.recipients,
                name=one.name,
                add_missing=self._client.config.content.add_missing,
                require_tls=one.require_tls,
                dsn=one.dsn,
            )
        except (SubmissionError, OSError) as error:
            for result in _refused(one, error):
                self._told(result)
            self._results.append(None)
            return
        self._parcels.add(self._client._take(letter, None, self._told, self._finished))

    def _finished(self, parcel: Parcel) -> None:
        self._parcels.discard(parcel)
        self._client._parcels.discard(parcel)
        self._results.append(None)
        self._stirred.set()

    def _told(self, result: Result) -> None:
        self._results.append(result)
        self._stirred.set()


def _refused(one: Submission, error: Exception) -> list[Result]:
    """The results of a submission that cannot be sent at all."""
    given = one.recipients
    several = given if isinstance(given, tuple) else () if given is None else (given,)
    names = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in several]
    action = due(one.dsn, "failed", null_sender=_is_null(one.sender)) if isinstance(one.dsn, DSN) else ""
    return [
        Result(message=one.name, recipient=name, fate=Fate.FAILED, status="5.6.0", text=str(error), dsn_action=action)
        for name in dict.fromkeys(names or [""])
    ]


def _is_null(sender: str | bytes | None) -> bool:
    """Whether a sender was given, and it is the null one."""
    try:
        return sender is not None and not read_address(sender, "sender")
    except SubmissionError:
        return False


def _tracing(path: str | PathLike[str]) -> Tracing:
    from zsmtp.observers.files import Tracing  # what it imports costs only those who use it

    return Tracing(path)


def _finish(done: asyncio.Future[None], parcel: Parcel) -> None:
    if not done.done():
        done.set_result(None)


def through(config: Config, relay: Relay | str | None) -> Config:
    """The configuration, all mail sent through ``relay`` if one is given: a value, or a URL."""
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
    require_tls: bool = False,
    dsn: DSN | None = None,
    observe: ObserverFor | None = None,
    trace: str | PathLike[str] | None = None,
) -> Report:
    """Deliver one message to all its recipients and report; see :meth:`Client.deliver`."""
    async with Client(config, relay=relay, observe=observe, trace=trace) as client:
        return await client.deliver(
            message, sender=sender, recipients=recipients, timeout=timeout, require_tls=require_tls, dsn=dsn
        )

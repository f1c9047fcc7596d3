"""A message taken for delivery: a job for each destination, and exactly one result for each recipient.

Verdicts come from the ledgers of the jobs, one for each recipient. A tracker passes on each result as it comes, and
:attr:`MessageTracker.report` has all of them in the end. When its time is over, or the delivery is cancelled, it has
its jobs settled at once: recipients that wait for a connection are deferred, and a connection at work for them is
stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from zsmtp.body.stored import Stored
from zsmtp.client.destinations import Destination, Destinations
from zsmtp.client.message import Letter
from zsmtp.client.report import Attempt, Completing, Report, Result, result_of
from zsmtp.delivery.content import ContentProvider
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Verdict, from_loss
from zsmtp.effects import Operation
from zsmtp.errors import Interrupted
from zsmtp.events import About, Observer, Remark, ignore

if TYPE_CHECKING:
    from zsmtp.client.client import Submission
    from zsmtp.client.pool import ConnectionWorker
    from zsmtp.proto.plan import Envelope


def _do_nothing(tracker: MessageTracker) -> None:
    """Default of ``finished``: do nothing."""


class MessageTracker:
    """One message; ``on_result`` is called with each result, ``finished`` after the last.

    ``submission`` is the object given to a stream, if any; ``indexes`` are its recipients in the message (None: all).
    """

    __slots__ = (
        "_finished",
        "_indexes",
        "_jobs",
        "_left",
        "_loop",
        "_on_result",
        "_results",
        "_started",
        "_timer",
        "letter",
        "over",
        "submission",
    )

    def __init__(
        self,
        letter: Letter,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        on_result: Callable[[Result], None] | None = None,
        finished: Callable[[MessageTracker], None] = _do_nothing,
        submission: Submission | None = None,
        indexes: tuple[int, ...] | None = None,
    ) -> None:
        self.letter = letter
        self.submission = submission
        self.over = ""
        self._loop = loop
        self._on_result = on_result
        self._finished = finished
        self._started = loop.time()
        self._results: list[Result | None] = [None] * len(letter.recipients)
        self._indexes = tuple(range(len(letter.recipients))) if indexes is None else indexes
        self._left = len(self._indexes)
        self._jobs: set[DestinationJob] = set()
        self._timer = loop.call_later(timeout, self.end, f"the time for this message ({timeout:g} s) is over")

    @property
    def insists(self) -> bool:
        """Whether it is tried in spite of a backoff of its destination."""
        return False

    def jobs(self, destinations: Destinations) -> list[tuple[Destination, DestinationJob]]:
        """The jobs that deliver it: the recipients of one destination share a transaction."""
        recipients, sender = self.letter.recipients, self.letter.sender
        if len(self._indexes) == 1:
            return [(destinations.of(recipients[self._indexes[0]], sender), self.job(self._indexes))]
        groups: dict[Destination, list[int]] = {}
        for index in self._indexes:
            groups.setdefault(destinations.of(recipients[index], sender), []).append(index)
        return [(where, self.job(tuple(indexes))) for where, indexes in groups.items()]

    def job(self, indexes: tuple[int, ...]) -> DestinationJob:
        """A job for some of the recipients."""
        job = DestinationJob(self, indexes)
        self._jobs.add(job)
        return job

    def settle(
        self, index: int, verdict: Verdict, attempts: tuple[Attempt, ...], taken: float | None, *, lmtp: bool
    ) -> None:
        """Record the verdict on a recipient; ``taken`` is when a connection took it, ``lmtp`` if that was by LMTP."""
        assert self._results[index] is None
        now = self._loop.time()
        recipient = self.recipient(index)
        waited = (now if taken is None else taken) - self._started
        result = result_of(
            verdict,
            self.letter.name,
            recipient,
            attempts,
            waited,
            now - self._started,
            dsn=self.letter.dsn,
            null_sender=not self.letter.sender,
            lmtp=lmtp,
            submission=self.submission,
        )
        self._results[index] = result
        self._left -= 1
        self._pass_on(index, result, verdict)
        if self._left == 0:
            self._timer.cancel()
            self._end()

    def _pass_on(self, index: int, result: Result, verdict: Verdict) -> None:
        """Pass on a recipient's result."""
        if self._on_result is not None:
            self._on_result(result)

    def _end(self) -> None:
        """Note that all recipients have their results."""
        self.letter.close()
        self._finished(self)

    def recipient(self, index: int) -> str:
        """The address of a recipient, as results have it."""
        return self.letter.recipients[index].decode("utf-8", "surrogateescape")

    def ended(self, job: DestinationJob) -> None:
        """Note that a job is finished."""
        self._jobs.discard(job)

    def end(self, reason: str, *, patient: bool = False) -> None:
        """Settle all undecided recipients now.

        With ``patient``, because the delivery was cancelled, other messages on the connection still get their final
        replies.
        """
        if self._left and not self.over:
            self.over = reason
            for job in tuple(self._jobs):
                job.end(reason, patient=patient)

    @property
    def report(self) -> Report:
        """All results; complete when ``finished`` is called."""
        return Report(message=self.letter.name, results=tuple(one for one in self._results if one is not None))


def _observed(letter: Letter, envelope: Envelope, observe: Observer) -> Stored | Operation[Stored]:
    """The message as it is sent; changes to it on this side are reported to ``observe``."""
    stored = letter.preparation()
    if not isinstance(stored, Stored):
        return _observed_after(stored, letter, envelope, observe)
    _report_changes(letter, envelope, observe)
    return stored


async def _observed_after(work: Operation[Stored], letter: Letter, envelope: Envelope, observe: Observer) -> Stored:
    stored = await work
    _report_changes(letter, envelope, observe)
    return stored


def _report_changes(letter: Letter, envelope: Envelope, observe: Observer) -> None:
    for text in letter.remarks:
        observe(Remark(text, About.CONTENT, envelope))


class DestinationJob:
    """The work for one tracker at one destination."""

    __slots__ = ("_indexes", "_known", "_ledger", "_reused", "_taken", "_tracker", "_worker", "returned", "settled")

    def __init__(self, tracker: MessageTracker, indexes: tuple[int, ...]) -> None:
        self._tracker = tracker
        self._indexes = indexes
        self._ledger: Ledger | None = None
        self._worker: ConnectionWorker | None = None
        self._taken: float | None = None
        self._known = 0  # attempts that its worker had made before
        self._reused: tuple[Attempt, ...] = ()
        self.returned = 0  # times that it was given back because a connection was refused
        self.settled = False

    def take(self, worker: ConnectionWorker, now: float, known: int, reused: tuple[Attempt, ...]) -> Delivery:
        """The delivery for the engine. ``known`` attempts were made for others; ``reused`` is the open connection."""
        self._worker = worker
        self._taken = now
        self._known = known
        self._reused = reused
        letter = self._tracker.letter
        envelope = letter.envelope(self._indexes)
        self._ledger = Ledger(len(self._indexes), self._settle)
        observe = worker.observe
        prepare = letter.preparation if observe is ignore else partial(_observed, letter, envelope, observe)
        content = ContentProvider(prepare, worker.targets, envelope, observe)
        return Delivery(Message(envelope, content), self._ledger, letter.name)

    def completing(self, numbers: tuple[int, ...]) -> Completing:
        """The notice that these recipients of its delivery may have the message from now on."""
        tracker = self._tracker
        return Completing(
            message=tracker.letter.name,
            recipients=tuple(tracker.recipient(self._indexes[number]) for number in numbers),
            submission=tracker.submission,
        )

    def give_back(self) -> bool:
        """Leave a worker that has not decided about all recipients; return whether any is left to send to.

        If the time for the message is over they are settled.
        """
        ledger, self._ledger, self._worker = self._ledger, None, None
        assert ledger is not None
        self._indexes = tuple(self._indexes[number] for number in ledger.unsettled)
        if self._tracker.over:
            self.end(self._tracker.over)
        return not self.settled

    @property
    def over(self) -> bool:
        """Whether its result is final, or its message has ended."""
        return self.settled or bool(self._tracker.over)

    def end(self, reason: str, *, patient: bool = False) -> None:
        """Have it settled now: by its worker, or here."""
        if self._worker is not None:
            self._worker.give_up(reason, patient=patient)
        else:
            self.settle_all(from_loss(Interrupted(reason), "", None))

    def settle_all(self, verdict: Verdict) -> None:
        """Settle all undecided recipients with one verdict."""
        if self.settled:
            return
        if self._ledger is None:
            self._ledger = Ledger(len(self._indexes), self._settle)
        self._ledger.settle_all(self._ledger.unsettled, verdict)

    def _settle(self, number: int, verdict: Verdict) -> None:
        worker, ledger = self._worker, self._ledger
        assert ledger is not None
        attempts = self._reused + worker.attempts_since(self._known) if worker is not None else ()
        lmtp = worker is not None and worker.lmtp
        self._tracker.settle(self._indexes[number], verdict, attempts, self._taken, lmtp=lmtp)
        if ledger.settled:
            self.settled = True
            self._ledger = None  # it refers to this job: no reference cycle is left
            self._tracker.ended(self)
            if worker is not None:
                worker.settled(ledger)

"""A message taken for delivery: a job for each destination, and exactly one result for each recipient.

The parcel keeps the books. Verdicts come in from the jobs' ledgers, which take one for each recipient; results go out
as they come, and :attr:`Parcel.report` has all of them in the end. A parcel that is over (its time is, or nobody wants
to know any more) tells its jobs to be settled now: whoever waits for a connection is deferred, a connection at work for
it is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from zsmtp.client.destinations import Destination, Destinations
from zsmtp.client.message import Letter
from zsmtp.client.report import Attempt, Report, Result, result_of
from zsmtp.delivery.content import Targets, content_form, is_internationalised
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.outcome import Fate, Verdict, from_loss
from zsmtp.delivery.report import Ledger
from zsmtp.errors import Interrupted
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope, Recipient, Refusal

if TYPE_CHECKING:
    from zsmtp.client.lane import Worker


class Parcel:
    """One message; ``told`` hears each result, ``finished`` that there will be no more."""

    def __init__(
        self,
        letter: Letter,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        told: Callable[[Result], None],
        finished: Callable[[], None],
    ) -> None:
        self._letter = letter
        self._loop = loop
        self._told = told
        self._finished = finished
        self._started = loop.time()
        self._results: list[Result | None] = [None] * len(letter.recipients)
        self._left = len(letter.recipients)
        self._jobs: set[Job] = set()
        self.over = ""
        self._timer = loop.call_later(timeout, self.end, f"the time for this message ({timeout:g} s) is over")

    def jobs(self, destinations: Destinations, targets: Targets) -> list[tuple[Destination, Job]]:
        """The jobs that deliver it: the recipients of one destination share a transaction."""
        groups: dict[Destination, list[int]] = {}
        for index, recipient in enumerate(self._letter.recipients):
            groups.setdefault(destinations.of(recipient), []).append(index)
        return [(where, self.job(tuple(indexes), targets)) for where, indexes in groups.items()]

    def job(self, indexes: tuple[int, ...], targets: Targets) -> Job:
        """A job for some of the recipients."""
        letter = self._letter
        envelope = Envelope(letter.sender, tuple(Recipient(letter.recipients[index]) for index in indexes))
        internationalised = is_internationalised(envelope)

        def content_for(capabilities: Capabilities) -> ContentForm | Refusal:
            return content_form(letter.stored().content(targets.of(capabilities, internationalised=internationalised)))

        job = Job(self, indexes, targets, Message(envelope, content_for), letter.name)
        self._jobs.add(job)
        return job

    def settle(self, index: int, verdict: Verdict, attempts: tuple[Attempt, ...], taken: float | None) -> None:
        """Account for the verdict on a recipient."""
        assert self._results[index] is None
        now = self._loop.time()
        recipient = self._letter.recipients[index].decode("utf-8", "surrogateescape")
        waited = (now if taken is None else taken) - self._started
        result = result_of(verdict, self._letter.name, recipient, attempts, waited, now - self._started)
        self._results[index] = result
        self._left -= 1
        self._told(result)
        if self._left == 0:
            self._timer.cancel()
            self._letter.close()
            self._finished()

    def ended(self, job: Job) -> None:
        """A job has no recipient open any more."""
        self._jobs.discard(job)

    def end(self, reason: str) -> None:
        """Have everybody settled now, who is not yet."""
        if self._left and not self.over:
            self.over = reason
            for job in tuple(self._jobs):
                job.end(reason)

    @property
    def report(self) -> Report:
        """All results; there is one for everybody when ``finished`` was called."""
        return Report(message=self._letter.name, results=tuple(one for one in self._results if one is not None))


class Job:
    """What is to be done for one parcel at one destination; ``delivery`` is what the engine takes.

    ``again`` are recipients that were let go undecided because the connection was stopped for another parcel's sake.
    """

    __slots__ = ("_indexes", "_known", "_parcel", "_reused", "_targets", "again", "delivery", "taken", "worker")

    def __init__(self, parcel: Parcel, indexes: tuple[int, ...], targets: Targets, message: Message, name: str) -> None:
        self._parcel = parcel
        self._indexes = indexes
        self._targets = targets
        self.delivery = Delivery(message, Ledger(len(indexes), self._settle), name)
        self.worker: Worker | None = None
        self.taken: float | None = None
        self._known = 0  # attempts its worker had made before
        self._reused: tuple[Attempt, ...] = ()
        self.again: list[int] = []

    @property
    def settled(self) -> bool:
        """Whether nothing is to be done any more."""
        return self.delivery.ledger.settled

    def take(self, worker: Worker, now: float, known: int, reused: tuple[Attempt, ...]) -> None:
        """A worker takes it, which has made so many attempts for others before; ``reused`` is the connection it has."""
        self.worker = worker
        self.taken = now
        self._known = known
        self._reused = reused

    def end(self, reason: str) -> None:
        """See that it is settled now: by the worker that has it, or here."""
        if self.worker is not None:
            self.worker.stop.request(reason, at_once=True)
        else:
            self.settle_all(from_loss(Interrupted(reason), "", None))

    def settle_all(self, verdict: Verdict) -> None:
        """The same verdict for everybody who has none."""
        ledger = self.delivery.ledger
        ledger.settle_all(ledger.unsettled, verdict)

    def rest(self) -> Job | None:
        """The job that is left to do of this one; None if there is none, or no time for it."""
        again, self.again = self.again, []
        if not again:
            return None
        job = self._parcel.job(tuple(again), self._targets)
        if self._parcel.over:
            job.settle_all(from_loss(Interrupted(self._parcel.over), "", None))
            return None
        return job

    def _settle(self, number: int, verdict: Verdict) -> None:
        index, worker = self._indexes[number], self.worker
        if worker is not None and worker.stop.requested and not self._parcel.over and _was_let_go(verdict):
            self.again.append(index)
        else:
            attempts = self._reused + worker.attempts_since(self._known) if worker is not None else ()
            self._parcel.settle(index, verdict, attempts, self.taken)
        if self.settled:
            self._parcel.ended(self)
            if worker is not None:
                worker.settled(self)


def _was_let_go(verdict: Verdict) -> bool:
    """Whether nothing was decided: no server said a word on it, and no server can have the message."""
    return verdict.fate is Fate.DEFERRED and verdict.reply is None and not verdict.in_doubt

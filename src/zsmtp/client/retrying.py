"""A message whose deferred recipients are tried again, as long as the program runs and a time is not over.

The rule is ``zsmtp.delivery.retry``: the schedules of the queue. Each time is a round of its own
(:class:`zsmtp.client.tracker.MessageTracker`) for the due recipients, with the message's time limit; each recipient has
one final result, which is passed on at once. Recipients in doubt are not tried again: the message may have arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from zsmtp.client.message import Letter
from zsmtp.client.report import Attempt, Fate, Report, Result
from zsmtp.client.tracker import MessageTracker
from zsmtp.delivery.outcome import Verdict
from zsmtp.errors import ConfigError
from zsmtp.records import dataclass, field, replace

if TYPE_CHECKING:
    from zsmtp.client.client import Submission

TOGETHER = 1.0  # seconds within which due recipients share a round
LONGEST = 1e7  # seconds

OnRetry = Callable[[Result, float], None]
"""Called for each recipient that was deferred and is tried again: the result so far, and the seconds until then."""


def ignore_retry(result: Result, seconds: float) -> None:
    """Default of ``on_retry``."""


def _chance() -> float:
    """Default of ``chance``: 0 to 1."""
    import random  # retries are rare

    return random.random()  # noqa: S311 - it spreads times


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """For how many seconds deferred recipients are tried again, and the callback for each. Raises ConfigError."""

    seconds: float
    on_retry: OnRetry = ignore_retry
    chance: Callable[[], float] = _chance

    def __post_init__(self) -> None:
        if not isinstance(self.seconds, int | float) or not 0 <= self.seconds <= LONGEST:
            raise ConfigError(f"retry_for: {self.seconds} is not 0 to {LONGEST:.0f} seconds")


@dataclass(slots=True)
class _Recipient:
    """The state of a recipient: attempts made, and if it waits, when it is due, with the result so far."""

    attempts: int = 0
    made: tuple[Attempt, ...] = ()
    due: float = 0.0
    waits_with: Result | None = None
    result: Result | None = field(default=None)


class RetryingMessage:
    """One message over several rounds; ``start`` passes a round to the pools. The rest is as for a tracker."""

    def __init__(
        self,
        letter: Letter,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        on_result: Callable[[Result], None] | None,
        finished: Callable[[RetryingMessage], None],
        submission: Submission | None,
        retry: RetrySettings,
        start: Callable[[MessageTracker], None],
    ) -> None:
        self.letter = letter
        self.over = ""
        self._loop = loop
        self._timeout = timeout
        self._on_result = on_result
        self._finished = finished
        self._submission = submission
        self._retry = retry
        self._start = start
        self._began = loop.time()
        self._until = self._began + retry.seconds
        self._chance = retry.chance()  # one for all: recipients that fail together are tried together
        self._recipients = [_Recipient() for _ in letter.recipients]
        self._left = len(self._recipients)
        self._rounds: set[RetryRound] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start the first round, with all recipients. Raises exceptions of ``start``."""
        self._try(range(len(self._recipients)))

    def settled(self, index: int, result: Result, verdict: Verdict) -> None:
        """Process a round's result for a recipient: it is final, or there will be another round."""
        one = self._recipients[index]
        now = self._loop.time()
        one.made += result.attempts
        one.attempts += result.attempted
        result = replace(result, attempts=one.made, seconds=now - self._began)
        due = self._next(one, result, verdict, now)
        if due is None:
            self._settle(one, result)
            return
        one.due, one.waits_with = due, result
        self._retry.on_retry(result, due - now)
        self._set_timer()

    def round_over(self, over: RetryRound) -> None:
        """Process the end of a round."""
        self._rounds.discard(over)
        if self._left and not self._rounds:
            self.letter.rest()

    def end(self, reason: str, *, patient: bool = False) -> None:
        """Settle all undecided recipients now; those that wait keep their result so far."""
        if self.over or not self._left:
            return
        self.over = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for one in self._recipients:
            if one.waits_with is not None:
                self._settle(one, one.waits_with)
        for running in tuple(self._rounds):
            running.end(reason, patient=patient)

    @property
    def report(self) -> Report:
        """All results; complete when ``finished`` is called."""
        results = tuple(one.result for one in self._recipients if one.result is not None)
        return Report(message=self.letter.name, results=results)

    def _next(self, one: _Recipient, result: Result, verdict: Verdict, now: float) -> float | None:
        """When to try a recipient again; None if its result is final."""
        if self.over or result.fate is not Fate.DEFERRED:
            return None
        from zsmtp.delivery.retry import classify, next_try  # whoever does not retry does without

        words = result.reply or result.reason
        failure = classify(result.status, result.code, words, verdict.level, max(one.attempts, 1))
        attempts = one.attempts if result.attempted else 0
        return next_try(failure, attempts, now, self._until, self._chance, result.retry_after)

    def _settle(self, one: _Recipient, result: Result) -> None:
        one.waits_with, one.result = None, result
        self._left -= 1
        if self._on_result is not None:
            self._on_result(result)
        if not self._left:
            self.letter.close()
            self._finished(self)

    def _set_timer(self) -> None:
        """Set the timer for the recipients that are due first."""
        if self._timer is not None:
            self._timer.cancel()
        due = min(one.due for one in self._recipients if one.waits_with is not None)
        self._timer = self._loop.call_at(due, self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        soon = self._loop.time() + TOGETHER
        due = [
            index
            for index, one in enumerate(self._recipients)
            if one.waits_with is not None and (one.due <= soon or one.due >= self._until)
        ]
        for index in due:
            self._recipients[index].waits_with = None
        if any(one.waits_with is not None for one in self._recipients):
            self._set_timer()
        try:
            self._try(due)
        except Exception as error:  # raised by objects of the program: its observers, its resolver
            self._loop.call_exception_handler({"message": "a message cannot be tried again", "exception": error})

    def _try(self, indexes: Iterable[int]) -> None:
        from zsmtp.delivery.retry import LEAST_LEFT

        is_last = self._until - self._loop.time() < LEAST_LEFT
        started = RetryRound(self, tuple(indexes), self._loop, self._timeout, self._submission, is_last=is_last)
        self._rounds.add(started)
        try:
            self._start(started)
        except BaseException:
            self.end("not taken")
            raise


class RetryRound(MessageTracker):
    """One round of a message: its results go to that :class:`RetryingMessage`."""

    __slots__ = ("_is_last", "_owner")

    def __init__(
        self,
        owner: RetryingMessage,
        indexes: tuple[int, ...],
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        submission: Submission | None,
        *,
        is_last: bool,
    ) -> None:
        self._owner = owner
        self._is_last = is_last
        super().__init__(owner.letter, loop, timeout, submission=submission, indexes=indexes)

    @property
    def insists(self) -> bool:
        """The last try is made in spite of any backoff."""
        return self._is_last

    def _pass_on(self, index: int, result: Result, verdict: Verdict) -> None:
        self._owner.settled(index, result, verdict)

    def _end(self) -> None:
        self._owner.round_over(self)

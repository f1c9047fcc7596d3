"""A process that sends for ``zsmtp send --jobs``: takes messages over a pipe, gives results back over it.

``python -m zsmtp.cli.sendworker DESCRIPTOR`` is started by :mod:`zsmtp.cli.sendprocesses`, with the socket of its pipe
(:mod:`zsmtp.cli.sendpipe`) as that descriptor, SIGINT and SIGTERM blocked: how it ends is decided by the process that
has started it. When that is gone, the pipe ends, and so does this process, at once.
"""

from __future__ import annotations

import asyncio
import io
import logging
import mmap
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import IO, Any

from zsmtp.cli.openfiles import allow_open_files
from zsmtp.cli.progress import ProgressDisplay
from zsmtp.cli.sendpipe import (
    Allowed,
    AllSettled,
    Complained,
    FilePlace,
    FinalResult,
    LeaveAsked,
    NoMore,
    OctetsSent,
    Order,
    ProcessPipe,
    PutOff,
    Ready,
    StopSending,
    Unable,
    Warned,
    Work,
    WorkTaken,
)
from zsmtp.cli.sendsources import FilePart
from zsmtp.client.client import Client, Submission
from zsmtp.client.config import Config
from zsmtp.client.report import Completing, Result
from zsmtp.errors import ConfigError, LocalError
from zsmtp.events import Observer, combine, ignore

GATHER = 0.01  # seconds for which results are gathered
BREATH = 32  # messages taken to hand before others have their turn
LAST_WAIT = 5.0  # seconds for connections to be closed when nobody hears of it any more


def main() -> int:
    """Send until there is no more, or the pipe ends; the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    allow_open_files()
    asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
    return 0


async def _serve(end: socket.socket) -> None:
    pipe = await ProcessPipe.over(end)
    first = await pipe.hear()
    if first is None:
        return
    (order,) = first
    try:
        await SendWorker(pipe, order).run()
    except ConfigError as error:
        pipe.say(Unable(str(error)))
        pipe.flush()
    await pipe.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkSubmission(Submission):
    """The submission of a message of that number, with the places of the marks of its recipients."""

    number: int
    marks: Mapping[str, int]


def _submission(one: Result | Completing) -> _WorkSubmission:
    assert isinstance(one.submission, _WorkSubmission)
    return one.submission


class _OctetCounter(ProgressDisplay):
    """Counts what was sent since it was asked last."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def take(self) -> int:
        sent, self.sent = self.sent, 0
        return sent


class _WarningsTold(logging.Handler):
    """Tells the other end what the library warns of."""

    def __init__(self, worker: SendWorker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self._worker.say(Warned(record.getMessage()))


class SendWorker:
    """Sends what it is given over ``pipe``, as ``order`` says."""

    def __init__(self, pipe: ProcessPipe, order: Order) -> None:
        """Raises ConfigError."""
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._order = order
        self._marks = mmap.mmap(order.marks, 0)
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Queue[Work | None] = asyncio.Queue()  # bounded by the window of the pipe
        self._taken = 0
        self._questions: dict[int, asyncio.Future[bool]] = {}
        self._asked = 0
        self._ending: asyncio.Future[None] | None = None
        self._is_orphan = False  # whoever has started this process is gone
        self._counter = _OctetCounter() if order.octets else None
        logging.getLogger("zsmtp").addHandler(_WarningsTold(self))
        self._traces = None
        if order.trace is not None:
            from zsmtp.observers.files import Tracing

            complain = lambda text: self.say(Complained(text))  # noqa: E731
            self._traces = Tracing(order.trace, hashed=order.hash_addresses, complain=complain)
        self._client = Client(
            Config(**order.config),
            observe=self._observer if order.octets or order.trace is not None else None,
            plans=order.plans,
            before_completion=self._begin,
        )

    async def run(self) -> None:
        """Send until there is no more."""
        self.say(Ready())
        hearing = self._loop.create_task(self._hear(), name="zsmtp pipe")
        try:
            async with self._client as client:
                await self._send(client)
            if self._ending is not None:
                await self._ending
        finally:
            hearing.cancel()
        self.say(AllSettled())
        self._flush()
        await self._pipe.drain()

    async def _send(self, client: Client) -> None:
        stream = client.stream(self._submissions(), retry_for=self._order.retry_for, on_retry=self._put_off)
        try:
            async for result in stream:
                self.say(FinalResult(_submission(result).number, replace(result, submission=None)))
                if self._pipe.is_behind:
                    await self._pipe.drain()
        except LocalError:  # the client was closed
            if self._ending is None:
                raise

    async def _submissions(self) -> AsyncIterator[Submission]:
        """The messages as they come."""
        while (one := await self._work.get()) is not None:
            self._taken += 1
            if self._taken == BREATH:
                self.say(WorkTaken(self._taken))
                self._taken = 0
                await asyncio.sleep(0)
            yield _WorkSubmission(
                number=one.number,
                marks={to: mark for mark, to in enumerate(one.recipients, one.mark)},
                message=one.source if isinstance(one.source, str) else _opened(one.source),
                sender=one.sender,
                recipients=one.recipients,
                name=one.name,
                dsn=one.dsn,
                **one.options.given(),
            )

    # ---------------------------------------------------------------- hearing

    async def _hear(self) -> None:
        while (said := await self._pipe.hear()) is not None:
            for one in said:
                self._heard(one)
        self._is_orphan = True
        for question in tuple(self._questions):
            self._answer(question, allowed=False)
        self._stop("the process that has started this one is gone", polite=False)
        self._loop.call_later(LAST_WAIT, os._exit, 1)

    def _heard(self, one: Any) -> None:
        match one:
            case Work():
                self._work.put_nowait(one)
            case NoMore():
                self._work.put_nowait(None)
            case Allowed(question, allowed):
                self._answer(question, allowed=allowed)
            case StopSending(reason):
                self._stop(reason, polite=True)

    def _answer(self, question: int, *, allowed: bool) -> None:
        waiting = self._questions.pop(question, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(allowed)

    def _stop(self, reason: str, *, polite: bool) -> None:
        """End what is under way."""
        if self._ending is None or not polite:
            self._ending = asyncio.ensure_future(self._client.aclose(polite=polite, reason=reason))
        self._work.put_nowait(None)

    # ----------------------------------------------------------------- saying

    def say(self, value: Any) -> None:
        """Say something soon."""
        self._pipe.say(value)
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counter is not None and (octets := self._counter.take()):
            self._pipe.say(OctetsSent(octets))
        self._pipe.flush()

    async def _begin(self, completing: Sequence[Completing]) -> bool:
        """Mark those who may have their message from now on; ask for leave before, if it is to be asked for."""
        if self._order.asks and not await self._ask(completing):
            return False
        if self._is_orphan:
            return False
        for one in completing:
            marks = _submission(one).marks
            for recipient in one.recipients:
                self._marks[marks[recipient]] = 1
        return True

    async def _ask(self, completing: Sequence[Completing]) -> bool:
        if self._is_orphan:
            return False
        self._asked += 1
        waiting: asyncio.Future[bool] = self._loop.create_future()
        self._questions[self._asked] = waiting
        about = tuple((_submission(one).number, one.recipients) for one in completing)
        self._pipe.say(LeaveAsked(self._asked, about))
        self._flush()
        return await waiting

    def _put_off(self, result: Result, seconds: float) -> None:
        submission = _submission(result)
        self._marks[submission.marks[result.recipient]] = 0
        self.say(PutOff(submission.number, replace(result, submission=None), seconds))

    def _observer(self, destination: str) -> Observer:
        """Who hears of one connection."""
        return combine(
            self._counter.observer() if self._counter is not None else ignore,
            self._traces.observer() if self._traces is not None else ignore,
        )


def _opened(place: FilePlace) -> IO[bytes]:
    return io.BufferedReader(FilePart(_inherited(place.descriptor), place.start, place.end))


@cache
def _inherited(descriptor: int) -> IO[bytes]:
    return open(descriptor, "rb", buffering=0, closefd=False)


if __name__ == "__main__":
    sys.exit(main())

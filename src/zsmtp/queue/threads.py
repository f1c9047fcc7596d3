"""Threads that own a connection to a database, and return results to the event loop.

A :class:`WorkerThread` gets jobs from the loop and returns the result of each through a future. Results that are ready
together are returned together: the loop is woken once for all of them. Jobs that share a transaction are also queued
together (:meth:`WorkerThread.put_soon`): otherwise the thread starts with the first job, commits it alone, and takes
the interpreter from the loop before the loop has queued the other jobs.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from zsmtp.errors import QueueError, QueueUnavailable


class JobResult(NamedTuple):
    """The result of a job."""

    future: asyncio.Future[Any]
    result: object
    error: BaseException | None


class ThreadJob(Protocol):
    """A job for a thread."""

    @property
    def future(self) -> asyncio.Future[Any]: ...


class LastJob(NamedTuple):
    """The last job of a thread."""

    future: asyncio.Future[Any]


class LookJob(NamedTuple):
    """A job without a result: check for changes."""

    future: None = None


class StoreQuestion(NamedTuple):
    """A query for a reading thread: a function of its connection. ``doing`` describes it for errors."""

    doing: str
    ask: Callable[[Any], object]
    future: asyncio.Future[Any]
    snapshot: bool = False
    """Whether all of it reads one state of the database."""


class WorkerThread(threading.Thread):
    """A thread with a queue of jobs, which :meth:`_serve` does.

    :class:`LastJob` is the last one, done when all before it are. If the thread ends in another way, all its jobs fail
    with QueueUnavailable, and it accepts no others.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name=name, daemon=True)
        self._loop = loop
        self._jobs: SimpleQueue[Sequence[ThreadJob | LookJob]] = SimpleQueue()
        self._taken: list[ThreadJob | LookJob] = []
        self._asked: list[ThreadJob] = []  # jobs of this turn of the loop, queued together
        self._putting = threading.Lock()
        self._failure = ""
        self._process = os.getpid()
        self._ended = False

    def _serve(self) -> Sequence[LastJob]:
        """Do jobs until :class:`LastJob` was one of them; returns those of that kind."""
        raise NotImplementedError

    def _close(self) -> None:
        """Close the connection, if there is one."""
        raise NotImplementedError

    def work(self) -> None:
        """Do jobs until the end, close the connection, and answer those who wait for that."""
        try:
            ends = self._serve()
        finally:
            self._close()
        self.answer([JobResult(end.future, None, None) for end in ends])

    def run(self) -> None:
        """Do jobs until the end, or until the thread fails."""
        try:
            self.work()
        except BaseException as error:
            with self._putting:
                self._failure = f"the thread {self.name!r} ended: {error!r}; close the queue and open it again"
            jobs = self._taken + self.take_all(wait=False)
            self.answer([JobResult(job.future, None, self._broken()) for job in jobs if job.future is not None])

    def _broken(self) -> QueueUnavailable:
        return QueueUnavailable(self._failure, undecided=True)

    def put(self, job: ThreadJob | LookJob) -> None:
        """Give a job to the thread; raises QueueUnavailable if it has ended unexpectedly."""
        with self._putting:
            if self._failure:
                raise self._broken()
            self._jobs.put((job,))

    def put_soon(self, job: ThreadJob) -> None:
        """Queue a job in the next turn of the loop, together with the other jobs of this turn.

        If the thread has ended unexpectedly, the future of the job raises QueueUnavailable.
        """
        if not self._asked:
            self._loop.call_soon(self._put_asked)
        self._asked.append(job)

    def _put_asked(self) -> None:
        jobs, self._asked = self._asked, []
        with self._putting:
            if not self._failure:
                self._jobs.put(jobs)
                return
        _deliver([JobResult(job.future, None, self._broken()) for job in jobs])

    def future(self) -> asyncio.Future[Any]:
        """A future for a job; raises QueueError if the thread accepts no more jobs."""
        self.check()
        return self._loop.create_future()

    def check(self) -> None:
        """Raise QueueError if the thread accepts no more jobs."""
        if os.getpid() != self._process:
            raise QueueError("this queue was opened before a fork; the child is to open it for itself")
        if self._ended:
            raise QueueError("this queue is closed")

    def answer(self, answers: Sequence[JobResult]) -> None:
        """Return results to the loop; called in this thread."""
        with suppress(RuntimeError):  # the loop was closed: no future waits any more
            self._loop.call_soon_threadsafe(_deliver, answers)

    async def end(self) -> None:
        """Finish the queued jobs, and end the thread."""
        if self.ident is None:  # it was never started
            self._ended = True
        elif not self._ended and os.getpid() == self._process:
            future = self.future()
            self._ended = True
            self._put_asked()
            with suppress(QueueUnavailable):
                self.put(LastJob(future))
                await future
            await asyncio.to_thread(self.join)

    def take_all(self, *, wait: bool = True, timeout: float | None = None) -> list[ThreadJob | LookJob]:
        """All queued jobs; if there is none, wait for one, ``timeout`` seconds at most (None: forever)."""
        jobs: list[ThreadJob | LookJob] = []
        self._taken = jobs
        with suppress(Empty):
            if wait:
                jobs += self._jobs.get(timeout=timeout)
            while True:
                jobs += self._jobs.get_nowait()
        return jobs


class ReadingThread(WorkerThread):
    """A thread that runs queries, on a connection that it makes for the first one."""

    def _answer_to(self, question: StoreQuestion) -> JobResult:
        """Run a query; errors are results, too."""
        raise NotImplementedError

    def ask(self, question: StoreQuestion) -> None:
        """Run a query in the thread, which starts with the first one; raises QueueUnavailable."""
        if not self.is_alive() and self.ident is None:
            self.start()
        self.put(question)

    def _serve(self) -> Sequence[LastJob]:
        while True:
            for job in self.take_all():
                if isinstance(job, LastJob):
                    return (job,)
                if isinstance(job, StoreQuestion):
                    self.answer([self._answer_to(job)])


def caused(error: QueueUnavailable, cause: Exception) -> QueueUnavailable:
    """An error with its cause."""
    error.__cause__ = cause
    return error


def _deliver(answers: Sequence[JobResult]) -> None:
    for future, result, error in answers:
        if not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


class GroupedKind(Protocol):
    """A kind of job. ``run`` gets all jobs of a transaction and returns a result, or an exception, for each."""

    @property
    def run(self) -> Callable[[Any, list[Any]], Sequence[Any]]: ...


class GroupedJob(Protocol):
    """A job of a kind."""

    @property
    def kind(self) -> GroupedKind: ...
    @property
    def argument(self) -> Any: ...
    @property
    def future(self) -> asyncio.Future[Any]: ...


def run_by_kind(transaction: object, jobs: Sequence[GroupedJob]) -> list[JobResult]:
    """Do jobs in a transaction, those of one kind together."""
    groups: dict[int, list[GroupedJob]] = {}
    for job in jobs:
        groups.setdefault(id(job.kind), []).append(job)
    answers = []
    for group in groups.values():
        results = group[0].kind.run(transaction, [job.argument for job in group])
        for job, result in zip(group, results, strict=True):
            failed = isinstance(result, Exception)
            answers.append(JobResult(job.future, None if failed else result, result if failed else None))
    return answers

"""The threads of a store for PostgreSQL: one writes and one reads, each with its own connection.

Jobs that arrive during a transaction form the next one, and share its commit. A lost connection is replaced. If it was
lost during the commit, the thread reads the status of that transaction (``pg_xact_status``), so that no job is done
twice, and none is reported as failed that was done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg
from psycopg.errors import CheckViolation

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.postgres.connect import (
    SNAPSHOT,
    Connection,
    Database,
    cut,
    goes_away,
    is_trouble,
    unavailable,
)
from zsmtp.queue.postgres.schema import make_days
from zsmtp.queue.postgres.transaction import WriteTransaction
from zsmtp.queue.threads import (
    JobResult,
    LastJob,
    ReadingThread,
    StoreQuestion,
    WorkerThread,
    caused,
    run_by_kind,
)

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")

WRITING = 60.0
"""Seconds after which a connection is broken if the server does not respond to a write."""
READING = 600.0
"""The same for a read: operators may read everything."""
_MOST = 2000  # jobs in one transaction
_OCTETS = 16 << 20  # of content in one transaction
_TRIES = 5  # for errors that go away
_PAUSE = 0.02  # seconds between them, times their number
_ASK_AGAIN = 5.0  # seconds to read the status of a transaction whose connection was lost


class PostgresJob(Generic[A, R]):
    """A kind of job. ``run`` is given all of a transaction and returns a result, or an exception, for each.

    ``durable``: whether the commit has to wait for the disk; ``octets``: how much content it writes; ``reads_first``:
    ``run`` reads no rows after it wrote with :meth:`WriteTransaction.last`.
    """

    __slots__ = ("doing", "durable", "octets", "reads_first", "run")

    def __init__(
        self,
        doing: str,
        run: Callable[[WriteTransaction, list[A]], Sequence[R | Exception]],
        *,
        durable: Callable[[A], bool] = lambda argument: True,
        octets: Callable[[A], int] = lambda argument: 0,
        reads_first: bool = False,
    ) -> None:
        self.doing = doing
        self.run = run
        self.durable = durable
        self.octets = octets
        self.reads_first = reads_first


class _WriterJob(NamedTuple):
    kind: PostgresJob[Any, Any]
    argument: Any
    future: asyncio.Future[Any]


def _bound(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], seconds: float, overdue: Callable[[], None]
) -> None:
    """Call ``overdue`` if a future is not done in time."""
    timer = loop.call_later(seconds, overdue)
    future.add_done_callback(lambda _: timer.cancel())


class _Lost(Exception):
    """The connection was lost during a commit, whose outcome is unknown."""


class PostgresWriter(WorkerThread):
    """A thread that writes. ``on_news`` is called in it after a commit of which others must be notified."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        database: Database,
        *,
        clock: Callable[[], float],
        on_news: Callable[[], None],
    ) -> None:
        super().__init__(name, loop)
        self._database = database
        self._clock = clock
        self._on_news = on_news
        self._connection: Connection | None = None
        self._server = ""
        self.problem = ""
        """What the last transaction failed by, "" if it did not."""

    def do(self, kind: PostgresJob[A, R], argument: A) -> asyncio.Future[R]:
        """Queue a job; the future raises QueueUnavailable if the database cannot be written."""
        future = self.future()
        self.put_soon(_WriterJob(kind, argument, future))
        _bound(self._loop, future, WRITING, lambda: cut(self._connection))
        return future

    def _serve(self) -> list[LastJob]:
        while True:
            jobs = self.take_all()
            for part in _parts([job for job in jobs if isinstance(job, _WriterJob)]):
                self.answer(self._attempt(part))
            if ends := [job for job in jobs if isinstance(job, LastJob)]:
                return ends

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _attempt(self, jobs: list[_WriterJob]) -> list[JobResult]:
        """Do jobs in one transaction; if it fails, one by one."""
        tries = 0
        while True:
            tries += 1
            try:
                answers = self._transact(jobs)
            except psycopg.Error as error:
                if self._connection is not None and self._connection.broken:
                    self._close()
                    if tries == 1 and isinstance(error, psycopg.OperationalError):
                        continue  # no job was done: the server, or a pooler before it, was restarted
                if len(jobs) > 1 and not isinstance(error, psycopg.OperationalError):
                    return [answer for job in jobs for answer in self._attempt([job])]
                if isinstance(error, CheckViolation) and tries < _TRIES and self._connection is not None:
                    with suppress(psycopg.Error):  # the history has no partition for today
                        make_days(self._connection)
                    continue
                if goes_away(error) and tries < _TRIES:
                    time.sleep(_PAUSE * tries)
                    continue
                return self._failed(jobs, error)
            except _Lost as error:
                return self._failed(jobs, error)
            except Exception as error:
                if len(jobs) == 1:
                    return [JobResult(jobs[0].future, None, error)]
                return [answer for job in jobs for answer in self._attempt([job])]
            self.problem = ""
            return answers

    def _failed(self, jobs: list[_WriterJob], error: Exception) -> list[JobResult]:
        if isinstance(error, psycopg.Error) and not is_trouble(error):
            return [JobResult(job.future, None, error) for job in jobs]
        found = [caused(unavailable(self._database, job.kind.doing, error), error) for job in jobs]
        for one in found:
            one.undecided = isinstance(error, _Lost)
        self.problem = str(found[0])
        return [JobResult(job.future, None, one) for job, one in zip(jobs, found, strict=True)]

    def _transact(self, jobs: list[_WriterJob]) -> list[JobResult]:
        if self._connection is None:
            self._connection = self._database.connect()
            self._server = server_of(self._connection)
        db = self._connection
        durable = any(job.kind.durable(job.argument) for job in jobs)
        reads_first = jobs[0].kind.reads_first and len({id(job.kind) for job in jobs}) == 1
        transaction = WriteTransaction(db, self._clock(), durable=durable, reads_first=reads_first)
        try:
            answers = run_by_kind(transaction, jobs)
            self._commit(db, transaction)
        except BaseException:
            roll_back(db)
            transaction.undone()
            raise
        try:
            transaction.committed()
            if transaction.has_news:
                self._on_news()
        except Exception as error:  # the jobs are done, and must not be repeated
            return [JobResult(job.future, None, error) for job in jobs]
        return answers

    def _commit(self, db: Connection, transaction: WriteTransaction) -> None:
        try:
            transaction.commit()
        except psycopg.Error as error:
            if not db.broken:
                raise
            self._close()
            if not transaction.xid or not self._was_committed(transaction.xid):
                raise QueueUnavailable(f"queue {self._database.name}: {error}") from error

    def _was_committed(self, xid: str) -> bool:
        """Whether a transaction with a lost connection was committed; raises _Lost if that is unknown.

        A server that died may reuse the id of a transaction that it never wrote down.
        """
        end = time.monotonic() + _ASK_AGAIN
        while True:
            try:
                if self._connection is None:
                    self._connection = self._database.connect()
                if server_of(self._connection) != self._server:
                    self._close()
                    raise _Lost("the server died during a commit: it may have been done")
                row = self._connection.execute("SELECT pg_xact_status(%s::xid8)", (xid,)).fetchone()
            except psycopg.Error as error:
                self._close()
                if time.monotonic() >= end:
                    raise _Lost(f"the connection was lost during a commit: it may have been done ({error})") from error
            else:
                status = row[0] if row else None
                if status in ("committed", "aborted"):
                    return bool(status == "committed")
                if status is None or time.monotonic() >= end:
                    raise _Lost("the connection was lost during a commit: it may have been done")
            time.sleep(0.1)


def server_of(db: Connection) -> str:
    """The identifier of the server's start."""
    (found,) = db.execute("SELECT zsmtp_incarnation()").fetchone() or ("",)
    return str(found)


def roll_back(db: Connection) -> None:
    """End a transaction that failed."""
    with suppress(psycopg.Error):
        if not db.broken:
            db.execute("ROLLBACK")


def _parts(jobs: list[_WriterJob]) -> Iterator[list[_WriterJob]]:
    """Jobs in transactions of bounded size."""
    part: list[_WriterJob] = []
    octets = 0
    for job in jobs:
        part.append(job)
        octets += job.kind.octets(job.argument)
        if len(part) == _MOST or octets >= _OCTETS:
            yield part
            part, octets = [], 0
    if part:
        yield part


class PostgresReader(ReadingThread):
    """A thread that reads, on a connection that it makes for the first query."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, database: Database) -> None:
        super().__init__(name, loop)
        self._database = database
        self._connection: Connection | None = None

    async def read(self, doing: str, question: Callable[[Connection], T], *, snapshot: bool = False) -> T:
        """Run a query; raises QueueUnavailable. ``snapshot``: all of it reads one state."""
        future = self.future()
        self.ask(StoreQuestion(doing, question, future, snapshot))
        _bound(self._loop, future, READING, lambda: cut(self._connection))
        result: T = await future
        return result

    def _answer_to(self, question: StoreQuestion) -> JobResult:
        for last in (False, True):
            try:
                return JobResult(question.future, self._ask(question), None)
            except psycopg.Error as error:
                broken = self._connection is not None and self._connection.broken
                if broken:
                    self._close()
                if broken and not last:
                    continue
                if not is_trouble(error):
                    return JobResult(question.future, None, error)
                return JobResult(
                    question.future, None, caused(unavailable(self._database, question.doing, error), error)
                )
            except Exception as error:
                return JobResult(question.future, None, error)
        raise AssertionError

    def _ask(self, question: StoreQuestion) -> object:
        if self._connection is None:
            self._connection = self._database.connect()
        db = self._connection
        if not question.snapshot:
            return question.ask(db)
        db.execute(SNAPSHOT)
        try:
            return question.ask(db)
        finally:
            roll_back(db)

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

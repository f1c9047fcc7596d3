"""The writing thread of a process: group commit, turns with other processes, and the handling of errors.

Jobs that are queued in one turn of the event loop, or while a commit runs, form the next transaction; a single job is
committed alone, with one fsync. Jobs of one kind in a transaction run together, so that their rows share statements. A
job that fails for its own reasons fails alone: the others are tried again without it. An error of the store (a full
disk, a lock that is not released, a damaged page) only fails the current jobs with QueueUnavailable: the thread
continues, with a new connection if the old one may be broken.

After an input/output error the kernel may have dropped unwritten data, and report success for the next fsync: then the
log has a gap, and all data after it is lost with the machine. So no commit is confirmed until the whole log is copied
into the database, and a new log was begun.

While the process delivers, the thread also looks for changes of other processes, at the start of each of its
transactions and several times a second between them.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.sqlite.connect import (
    BUSY,
    FULL,
    IOERR,
    UNREADABLE,
    code_of,
    connect,
    is_broken,
    is_trouble,
    unavailable,
    unreadable,
)
from zsmtp.queue.sqlite.locks import WriteTurn
from zsmtp.queue.sqlite.log import Checkpointer, checkpoint, file_of, renew_log
from zsmtp.queue.sqlite.transaction import News, WriteTransaction
from zsmtp.queue.threads import JobResult, LastJob, LookJob, WorkerThread, caused, run_by_kind

A = TypeVar("A")
R = TypeVar("R")

POLL = 0.25
"""Seconds between two polls for changes of other processes."""
_PAUSE = 0.001  # between tries to begin while a transaction outside this program has the database locked
_CACHE = 32 << 10  # KiB
_MOST = 2000  # jobs in one transaction
_OCTETS = 16 << 20  # of content in one transaction
CHECKPOINT = 4 << 20
"""About so many octets are written between two checkpoints."""
WAL_LIMIT = 64 << 20
"""A write-ahead log of this size is copied completely between two transactions."""


class JobKind(Generic[A, R]):
    """A kind of job. ``run`` gets all jobs of a transaction and returns a result, or an exception, for each."""

    __slots__ = ("doing", "durable", "octets", "run")

    def __init__(
        self,
        doing: str,
        run: Callable[[WriteTransaction, list[A]], Sequence[R | Exception]],
        *,
        durable: Callable[[A], bool] = lambda argument: True,
        octets: Callable[[A], int] | None = None,
    ) -> None:
        self.doing = doing
        self.run = run
        self.durable = durable
        """Whether the commit has to wait for the disk."""
        self.octets = octets
        """How much content is written; of kinds that take messages, which give way to results."""


def not_durable(argument: object) -> bool:
    """For kinds of jobs whose commit never waits for the disk."""
    return False


def probe(transaction: WriteTransaction, requests: list[None]) -> list[None]:
    """Write without changing anything; fails if the database cannot be written."""
    transaction.db.execute("UPDATE zsmtp_meta SET value = value WHERE name = 'fence'")
    return requests


class _Job(NamedTuple):
    kind: JobKind[Any, Any]
    argument: Any
    future: asyncio.Future[Any]


class DatabaseWatch:
    """The state of the database that the deliverer read last, and the callback for later changes."""

    def __init__(self, last_id: int, rules: int, poke: int, tell: Callable[[News], None]) -> None:
        self.last_id = last_id
        self.rules = rules
        self.poke = poke
        self.tell = tell
        self.version = -1  # of the data, as this connection counts it


class Writer(WorkerThread):
    """The writer of one database."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        *,
        busy: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__("zsmtp queue writer", loop)
        self._path = path
        self._busy = busy
        self._clock = clock
        self._turn = WriteTurn(path)
        self._connection: sqlite3.Connection | None = None
        self._synchronous = ""
        self._file: tuple[int, int] | None = None
        self._log_file: tuple[int, int] | None = None
        self._suspect = False  # whether the log may have a gap on the disk
        self._watch: DatabaseWatch | None = None
        self._unsaved = 0
        self._checkpointer = Checkpointer(path)
        self.problem = ""
        """What the last transaction failed by, "" if it did not."""

    # --------------------------------------------------------- for the loop

    def do(self, kind: JobKind[A, R], argument: A) -> asyncio.Future[R]:
        """Queue a job; the future raises QueueUnavailable if the database cannot be written."""
        future = self.future()
        self.put_soon(_Job(kind, argument, future))
        return future

    def watch(self, watch: DatabaseWatch | None) -> None:
        """Look for changes of other processes from now on; None: stop that."""
        self._watch = watch
        self.wake()

    @property
    def poke(self) -> int | None:
        """The last poke that was read, None without a watch."""
        return None if self._watch is None else self._watch.poke

    def wake(self) -> None:
        """Look now."""
        if self._watch is not None:
            with suppress(QueueUnavailable):  # the thread has ended: later jobs raise it
                self.put(LookJob())

    # ------------------------------------------------------- in the thread

    def work(self) -> None:
        """Commit jobs until the end."""
        self._checkpointer.start()
        super().work()

    def _serve(self) -> list[LastJob]:
        while True:
            jobs = self.take_all(timeout=POLL if self._watch is not None else None)
            work = [job for job in jobs if isinstance(job, _Job)]
            for part in _parts(work):
                self.answer(self._attempt(part))
                self._after_commit()
            if not work:
                self._look()
            if ends := [job for job in jobs if isinstance(job, LastJob)]:
                return ends

    def _close(self) -> None:
        self._checkpointer.end()
        self._turn.close()
        if self._connection is not None:
            self._connection.close()

    def _attempt(self, jobs: list[_Job], *, again: bool = False) -> list[JobResult]:
        """Do jobs in one transaction; if it fails, one by one. ``again``: room was made for them."""
        try:
            transaction, answers = self._transact(jobs)
        except sqlite3.Error as error:
            if not is_trouble(error):
                return self._apart(jobs, error)
            return self._in_trouble(jobs, error, again=again)
        except QueueUnavailable as error:
            self.problem = str(error)
            return [JobResult(job.future, None, QueueUnavailable(str(error))) for job in jobs]
        except Exception as error:
            return self._apart(jobs, error)
        self.problem = ""
        try:
            self._committed(transaction)
        except Exception as error:  # the jobs are done, and must not be repeated
            return [JobResult(job.future, None, error) for job in jobs]
        return answers

    def _committed(self, transaction: WriteTransaction) -> None:
        """The work after a commit. The jobs are done even if this fails, and are never repeated."""
        self._unsaved += transaction.octets
        transaction.committed()
        watch = self._watch
        if watch is not None:
            watch.last_id = max(watch.last_id, transaction.last_id)
            watch.rules += transaction.news.rules
            if transaction.news:
                watch.tell(transaction.news)

    def _apart(self, jobs: list[_Job], error: Exception) -> list[JobResult]:
        if len(jobs) == 1:
            kind = jobs[0].kind
            if isinstance(error, UNREADABLE) and kind.octets is None:  # not the caller's values
                error = caused(unreadable(self._path, kind.doing, error), error)
            return [JobResult(jobs[0].future, None, error)]
        return [answer for job in jobs for answer in self._attempt([job])]

    def _in_trouble(self, jobs: list[_Job], error: sqlite3.Error, *, again: bool) -> list[JobResult]:
        results = [job for job in jobs if job.kind.octets is None]
        if code_of(error) == FULL:
            self._checkpoint()  # makes room in the log
            if results and not (again and len(results) == len(jobs)):
                intake = [job for job in jobs if job.kind.octets is not None]
                return self._failed(intake, error) + self._attempt(results, again=True)
        self._reopen_if_broken(error)
        return self._failed(jobs, error)

    def _reopen_if_broken(self, error: sqlite3.Error) -> None:
        if is_broken(error) and self._connection is not None:
            self._connection.close()
            self._connection = None
            self._log_file = None
        self._suspect = self._suspect or code_of(error) == IOERR

    def _failed(self, jobs: list[_Job], error: sqlite3.Error) -> list[JobResult]:
        if jobs:
            self.problem = str(unavailable(self._path, jobs[0].kind.doing, error))
        found = [unavailable(self._path, job.kind.doing, error) for job in jobs]
        for one in found:  # changes of an uncertain write may be in the log after a crash
            one.undecided = code_of(error) == IOERR
        return [JobResult(job.future, None, one) for job, one in zip(jobs, found, strict=True)]

    def _transact(self, jobs: list[_Job]) -> tuple[WriteTransaction, list[JobResult]]:
        db = self._opened()
        self._synchronize("FULL" if any(job.kind.durable(job.argument) for job in jobs) else "NORMAL")
        if not self._turn.acquire(self._busy):
            raise QueueUnavailable(
                f"queue {self._path}: {jobs[0].kind.doing}: other processes have it locked since {self._busy:g} s"
            )
        try:
            if self._checkpointer.suspect:
                self._suspect, self._checkpointer.suspect = True, False
            if self._suspect:
                renew_log(db, self._path)
                self._suspect = False
            begin(db, self._busy)
            try:
                self._look_at_others(db)
                transaction = WriteTransaction(db, self._clock())
                answers = run_by_kind(transaction, jobs)
                transaction.flush(delivers=self._watch is not None)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        finally:
            self._turn.release()
        if self._log_file is None:
            self._log_file = file_of(f"{self._path}-wal")
        return transaction, answers

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path, cache=_CACHE, writes=True)
            self._file = file_of(self._path)
            self._synchronous = "FULL"
            if self._watch is not None:
                self._watch.version = -1
        elif file_of(self._path) != self._file:  # changes of an unlinked file are lost with the process
            raise QueueUnavailable(f"queue {self._path}: the file was removed or replaced while it was in use")
        elif self._log_file is not None and file_of(f"{self._path}-wal") != self._log_file:
            checkpoint(self._connection)  # this saves its data; later changes would be lost with the process
            raise QueueUnavailable(
                f"queue {self._path}: {self._path}-wal was removed or replaced while it was in use; "
                "end all processes that use the queue, and start them again"
            )
        return self._connection

    def _synchronize(self, level: str) -> None:
        if level != self._synchronous:  # not a prepared statement: SQLite obeys this one while it prepares it
            self._opened().executescript(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    # ---------------------------------------------- what other processes wrote

    def _look(self) -> None:
        if self._watch is None:
            return
        try:
            self._look_at_others(self._opened())
        except QueueUnavailable as error:
            self.problem = str(error)
        except sqlite3.Error as error:
            self.problem = str(unavailable(self._path, "looking for new messages", error))
            self._reopen_if_broken(error)

    def _look_at_others(self, db: sqlite3.Connection) -> None:
        watch = self._watch
        if watch is None:
            return
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version == watch.version:
            return
        try:
            news = _news(db, watch, version)
        except UNREADABLE as error:
            raise unreadable(self._path, "looking for new messages", error) from error
        if news:
            watch.tell(news)

    # -------------------------------------------------------------- checkpoints

    def _after_commit(self) -> None:
        if self._unsaved < CHECKPOINT:
            return
        self._checkpointer.written += self._unsaved
        self._unsaved = 0
        if self._checkpointer.log < WAL_LIMIT:
            self._checkpointer.begin()
        else:
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self._connection is None:
            return
        try:
            size, whole = checkpoint(self._connection)
            if whole and size > 0:
                size = 0  # the next transaction restarts the log
            self._checkpointer.found(size, self._checkpointer.written)
        except sqlite3.Error as error:
            self.problem = str(unavailable(self._path, "making a checkpoint", error))
            self._reopen_if_broken(error)


def _news(db: sqlite3.Connection, watch: DatabaseWatch, version: int) -> News:
    """The changes of others since the last read of the watch."""
    news = News()
    meta = dict(db.execute("SELECT name, value FROM zsmtp_meta WHERE name IN ('last_id', 'rules', 'poke')"))
    if meta["last_id"] != watch.last_id:
        news.keys = dict(
            db.execute(
                "SELECT key, min(due) FROM zsmtp_recipient WHERE message > ? AND hold = 0 GROUP BY key",
                (watch.last_id,),
            )
        )
    if meta["poke"] != watch.poke:
        news.poked = {key for (key,) in db.execute("SELECT key FROM zsmtp_poke WHERE seq > ?", (watch.poke,))}
        for key in news.poked:
            news.due(key, 0)
    news.rules = meta["rules"] != watch.rules
    news.released = [message for (message,) in db.execute("SELECT message FROM zsmtp_upload WHERE accepted = 1")]
    watch.version, watch.last_id, watch.poke, watch.rules = version, meta["last_id"], meta["poke"], meta["rules"]
    return news


def _parts(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Jobs in transactions of bounded size, results before new messages."""
    part: list[_Job] = []
    octets = 0
    for job in sorted(jobs, key=lambda job: job.kind.octets is not None):
        part.append(job)
        octets += job.kind.octets(job.argument) if job.kind.octets is not None else 0
        if len(part) == _MOST or octets >= _OCTETS:
            yield part
            part, octets = [], 0
    if part:
        yield part


def begin(db: sqlite3.Connection, patience: float) -> None:
    """Begin to write; retry while a transaction outside this program has the database locked."""
    end = time.monotonic() + patience
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if code_of(error) != BUSY or time.monotonic() >= end:
                raise
        else:
            return
        time.sleep(_PAUSE)

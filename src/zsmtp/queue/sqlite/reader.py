"""The thread that reads a SQLite file.

:class:`Reader` runs each query, a function of a connection, in its own transaction, so that no reader keeps an old
state of the database alive.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from zsmtp.queue.sqlite.connect import UNREADABLE, connect, is_broken, is_trouble, unavailable, unreadable
from zsmtp.queue.threads import JobResult, ReadingThread, StoreQuestion, caused

T = TypeVar("T")


class Reader(ReadingThread):
    """A thread that reads, on a connection that it opens for the first query."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, path: str, *, cache: int) -> None:
        super().__init__(name, loop)
        self._path = path
        self._cache = cache
        self._connection: sqlite3.Connection | None = None

    async def read(self, doing: str, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query; raises QueueUnavailable if the database cannot be read."""
        future = self.future()
        self.ask(StoreQuestion(doing, question, future))
        result: T = await future
        return result

    def _answer_to(self, question: StoreQuestion) -> JobResult:
        try:
            if self._connection is None:
                self._connection = connect(self._path, cache=self._cache, writes=False)
            return JobResult(question.future, question.ask(self._connection), None)
        except sqlite3.Error as error:
            if not is_trouble(error):
                return JobResult(question.future, None, error)
            if is_broken(error):
                self._close()
            return JobResult(question.future, None, unavailable(self._path, question.doing, error))
        except UNREADABLE as error:
            return JobResult(question.future, None, caused(unreadable(self._path, question.doing, error), error))
        except Exception as error:
            return JobResult(question.future, None, error)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

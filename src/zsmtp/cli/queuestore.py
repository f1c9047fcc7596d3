"""Opens the queue of ``zsmtp queue``: it makes no queue, and refuses anything that is not a queue.

``zsmtp.queue.location`` reads its URL.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape
from zsmtp.queue import stores
from zsmtp.queue.location import locate, making, usual_location
from zsmtp.queue.sqlite.connect import code_of, connect, unavailable, words_readable
from zsmtp.queue.store import QueueStore


@asynccontextmanager
async def open_store(url: str | None) -> AsyncIterator[QueueStore]:
    """The store of an existing queue; None: the default one.

    Raises CommandFailed if there is none, ConfigError for an invalid URL, QueueUnavailable if the store fails.
    """
    where = usual_location() if url is None else locate(url)
    if where.in_memory:
        raise CommandFailed(Exit.USAGE, "memory: ends with its process; there is nothing to see")
    if where.path:
        _check_file(where.path)
    else:
        await asyncio.to_thread(_check_database, where.url)
    store = await stores.open_store(where)
    try:
        yield store
    finally:
        await store.close()


def _check_file(path: str) -> None:
    """Raise CommandFailed if a file is not a queue: to open it would make it one."""
    if not os.path.lexists(path):
        text = f"{escape(path)}: {os.strerror(errno.ENOENT)}; {making(path)}"
        raise CommandFailed(Exit.NO_INPUT, text)
    with reading(path):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            _refuse(path)
        with open(path, "rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                _refuse(path)
    try:
        connection = connect(path, cache=64, writes=False)
        try:
            with words_readable():
                found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'zsmtp_recipient'").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        if code_of(error) == sqlite3.SQLITE_NOTADB:
            _refuse(path)
        raise unavailable(path, "opening it", error) from None
    if found is None:
        _refuse(path)


def _check_database(url: str) -> None:
    """Raise CommandFailed if a database has no queue: to open it would make one."""
    stores.check_library()
    from zsmtp.queue.postgres.connect import Database
    from zsmtp.queue.postgres.schema import has_queue

    database = Database.of(url)
    if not has_queue(database):
        text = f"{database.name}: there is no queue; zsmtp queue migrate makes one"
        raise CommandFailed(Exit.NO_INPUT, escape(text))


def _refuse(path: str) -> NoReturn:
    raise CommandFailed(Exit.DATA, f"{escape(path)}: not a queue")

"""Submits mail in a transaction of the caller: the mail exists if and only if that transaction is committed.

The queue's tables are in a database file of the caller; opening the queue once makes them. :func:`submit_in` writes
over the caller's own connection, in the calling thread, and never commits::

    with connection:
        connection.execute("INSERT INTO orders ...")
        submit_in(connection, [message])
    wake(path)  # or wait for up to a second

Its durability is that of the caller's commit; a connection that could lose one is refused.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.programs import check_program
from zsmtp.queue.sqlite.connect import BUSY, code_of, is_trouble, resolved, unavailable
from zsmtp.queue.sqlite.intake import SQLiteIntake
from zsmtp.queue.sqlite.locks import WriteTurn
from zsmtp.queue.sqlite.opening import octets_free
from zsmtp.queue.sqlite.transaction import WriteTransaction
from zsmtp.queue.sqlite.wake import wake
from zsmtp.queue.store import Accepted, NewMessage

__all__ = ["submit_in", "wake"]

_PAUSE = 0.001
_SNAPSHOT = sqlite3.SQLITE_BUSY_SNAPSHOT
_READONLY = sqlite3.SQLITE_READONLY
_FULL = 2  # PRAGMA synchronous


def submit_in(
    connection: sqlite3.Connection,
    messages: Sequence[NewMessage],
    *,
    path: str | PathLike[str] = "",
    busy: float = 10.0,
    clock: Callable[[], float] = time.time,
    room: Callable[[], int] | None = None,
) -> list[Accepted]:
    """Queue messages in the caller's transaction, all or none. ``path`` is the required file of the connection.

    If no transaction is open, ``BEGIN IMMEDIATE`` begins one, for the caller to commit. A connection in autocommit mode
    without an open transaction commits this as it commits every statement. It waits for locks of others for up to
    ``busy`` seconds, except for a write between the caller's first read and this: after that the caller's transaction
    cannot write any more.

    Raises :class:`~zsmtp.errors.QueueError` for a connection that is not in WAL mode or has ``synchronous`` below FULL,
    is read-only, to another file, or has the queue's tables in an attached file; Conflict and QueueFull as
    ``QueueStore.submit``; QueueUnavailable for errors of the file. After each of them the transaction is as before.
    """
    cursor = connection.cursor()
    cursor.row_factory = None
    file = _checked(connection, cursor)
    if path and file != resolved(Path(path)):
        raise QueueError(f"this connection is to {file}, which is another queue than {resolved(Path(path))}")
    path = file
    shard = _number(cursor, "shard")
    intake = SQLiteIntake(shard, room or partial(octets_free, str(Path(path).parent)))
    try:
        with _patience(cursor), _writing(connection, cursor, path, busy):
            transaction = WriteTransaction(cursor, clock())
            (answer,) = intake.submit(transaction, [messages])
            if isinstance(answer, Exception):
                raise answer
            transaction.flush(delivers=True)
            return answer
    except sqlite3.Error as error:
        if code_of(error) == _READONLY:
            raise QueueError(f"queue {path}: this connection is read-only") from None
        if not is_trouble(error):
            raise
        raise unavailable(path, "taking messages", error) from None


def _checked(connection: sqlite3.Connection, cursor: sqlite3.Cursor) -> str:
    """The path of the file, if its tables and settings suit a queue; raises QueueError."""
    files = {_text(name): _text(file or "") for _, name, file in cursor.execute("PRAGMA database_list").fetchall()}
    homes = [name for name in files if _has_queue(cursor, name)]
    if "main" not in homes:
        where = f"in {homes[0]!r}, an attached file: its commit is not one with that of the main file" if homes else ""
        raise QueueError(f"this connection has the tables of the queue {where or 'nowhere: open the queue once'}")
    path = resolved(files["main"]) if files["main"] else ""
    (mode,) = cursor.execute("PRAGMA main.journal_mode").fetchone()
    if not path or _text(mode) != "wal":
        raise QueueError(f"queue {path}: this connection is in journal mode {_text(mode)!r}; a queue needs WAL")
    (level,) = cursor.execute("PRAGMA main.synchronous").fetchone()
    if level < _FULL:
        raise QueueError(
            f"queue {path}: this connection has synchronous={level}, by which a committed message can be lost; "
            "set PRAGMA synchronous = FULL"
        )
    (refuses,) = cursor.execute("PRAGMA query_only").fetchone()
    if refuses:
        raise QueueError(f"queue {path}: this connection is read-only")
    oldest = cursor.execute("SELECT value FROM main.zsmtp_meta WHERE name = 'min_program'").fetchone()
    check_program(path, _text(oldest[0]))
    return path


def _text(value: str | bytes) -> str:
    """Text from a connection whose ``text_factory`` is the caller's."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _has_queue(cursor: sqlite3.Cursor, name: str) -> bool:
    quoted = name.replace('"', '""')
    sql = f'SELECT 1 FROM "{quoted}".sqlite_schema WHERE name = ?'
    return cursor.execute(sql, ("zsmtp_meta",)).fetchone() is not None


def _number(cursor: sqlite3.Cursor, name: str) -> int:
    return int(cursor.execute("SELECT value FROM main.zsmtp_meta WHERE name = ?", (name,)).fetchone()[0])


@contextmanager
def _patience(cursor: sqlite3.Cursor) -> Iterator[None]:
    """Make SQLite return at once if the file is locked: this module waits for its turn itself."""
    (before,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    cursor.execute("PRAGMA busy_timeout = 0").fetchall()
    try:
        yield
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {int(before)}").fetchall()


@contextmanager
def _writing(connection: sqlite3.Connection, cursor: sqlite3.Cursor, path: str, busy: float) -> Iterator[None]:
    """Hold the right to write, in a savepoint: a failure leaves no changes."""
    opened = not connection.in_transaction
    _begin(connection, cursor, path, busy)
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            cursor.execute("ROLLBACK TO zsmtp_submit")
            cursor.execute("RELEASE zsmtp_submit")
            if opened and connection.in_transaction:
                cursor.execute("ROLLBACK")
        raise
    cursor.execute("RELEASE zsmtp_submit")


def _begin(connection: sqlite3.Connection, cursor: sqlite3.Cursor, path: str, busy: float) -> None:
    turn: WriteTurn | None = None
    end = time.monotonic() + busy
    try:
        while True:
            try:
                _start(connection, cursor)
                return
            except sqlite3.OperationalError as error:
                _give_up(connection, cursor)
                if getattr(error, "sqlite_errorcode", 0) == _SNAPSHOT:
                    raise QueueUnavailable(
                        f"queue {path}: the file was changed since this transaction first read; "
                        "begin with BEGIN IMMEDIATE what is to submit"
                    ) from None
                if code_of(error) != BUSY or time.monotonic() >= end:
                    raise
            if turn is None:  # another one writes: wait for a turn
                turn = WriteTurn(path)
                if not turn.acquire(max(end - time.monotonic(), 0)):
                    turn.close()
                    turn = None
                    raise QueueUnavailable(f"queue {path}: other processes have it locked since {busy:g} s")
                continue
            time.sleep(_PAUSE)
    finally:
        if turn is not None:  # from here on SQLite's own lock excludes others
            turn.release()
            turn.close()


def _start(connection: sqlite3.Connection, cursor: sqlite3.Cursor) -> None:
    """Begin a transaction if none is open, and write, to get the lock."""
    if not connection.in_transaction and _begins_transactions(connection):
        cursor.execute("BEGIN IMMEDIATE")
    cursor.execute("SAVEPOINT zsmtp_submit")
    cursor.execute("UPDATE main.zsmtp_meta SET value = value WHERE name = 'last_id'")


def _begins_transactions(connection: sqlite3.Connection) -> bool:
    """Whether Python begins transactions on this connection, which the caller commits."""
    autocommit = getattr(connection, "autocommit", None)  # from Python 3.12 on
    return connection.isolation_level is not None if autocommit not in (True, False) else not autocommit


def _give_up(connection: sqlite3.Connection, cursor: sqlite3.Cursor) -> None:
    if connection.in_transaction:
        try:
            cursor.execute("ROLLBACK TO zsmtp_submit")
            cursor.execute("RELEASE zsmtp_submit")
        except sqlite3.OperationalError:  # BEGIN itself failed: there is no savepoint
            pass

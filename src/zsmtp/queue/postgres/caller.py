"""Submits mail in a transaction of the caller: the mail exists if and only if that transaction is committed.

The queue's tables are in the caller's database; ``zsmtp queue migrate`` or opening the queue once makes them. This is
the transactional outbox pattern: one commit, and no second system to keep consistent::

    with connection.transaction():
        connection.execute("INSERT INTO orders ...")
        submit_in(connection, [message], queue=uid)

It writes only rows of the message, so it waits for no other transaction, except one with the same idempotency key, for
the caller's own ``lock_timeout``, and for the folder of large bodies, where the file of a large message is written
before the commit. Its durability is that of the caller's commit; a connection with
``synchronous_commit = off`` is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import PipelineStatus, TransactionStatus

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.postgres.bodies import callers_bodies
from zsmtp.queue.postgres.connect import Connection, is_trouble
from zsmtp.queue.postgres.intake import PostgresIntake
from zsmtp.queue.postgres.schema import meta_of
from zsmtp.queue.postgres.transaction import WriteTransaction
from zsmtp.queue.programs import check_program
from zsmtp.queue.store import Accepted, NewMessage

AsyncConnection = psycopg.AsyncConnection[Any]


class BorrowedConnection(psycopg.Connection[tuple[Any, ...]]):
    """The caller's connection to the server with our own settings: plain rows, no prepared statements."""

    def __init__(self, connection: Connection | AsyncConnection) -> None:
        super().__init__(connection.pgconn)
        self.prepare_threshold = None

    def __del__(self, *arguments: Any) -> None:
        """Do nothing: the connection belongs to the caller, so it is not closed, and psycopg must not warn."""


def submit_in(
    connection: Connection,
    messages: Sequence[NewMessage],
    *,
    queue: str,
    clock: Callable[[], float] = time.time,
) -> list[Accepted]:
    """Queue messages in the caller's transaction, all or none. ``queue`` is the uid of the intended queue.

    If no transaction is open, one is begun for the caller to commit; a connection in autocommit mode without an open
    transaction commits this as it commits every statement.

    Raises :class:`~zsmtp.errors.QueueError` for a connection to another queue, in pipeline mode, in a transaction that
    has failed, or that could lose a commit; Conflict as ``QueueStore.submit``; QueueUnavailable for errors of the
    database. After each of them the transaction is as before.
    """
    if _is_to_begin(connection):
        connection.execute("SELECT 1")  # begins one with the settings of the connection
    with connection.lock:
        return _submit(BorrowedConnection(connection), messages, queue, clock)


async def submit_in_async(
    connection: AsyncConnection,
    messages: Sequence[NewMessage],
    *,
    queue: str,
    clock: Callable[[], float] = time.time,
) -> list[Accepted]:
    """As :func:`submit_in`, over an asyncio connection, without blocking the event loop."""
    if _is_to_begin(connection):
        await connection.execute("SELECT 1")
    async with connection.lock:
        work = asyncio.ensure_future(asyncio.to_thread(_submit, BorrowedConnection(connection), messages, queue, clock))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])  # the connection is in use until then
            raise


def _is_to_begin(connection: Connection | AsyncConnection) -> bool:
    """Whether to begin a transaction for the caller to commit; raises QueueError for a connection that is unusable."""
    if connection.closed:
        raise QueueError("this connection is closed")
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        raise QueueError("this connection is in pipeline mode; submit before or after the pipeline")
    status = connection.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise QueueError("the transaction of this connection has failed; roll it back first")
    return status == TransactionStatus.IDLE and not connection.autocommit


def _submit(
    db: BorrowedConnection, messages: Sequence[NewMessage], queue: str, clock: Callable[[], float]
) -> list[Accepted]:
    try:
        with db.transaction():
            shard = _checked(db, queue)
            transaction = WriteTransaction.of_caller(db, clock())
            with callers_bodies(db, messages) as bodies:
                (answer,) = PostgresIntake(shard, lambda: -1).submit(transaction, [bodies.items])
                if isinstance(answer, Exception):
                    raise answer
                bodies.keep(answer)
                transaction.flush()
            return answer
    except errors.ReadOnlySqlTransaction:
        raise QueueError("this connection is read-only") from None
    except psycopg.Error as error:
        if not is_trouble(error):
            raise
        raise QueueUnavailable(f"queue: taking messages: {str(error).strip()}") from error


def _checked(db: BorrowedConnection, queue: str) -> int:
    """The shard, if the connection is to the intended queue and its commits are durable; raises QueueError."""
    meta = meta_of(db)
    if meta.get("uid") != queue:
        there = "another queue" if meta else "a database without a queue, or without it in its search_path"
        raise QueueError(f"this connection is to {there}")
    check_program("of this connection", meta.get("min_program", ""))
    (level,) = db.execute("SHOW synchronous_commit").fetchone() or ("",)
    if level == "off":
        raise QueueError(
            "this connection has synchronous_commit = off, by which a committed message can be lost; "
            "SET LOCAL synchronous_commit = on in the transaction"
        )
    return int(meta["shard"])

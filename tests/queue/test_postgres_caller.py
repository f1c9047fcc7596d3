"""Submitting in a transaction of the caller's own in PostgreSQL: the mail exists if and only if that is committed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row
from tests.queue.harness import findings, new, there
from tests.support.postgres import cluster, needs_postgres

import zsmtp
from zsmtp.errors import Conflict, QueueError, QueueUnavailable, SubmissionError
from zsmtp.queue.postgres.caller import submit_in, submit_in_async
from zsmtp.queue.postgres.schema import uid_of
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.states import START

pytestmark = needs_postgres
MAIL = b"Subject: x\r\n\r\nhello\r\n"


@pytest.fixture
def url() -> str:
    """A database of an application, with the queue's tables in it."""
    url = cluster().database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE message (text text)")  # a name that anybody may use
    return url


def queued(url: str) -> list[str]:
    """Who is queued, in a queue that is in order."""

    async def look() -> list[str]:
        store = await PostgresStore.open(url)
        try:
            assert await findings(store) == []
            return await there(store)
        finally:
            await store.close()

    return asyncio.run(look())


@pytest.fixture
def uid(url: str) -> str:
    with psycopg.connect(url) as connection:
        return uid_of(connection)


def test_the_mail_is_there_if_the_caller_commits(url: str, uid: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO message VALUES ('order')")
        (accepted,) = submit_in(connection, [new("a@example.net")], queue=uid)
        assert accepted.id > 0
        assert queued(url) == []
    assert queued(url) == ["a@example.net"]


def test_the_mail_is_not_there_if_the_caller_rolls_back(url: str, uid: str) -> None:
    with psycopg.connect(url) as connection:
        submit_in(connection, [new("a@example.net")], queue=uid)
        connection.rollback()
        connection.execute("INSERT INTO message VALUES ('order')")
        submit_in(connection, [new("b@example.net")], queue=uid)
        connection.rollback()
    assert queued(url) == []


def test_in_autocommit_mode_it_commits_as_every_statement_does(url: str, uid: str) -> None:
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        submit_in(connection, [new("a@example.net")], queue=uid)
        assert queued(url) == ["a@example.net"]
        with connection.transaction(force_rollback=True):
            submit_in(connection, [new("b@example.net")], queue=uid)
        with connection.transaction():
            submit_in(connection, [new(*(f"u{n}@example.net" for n in range(20)))], queue=uid)
        assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}
    assert len(queued(url)) == 21


def test_what_fails_leaves_the_transaction_as_it_was(url: str, uid: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO message VALUES ('order')")
        submit_in(connection, [new("a@example.net", idempotency_key="1", digest=b"a")], queue=uid)
        with pytest.raises(Conflict):
            submit_in(connection, [new("b@example.net", idempotency_key="1", digest=b"b")], queue=uid)
        with pytest.raises(QueueError, match="no UTF-8"):
            submit_in(connection, [new("c@example.net", sender=b"\xff")], queue=uid)
        (again,) = submit_in(connection, [new("a@example.net", idempotency_key="1", digest=b"a")], queue=uid)
        assert again.existed
    assert queued(url) == ["a@example.net"]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT text FROM message").fetchall() == [("order",)]


def test_connections_that_are_refused(url: str, uid: str) -> None:
    message = [new("a@example.net")]
    with psycopg.connect(url) as connection:
        with pytest.raises(QueueError, match="another queue"):
            submit_in(connection, message, queue="elsewhere")
        connection.execute("SET LOCAL synchronous_commit = off")
        with pytest.raises(QueueError, match="synchronous_commit = off"):
            submit_in(connection, message, queue=uid)
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("nonsense")
        with pytest.raises(QueueError, match="has failed"):
            submit_in(connection, message, queue=uid)
        connection.rollback()
        connection.read_only = True
        with pytest.raises(QueueError, match="read-only"):
            submit_in(connection, message, queue=uid)
        connection.rollback()
        connection.read_only = False
        with connection.pipeline(), pytest.raises(QueueError, match="pipeline mode"):
            submit_in(connection, message, queue=uid)
        connection.rollback()
    with pytest.raises(QueueError, match="closed"):
        submit_in(connection, message, queue=uid)
    empty = cluster().database(template=False)
    with psycopg.connect(empty) as elsewhere, pytest.raises(QueueError, match="without a queue"):
        submit_in(elsewhere, message, queue=uid)
    assert queued(url) == []


def test_open_transactions_do_not_wait_for_each_other(url: str, uid: str) -> None:
    with psycopg.connect(url) as first, psycopg.connect(url) as second:
        submit_in(first, [new("a@one.example")], queue=uid)
        submit_in(second, [new("b@two.example")], queue=uid)
        submit_in(first, [new("c@two.example")], queue=uid)
        submit_in(second, [new("d@one.example")], queue=uid)
        second.commit()
        assert queued(url) == ["b@two.example", "d@one.example"]
        first.commit()
    assert sorted(queued(url)) == ["a@one.example", "b@two.example", "c@two.example", "d@one.example"]


def test_what_is_committed_late_is_delivered(url: str, uid: str) -> None:
    """A transaction that was open for long appears behind what came meanwhile; nothing is passed over."""

    async def look() -> None:
        store = await PostgresStore.open(url)
        try:
            await store.join("node")
            with psycopg.connect(url) as slow:
                submit_in(slow, [new("slow@example.net")], queue=uid)
                await store.submit([new("fast@example.net")])
                assert dict((await store.arrivals(5)).keys).keys() == {"example.net"}
                (lease,) = await store.take(["example.net"], limit=1)
                (head,) = await store.heads([lease])
                first, _ = await store.claim(lease, head.sub_queue, START, head.due, limit=10, octets=1000)
                assert [one.recipient.address for one in first] == [b"fast@example.net"]
            store.wake()
            news = await store.arrivals(5)
            assert list(news.keys) == ["example.net"]
            both, _ = await store.claim(lease, head.sub_queue, START, head.due, limit=10, octets=1000)
            assert [one.recipient.address for one in both] == [b"slow@example.net", b"fast@example.net"]
        finally:
            await store.close()

    asyncio.run(look())


def test_with_a_connection_of_asyncio(url: str, uid: str) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
            await connection.execute("INSERT INTO message VALUES ('order')")
            await submit_in_async(connection, [new("a@example.net")], queue=uid)
            await connection.rollback()
            await submit_in_async(connection, [new("b@example.net")], queue=uid)
            with pytest.raises(QueueError):
                await submit_in_async(connection, [new("c@example.net", sender=b"\xff")], queue=uid)
            cursor = await connection.execute("SELECT 1 AS one")
            assert await cursor.fetchone() == {"one": 1}

    asyncio.run(main())
    assert queued(url) == ["b@example.net"]


def test_the_library_takes_connections_of_both_kinds(url: str) -> None:
    async def main() -> None:
        async with zsmtp.aio.Queue.open(url) as queue:
            async with await psycopg.AsyncConnection.connect(url) as connection:
                given = {"sender": "ann@shop.example", "recipients": ["a@example.net"]}
                id = await queue.submit(MAIL, connection=connection, **given)
                with pytest.raises(QueueError):
                    await queue.status(id)
                await connection.commit()
                assert (await queue.status(id)).message.id > 0
            with psycopg.connect(url) as blocking:
                await queue.submit(MAIL, connection=blocking, **given)
            with pytest.raises(QueueError, match=r"needs a connection of psycopg, not builtins\.str"):
                await queue.submit(MAIL, connection="x", **given)
            with pytest.raises(SubmissionError, match="are the limit in a caller's transaction"):
                await queue.submit(b"Subject: x\r\n\r\n" + b"x\r\n" * (22 << 20), connection=blocking, **given)

    asyncio.run(main())
    with zsmtp.Queue.open(url) as queue, psycopg.connect(url) as connection:
        queue.submit(MAIL, sender="ann@shop.example", recipients=["b@example.net"], connection=connection)
        connection.rollback()
        queue.submit(MAIL, sender="ann@shop.example", recipients=["c@example.net"], connection=connection)
    assert queued(url) == ["a@example.net", "a@example.net", "c@example.net"]


PROGRAM = """
import os, signal, sys, psycopg
from tests.queue.harness import new
from zsmtp.queue.postgres.caller import submit_in
from zsmtp.queue.postgres.schema import uid_of
url, when = sys.argv[1:]
connection = psycopg.connect(url)
uid = uid_of(connection)
connection.commit()
connection.execute("INSERT INTO message VALUES ('order')")
submit_in(connection, [new("a@example.net")], queue=uid)
if when == "before":
    os.kill(os.getpid(), signal.SIGKILL)
connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_program_that_dies_leaves_both_or_neither(url: str, when: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, when],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    with psycopg.connect(url) as connection:
        orders = connection.execute("SELECT text FROM message").fetchall()
    assert (orders, queued(url)) == (([], []) if when == "before" else ([("order",)], ["a@example.net"]))


def test_a_connection_that_is_lost(url: str, uid: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        with pytest.raises(QueueUnavailable):
            submit_in(connection, [new("a@example.net")], queue=uid)

"""Submitting in a transaction of the caller: the mail exists if and only if that one is committed."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.queue.harness import NOON, content_of, findings, new, rows, there, to
from tests.support.patience import LIMIT

from zsmtp.errors import Conflict, QueueError, QueueFull, QueueUnavailable
from zsmtp.queue.filter import Filter
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.operators import Rule
from zsmtp.queue.sqlite.caller import submit_in, wake
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.store import NewRecipient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of an application, with the queue's tables in it."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE message (text)")  # a name that anybody may use

    async def make() -> None:
        await (await SQLiteStore.open(path)).close()

    asyncio.run(make())
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def queued(path: Path) -> list[str]:
    """Who is queued, in a queue that is in order."""

    async def look() -> list[str]:
        store = await SQLiteStore.open(path)
        try:
            assert await findings(store) == []
            return await there(store)
        finally:
            await store.close()

    return asyncio.run(look())


def test_the_mail_is_there_if_the_caller_commits(connection: sqlite3.Connection, path: Path) -> None:
    with connection:
        connection.execute("INSERT INTO message VALUES ('order')")
        (accepted,) = submit_in(connection, [new("a@example.net")])
    assert accepted.id > 0
    assert not accepted.existed
    assert queued(path) == ["a@example.net"]


def test_the_mail_is_not_there_if_the_caller_rolls_back(connection: sqlite3.Connection, path: Path) -> None:
    submit_in(connection, [new("a@example.net")])
    connection.rollback()
    submit_in(connection, [new("b@example.net")])
    assert connection.in_transaction
    connection.rollback()
    assert queued(path) == []
    (before,) = submit_in(connection, [new()])
    connection.commit()
    assert before.id > 0


def legacy(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path)


def exclusive(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level="EXCLUSIVE")


def autocommit(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def without(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, autocommit=False)


def with_autocommit(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, autocommit=True)


LATER = sys.version_info >= (3, 12)
WAYS: list[tuple[Callable[[Path], sqlite3.Connection], bool]] = [(legacy, True), (exclusive, True), (autocommit, False)]
WAYS += [(without, True), (with_autocommit, False)] if LATER else []


@pytest.mark.parametrize(("connect", "open_after"), WAYS, ids=lambda value: getattr(value, "__name__", None))
def test_where_no_transaction_is_open(
    path: Path, connect: Callable[[Path], sqlite3.Connection], open_after: bool
) -> None:
    with closing(connect(path)) as connection:
        submit_in(connection, [new("a@example.net")])
        assert connection.in_transaction is open_after
        assert queued(path) == ([] if open_after else ["a@example.net"])
        connection.commit()
        assert queued(path) == ["a@example.net"]


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT mine"])
def test_where_a_transaction_is_open(path: Path, begin: str) -> None:
    with closing(autocommit(path)) as connection:
        connection.execute(begin)
        connection.execute("INSERT INTO message VALUES ('before')")
        submit_in(connection, [new("a@example.net")])
        connection.execute("INSERT INTO message VALUES ('after')")
        assert connection.in_transaction
        assert queued(path) == []
        connection.execute("COMMIT")
        assert queued(path) == ["a@example.net"]
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (2,)


def test_a_refused_message_leaves_the_transaction_as_it_was(connection: sqlite3.Connection, path: Path) -> None:
    order = new("a@example.net", idempotency_key="1", digest=b"d")
    connection.execute("INSERT INTO message VALUES ('order')")
    (first,) = submit_in(connection, [order])
    assert submit_in(connection, [order]) == [(first.id, True)]
    for bad, error in (
        ([order, new("b@example.net"), new(idempotency_key="1", digest=b"other")], Conflict),
        ([new("b@example.net"), new(NewRecipient(address=b"\xff", key="x"))], QueueError),
    ):
        with pytest.raises(error):
            submit_in(connection, bad)
    with pytest.raises(QueueFull):
        submit_in(connection, [new()], room=lambda: 1000)
    with pytest.raises(QueueUnavailable, match="out of memory"):
        submit_in(connection, [new()], room=lambda: fail(sqlite3.SQLITE_NOMEM))
    assert connection.in_transaction
    connection.commit()
    assert queued(path) == ["a@example.net"]
    with pytest.raises(Conflict):
        submit_in(connection, [new(idempotency_key="1", digest=b"other")])
    assert not connection.in_transaction


def fail(code: int) -> int:
    error = sqlite3.OperationalError("out of memory")
    error.sqlite_errorcode = code
    raise error


def test_connections_are_refused_that_could_lose_a_commit(path: Path, tmp_path: Path) -> None:
    with closing(legacy(path)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        with pytest.raises(QueueError, match="synchronous=1"):
            submit_in(connection, [new()])
        connection.execute("PRAGMA synchronous = EXTRA")
        submit_in(connection, [new()])
        connection.rollback()
        connection.execute("PRAGMA query_only = ON")
        with pytest.raises(QueueError, match="read-only"):
            submit_in(connection, [new()])
    reading = closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True))
    with reading as connection, pytest.raises(QueueError, match="read-only"):
        submit_in(connection, [new()])
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        with pytest.raises(QueueError, match="nowhere: open the queue once"):
            submit_in(connection, [new()])
        connection.execute("ATTACH ? AS 'the queue'", (str(path),))
        with pytest.raises(QueueError, match="in 'the queue', an attached file"):
            submit_in(connection, [new()])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        with pytest.raises(QueueError, match="journal mode 'delete'"):
            submit_in(connection, [new()])
    with closing(sqlite3.connect(":memory:")) as memory, closing(sqlite3.connect(path)) as connection:
        connection.backup(memory)
        with pytest.raises(QueueError, match="journal mode"):
            submit_in(memory, [new()])


def test_an_older_program_is_refused(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("UPDATE zsmtp_meta SET value = '99.0' WHERE name = 'min_program'")
    with pytest.raises(QueueError, match=r"it needs zsmtp 99\.0 or later"):
        submit_in(connection, [new()])


def test_settings_of_the_connection_are_the_callers(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=3.5)) as connection:
        connection.row_factory = sqlite3.Row
        connection.text_factory = bytes
        rule_of(path)
        message = new(to("a@example.net", hold=1), content=b"x" * (CHUNK * 2 + 1), idempotency_key="1")
        for existed in (False, True):
            ((_, found),) = submit_in(connection, [message])
            assert found is existed
        connection.commit()
        assert connection.row_factory is sqlite3.Row
        assert connection.execute("PRAGMA busy_timeout").fetchone()[0] == 3500

    async def look() -> None:
        store = await SQLiteStore.open(path)
        (row,) = await rows(store)
        assert row.recipient.hold == 1
        assert await content_of(store, row.message) == message.content
        await store.close()

    asyncio.run(look())


def rule_of(path: Path) -> None:
    async def add() -> None:
        store = await SQLiteStore.open(path)
        await store.add_rule(Rule(action="hold", filter=""))
        await store.close()

    asyncio.run(add())


def test_locks_of_others_are_waited_for(path: Path, connection: sqlite3.Connection) -> None:
    with closing(autocommit(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(QueueUnavailable, match="taking messages: another process has it locked"):
            submit_in(connection, [new()], busy=0.05)
        assert not connection.in_transaction
        connection.execute("BEGIN")
        with pytest.raises(QueueUnavailable):
            submit_in(connection, [new()], busy=0)
        assert connection.in_transaction
        connection.rollback()
        started = threading.Event()

        def end() -> None:
            started.wait()
            time.sleep(0.05)
            other_end.execute("COMMIT")

        other.execute("COMMIT")
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other_end:
            other_end.execute("BEGIN IMMEDIATE")
            thread = threading.Thread(target=end)
            thread.start()
            started.set()
            submit_in(connection, [new()], busy=LIMIT)
            connection.commit()
            thread.join()
    assert queued(path) == ["bob@example.net"]


def test_a_transaction_that_read_an_older_state_cannot_submit(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM message").fetchone()
    with closing(autocommit(path)) as other:
        other.execute("INSERT INTO message VALUES ('meanwhile')")
    with pytest.raises(QueueUnavailable, match="begin with BEGIN IMMEDIATE"):
        submit_in(connection, [new()])
    assert connection.in_transaction
    connection.rollback()


def test_the_deliverer_finds_what_was_committed(path: Path, connection: sqlite3.Connection) -> None:
    async def main() -> None:
        store = await SQLiteStore.open(path, clock=lambda: NOON)
        await store.join("node")
        submit_in(connection, [new("a@one.example")])
        wake(store.path)
        assert dict((await store.arrivals(0.1)).keys) == {}
        connection.commit()
        wake(store.path)
        assert dict((await store.arrivals(LIMIT)).keys) == {"one.example": NOON}
        submit_in(connection, [new("b@two.example")])
        connection.commit()  # nobody is woken: it is found by looking
        assert dict((await store.arrivals(LIMIT)).keys) == {"two.example": NOON}
        assert [row.recipient.key for row in await rows(store)] == ["one.example", "two.example"]
        assert await store.count(Filter()) == {"": 2}
        await store.close()

    asyncio.run(main())


def test_an_open_transaction_keeps_others_waiting_and_loses_nothing(path: Path) -> None:
    """Two callers with the same new domains in opposite order, and the queue's own writer between them."""

    async def main() -> None:
        store = await SQLiteStore.open(path, busy=LIMIT)
        answers: list[int] = []

        def call(keys: list[str]) -> None:
            with closing(legacy(path)) as connection:
                for key in keys:
                    submit_in(connection, [new(f"a@{key}")], busy=LIMIT)
                    time.sleep(0.02)
                connection.commit()
                answers.append(len(keys))

        some = ["one.example", "two.example"]
        threads = [threading.Thread(target=call, args=(keys,)) for keys in (some, some[::-1])]
        for thread in threads:
            thread.start()
        for _ in range(10):
            await store.submit([new("c@one.example")])
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert answers == [2, 2]
        assert await store.count(Filter()) == {"": 14}
        await store.close()

    asyncio.run(main())

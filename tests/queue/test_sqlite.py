"""The SQLite store beyond the contract: commits, rows, locks, schema, trouble with the disk and the file."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.queue.harness import (
    NOON,
    SQLiteHarness,
    attempts,
    claim,
    content_of,
    deferred,
    ended,
    findings,
    lease_of,
    new,
    play,
    rows,
    swept,
    take,
    there,
    to,
)
from tests.support.patience import LIMIT

from zsmtp.errors import QueueBusy, QueueError, QueueUnavailable
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import to_text
from zsmtp.queue.operators import Change
from zsmtp.queue.programs import numbered_files
from zsmtp.queue.sqlite import connect, writer
from zsmtp.queue.sqlite import store as store_module
from zsmtp.queue.sqlite.locks import DelivererLock, FileLock, WriteTurn, boot_id
from zsmtp.queue.sqlite.log import Checkpointer
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.sqlite.transaction import WriteTransaction
from zsmtp.queue.sqlite.writer import JobKind
from zsmtp.queue.store import Accepted
from zsmtp.queue.suppression import Suppression

Scenario = Callable[[SQLiteHarness], Awaitable[None]]


@pytest.fixture
def queue(tmp_path: Path) -> SQLiteHarness:
    return SQLiteHarness(tmp_path)


async def in_writer(store: SQLiteStore, action: Callable[[sqlite3.Connection], object]) -> object:
    """Do something with the writer's connection, in its thread and in a transaction."""

    def run(transaction: WriteTransaction, arguments: list[object]) -> list[object]:
        assert isinstance(transaction.db, sqlite3.Connection)
        return [action(transaction.db) for _ in arguments]

    return await store._writer.do(JobKind("doing what a test wants", run), None)


async def together(store: SQLiteStore, *jobs: Awaitable[object]) -> list[object]:
    """Have jobs done in one transaction, in this order; an answer may be an error."""
    begun, gate = threading.Event(), threading.Event()
    asked: list[object] = []
    do = store._writer.do

    def wait(db: sqlite3.Connection) -> bool:
        begun.set()
        return gate.wait(LIMIT)

    def asking(kind: JobKind[object, object], argument: object) -> asyncio.Future[object]:
        asked.append(argument)
        return do(kind, argument)

    before = asyncio.create_task(
        in_writer(store, wait)
    )  # as long as this one lasts, what comes is gathered for the next
    assert await asyncio.to_thread(begun.wait, LIMIT)
    with patch.object(store._writer, "do", asking):
        answers = asyncio.gather(*jobs, return_exceptions=True)
        async with asyncio.timeout(LIMIT):
            while len(asked) < len(jobs) or store._writer._asked:
                await asyncio.sleep(0)
    gate.set()
    assert await before
    return await answers


# ------------------------------------------------------------ commits, rows

SERIAL = """
import asyncio, sys, time
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.store import NewMessage, NewRecipient

def new():
    return NewMessage(sender=b"a@b.example", recipients=[NewRecipient(address=b"c@d.example", key="d.example")],
                      content=b"x" * 2000, due=0.0, expires=1e9)

async def main():
    store = await SQLiteStore.open(sys.argv[1])
    await store.submit([new()])  # begins the log
    sys.stderr.write("begin\\n")
    for _ in range(20):
        await store.submit([new()])
    sys.stderr.write("together\\n")
    await asyncio.gather(*(store.submit([new()]) for _ in range(100)))
    sys.stderr.write("end\\n")
    await store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace counts the system calls")
def test_a_serial_submission_waits_for_one_fsync_and_a_hundred_share_them(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,write", "-e", "signal=none", "-o", str(log)]
    program = [sys.executable, "-c", SERIAL, str(tmp_path / "q.db")]
    ran = subprocess.run([*command, *program], capture_output=True, text=True, check=False)
    if "PTRACE" in ran.stderr or "ptrace" in ran.stderr:
        pytest.skip("processes may not be traced here")
    assert ran.returncode == 0, ran.stderr
    calls = log.read_text().splitlines()
    marks = [
        next(place for place, line in enumerate(calls) if f'write(2, "{word}' in line)
        for word in ("begin", "together", "end")
    ]
    begin, together, end = marks
    assert sum("sync(" in line for line in calls[begin:together]) == 20
    assert sum("sync(" in line for line in calls[together:end]) < 20


def test_rows_of_a_delivered_message(queue: SQLiteHarness) -> None:
    """At most 4 inserts and 3 deletes a message; what else is written is shared by the group."""

    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.join("node")

        def count_rows(db: sqlite3.Connection) -> None:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
            db.execute("CREATE TEMP TABLE counted (what TEXT)")
            for table in tables:
                for what in ("INSERT", "UPDATE", "DELETE"):
                    if not table.startswith("sqlite_"):
                        db.execute(
                            f"CREATE TEMP TRIGGER {what}_{table} AFTER {what} ON main.{table} "
                            f"BEGIN INSERT INTO counted VALUES ('{what} {table}'); END"
                        )

        await in_writer(store, count_rows)
        await store.submit([new(f"u{n}@example.net") for n in range(100)])
        lease = await lease_of(store)
        claimed = await claim(store, lease, NOON)
        assert await store.mark(lease, attempts(claimed))
        assert await store.settle(lease, [ended(one.recipient, NOON) for one in claimed], []) == []
        counted = await in_writer(store, lambda db: Counter(what for (what,) in db.execute("SELECT what FROM counted")))
        assert isinstance(counted, Counter)
        each = {what: number for what, number in counted.items() if number >= 50}
        assert each == {
            "INSERT zsmtp_message": 100,
            "INSERT zsmtp_recipient": 100,
            "INSERT zsmtp_content": 100,
            "INSERT zsmtp_history": 100,
            "DELETE zsmtp_message": 100,
            "DELETE zsmtp_recipient": 100,
            "DELETE zsmtp_content": 100,
        }
        assert sum(number for what, number in counted.items() if what not in each) < 20

    play(queue, scenario)


def test_marks_that_the_list_in_hand_covers_wait_for_no_disk(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new(f"u{n}@example.net") for n in range(4)])
        await store.join("node")
        lease = await lease_of(store)
        keys = attempts(await claim(store, lease, NOON))
        levels = []
        synchronize = store._writer._synchronize
        store._writer._synchronize = lambda level: (levels.append(level), synchronize(level))[1]
        assert await store.mark(lease, keys[:1])
        assert await store.settle(lease, [], keys[:3]) == []
        assert await store.mark(lease, keys[1:3])
        assert await store.mark(lease, keys[3:])
        assert levels == ["FULL", "FULL", "NORMAL", "FULL"]
        level = await in_writer(store, lambda db: db.execute("PRAGMA synchronous").fetchone())
        assert level == (2,)

    play(queue, scenario)


def test_a_job_that_fails_for_reasons_of_its_own_fails_alone(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store

        def refuse(db: sqlite3.Connection) -> object:
            db.execute("DELETE FROM zsmtp_recipient")
            raise ZeroDivisionError

        first, failed, second = await together(
            store, store.submit([new()]), in_writer(store, refuse), store.submit([new()])
        )
        assert isinstance(failed, ZeroDivisionError)
        assert [type(one) for one in (*first, *second)] == [Accepted, Accepted]
        assert len(await rows(store)) == 2

    play(queue, scenario)


async def changed(store: SQLiteStore, change: Change) -> int:
    """How many recipients a change of all came to."""
    return sum([number async for number in store.change(Filter(), change)])


def test_what_is_marked_in_a_transaction_counts_for_what_else_is_in_it(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net"), new("b@example.net")])
        await store.join("node")
        lease = await lease_of(store)
        a, _ = (one.recipient for one in await claim(store, lease, NOON))
        keys = [a.next_attempt]
        assert await together(store, store.mark(lease, keys), changed(store, Change(end="dropped"))) == [True, 1]
        assert await there(store) == ["a@example.net"]  # a server may have it
        assert await store.settle(lease, [deferred(a, NOON, NOON, counted=False)], []) == []
        marked, given_back = await together(store, store.mark(lease, keys), store.give_back([lease]))
        assert marked
        assert isinstance(given_back, QueueError)
        result = deferred(a, NOON, NOON, counted=False)
        assert await together(store, store.settle(lease, [result], []), store.give_back([lease])) == [[], None]
        lease = await lease_of(store)
        assert lease.doubts == ()
        assert await together(store, store.mark(lease, keys), store.settle(lease, [result], [])) == [True, []]
        await queue.crash()
        await queue.store.join("node")
        assert (await lease_of(queue.store)).doubts == ()

    play(queue, scenario)


def test_marks_under_a_lease_of_many_keys(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new(*(f"u@d{n}.example" for n in range(300))), new("u@elsewhere.example")])
        await store.learn({f"d{n}.example": "provider" for n in range(300)})
        await store.join("node")
        leases = {lease.site: lease for lease in await take(store)}
        assert len(leases["provider"].keys) == 300
        claimed = await claim(store, leases["provider"], NOON)
        (other,) = await claim(store, leases["elsewhere.example"], NOON)
        keys = attempts(claimed)
        assert len(keys) == 300
        assert not await store.mark(leases["provider"], [*keys, other.recipient.next_attempt])
        assert await store.mark(leases["provider"], keys)
        assert await store.settle(leases["provider"], [ended(one.recipient, NOON) for one in claimed], []) == []

    play(queue, scenario)


@pytest.mark.parametrize("starved", [False, True], ids=["checkpointer at work", "checkpointer without time"])
def test_the_log_is_bounded_while_somebody_reads(
    starved: bool, queue: SQLiteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT", 256 << 10)
    monkeypatch.setattr(writer, "WAL_LIMIT", 1 << 20)
    if starved:
        monkeypatch.setattr(Checkpointer, "begin", lambda thread: None)

    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new(*(f"u{n}@example.net" for n in range(900))) for _ in range(3)])
        reading = store.select(Filter())  # a list that somebody reads slowly
        largest = 0
        for _ in range(150):
            await anext(reading)
            await store.submit([new(content=b"x" * 100_000)])
            largest = max(largest, Path(f"{store.path}-wal").stat().st_size)
        assert largest < 8 << 20  # of 16 MiB that were written
        await reading.aclose()

    play(queue, scenario)


def test_a_list_of_one_message_looks_at_no_other(queue: SQLiteHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_FIRST_WINDOW", 10)
    monkeypatch.setattr(store_module, "_LARGEST_WINDOW", 10)

    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        accepted = await store.submit([new(f"u{n}@example.net", f"v{n}@example.net") for n in range(50)])
        queue.clock.advance(3600)
        await store.submit([new("young@example.net")])
        read = store._lists.read
        questions: list[str] = []
        monkeypatch.setattr(store._lists, "read", lambda doing, ask: questions.append(doing) or read(doing, ask))
        assert await there(store, f"id={to_text(accepted[7].id)}") == ["u7@example.net", "v7@example.net"]
        assert await there(store, "age<30m") == ["young@example.net"]
        assert await there(store, "age<30m age>1h") == []
        assert questions == ["listing"] * 3
        assert len(await there(store, "age>30m")) == 100
        assert len(questions) > 10

    play(queue, scenario)


def test_room_is_given_back_to_the_disk(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new(content=b"x" * 1_000_000) for _ in range(40)])
        sums = [number async for number in store.change(Filter(), Change(end="dropped"))]
        assert sum(sums) == 40
        for _ in range(5):
            await swept(store, NOON)
        pages = await in_writer(store, lambda db: db.execute("PRAGMA page_count").fetchone())
        assert pages < (24 << 20 >> 12,)

    play(queue, scenario)


# ------------------------------------------------------------------- trouble


def test_a_full_disk_stops_intake_and_not_results(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new(f"u{n}@example.net", content=b"x" * 3000) for n in range(50)])
        await store.join("node")
        lease = await lease_of(store)
        claimed = await claim(store, lease, NOON)
        await in_writer(store, lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
        refusals = []
        while not refusals:
            try:
                await store.submit([new(content=b"x" * 10_000)])
            except QueueUnavailable as refused:
                refusals.append(str(refused))
        assert "queue.db: taking messages: the disk is full" in refusals[0]
        before = len(await rows(store))
        health = await store.health()
        assert health.problem == ""  # small things can still be written
        refused, conflicts = await together(
            store,
            store.submit([new(content=b"x" * 1_000_000)]),
            store.settle(lease, [ended(one.recipient, NOON) for one in claimed[:20]], []),
        )
        assert isinstance(refused, QueueUnavailable)
        assert conflicts == []
        assert len(await rows(store)) == before - 20
        await in_writer(store, lambda db: db.execute("PRAGMA max_page_count = 100000000").fetchone())
        await store.submit([new(content=b"x" * 1_000_000)])

    play(queue, scenario)


def test_a_file_that_cannot_be_written_says_so_until_it_can(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new()])
        await in_writer(store, lambda db: db.execute("PRAGMA query_only = ON").fetchone())
        with pytest.raises(QueueUnavailable, match="taking messages: it is read-only"):
            await store.submit([new()])
        assert "read-only" in (await store.health()).problem
        assert len(await rows(store)) == 1
        assert store._writer._connection is not None
        store._writer._connection.execute("PRAGMA query_only = OFF")
        assert (await store.health()).problem == ""
        await store.submit([new()])

    play(queue, scenario)


def test_an_input_output_error_is_answered_by_a_new_connection(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store

        def fail(db: sqlite3.Connection) -> object:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        await store.submit([new()])
        before = store._writer._connection
        with pytest.raises(QueueUnavailable, match="input/output error"):
            await in_writer(store, fail)
        await store.submit([new()])
        assert store._writer._connection is not before
        assert len(await rows(store)) == 2

    play(queue, scenario)


def test_a_file_that_was_removed_takes_no_messages(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "q.db"
        store = await SQLiteStore.open(path)
        await store.submit([new()])
        path.rename(tmp_path / "elsewhere.db")
        with pytest.raises(QueueUnavailable, match=r"q\.db: the file was removed or replaced while it was in use"):
            await store.submit([new()])
        assert "removed" in (await store.health()).problem
        (tmp_path / "elsewhere.db").rename(path)
        await store.submit([new()])
        assert len(await rows(store)) == 2
        await store.close()

    asyncio.run(main())


def test_a_damaged_page_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "q.db"
        store = await SQLiteStore.open(path)
        await store.submit([new(f"u{n}@example.net") for n in range(2000)])
        (page,) = await in_writer(
            store, lambda db: db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'zsmtp_message'").fetchone()
        )
        await store.close()
        with path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
        store = await SQLiteStore.open(path)
        with pytest.raises(QueueUnavailable, match=r"listing: it is damaged"):
            await rows(store)
        with pytest.raises(QueueUnavailable, match=r"taking messages: it is damaged"):
            await store.submit([new()])
        assert "damaged" in (await store.health()).problem or (await store.health()).problem == ""
        assert (await store.counters())["accepted"] == 2000
        assert any("the file is damaged: table zsmtp_message" in finding for finding in await findings(store))
        await store.close()

    asyncio.run(main())


def test_locks_of_others_are_waited_for_and_then_named(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SQLiteStore.open(tmp_path / "q.db", busy=0.1)
        await store.submit([new()])
        with closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueUnavailable, match="taking messages: another process has it locked"):
                await store.submit([new()])
            assert "locked" in (await store.health()).problem
            assert len(await rows(store)) == 1
            other.execute("COMMIT")
        await store.submit([new()])
        turn = WriteTurn(store.path)
        assert turn.acquire(0)
        with pytest.raises(QueueUnavailable, match=r"other processes have it locked since 0\.1 s"):
            await store.submit([new()])
        turn.release()
        assert (await store.health()).problem == ""
        turn.close()
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "why"),
    [("missing/q.db", "there is no folder"), ("text", "it is no SQLite database"), ("folder", "it is a folder")],
)
def test_what_cannot_be_opened_is_unavailable(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "text").write_text("this is no database, but a text that is long enough to be read as one\n" * 20)
    (tmp_path / "folder").mkdir()
    with pytest.raises(QueueUnavailable, match=f"queue {tmp_path}/{name}: opening it: .*{why}"):
        asyncio.run(SQLiteStore.open(tmp_path / name))


# ------------------------------------------------------------------ processes


def test_writers_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own way of waiting lets one of several busy writers starve; here none does.

    A writer starves that asks again and again while others have one turn after the other. Turns of others at which it
    has not asked do not count: it may have had no processor.
    """
    (tmp_path / "q.db").touch()
    counts = [0] * 4
    missed = [0] * len(counts)  # at most, before a turn
    mine = threading.local()
    try_lock = FileLock.try_lock

    def ask(lock: FileLock) -> bool:
        taken = try_lock(lock)
        if not taken and mine.seen != sum(counts):
            mine.seen = sum(counts)
            mine.missed += 1
        return taken

    def write(number: int) -> None:
        turn = WriteTurn(str(tmp_path / "q.db"))
        while sum(counts) < 600:
            mine.seen, mine.missed = sum(counts), 0
            assert turn.acquire(LIMIT)
            time.sleep(0.0005)
            counts[number] += 1
            turn.release()
            missed[number] = max(missed[number], mine.missed)
        turn.close()

    monkeypatch.setattr(FileLock, "try_lock", ask)
    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) >= 600
    assert max(missed) < 80


PROCESS = """
import asyncio, sys
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.store import NewMessage, NewRecipient

async def main():
    store = await SQLiteStore.open(sys.argv[1])
    for n in range(30):
        await store.submit([NewMessage(sender=b"a@b.example", content=b"x", due=0.0, expires=2e9,
            recipients=[NewRecipient(address=b"%s.%d@d.example" % (sys.argv[2].encode(), n), key="d.example")])])
    await store.close()

asyncio.run(main())
"""


def test_other_processes_submit_while_one_delivers(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.join("node")
        others = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", PROCESS, store.path, str(number))
            for number in range(2)
        ]
        delivered: set[bytes] = set()
        lease = None
        while len(delivered) < 60:
            await store.arrivals(LIMIT)
            lease = lease or next(iter(await take(store)), None)
            if lease is not None:
                some = [one.recipient for one in await claim(store, lease, NOON)]
                assert await store.mark(lease, [one.next_attempt for one in some])
                assert await store.settle(lease, [ended(one, NOON) for one in some], []) == []
                delivered |= {one.address for one in some}
            store.beat()
        assert [await other.wait() for other in others] == [0, 0]
        assert (await store.counters())["delivered"] == 60

    play(queue, scenario)


def test_a_deliverer_that_lost_its_lock_file_writes_nothing(queue: SQLiteHarness) -> None:
    """Somebody deleted the lock file, and a second process took the part of the first: the fence keeps it out."""

    async def scenario(queue: SQLiteHarness) -> None:
        first = queue.store
        await first.submit([new("a@example.net")])
        await first.join("first")
        old = await lease_of(first)
        (claimed,) = await claim(first, old, NOON)
        Path(f"{first.path}-deliver").unlink()
        second = await queue.open()
        await second.join("second")
        lease = await lease_of(second)
        assert not await first.mark(old, attempts([claimed]))
        assert await first.settle(old, [ended(claimed.recipient, NOON)], []) == attempts([claimed])
        assert await second.settle(lease, [deferred(claimed.recipient, NOON, NOON)], []) == []

    play(queue, scenario)


def test_a_fork_neither_uses_the_store_nor_keeps_its_locks(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new()])
        await store.join("node")
        reads, writes = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
            child = os.fork()
        if not child:
            try:
                store.submit([new()]).send(None)
            except QueueError as error:
                code = 0 if "fork" in str(error) else 1
            else:
                code = 2
            os.close(writes)
            os.read(reads, 1)  # lives on until its parent has seen that the lock is free
            os._exit(code)
        os.close(reads)
        store._writer.watch(None)
        await store.close()
        other = await queue.open()
        await other.join("other")
        queue.store = other
        os.close(writes)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    play(queue, scenario)


def test_a_queue_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "q.db-deliver").mkdir()  # which is to be a lock
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        with pytest.raises(QueueUnavailable, match=r"cannot open .*q\.db-deliver: Is a directory"):
            asyncio.run(SQLiteStore.open(tmp_path / "q.db"))
    gc.collect()
    assert not before or len(os.listdir("/proc/self/fd")) <= before


def test_the_deliverer_is_named_to_others(tmp_path: Path) -> None:
    (tmp_path / "q.db").touch()
    first, second = DelivererLock(str(tmp_path / "q.db")), DelivererLock(str(tmp_path / "q.db"))
    assert not second.held_by_somebody()
    first.acquire("node-1")
    assert second.held_by_somebody()
    with pytest.raises(QueueBusy, match=rf"node node-1 \(process {os.getpid()}\) delivers already"):
        second.acquire("node-2")
    first.release()
    second.acquire("node-2")
    first.close()
    second.close()


def test_a_boot_has_an_id() -> None:
    assert boot_id() == boot_id()


# -------------------------------------------------------------------- schema


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    async def make() -> None:
        store = await SQLiteStore.open(tmp_path / "q.db", shard=3)
        assert store.shard == 3
        await store.submit([new()])
        await store.close()

    asyncio.run(make())
    with closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as connection:
        yield connection


async def opened(folder: Path, shard: int | None = None) -> int:
    store = await SQLiteStore.open(folder / "q.db", shard=shard)
    try:
        assert await there(store) == ["bob@example.net"]
        return store.shard
    finally:
        await store.close()


def test_a_file_keeps_its_shard(database: sqlite3.Connection, tmp_path: Path) -> None:
    assert asyncio.run(opened(tmp_path)) == 3
    with pytest.raises(QueueError, match="is shard 3, not 4"):
        asyncio.run(opened(tmp_path, 4))


def test_an_older_program_is_refused_by_a_file_that_says_so(database: sqlite3.Connection, tmp_path: Path) -> None:
    database.execute("UPDATE zsmtp_meta SET value = 99 WHERE name = 'schema'")
    assert asyncio.run(opened(tmp_path)) == 3  # what a later program adds is not seen
    database.execute("UPDATE zsmtp_meta SET value = '99.1.0' WHERE name = 'min_program'")
    with pytest.raises(QueueError, match=r"made by a later program: it needs zsmtp 99\.1\.0 or later, not \d"):
        asyncio.run(opened(tmp_path))


def test_migrations_are_applied_once_and_in_order(
    database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = numbered_files(resources.files("zsmtp.queue.sqlite") / "migrations")
    later = [*known, ("CREATE TABLE zsmtp_new (a); INSERT INTO zsmtp_new VALUES (1)", "0.1.0")]
    monkeypatch.setattr(connect, "numbered_files", lambda folder: later)
    for _ in range(2):
        assert asyncio.run(opened(tmp_path)) == 3
    assert database.execute("SELECT count(*) FROM zsmtp_new").fetchone() == (1,)
    assert database.execute("SELECT value FROM zsmtp_meta WHERE name = 'schema'").fetchone() == (len(later),)
    monkeypatch.setattr(connect, "numbered_files", lambda folder: [*later, ("CREATE TABLE zsmtp_new (b)", "0.1.0")])
    with pytest.raises(QueueUnavailable, match="already exists"):
        asyncio.run(opened(tmp_path))
    assert database.execute("SELECT value FROM zsmtp_meta WHERE name = 'schema'").fetchone() == (len(later),)


def test_a_file_of_the_first_release_gets_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as first:
        first.setattr(connect, "numbered_files", lambda folder: numbered_files(folder)[:1])
        with pytest.raises(KeyError, match="uid"):  # which came later
            asyncio.run(SQLiteStore.open(tmp_path / "q.db", shard=3))

    async def main() -> None:
        store = await SQLiteStore.open(tmp_path / "q.db")
        await store.submit([new("bob@example.net")])
        await store.suppress([Suppression(address=b"bob@example.net", at=0.0)])
        await store.submit([new("bob@example.net")])
        await store.close()

    asyncio.run(main())
    assert asyncio.run(opened(tmp_path)) == 3  # the one that was there


def test_each_migration_is_a_numbered_file() -> None:
    folder = Path(connect.__file__).parent / "migrations"
    names = sorted(path.name for path in folder.glob("*.sql"))
    assert names == [f"{number:04}.sql" for number in range(1, len(names) + 1)]
    assert len(numbered_files(resources.files("zsmtp.queue.sqlite") / "migrations")) == len(names)


# --------------------------------------------------------------- large things


def test_a_large_message_moves_in_bounded_memory(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from tests.queue.harness import *
from tests.support.memory import peak

async def main():
    store = await SQLiteStore.open(sys.argv[1])
    await store.submit([new()])
    before = peak()
    upload = await store.upload(new(content=b""))
    block = b"0123456789abcdef" * 4096
    for _ in range(1024):
        await upload.write(block)
    accepted = await upload.accept()
    message = await store.message(accepted.id)
    octets = 0
    async for chunk in store.content(message.id, message.size):
        octets += len(chunk)
    assert octets == message.size == 1024 * len(block)
    async for _ in store.change(Filter(), Change(end="dropped")):
        pass
    while await store.sweep(NOON):
        pass
    print(peak() - before)
    await store.close()

from zsmtp.queue.store import Change
asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "q.db")], capture_output=True, text=True, cwd=root, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 46 << 10  # KiB, of which 40 MiB are page caches of SQLite; the message has 64 MiB


def test_a_damaged_content_is_not_taken_for_a_message(queue: SQLiteHarness) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new(content=b"x" * (600 << 10))])
        (row,) = await rows(store)
        await in_writer(store, lambda db: db.execute("DELETE FROM zsmtp_content_part WHERE part = 2"))
        assert [finding for finding in await findings(store) if "another size" in finding]
        with pytest.raises(QueueError, match="not there"):
            await content_of(store, row.message)
        await in_writer(
            store, lambda db: db.execute("INSERT INTO zsmtp_content_part VALUES (?, 2, x'00')", (row.message.id,))
        )
        with pytest.raises(QueueError, match="damaged: part 2"):
            await content_of(store, row.message)
        await in_writer(
            store,
            lambda db: db.execute("UPDATE zsmtp_content_part SET data = zeroblob(90112) WHERE part = 2"),
        )
        assert len(await content_of(store, row.message)) == 600 << 10

    play(queue, scenario)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("DELETE FROM zsmtp_message WHERE id = (SELECT min(id) FROM zsmtp_message)", "have no message"),
        ("DELETE FROM zsmtp_content", "has no content"),
        ("UPDATE zsmtp_content SET data = x'00'", "another size"),
        ("DELETE FROM zsmtp_recipient", "neither recipients nor notices"),
        ("INSERT INTO zsmtp_content VALUES (1, x'00')", "content 000000000000001 has no message"),
        ("INSERT INTO zsmtp_content_part VALUES (1, 1, x'00')", "parts of content"),
        ("INSERT INTO zsmtp_owed VALUES (1, 0, 'failed', 0, '', NULL, '', 0, '', '', 0, 0)", "notices are owed"),
        ("UPDATE zsmtp_recipient SET hold = -1099511627776", "never released"),
        ("UPDATE zsmtp_recipient SET hold = 7", "held by a rule that does not exist"),
        ("UPDATE zsmtp_meta SET value = 1 WHERE name = 'last_id'", "not given yet"),
        ("UPDATE zsmtp_counter SET value = value + 1 WHERE name = 'accepted'", "3 recipients were accepted, but 0"),
        ("INSERT INTO zsmtp_mark VALUES (9, 9, x'00')", "mark 9 is of a process that never delivered"),
        ("INSERT INTO zsmtp_in_hand VALUES (9, 9, x'00')", "list of what is in hand 9"),
    ],
)
def test_check_finds_what_must_not_be(queue: SQLiteHarness, damage: str, finding: str) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net"), new(to("b@example.net"))])
        assert await findings(store) == []
        await in_writer(store, lambda db: db.execute(damage))
        assert any(finding in one for one in await findings(store)), await findings(store)

    async def main() -> None:
        await queue.start()
        try:
            await scenario(queue)
        finally:
            await queue.stop()

    asyncio.run(main())

"""The SQLite store on disks that fail: errors of system calls by seed, a disk that is full, one that cannot be written.

What was accepted is there afterwards, what was refused is not, and whatever went out is settled once or in doubt.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from tests.queue.harness import (
    DAY,
    NOON,
    SQLiteHarness,
    attempts,
    claim,
    content_of,
    deferred,
    ended,
    failed,
    findings,
    in_doubt,
    in_doubt_of,
    new,
    play,
    rows,
    take,
    there,
)
from tests.support.patience import LIMIT

from zsmtp.cli.main import main as main_command
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import GROUPS
from zsmtp.queue.sqlite import connect, log, writer
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.sqlite.transaction import WriteTransaction
from zsmtp.queue.sqlite.writer import JobKind
from zsmtp.queue.store import Change, Rule, SiteStatus

ROOT = Path(__file__).parents[2]

tracing = pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes system calls fail")


def lines_of(ledger: Path) -> dict[str, list[tuple[int, ...]]]:
    """What the program wrote down, by the first word."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for line in ledger.read_text().splitlines():
        word, *numbers = line.split()
        found.setdefault(word, []).append(tuple(map(int, numbers)))
    return found


async def survived(path: Path, ledger: Path) -> None:
    """The queue is in order, and has what was promised, and nothing else."""
    lines = lines_of(ledger)
    store = await SQLiteStore.open(path)
    try:
        assert await findings(store) == []
        accepted = {(message, number) for message, many in lines.get("accepted", []) for number in range(many)}
        there = {(row.recipient.message, row.recipient.number) async for row in store.select(Filter())}
        _, events = await store.events("", limit=100_000)
        ends = Counter((one.message, one.number) for one in events if one.outcome.end is not None)
        assert set(ends.values()) <= {1}
        assert not there & ends.keys()
        assert there | ends.keys() == accepted
        settled = {(one.message, one.number, one.attempt) for one in events}
        assert set(lines.get("settled", [])) <= settled
        await store.join("next")
        doubts = {attempt for lease in await take(store, "d.example") for attempt, _ in in_doubt_of(lease)}
        assert set(lines.get("sent", [])) <= settled | doubts
    finally:
        await store.close()


def trace(folder: Path, fault: str, seed: int, rounds: int = 12) -> Path:
    """Run the program while a system call fails; returns its ledger."""
    ledger = folder / "ledger"
    log = folder / "calls"
    calls = fault.partition(":")[0]
    command = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(log)]
    program = [sys.executable, "-m", "tests.queue.faulty", str(folder / "q.db"), str(ledger), str(seed), str(rounds)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it has files, too
    ran = subprocess.run(
        [*command, "-e", f"inject={fault}", *program], capture_output=True, text=True, cwd=ROOT, env=plain, check=False
    )
    if "ptrace" in ran.stderr.lower():
        pytest.skip("processes may not be traced here")
    assert ran.returncode == 0, (fault, ran.stderr)
    assert "over" in lines_of(ledger), (fault, ran.stderr)
    return ledger


@tracing
@pytest.mark.parametrize("seed", range(6))
def test_errors_of_the_disk_lose_nothing(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    call, most = chance.choice([("fdatasync", 30), ("pwrite64", 200), ("pread64", 60), ("ftruncate", 5)])
    error = chance.choice(["EIO", "ENOSPC", "EROFS"])
    first = chance.randint(6, most + 6)  # the program itself is read by the first ones
    ledger = trace(tmp_path, f"{call}:error={error}:when={first}..{first + chance.choice([0, 1, 5])}", seed)
    asyncio.run(survived(tmp_path / "q.db", ledger))


# ------------------------------------------------------- a disk that is full


def mounted(folder: Path, mount: str, *program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a name space of its own, with a file system at ``folder/disk`` that nobody else sees."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare gives a program file systems of its own")
    (folder / "disk").mkdir(exist_ok=True)
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    script = f'{mount} || exit 77; exec "$@"'
    ran = subprocess.run(
        [*command, "sh", "-c", script, "sh", *program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip("file systems may not be mounted here")
    return ran


def test_a_disk_that_fills_up_stops_intake_and_loses_nothing(tmp_path: Path) -> None:
    """Messages come until the disk is full; when there is room again, all that was accepted is delivered."""
    disk, ledger = tmp_path / "disk", tmp_path / "ledger"
    program = [sys.executable, "-m", "tests.queue.faulty", str(disk / "q.db"), str(ledger), "full", "0", "full"]
    then = f"{' '.join(program)} && cp {disk}/q.db* {tmp_path}"
    ran = mounted(tmp_path, f"mount -t tmpfs -o size=24m tmpfs {disk}", "sh", "-c", then)
    assert ran.returncode == 0, ran.stderr
    lines = lines_of(ledger)
    assert "refused" in lines
    assert {word for word in lines if word == "over"}
    asyncio.run(survived(tmp_path / "q.db", ledger))
    assert len(lines["settled"]) == sum(recipients for _, recipients in lines["accepted"])


def test_a_file_on_a_disk_that_cannot_be_written_is_not_opened(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from zsmtp.cli.main import main as main_command
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import QueueUnavailable
from zsmtp.queue.sqlite.store import SQLiteStore
try:
    asyncio.run(SQLiteStore.open(sys.argv[1]))
except QueueUnavailable as error:
    print(error)
"""

    async def make() -> None:
        store = await SQLiteStore.open(tmp_path / "disk" / "q.db")
        await store.submit([new()])
        await store.close()

    disk = tmp_path / "disk"
    disk.mkdir()
    asyncio.run(make())
    mount = f"mount --bind {disk} {disk} && mount -o remount,ro,bind {disk}"
    ran = mounted(tmp_path, mount, sys.executable, "-c", program, str(disk / "q.db"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"queue {disk}/q.db: opening it: it cannot be opened")
    assert "cannot be written by this user" in ran.stdout


def test_results_that_find_the_disk_full_are_tried_again_after_a_checkpoint(tmp_path: Path) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new()])
        tries: list[object] = []

        def full(transaction: WriteTransaction, arguments: list[int]) -> list[object]:
            tries.append(arguments)
            if len(tries) <= arguments[0]:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return arguments

        before = Path(f"{store.path}-wal").stat().st_size
        assert await store._writer.do(JobKind("writing results", full), 1) == 1
        assert len(tries) == 2
        await store.submit([new()])
        assert Path(f"{store.path}-wal").stat().st_size == before  # written from its beginning again
        tries.clear()
        with pytest.raises(QueueUnavailable, match="writing results: the disk is full"):
            await store._writer.do(JobKind("writing results", full), 9)
        assert len(tries) == 2
        assert await store._writer.do(JobKind("writing results", full), 2) == 2

    play(SQLiteHarness(tmp_path), scenario)


# ------------------------------------------------- errors, and what they leave


def io_error(code: int) -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


def failing(code: int) -> JobKind[None, None]:
    """A job that meets an error of SQLite."""

    def fail(transaction: WriteTransaction, arguments: list[None]) -> list[None]:
        raise io_error(code)

    return JobKind("failing", fail)


def salt(store: SQLiteStore) -> bytes:
    """What tells one write-ahead log from the next."""
    return Path(f"{store.path}-wal").read_bytes()[16:24]


def test_after_an_input_output_error_the_log_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a write that failed once; what it forgot would be a gap that ends the log after a crash."""
    monkeypatch.setattr(log, "_RENEWAL", 50)

    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net")])
        before = salt(store)
        await store.submit([new("b@example.net")])
        assert salt(store) == before
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM zsmtp_message").fetchone()
            with pytest.raises(QueueUnavailable, match="input/output error") as raised:
                await store._writer.do(failing(sqlite3.SQLITE_IOERR_FSYNC), None)
            assert raised.value.undecided
            for _ in range(2):
                with pytest.raises(QueueUnavailable, match=r"must be restarted; others have been reading it") as raised:
                    await store.submit([new("c@example.net")])
                assert not raised.value.undecided
            assert "must be restarted" in (await store.health()).problem
            other.execute("COMMIT")
        await store.submit([new("d@example.net")])
        assert salt(store) != before
        assert (await store.health()).problem == ""
        (tmp_path / "copy").mkdir()  # of the database without its log, by a process of its own: locks are per process
        subprocess.run(["cp", store.path, str(tmp_path / "copy")], check=True)
        with closing(sqlite3.connect(tmp_path / "copy" / "queue.db")) as copy:
            found = copy.execute("SELECT address FROM zsmtp_recipient ORDER BY address").fetchall()
        assert found == [("a@example.net",), ("b@example.net",)]
        assert await there(store) == ["a@example.net", "b@example.net", "d@example.net"]

    play(SQLiteHarness(tmp_path), scenario)


@pytest.mark.parametrize("thread", ["_writer", "_checkpointer"])
def test_after_an_error_of_a_checkpoint_the_log_is_begun_anew(
    thread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net")])
        before = salt(store)
        failed = threading.Event()

        def fail(db: sqlite3.Connection) -> tuple[int, bool]:
            monkeypatch.undo()
            failed.set()
            raise io_error(sqlite3.SQLITE_IOERR_FSYNC)

        if thread == "_writer":
            monkeypatch.setattr(writer, "checkpoint", fail)
            monkeypatch.setattr(writer, "WAL_LIMIT", 0)
            monkeypatch.setattr(writer, "CHECKPOINT", 0)
            await store.submit([new("b@example.net")])
        else:
            monkeypatch.setattr(log, "checkpoint", fail)
            store._writer._checkpointer.begin()
            while not store._writer._checkpointer.suspect:
                await asyncio.sleep(0.001)
        assert await asyncio.to_thread(failed.wait, LIMIT)
        await store.submit([new("c@example.net")])
        assert salt(store) != before
        assert not store._writer._suspect

    play(SQLiteHarness(tmp_path), scenario)


def test_who_opens_a_queue_alone_begins_a_new_log(tmp_path: Path) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        await queue.store.submit([new("a@example.net")])
        await queue.crash()
        assert not Path(f"{queue.path}-wal").exists()  # the last connection that is closed copies it and deletes it
        assert await there(queue.store) == ["a@example.net"]

    play(SQLiteHarness(tmp_path), scenario)


def test_a_read_that_fails_says_why(tmp_path: Path) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store
        await store.submit([new()])
        assert len(await rows(store)) == 1

        def fail(db: sqlite3.Connection) -> None:
            with connect.snapshot(db):
                db.execute("ROLLBACK")  # as SQLite does after an input/output error
                raise io_error(sqlite3.SQLITE_IOERR_READ)

        before = store._lists._connection
        with pytest.raises(QueueUnavailable, match=r"queue\.db: listing: input/output error"):
            await store._lists.read("listing", fail)
        assert len(await rows(store)) == 1
        assert store._lists._connection is not before

    play(SQLiteHarness(tmp_path), scenario)


@pytest.mark.parametrize(("thread", "step"), [("_writer", "_attempt"), ("_lists", "_answer_to")])
def test_a_thread_that_ends_leaves_nobody_waiting(
    thread: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        store = await SQLiteStore.open(tmp_path / "q.db")
        await store.submit([new()])
        await rows(store)

        def explode(job: object) -> object:
            raise MemoryError

        monkeypatch.setattr(getattr(store, thread), step, explode)
        asked = [store.submit([new()]), rows(store), store.submit([new()]), rows(store)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        gone = [one for one in answers if isinstance(one, QueueUnavailable)]
        assert len(gone) == 2
        assert all("ended: MemoryError(); close the queue and open it again" in str(one) for one in gone)
        with pytest.raises(QueueUnavailable, match="ended: MemoryError"):
            await (store.submit([new()]) if thread == "_writer" else rows(store))
        await store.close()
        again = await SQLiteStore.open(tmp_path / "q.db")
        assert len(await rows(again)) >= 1
        await again.close()

    asyncio.run(main())


def test_a_log_that_was_removed_takes_no_messages(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "q.db"
        store = await SQLiteStore.open(path)
        await store.submit([new("a@example.net")])
        Path(f"{path}-wal").unlink()
        with pytest.raises(QueueUnavailable, match=r"q\.db-wal was removed or replaced while it was in use"):
            await store.submit([new("b@example.net")])
        assert "removed" in (await store.health()).problem
        (tmp_path / "copy").mkdir()
        subprocess.run(["cp", path, tmp_path / "copy"], check=True)  # what had been accepted is saved at once
        saved = await SQLiteStore.open(tmp_path / "copy" / "q.db")
        assert await there(saved) == ["a@example.net"]
        await saved.close()
        await store.close()

    asyncio.run(main())


def test_a_new_file_can_be_read_by_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SQLiteStore.open(tmp_path / "q.db")
        await store.submit([new()])
        await store.join("node")
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        await store.close()
        (tmp_path / "q.db").chmod(0o660)
        store = await SQLiteStore.open(tmp_path / "q.db")  # what an administrator changed stays
        await store.submit([new()])
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o660}
        await store.close()

    asyncio.run(main())


# -------------------------------------------------------------- damaged files


def test_a_schema_that_is_no_text_is_damage(tmp_path: Path) -> None:
    """SQLite quotes the schema in its error, which is no UTF-8 then."""
    path = tmp_path / "q.db"

    async def main() -> None:
        await (await SQLiteStore.open(path)).close()
        octets = path.read_bytes()
        place = octets.index(b"CREATE TABLE zsmtp_message")
        path.write_bytes(octets[:place] + b"CREATE \x8f\xff\xfe" + octets[place + 10 :])
        with pytest.raises(QueueUnavailable, match=r"q\.db: opening it: it is damaged"):
            await SQLiteStore.open(path)

    asyncio.run(main())
    assert main_command(["queue", "list", "--queue", str(path)]) == Exit.TEMPORARY


def test_values_of_another_kind_are_damage(tmp_path: Path) -> None:
    async def scenario(queue: SQLiteHarness) -> None:
        store = queue.store

        def not_understood(*arguments: object) -> list[object]:
            return [None + 1]  # as what a damaged row has instead of a number

        for answer in (
            store._lists.read("listing", not_understood),
            store._writer.do(JobKind("writing results", not_understood), None),
        ):
            with pytest.raises(QueueUnavailable, match=r"queue.*: it has values that cannot be understood") as raised:
                await answer
            assert isinstance(raised.value.__cause__, TypeError)

    play(SQLiteHarness(tmp_path), scenario)


async def filled(path: Path) -> None:
    """Make a queue that has something of everything."""
    store = await SQLiteStore.open(path, clock=lambda: NOON)
    chance = random.Random(0)
    await store.submit(
        [
            new(
                *(f"u{n}.{k}@d{n % 5}.example" for k in range(n % 3 + 1)),
                options={"n": n},
                content=b"y" * chance.randrange(9000),
                idempotency_key=str(n) if n % 7 == 0 else "",
            )
            for n in range(100)
        ]
    )
    await store.submit([new(content=b"z" * 700_000)])
    await store.learn({"d1.example": "provider", "d2.example": "provider"})
    await store.join("node")
    for lease in await take(store):
        some = [one.recipient for one in await claim(store, lease, NOON, 12)]
        keys = [one.next_attempt for one in some]
        await store.settle(lease, [], keys)
        assert await store.mark(lease, keys)
        results = [ended(one, NOON) for one in some[:4]] + [failed(one, NOON) for one in some[4:6]]
        await store.settle(lease, [*results, *(deferred(one, NOON, NOON) for one in some[6:8])], keys[8:])
    rule = await store.add_rule(Rule(action="hold", filter=""))
    async for _ in store.change(Filter.parse("to=u9*"), Change(hold=rule.number)):
        pass
    await store.report([SiteStatus(site="provider", node="node", updated=NOON)])
    await store.close()


def test_a_deliverer_that_looks_at_a_damaged_file_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SQLiteStore.open(tmp_path / "q.db")
        await store.join("node")
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("UPDATE zsmtp_meta SET name = 'no_id' WHERE name = 'last_id'")
            store.wake()
            while "looking for new messages: it has values that cannot be understood" not in store._writer.problem:
                await asyncio.sleep(0.001)
            with pytest.raises(QueueUnavailable, match="looking for new messages: it has values"):
                await store.submit([new()])
            other.execute("UPDATE zsmtp_meta SET name = 'last_id' WHERE name = 'no_id'")
        await store.submit([new()])
        assert (await store.health()).problem == ""
        await store.close()

    asyncio.run(main())


def damage(data: bytearray, chance: random.Random) -> None:
    """Damage some pages: zeros, noise, one bit, a few octets, another page, or an end too early."""
    pages = len(data) // 4096
    for _ in range(chance.choice([1, 1, 3, 20])):
        start = chance.randrange(pages) * 4096
        within = start + chance.randrange(4096 - 64)
        other = chance.randrange(pages) * 4096
        kind = chance.randrange(5)
        if kind == 0:
            data[start : start + 4096] = bytes(4096)
        elif kind == 1:
            data[start : start + 4096] = chance.randbytes(4096)
        elif kind == 2:
            data[within] ^= 1 << chance.randrange(8)
        elif kind == 3:
            data[within : within + 64] = chance.randbytes(64)
        else:
            data[start : start + 4096] = data[other : other + 4096]
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]


T = TypeVar("T")


async def asked(question: Awaitable[T] | AsyncIterator[T]) -> T | list[T] | None:
    """An answer, or none if the file does not give it: no other error, and no waiting for ever."""
    with suppress(QueueError):
        async with asyncio.timeout(LIMIT):
            return await question if isinstance(question, Awaitable) else [one async for one in question]
    return None


async def used(store: SQLiteStore) -> None:
    """Do all that can be done with a queue."""
    everything = Filter()
    for question in (store.counters(), store.rules(), store.select(everything), store.nodes(), store.sites()):
        await asked(question)
    for by in GROUPS:
        await asked(store.count(everything, by=by))
        await asked(store.count(Filter.parse("to=u* state=due"), by=by))
    await asked(store.join("next"))
    await asked(store.agenda())
    keys = [*(f"d{n}.example" for n in range(5)), "example.net"]
    for lease in await asked(store.take(keys, limit=10)) or []:
        await asked(store.settle(lease, [in_doubt(one.recipient, NOON, NOON) for one in lease.doubts], []))
        claimed = await asked(claim(store, lease, NOON + 20)) or []
        await asked(store.review(lease, (0, -1), limit=50))
        for one in claimed[:10]:
            await asked(content_of(store, one.message))
            await asked(store.history(one.message.id))
            await asked(store.message(one.message.id))
        if await asked(store.mark(lease, attempts(claimed))):
            await asked(store.settle(lease, [ended(one.recipient, NOON) for one in claimed], []))
    await asked(store.submit([new(idempotency_key="7"), new()]))
    for _, notices in await asked(store.owed(NOON + 1000, limit=50)) or []:
        await asked(store.notify(notices, None))
    await asked(store.events("", limit=1000))
    await asked(store.ends(everything))
    await asked(store.change(Filter.parse("to=u1*"), Change(end="failed", notify=True)))
    await asked(store.sweep(NOON + 40 * DAY))
    await asked(store.delete_rule(1))
    await asked(store.health())
    await asked(store.check())


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_gives_answers_or_errors_that_say_so(seed: int, tmp_path: Path) -> None:
    asyncio.run(filled(tmp_path / "whole.db"))
    whole = (tmp_path / "whole.db").read_bytes()
    chance = random.Random(seed)

    async def main(path: Path) -> None:
        store = await asked(SQLiteStore.open(path, clock=lambda: NOON + 10))
        if store is not None:
            await used(store)
            await store.close()

    for life in range(4):
        folder = tmp_path / str(life)
        folder.mkdir()
        data = bytearray(whole)
        damage(data, chance)
        (folder / "q.db").write_bytes(data)
        asyncio.run(main(folder / "q.db"))

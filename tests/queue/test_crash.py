"""The SQLite store through deaths: processes that are killed, and machines that lose what was not yet on the disk."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from tests.queue.harness import (
    DAY,
    NOON,
    SQLiteHarness,
    claim,
    deferred,
    ended,
    failed,
    findings,
    in_doubt,
    in_doubt_of,
    new,
    swept,
    take,
)
from tests.queue.victim import ORDER
from tests.support.patience import wait_until

from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import Change
from zsmtp.queue.sqlite import writer
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.states import AttemptKey, Outcome, QueuedRecipient
from zsmtp.queue.store import Settlement

ROOT = Path(__file__).parents[2]
LIVES = 2
POINTS = 8  # looked at by each seed
HEADER, FRAME = 32, 24 + 4096  # of a write-ahead log


def start(folder: Path, life: str) -> subprocess.Popen[bytes]:
    """Start a life of the victim; its first line says that it is ready."""
    command = [sys.executable, "-m", "tests.queue.victim", str(folder), life]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_killed_lose_nothing_and_know_their_doubts(seed: int, tmp_path: Path) -> None:
    """One process delivers and another one only submits; both are killed at any time, again and again."""
    chance = random.Random(seed)
    for life in range(LIVES):
        processes = [start(tmp_path, f"{kind} {seed}.{life}") for kind in ("deliverer", "shop")]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: (tmp_path / "accepted").stat().st_size > 0)
        time.sleep(chance.random() * 0.3)
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    command = [sys.executable, "-m", "tests.queue.victim", str(tmp_path), "last"]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0

    accepted = {int(line.split()[0]): int(line.split()[1]) for line in (tmp_path / "accepted").read_text().splitlines()}
    sent = [tuple(map(int, line.split())) for line in (tmp_path / "sent").read_text().splitlines()]
    assert accepted
    assert len(set(sent)) == len(sent)  # no attempt was made twice

    async def look() -> None:
        store = await SQLiteStore.open(tmp_path / "queue.db")
        assert await findings(store) == []
        _, events = await store.events("", limit=1_000_000)
        assert await store.owed(time.time() + DAY, limit=1) == []
        await store.close()
        ends = Counter((one.message, one.number) for one in events if one.outcome.end is not None)
        assert set(ends.values()) == {1}
        for message, recipients in accepted.items():
            assert {(message, number) for number in range(recipients)} <= ends.keys()
        with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
            orders = {message for (message,) in connection.execute("SELECT message FROM orders")}
        assert orders == {one.message for one in events if one.address == ORDER.encode()}
        # What went out was settled as what it was, or as in doubt; nothing else was in doubt.
        settled = Counter((one.message, one.number, one.attempt) for one in events)
        assert set(settled) >= set(sent)
        assert set(settled.values()) == {1}
        copies = Counter(one[:2] for one in sent)
        refused = {(one.message, one.number, one.attempt) for one in events if one.outcome is Outcome.DEFERRED}
        doubtful = {(one.message, one.number, one.attempt) for one in events if one.outcome is Outcome.IN_DOUBT}
        for place, number in copies.items():
            said = sum((*place, attempt) in refused | doubtful for attempt in range(1, number + 1))
            assert number <= 1 + said

    asyncio.run(look())


class Recorder:
    """Copies the files after each commit, with what had been promised by then."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.path = Path()
        self.points: list[tuple[Path, int, Facts]] = []
        self.facts = Facts()
        self.synced = HEADER
        self.lock = threading.Lock()
        transact = writer.Writer._transact

        def recorded(thread: writer.Writer, jobs: list[object]) -> object:
            answers = transact(thread, jobs)
            self.record(thread._synchronous)
            return answers

        monkeypatch.setattr(writer.Writer, "_transact", recorded)
        monkeypatch.setattr(writer, "CHECKPOINT", 1 << 40)

    def record(self, level: str) -> None:
        """A commit was made."""
        log = Path(f"{self.path}-wal")
        if not log.exists():
            return
        folder = self.folder / f"point {len(self.points)}"
        folder.mkdir()
        for path in (self.path, log):
            shutil.copyfile(path, folder / path.name)
        if level == "FULL":
            self.synced = log.stat().st_size
        self.points.append((folder, self.synced, self.facts.copy()))


class Facts:
    """What the store had promised."""

    def __init__(self) -> None:
        self.accepted: set[tuple[int, int]] = set()
        self.ended: dict[tuple[int, int], Outcome] = {}
        self.sent: set[AttemptKey] = set()
        self.settled: set[AttemptKey] = set()

    def copy(self) -> Facts:
        """As they are now."""
        twin = Facts()
        twin.accepted, twin.ended = set(self.accepted), dict(self.ended)
        twin.sent, twin.settled = set(self.sent), set(self.settled)
        return twin


async def live(queue: SQLiteHarness, facts: Facts, chance: random.Random) -> None:
    """A life in which everything is written that a queue writes."""
    store = queue.store
    await store.join("node")
    for _ in range(4):
        sizes = [chance.choice([1, 3]) for _ in range(3)]
        accepted = await store.submit([new(*(f"u{n}@d{n % 2}.example" for n in range(size))) for size in sizes])
        facts.accepted |= {(one.id, place) for one, size in zip(accepted, sizes, strict=True) for place in range(size)}
        for lease in await take(store):
            claimed = [one.recipient for one in await claim(store, lease, NOON)]
            keys = [one.next_attempt for one in claimed]
            await store.settle(lease, [], keys)
            for start in range(0, len(keys), 2):
                part = claimed[start : start + 2]
                assert await store.mark(lease, keys[start : start + 2])
                facts.sent |= set(keys[start : start + 2])
                results = [settlement(one, chance) for one in part if chance.random() < 0.8]
                rest = keys[start + 2 :] + [one for one in keys[: start + 2] if one not in facts.settled]
                done = {key(one) for one in results}
                assert await store.settle(lease, results, [one for one in rest if one not in done]) == []
                facts.settled |= done
                facts.ended |= {
                    (one.entry.message, one.entry.number): one.entry.outcome
                    for one in results
                    if one.entry is not None and one.entry.outcome.end is not None
                }
            open_ones = [one for one in claimed if one.next_attempt not in facts.settled]
            await store.settle(lease, [in_doubt(one, NOON, NOON) for one in open_ones], [])
            facts.settled |= {one.next_attempt for one in open_ones}
            await store.give_back([lease])
        for message, owed in await store.owed(NOON, limit=2):
            await store.notify(owed, new("ann@d0.example", sender=b"") if message.sender else None)
        async for _ in store.change(Filter.parse("attempts>1"), Change(end="dropped")):
            pass
        await swept(store, NOON)


def settlement(one: QueuedRecipient, chance: random.Random) -> Settlement:
    return chance.choice([ended(one, NOON), ended(one, NOON), failed(one, NOON), deferred(one, NOON, NOON)])


def key(one: Settlement) -> AttemptKey:
    assert one.entry is not None
    return AttemptKey(one.entry.message, one.entry.number, one.entry.attempt)


async def survived(path: Path, boot: str, facts: Facts) -> None:
    """The queue is in order, and has all that had been promised."""
    store = await SQLiteStore.open(path, boot=boot, clock=lambda: NOON)
    try:
        assert await findings(store) == []
        there = {(row.recipient.message, row.recipient.number): row async for row in store.select(Filter())}
        _, events = await store.events("", limit=100_000)
        ends = Counter((one.message, one.number) for one in events if one.outcome.end is not None)
        assert facts.accepted <= there.keys() | ends.keys()
        assert not there.keys() & ends.keys()
        assert set(ends.values()) <= {1}
        for place, outcome in facts.ended.items():
            assert outcome in [one.outcome for one in events if (one.message, one.number) == place]
        await store.join("next")
        doubts = {attempt for lease in await take(store) for attempt, _ in in_doubt_of(lease)}
        open_ones = {one for one in facts.sent - facts.settled if one[:2] in there}
        unknown = {one for one in open_ones if there[one[:2]].recipient.next_attempt == one}
        assert unknown <= doubts
    finally:
        await store.close()


def cut(log: Path, size: int, chance: random.Random) -> None:
    """Leave of a log what was on the disk: whole frames, and perhaps half of one that was being written."""
    data = log.read_bytes()[:size]
    torn = chance.choice([b"", bytes(chance.randrange(256) for _ in range(chance.randrange(FRAME)))])
    log.write_bytes(data + torn)


@pytest.mark.parametrize("seed", range(6))
def test_after_every_commit_what_was_promised_is_there(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after each commit; the machine dies there, too, and loses what no fsync had waited for."""
    chance = random.Random(seed)
    recorder = Recorder(tmp_path, monkeypatch)
    queue = SQLiteHarness(tmp_path)

    async def main() -> None:
        await queue.start()
        recorder.path = queue.path
        await live(queue, recorder.facts, chance)
        await queue.stop()
        monkeypatch.undo()
        for folder, synced, facts in chance.sample(recorder.points, POINTS):
            path = folder / queue.path.name
            log = Path(f"{path}-wal")
            whole = log.read_bytes()
            database = path.read_bytes()
            await survived(path, "boot 1", facts)
            frames = (len(whole) - synced) // FRAME
            path.write_bytes(database)
            log.write_bytes(whole)
            cut(log, synced + chance.randint(0, frames) * FRAME, chance)
            await survived(path, "boot 2", facts)

    asyncio.run(main())

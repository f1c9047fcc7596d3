"""``zsmtp queue move`` as a process that is killed again and again, while others submit and deliver at both ends."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from tests.queue.harness import findings, in_doubt, take
from tests.support.patience import LIMIT, wait_until
from tests.support.postgres import cluster, needs_postgres

from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import from_text
from zsmtp.queue.location import locate
from zsmtp.queue.states import HistoryEntry, Outcome
from zsmtp.queue.store import QueueStore
from zsmtp.queue.stores import open_store

ROOT = Path(__file__).parents[2]
DEATHS = 3
_ZSMTP = "import sys; from zsmtp.cli.main import main; sys.exit(main())"
_WHERE = re.compile(r"to (\w{15}) in .+")


def live(folder: Path, life: str) -> subprocess.Popen[bytes]:
    """Start a process that submits and delivers."""
    command = [sys.executable, "-m", "tests.queue.victim", str(folder), life]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def move(source: Path, target: str, *options: str) -> subprocess.Popen[bytes]:
    """Start to move everything."""
    command = [
        sys.executable,
        "-c",
        _ZSMTP,
        "queue",
        "move",
        target,
        "--queue",
        str(source),
        "--all",
        "--yes",
        *options,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def moves(path: Path) -> int:
    """How many moves began."""
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("SELECT count(*) FROM zsmtp_move").fetchone()
    return int(number)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process."""
    process.kill()
    process.communicate()


async def history(store: QueueStore) -> list[HistoryEntry]:
    """Everything that is known."""
    _, events = await store.events("", limit=1_000_000)
    return events


def check_attempts(folder: Path, events: list[HistoryEntry]) -> None:
    """No attempt was made twice, and each was settled as what it was, or as in doubt."""
    sent = [tuple(map(int, line.split())) for line in (folder / "sent").read_text().splitlines()]
    assert len(set(sent)) == len(sent)
    settled = Counter((one.message, one.number, one.attempt) for one in events if one.attempt)
    assert set(settled) >= set(sent)


async def judge(source: Path, target: str, delivers: Path | None) -> None:
    """Everybody who was accepted at the source has one end, or is in the target."""
    first, second = await open_store(locate(source / "queue.db")), await open_store(locate(target))
    try:
        assert await findings(first) + await findings(second) == []
        assert await first.count(Filter()) == {"": 0}
        here, elsewhere = await history(first), await history(second)
        ends = Counter((one.message, one.number) for one in here if one.outcome.end is not None)
        assert set(ends.values()) == {1}
        lines = (source / "accepted").read_text().splitlines()
        for message, recipients in (map(int, line.split()) for line in lines):
            assert {(message, number) for number in range(recipients)} <= ends.keys()
        gone = Counter(_WHERE.fullmatch(one.reason)[1] for one in here if one.outcome is Outcome.MOVED)  # type: ignore[index]
        assert gone
        came: Counter[str] = Counter()
        messages = {from_text(text)[0]: text for text in gone}
        async for row in second.select(Filter()):
            came[messages.get(row.message.id, "")] += 1
        for one in elsewhere:
            assert one.outcome is not Outcome.MOVED
            came[messages.get(one.message, "")] += one.outcome.end is not None
        assert {text: number for text, number in came.items() if text} == gone
        check_attempts(source, here)
        if delivers is not None:
            check_attempts(delivers, elsewhere)
    finally:
        await first.close()
        await second.close()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=needs_postgres)])
@pytest.mark.parametrize("seed", range(2))
def test_a_mover_that_is_killed_loses_nothing_and_doubles_nothing(seed: int, kind: str, tmp_path: Path) -> None:
    chance = random.Random(seed)
    source, target = tmp_path / "from", tmp_path / "to"
    for folder in (source, target):
        folder.mkdir()
    processes = [live(source, f"deliverer {seed}")]
    goal = cluster().database() if kind == "postgres" else str(target / "queue.db")
    if kind == "sqlite":
        processes.append(live(target, f"deliverer {seed}"))
    try:
        wait_until(lambda: (source / "accepted").stat().st_size > 0)
        for begun in range(DEATHS):
            mover = move(source / "queue.db", goal)
            wait_until(lambda begun=begun: moves(source / "queue.db") > begun)
            time.sleep(chance.random() * 0.3)  # where it stands by then is all the same
            end(mover)
    finally:
        for process in processes:
            end(process)
    asyncio.run(settle_doubts(source / "queue.db"))
    service = tmp_path / "serve.toml"  # by which notices are made that the deliverer owed when it was killed
    service.write_text('name = "out.example.org"\n')
    mover = move(source / "queue.db", goal, "--config", str(service))
    _, errors = mover.communicate(timeout=10 * LIMIT)
    assert errors == b""
    if kind == "sqlite":
        command = [sys.executable, "-m", "tests.queue.victim", str(target), "last"]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    asyncio.run(judge(source, goal, target if kind == "sqlite" else None))


async def settle_doubts(path: Path) -> None:
    """Settle what a deliverer that was killed had marked: it is tried again, by the target."""
    store = await open_store(locate(path))
    await store.join("last")
    at = time.time()
    for lease in await take(store):
        doubts = [in_doubt(doubt.recipient, at, at) for doubt in lease.doubts]
        assert await store.settle(lease, doubts, []) == []
        await store.give_back([lease])
    await store.close()

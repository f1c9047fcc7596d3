"""A program that submits and delivers, and is killed: ``python -m tests.queue.victim FOLDER LIFE``.

It writes down what it was told and what it did, each in one write before it goes on: messages that were accepted
(``accepted``), and attempts whose last octet went out (``sent``), which is after their mark. In its last life
(``LIFE`` is ``last``) it takes nothing more and ends when the queue is empty. A life that begins with ``shop`` only
submits, half of it in transactions of its own, in which it writes an order, too.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from tests.queue.harness import DAY, claim, deferred, ended, failed, in_doubt, new, take

from zsmtp.queue.filter import Filter
from zsmtp.queue.sqlite.caller import submit_in, wake
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.store import Change, Lease, Settlement

ORDER = "order@d1.example"


class Ledger:
    """A file of lines that survive the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *values: object) -> None:
        """Add a line."""
        os.write(self._file, (" ".join(map(str, values)) + "\n").encode())


async def submit(store: SQLiteStore, ledger: Ledger, chance: random.Random) -> None:
    """Take messages in, until the end."""
    while True:
        some = range(chance.choice([1, 1, 3]))
        recipients = [f"u{chance.randrange(1000)}@d{chance.randrange(4)}.example" for _ in some]
        now = time.time()
        batch = [new(*recipients, due=now, expires=now + DAY) for _ in range(chance.randint(1, 5))]
        if chance.random() < 0.05:  # one that is written in parts
            many = [f"v{n}@d{n % 4}.example" for n in range(chance.choice([1, 1005]))]
            batch.append(new(*many, content=b"x" * (1 << 20), due=now, expires=now + DAY))
        for accepted, message in zip(await store.submit(batch), batch, strict=True):
            ledger.write(accepted.id, len(message.recipients))
        await asyncio.sleep(chance.random() * 0.01)


async def shop(path: Path, ledger: Ledger, chance: random.Random) -> None:
    """Write orders, each with a message, until the end."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        while True:
            now = time.time()
            (accepted,) = submit_in(connection, [new(ORDER, due=now, expires=now + DAY)])
            connection.execute("INSERT INTO orders VALUES (?)", (accepted.id,))
            if chance.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
                ledger.write(accepted.id, 1)
                wake(str(path))
            await asyncio.sleep(chance.random() * 0.01)


async def operate(store: SQLiteStore, chance: random.Random) -> None:
    """Do what operators do, and send notices, until the end."""
    while True:
        await asyncio.sleep(chance.random() * 0.05)
        wanted = Filter.parse(f"to=u{chance.randrange(10)}*")
        change = chance.choice([Change(due=time.time()), Change(rank=3), Change(end="failed", notify=True)])
        async for _ in store.change(wanted, change):
            pass
        await send_notices(store)


async def send_notices(store: SQLiteStore) -> None:
    """Queue the notices that are owed."""
    now = time.time()
    for message, notices in await store.owed(now, limit=100):
        report = new("ann@d0.example", sender=b"", due=now, expires=now + DAY)
        await store.notify(notices, report if message.sender else None)


async def deliver(store: SQLiteStore, lease: Lease, ledger: Ledger, chance: random.Random) -> None:
    """Deliver what is due of a site, and give it back."""
    now = time.time()
    if lease.doubts:
        doubts = [in_doubt(doubt.recipient, now, now) for doubt in lease.doubts]
        assert await store.settle(lease, doubts, []) == []
    found = await claim(store, lease, now, chance.choice([40, 400]))
    # One that gets another priority between two claims is read twice; it is taken once, as the runner does.
    claimed = list({one.recipient.next_attempt: one.recipient for one in found}.values())
    keys = [one.next_attempt for one in claimed]
    if chance.random() < 0.5:
        await store.settle(lease, [], keys)
    if await store.mark(lease, keys):  # an operator may have been faster
        for one in claimed:
            ledger.write(*one.next_attempt)
        await asyncio.sleep(chance.random() * 0.005)
        kinds = [ended, ended, ended, ended, failed, lambda one, at: deferred(one, at, at)]
        results: list[Settlement] = [chance.choice(kinds)(one, now) for one in claimed]
        half = chance.randrange(len(results) + 1)
        assert await store.settle(lease, results[:half], keys[half:]) == []
        assert await store.settle(lease, results[half:], []) == []
    await store.give_back([lease])


async def main(folder: Path, life: str) -> None:
    chance = random.Random(life)
    path = folder / "queue.db"
    accepted, sent = Ledger(folder / "accepted"), Ledger(folder / "sent")
    store = await SQLiteStore.open(path)
    if life.startswith("shop"):
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS orders (message INTEGER PRIMARY KEY)")
        print("ready", flush=True)
        await asyncio.gather(shop(path, accepted, chance), submit(store, accepted, chance))
    await store.join(f"life {life}")
    print("ready", flush=True)
    others = [] if life == "last" else [submit(store, accepted, chance), operate(store, chance)]
    tasks = [asyncio.create_task(other) for other in others]
    while life != "last" or await store.agenda():
        store.beat()
        leases = await take(store, limit=3)
        await asyncio.gather(*(deliver(store, lease, sent, chance) for lease in leases))
        await store.sweep(time.time())
        await send_notices(store)
        if not leases:
            await store.arrivals(0.05)
    for task in tasks:
        task.cancel()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

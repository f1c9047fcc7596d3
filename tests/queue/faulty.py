"""A program that submits and delivers on a disk that fails.

``python -m tests.queue.faulty FILE LEDGER SEED ROUNDS [full]``. It does what a server does: it says so to whoever
submits, and tries again to write results. What it was told and what it did stands in the ledger, a line for each.
``full``: it submits until the disk is full, which then gets room again.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from tests.queue.harness import DAY, deferred, ended, failed, new
from tests.queue.victim import Ledger

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.states import START, AttemptKey, SubQueue
from zsmtp.queue.store import Lease, Settlement

T = TypeVar("T")
TRIES = 20


async def patient(operation: Callable[[], Awaitable[T]]) -> T:
    """Do what is to be done, sooner or later."""
    for _ in range(TRIES):
        try:
            return await operation()
        except QueueUnavailable:
            await asyncio.sleep(0.005)
    return await operation()


class Life:
    """One life of the program."""

    def __init__(self, store: SQLiteStore, ledger: Ledger, chance: random.Random, *, only_ends: bool) -> None:
        self.store = store
        self.ledger = ledger
        self.kinds = [ended, ended, failed, *([] if only_ends else [lambda one, at: deferred(one, at, at)])]
        self.sizes = [100_000] if only_ends else [10, 3000, 30_000]
        self.refused = False
        self.chance = chance
        self.results: dict[AttemptKey, Settlement] = {}

    async def submit(self) -> None:
        now = time.time()
        octets = self.chance.choice(self.sizes)
        recipients = [f"u{n}@d.example" for n in range(self.chance.choice([1, 1, 3]))]
        batch = [new(*recipients, due=now, expires=now + DAY, content=b"x" * octets)] * self.chance.randint(1, 3)
        try:
            for accepted in await self.store.submit(batch):
                self.ledger.write("accepted", accepted.id, len(recipients))
        except QueueUnavailable:
            self.ledger.write("refused")
            self.refused = True

    async def deliver(self, lease: Lease) -> None:
        store, now = self.store, time.time()
        store.beat()
        try:
            claimed, _ = await store.claim(lease, SubQueue("d.example", "", 0), START, now, limit=5, octets=1 << 20)
            some = [one.recipient for one in claimed if one.recipient.next_attempt not in self.results]
            keys = [one.next_attempt for one in some]
            if self.chance.random() < 0.5:
                await store.settle(lease, [], [*self.results, *keys])
            if not await store.mark(lease, keys):
                return
            for one in some:
                self.ledger.write("sent", *one.next_attempt)
                self.results[one.next_attempt] = self.chance.choice(self.kinds)(one, now)
            await self.settle(lease)
            await store.sweep(now)
        except QueueUnavailable:
            pass

    async def settle(self, lease: Lease) -> None:
        results = dict(list(self.results.items())[:10])
        assert await self.store.settle(lease, list(results.values()), []) == []
        for attempt in results:
            self.ledger.write("settled", *attempt)
            del self.results[attempt]


async def through_errors(life: Life, lease: Lease, rounds: int) -> None:
    """Go on, whatever fails."""
    for _ in range(rounds):
        await life.submit()
        await life.deliver(lease)


async def until_full(life: Life, lease: Lease, disk: Path) -> None:
    """Submit until the disk is full, have some room made, deliver all, and submit again."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(8 << 20))
    while not life.refused:
        await life.submit()
    await life.deliver(lease)
    ballast.unlink()
    for _ in range(3):
        await patient(lambda: life.settle(lease))
        await life.submit()
        for _ in range(1000):
            await life.deliver(lease)
            if not await life.store.agenda():
                break


async def main(path: Path, ledger: Ledger, seed: str, rounds: int, *, full: bool) -> None:
    room = {"free_space": lambda: -1} if full else {}
    store = await patient(lambda: SQLiteStore.open(path, **room))
    await patient(lambda: store.join("faulty"))
    (lease,) = await patient(lambda: store.take(["d.example"], limit=1))
    life = Life(store, ledger, random.Random(seed), only_ends=full)
    await (until_full(life, lease, path.parent) if full else through_errors(life, lease, rounds))
    while life.results:
        store.beat()
        await patient(lambda: life.settle(lease))
    await store.close()
    ledger.write("over")


if __name__ == "__main__":
    _, path, ledger, seed, rounds, *how = sys.argv
    asyncio.run(main(Path(path), Ledger(Path(ledger)), seed, int(rounds), full=how == ["full"]))

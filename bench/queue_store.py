"""What the queue's store costs: microseconds of CPU and messages per second, from 1,000 to 1,000,000 queued.

The store alone, without SMTP: messages are submitted, claimed, marked and settled as delivered, in one flow, one group
after the other, and then one message after the other. CPU is that of the process with all its threads; with
``--postgres`` that of the server comes on top. Everything is durable, so what a commit costs on the disk is in the
rates; the first lines say what one costs here, and what the same octets cost in a bare SQLite table of one column with
the same commits. Queued messages are 200 for each site, of 20 tenants.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent))

from databases import Databases, databases
from table import machine

from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import to_text
from zsmtp.queue.location import locate
from zsmtp.queue.states import START, AttemptKey, HistoryEntry, Outcome
from zsmtp.queue.store import Claimed, Ended, Lease, NewMessage, NewRecipient, QueueStore
from zsmtp.queue.stores import open_store

T = TypeVar("T")

OCTETS = 4096
SMALL = 200  # octets of messages that only fill the queue
GROUP = 200
ALONE = 300  # messages that go through the store one by one
TENANTS = 20
DAY = 86400.0


def message(number: int, sites: int, octets: int, due: float) -> NewMessage:
    key = f"site{number % sites}.example.com"
    return NewMessage(
        sender=b"sender@example.org",
        recipients=(NewRecipient(address=b"user%d@%s" % (number, key.encode()), key=key),),
        content=b"x" * octets,
        tenant=f"tenant{number // 10 % TENANTS}",
        due=due,
        expires=due + 5 * DAY,
        name=f"<{number}.bench@example.org>",
        origin="library",
    )


class Cost:
    """CPU and time of one kind of operation, summed."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0
        self.messages = 0
        self.longest = 0.0

    async def of(self, operation: Awaitable[T], messages: int) -> T:
        cpu, wall = time.process_time(), time.perf_counter()
        result = await operation
        spent = time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.wall += spent
        self.messages += messages
        self.longest = max(self.longest, spent)
        return result

    def line(self, name: str) -> str:
        messages = max(self.messages, 1)
        return (
            f"  {name:34}{self.cpu / messages * 1e6:9.1f} us CPU{messages / max(self.wall, 1e-9):10.0f} /s"
            f"   longest {self.longest * 1e3:7.1f} ms"
        )


async def fill(store: QueueStore, count: int, sites: int) -> None:
    due = time.time() - 3600
    for start in range(0, count, 1000):
        await store.submit([message(start + n, sites, SMALL, due) for n in range(min(1000, count - start))])


async def submits(places: Databases, size: int, total: int) -> Cost:
    store = await places.open(places.fresh())
    cost = Cost()
    for start in range(0, total, size):
        group = [message(start + n, 100, OCTETS, time.time()) for n in range(size)]
        await cost.of(store.submit(group), size)
    await store.close()
    return cost


def delivered(claimed: Sequence[Claimed]) -> list[Ended]:
    now = time.time()
    return [
        Ended(
            HistoryEntry(
                at=now,
                message=one.message.id,
                number=one.recipient.number,
                attempt=one.recipient.attempts + 1,
                outcome=Outcome.DELIVERED,
                address=one.recipient.address,
                sender=one.message.sender,
                key=one.recipient.key,
                seconds=0.2,
                status="2.0.0",
                code=250,
                reason="2.0.0 Ok: queued as 4Rxyz12345",
                server="mx.example.com [192.0.2.1]:25",
                tls="TLSv1.3 verified",
                node="node-1",
            )
        )
        for one in claimed
    ]


class Cycle:
    """Messages on their way through the store, a group of one site at a time."""

    def __init__(self, store: QueueStore, group: int) -> None:
        self.store = store
        self.group = group
        self.costs = {name: Cost() for name in ("submit", "claim", "mark", "settle")}
        self.hand: tuple[Lease, Sequence[Claimed]] | None = None

    async def submit(self, start: int, sites: int) -> None:
        group = [message(start + n, sites, OCTETS, time.time()) for n in range(self.group)]
        await self.costs["submit"].of(self.store.submit(group), self.group)

    async def deliver(self, lease: Lease) -> None:
        """Claim from a site, then mark and settle what was claimed from the one before."""
        self.store.beat()
        claimed: list[Claimed] = []
        for head in await self.store.heads([lease]):
            if (left := self.group - len(claimed)) > 0:
                found, _ = await self.costs["claim"].of(
                    self.store.claim(lease, head.sub_queue, START, time.time(), limit=left, octets=16 << 20), 0
                )
                claimed += found
        self.costs["claim"].messages += len(claimed)
        await self.store.settle(lease, [], attempts(claimed))  # what a runner says with the results of the site
        await self.finish()
        self.hand = lease, claimed

    async def finish(self) -> None:
        if self.hand is not None:
            lease, claimed = self.hand
            assert await self.costs["mark"].of(self.store.mark(lease, attempts(claimed)), len(claimed))
            conflicts = await self.costs["settle"].of(self.store.settle(lease, delivered(claimed), ()), len(claimed))
            assert not conflicts
            await self.store.give_back([lease])
        self.hand = None

    async def run(self, messages: int, sites: int) -> None:
        """Submit and deliver so many messages."""
        for start in range(0, messages, self.group):
            await self.submit(start, sites)
            (lease,) = await self.store.take([f"site{start // self.group % sites}.example.com"], limit=1)
            await self.deliver(lease)
        await self.finish()

    def lines(self) -> list[str]:
        """What it cost."""
        total = sum(cost.cpu / max(cost.messages, 1) for cost in self.costs.values())
        return [cost.line(name) for name, cost in self.costs.items()] + [f"  {'together':34}{total * 1e6:9.1f} us CPU"]


def attempts(claimed: Sequence[Claimed]) -> list[AttemptKey]:
    return [one.recipient.next_attempt for one in claimed]


async def cycle(store: QueueStore, queued: int, messages: int) -> None:
    sites = max(queued // GROUP, 1)
    await store.join("bench")
    for group, count in ((GROUP, messages), (1, ALONE)):
        run = Cycle(store, group)
        await run.run(count, sites)
        print(f"\nwith {queued} queued, " + (f"in groups of {group}" if group > 1 else "one by one"))
        print("\n".join(run.lines()))


async def operators(store: QueueStore) -> list[str]:
    lines = []
    some = next(iter([row.message async for row in store.select(Filter(), limit=1)]))

    async def timed(name: str, question: Callable[[], Awaitable[object]]) -> None:
        cpu, start = time.process_time(), time.perf_counter()
        await question()
        spent, cpu = time.perf_counter() - start, time.process_time() - cpu
        lines.append(f"  {name:34}{spent * 1e3:9.1f} ms{cpu * 1e3:10.1f} ms CPU")

    async def why() -> None:
        async for row in store.select(Filter.of([f"id={to_text(some.id)}"])):
            await store.history(row.message.id)
            await store.sites([row.recipient.key])
        await store.nodes()
        await store.rules()

    async def first_page(text: str) -> None:
        async for _ in store.select(Filter.parse(text), limit=50):
            pass

    for by in ("", "site", "tenant", "state", "age", "reason"):
        await timed(f"count by {by or 'nothing'}", lambda by=by: store.count(Filter(), by=by))  # type: ignore[misc]
    for text in ("domain=*77.example.com", "from=*@shop.example", "age>2h status=4.7.*", "name=*9.bench*", "state=due"):
        await timed(f"count {text}", lambda text=text: store.count(Filter.parse(text)))  # type: ignore[misc]
    await timed("first page of a list", lambda: first_page(""))
    await timed("first page, domain=*77.example.com", lambda: first_page("domain=*77.example.com"))
    await timed("a list that finds nothing", lambda: first_page("to=nobody@*"))
    await timed("why is a message here", why)
    return lines


def bare(folder: Path, size: int, total: int) -> tuple[float, float]:
    """CPU per message and messages per second of the same octets in a bare table."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(0, total, size):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO t (data) VALUES (?)", [(b"x" * OCTETS,)] * size)
        connection.execute("COMMIT")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    connection.close()
    return cpu / total * 1e6, total / wall


def disk(folder: Path) -> float:
    """Milliseconds of an fdatasync of 4 KB."""
    times = []
    with open(folder / "sync", "wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def most_memory() -> int:
    """The most memory that this program had, in KiB; what ``getrusage`` says includes that of who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def start_up(url: str) -> None:
    """In a process of its own: how long until sites can be leased, and how much memory that takes."""
    cpu, start = time.process_time(), time.perf_counter()
    store = await open_store(locate(url))
    await store.join("bench")
    agenda = await store.agenda()
    leases = await store.take(sorted(agenda, key=agenda.__getitem__)[:100], limit=100)
    heads = await store.heads(leases)
    spent, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert len(heads) >= len(leases)
    name = f"start, join, agenda of {len(agenda)} sites"
    print(f"  {name:34}{spent * 1e3:9.1f} ms{cpu * 1e3:10.1f} ms CPU, {most_memory() >> 10} MiB at most")
    await store.close()


async def main(arguments: argparse.Namespace) -> None:
    with databases(postgres=arguments.postgres, folder=arguments.folder) as places:
        folder = places.folder
        engine = "PostgreSQL" if arguments.postgres else f"SQLite {sqlite3.sqlite_version}"
        print(machine(), f"{engine}, fdatasync of 4 KB {disk(folder):.2f} ms", sep="; ")
        print(f"\nmessages of {OCTETS} octets submitted")
        for size, total in ((1, 500), (100, arguments.messages)):
            cpu, rate = bare(folder, size, total)
            print(f"  {'bare table, by ' + str(size):34}{cpu:9.1f} us CPU{rate:10.0f} /s")
            print((await submits(places, size, total)).line(f"by {size}"))
            places.forget()
        for queued in arguments.queued:
            url = places.fresh()
            store = await places.open(url)
            await fill(store, queued, max(queued // GROUP, 1))
            with places.held_open(url) if arguments.held_open else nullcontext():
                await cycle(store, queued, arguments.messages)
            if queued == max(arguments.queued):
                print("\n".join(await operators(store)))
            await store.close()
            if queued == max(arguments.queued):
                subprocess.run([sys.executable, __file__, "--start", url], check=True)
            places.forget()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000, help="messages in each run")
    parser.add_argument("--queued", type=int, nargs="*", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", help="where the files are made")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own instead of SQLite files")
    parser.add_argument(
        "--held-open", action="store_true", help="beside a transaction of somebody else that stays open"
    )
    parser.add_argument("--start", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(start_up(given.start) if given.start else main(given))

"""What the queue delivers: messages per second from the queue to a receiver on the other core, with marks and history.

Each run queues messages of 4 KB for some sites, durably and in groups, and lets one node deliver them all to one
receiver (``bench/sinks.py``, a process of its own) with and without CHUNKING. With ``--workers`` the same node also
delivers by so many worker processes. CPU is that of the delivering process with all its threads and its workers. The
library delivers as many of the same messages beside it, from memory and without a queue.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from databases import Databases, databases
from relaying import cpu_of
from sinks import ready_sinks
from table import machine

from zsmtp import aio
from zsmtp.client.client import Submission
from zsmtp.client.config import Config, Relay
from zsmtp.client.destinations import Destinations
from zsmtp.client.report import Fate
from zsmtp.proto.plan import Envelope, EnvelopeRecipient
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.connections import EngineConnections
from zsmtp.queue.runner import Runner
from zsmtp.queue.states import HistoryEntry
from zsmtp.queue.submission import Submitter
from zsmtp.queue.workers.connections import WorkerConnections

HEADER = b"From: sender@example.org\nTo: user@example.com\nSubject: a message of the benchmark\n"
CONTENT = HEADER + b"\n" + (b"y" * 70 + b"\n") * 56


def address(number: int) -> bytes:
    return b"user%d@site%d.example.com" % (number, number % 7)


async def queued(places: Databases, port: int, count: int, workers: int = 0) -> tuple[float, float]:
    """Seconds and seconds of CPU to deliver so many messages from a queue."""
    config = Config(relay=Relay.from_url(f"smtp://127.0.0.1:{port}"))
    store = await places.open(places.fresh())
    submitter = Submitter(Destinations(config), QueueConfig())
    for start in range(0, count, 500):
        now = time.time()
        await store.submit(
            [
                submitter.message(
                    Envelope(b"sender@example.org", (EnvelopeRecipient(address(n)),)), HEADER, now=now, content=CONTENT
                )
                for n in range(start, min(start + 500, count))
            ]
        )
    left, done = count, asyncio.Event()

    def on_entry(entry: HistoryEntry) -> None:
        nonlocal left
        left -= entry.outcome.end is not None
        if not left:
            done.set()

    connections: EngineConnections | WorkerConnections = EngineConnections(config)
    if workers:
        connections = WorkerConnections(config, workers)
        await connections.pool.start()

    def cpu() -> float:
        pool = connections.pool.workers if isinstance(connections, WorkerConnections) else []
        return time.process_time() + sum(cpu_of(worker.pid) for worker in pool)

    runner = Runner(store, connections, QueueConfig(), node="bench", on_entry=on_entry)
    begun, before = time.perf_counter(), cpu()
    delivering = asyncio.get_running_loop().create_task(runner.run())
    await done.wait()
    spent = time.perf_counter() - begun, cpu() - before
    runner.stop()
    await delivering
    counters = await store.counters()
    assert counters["delivered"] == count, counters
    await store.close()
    return spent


async def direct(port: int, count: int) -> tuple[float, float]:
    """The same by the library, without a queue."""
    config = Config(relay=Relay.from_url(f"smtp://127.0.0.1:{port}"))

    def submissions() -> Iterator[Submission]:
        for number in range(count):
            yield Submission(message=CONTENT, sender="sender@example.org", recipients=[address(number)])

    start, cpu = time.perf_counter(), time.process_time()
    async with aio.Client(config) as client:
        delivered = 0
        async for result in client.stream(submissions()):
            delivered += result.fate is Fate.DELIVERED
    assert delivered == count
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    """Run the rounds; print medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own instead of a SQLite file")
    parser.add_argument("--workers", type=int, nargs="*", default=[], help="also with so many worker processes")
    chosen = parser.parse_args()
    print(f"{machine()}; {chosen.messages} messages of {len(CONTENT)} octets, {chosen.rounds} rounds, medians (ranges)")
    with databases(postgres=chosen.postgres) as places:
        for chunking in (False, True):
            names = {"queue": 0, **{f"queue, {count} workers": count for count in chosen.workers}}
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in [*names, "library"]}
            with ready_sinks(1, chunking=chunking) as (port,):
                for _ in range(chosen.rounds):
                    for name, workers in names.items():
                        found[name].append(asyncio.run(queued(places, port, chosen.messages, workers)))
                    found["library"].append(asyncio.run(direct(port, chosen.messages)))
            for name, spent in found.items():
                rates = sorted(chosen.messages / seconds for seconds, _ in spent)
                cpu = statistics.median(cpu for _, cpu in spent) / chosen.messages * 1e6
                extension = "CHUNKING" if chunking else "DATA"
                print(
                    f"  {extension:9} {name:16} {statistics.median(rates):7.0f} messages/s"
                    f" ({rates[0]:.0f} to {rates[-1]:.0f})"
                    f"  {cpu:5.0f} us of CPU a message"
                )
    os.sync()


if __name__ == "__main__":
    main()

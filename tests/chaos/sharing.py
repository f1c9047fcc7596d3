"""Two nodes, a PostgreSQL of their own and one site that all mail goes to; one of them is killed.

``python -m tests.chaos.sharing`` submits a backlog, starts both nodes (``zsmtp serve``), waits until both have
delivered for a while, kills one with SIGKILL, and compares the ledger of the site with what was accepted: each
recipient has one end, and each second copy is one that the queue calls in doubt. It prints who delivered how much.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import psycopg
from tests.chaos.fleet import ChaosNode
from tests.chaos.receivers import Receivers
from tests.chaos.relay import DatabaseRelay
from tests.support.patience import wait_until
from tests.support.postgres import Cluster

import zsmtp
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import from_text
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.slots import ALL
from zsmtp.queue.states import Outcome

SLOW = 0.4  # seconds until the site answers a message
PATIENCE = 240.0  # seconds for each stage


class SharingReport(NamedTuple):
    """What became of it."""

    before: Counter[str]
    """Who had delivered how much when one was killed."""
    delivered: Counter[str]
    """And in the end."""
    took_over: float
    """Seconds from the death until the other node had all of the site."""
    second_copies: int
    doubts: int
    findings: list[str]

    def __str__(self) -> str:
        return (
            f"before the death: {dict(self.before)}; in the end: {dict(self.delivered)}; "
            f"the rest was taken over after {self.took_over:.1f} s; "
            f"{self.second_copies} second copies, {self.doubts} in doubt; {len(self.findings)} findings"
        )


async def _until(reached: Callable[[], Awaitable[bool]], what: str) -> float:
    """Wait until something is so; returns how long it took."""
    begun = time.monotonic()
    while not await reached():
        assert time.monotonic() - begun < PATIENCE, f"{what}: not within {PATIENCE:.0f} s"
        await asyncio.sleep(0.5)
    return time.monotonic() - begun


async def _play(messages: int, folder: Path, cluster: Cluster) -> SharingReport:
    url = cluster.url("sharing")
    store = await PostgresStore.open(url)
    receivers = Receivers(random.Random(1))
    receivers.failing = False
    await receivers.start(1)
    (port,) = receivers.ports
    receivers.slow[port] = SLOW
    nodes = []
    for number in range(2):
        relay = DatabaseRelay(folder / f"way-{number}", cluster.folder / ".s.PGSQL.5432")
        await relay.start()
        routes = f'[delivery.routes]\n"d.example" = "smtp://127.0.0.1:{port}"'
        nodes.append(ChaosNode(folder, f"node-{number}", relay, "sharing", routes))
    accepted = {}
    async with zsmtp.aio.Queue.open(url) as queue:
        for number in range(messages):
            address = f"m{number}@d.example"
            id = await queue.submit(b"Subject: x\r\n\r\nhello\r\n", sender="a@shop.example", recipients=[address])
            accepted[id] = address

    async def by_node() -> Counter[str]:
        _, events = await store.events("", limit=1 << 30)
        return Counter(one.node for one in events if one.outcome is Outcome.DELIVERED)

    async def both_deliver() -> bool:
        counted = await by_node()
        return min(counted["node-0"], counted["node-1"]) >= messages // 20

    async def is_alone() -> bool:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            rows = await (await connection.execute("SELECT slots FROM zsmtp_lease")).fetchall()
        return rows == [(ALL,)]

    async def is_empty() -> bool:
        return not (await store.count(Filter()))[""]

    try:
        for node in nodes:
            node.start()
        for node in nodes:
            await asyncio.to_thread(wait_until, node.serves, lambda node=node: node.log)
        await _until(both_deliver, "both nodes deliver")
        nodes[1].kill()
        before = await by_node()
        took_over = await _until(is_alone, "the other node has the whole site")
        await _until(is_empty, "all is delivered")
        return await _compare(store, receivers, accepted, before, took_over)
    finally:
        for node in nodes:
            node.kill()
            await node.relay.stop()
        await receivers.stop()
        await store.close()


async def _compare(
    store: PostgresStore, receivers: Receivers, accepted: dict[str, str], before: Counter[str], took_over: float
) -> SharingReport:
    findings = [finding async for finding in store.check()]
    delivered: Counter[str] = Counter()
    doubts = second = 0
    for id, address in accepted.items():
        entries = await store.history(from_text(id)[0])
        ends = [one for one in entries if one.outcome.end is not None]
        mine = sum(one.outcome is Outcome.IN_DOUBT for one in entries)
        copies = receivers.ledger[address]
        delivered.update(one.node for one in ends if one.outcome is Outcome.DELIVERED)
        doubts += mine
        second += max(copies - 1, 0)
        if len(ends) != 1 or not 1 <= copies <= 1 + mine:
            findings.append(f"{id} {address}: {len(ends)} ends, {copies} copies, {mine} in doubt")
    return SharingReport(before, delivered, took_over, second, doubts, findings)


def play(messages: int) -> SharingReport:
    """All of it."""
    cluster = Cluster(durable=True)
    try:
        cluster.make("sharing")
        with tempfile.TemporaryDirectory(prefix="zsmtp-sharing-") as folder:
            return asyncio.run(_play(messages, Path(folder), cluster))
    finally:
        cluster.remove()


def run() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=3000)
    report = play(parser.parse_args().messages)
    print(report)
    for finding in report.findings[:50]:
        print(finding)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(run())

"""A primary that dies and a standby that takes its place: nothing that was accepted is lost, doubts are known."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest
from tests.queue.harness import attempts, claim, ended, findings, new, take, there
from tests.support.postgres import Cluster, needs_postgres

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.store import Lease

pytestmark = needs_postgres

FAR = 1 << 33  # seconds: everything is due


class Pair:
    """A primary and a synchronous standby."""

    def __init__(self) -> None:
        self.primary = Cluster()
        try:
            self.primary.make("queue")
            self.standby = Cluster(standby_of=self.primary)
        except BaseException:
            self.primary.remove()
            raise
        hosts = quote(f"{self.primary.folder},{self.standby.folder}", safe="")
        self.url = f"postgresql:///queue?host={hosts}&user=zsmtp&target_session_attrs=read-write"

    def fail_over(self) -> None:
        self.primary.stop(signal.SIGQUIT)
        self.standby.promote()

    def remove(self) -> None:
        self.standby.remove()
        self.primary.remove()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        yield made
    finally:
        made.remove()


async def submitted(store: PostgresStore, names: list[str]) -> list[str]:
    """Submit until told to stop: what was accepted."""
    accepted: list[str] = []
    for name in names:
        try:
            await store.submit([new(f"{name}@later.example", idempotency_key=name)])
        except QueueUnavailable:
            continue
        accepted.append(f"{name}@later.example")
    return accepted


def test_failover_to_a_synchronous_standby_loses_nothing(pair: Pair) -> None:
    async def main() -> None:
        store = await PostgresStore.open(pair.url)
        await store.join("first")
        await store.submit([new(f"{name}@example.net") for name in ("sent", "marked", "hand", "rest")])
        (lease,) = await take(store)
        sent, marked, hand, _ = await claim(store, lease, FAR)
        assert await store.mark(lease, attempts([sent]))
        in_hand = attempts([marked, hand])
        assert await store.settle(lease, [ended(sent.recipient, FAR)], in_hand) == []
        assert await store.mark(lease, attempts([marked]))  # its commit does not wait for the standby

        store._delivery._pulse.beat_for(0)  # the node dies with the primary
        flow = asyncio.create_task(submitted(store, [str(number) for number in range(400)]))
        while not await there(store, "domain=later.example"):  # what was committed before is on the standby, too
            await asyncio.sleep(0.01)
        await asyncio.to_thread(pair.fail_over)
        accepted = await flow
        while True:
            try:
                await store.submit([new("after@later.example")])
                break
            except QueueUnavailable:
                await asyncio.sleep(0.05)
        assert set(accepted) <= set(await there(store, "domain=later.example"))
        assert await there(store, "domain=example.net") == [
            "marked@example.net",
            "hand@example.net",
            "rest@example.net",
        ]

        with psycopg.connect(pair.url, autocommit=True) as other:  # nothing was heard of it for so long
            other.execute("UPDATE zsmtp_node SET valid_until = now() - interval '1 s'")
        second = await PostgresStore.open(pair.url)
        await second.join("second")
        lease = await lease_of(second, "example.net")
        doubts = {doubt.recipient.next_attempt: doubt.machine for doubt in lease.doubts}
        assert doubts == {in_hand[0]: False, in_hand[1]: True}
        assert await findings(second) == []
        await second.close()
        await store.close()

    asyncio.run(main())


def test_a_node_that_lives_goes_on_after_a_failover(pair: Pair) -> None:
    async def main() -> None:
        store = await PostgresStore.open(pair.url)
        await store.join("node")
        await store.submit([new(f"{name}@example.net") for name in ("a", "b")])
        (lease,) = await take(store)
        first, second = await claim(store, lease, FAR)
        assert await store.mark(lease, attempts([first]))
        await asyncio.to_thread(pair.fail_over)
        while True:
            try:
                store.beat()
                assert await store.mark(lease, attempts([second]))
                break
            except QueueUnavailable:
                await asyncio.sleep(0.05)
        with psycopg.connect(pair.url) as other:
            rows = other.execute("SELECT messages FROM zsmtp_mark").fetchall()
        assert {number for (numbers,) in rows for number in numbers} == {first.message.id, second.message.id}
        results = [ended(one.recipient, FAR) for one in (first, second)]
        assert await store.settle(lease, results, []) == []
        assert await there(store) == []
        assert await findings(store) == []
        await store.close()

    asyncio.run(main())


async def lease_of(store: PostgresStore, key: str) -> Lease:
    """The lease of a key, once it can be had."""
    while True:
        for lease in await store.take([key], limit=1):
            return lease
        await asyncio.sleep(0.05)

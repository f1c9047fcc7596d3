"""The store in memory: what tests do with it beyond the contract."""

from __future__ import annotations

import asyncio

import pytest
from tests.queue.harness import (
    NOON,
    MemoryHarness,
    attempts,
    claim,
    ended,
    in_doubt_of,
    lease_of,
    new,
    play,
    take,
    there,
)

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.leases import VALID
from zsmtp.queue.states import Outcome


def test_an_operation_fails_when_it_is_told_to() -> None:
    async def scenario(queue: MemoryHarness) -> None:
        store = queue.store
        store.fail("submit", QueueUnavailable("the disk is full"), times=2)
        for _ in range(2):
            with pytest.raises(QueueUnavailable, match="the disk is full"):
                await store.submit([new()])
        assert await there(store) == []
        await store.submit([new()])
        await store.join("node")
        lease = await lease_of(store)
        (claimed,) = await claim(store, lease, NOON)
        store.fail("settle", QueueUnavailable("gone"))
        with pytest.raises(QueueUnavailable):
            await store.settle(lease, [ended(claimed.recipient, NOON)], [])
        assert len(await there(store)) == 1
        assert await store.settle(lease, [ended(claimed.recipient, NOON)], []) == []

    play(MemoryHarness(), scenario)


def test_a_mark_that_the_list_in_hand_covers_goes_with_the_machine() -> None:
    async def scenario(queue: MemoryHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net"), new("b@example.net")])
        await store.join("node")
        lease = await lease_of(store)
        first, second = attempts(await claim(store, lease, NOON))
        await store.settle(lease, [], [first])
        assert await store.mark(lease, [first, second])
        for machine, doubts in ((False, [(first, False), (second, False)]), (True, [(first, True), (second, False)])):
            after = store.crash(machine=machine)
            await after.join("node")
            assert in_doubt_of(await lease_of(after)) == doubts

    play(MemoryHarness(), scenario)


def test_nodes_share_the_queue_and_not_the_sites() -> None:
    async def scenario(queue: MemoryHarness) -> None:
        first, second = queue.store, queue.store.another()
        await first.join("first")
        await second.join("second")
        await first.submit([new(f"a@d{n}.example") for n in range(6)])
        ours, theirs = await take(first, limit=3), await take(second)
        assert len(ours) == len(theirs) == 3
        assert len({lease.site for lease in ours + theirs}) == 6
        assert len({lease.number for lease in ours + theirs}) == 6
        for store in (first, second):
            assert set((await store.arrivals(1)).keys) == {f"d{n}.example" for n in range(6)}
        (claimed,) = await claim(second, theirs[0], NOON)
        assert await second.settle(theirs[0], [ended(claimed.recipient, NOON)], []) == []
        assert [one.outcome for one in await first.history(claimed.message.id)] == [Outcome.DELIVERED]
        await second.close()
        assert {lease.site for lease in await take(first)} == {lease.site for lease in theirs[1:]}

    play(MemoryHarness(), scenario)


def test_waiting_for_arrivals_ends_with_the_time() -> None:
    async def main() -> None:
        queue = MemoryHarness()
        await queue.start()
        await queue.store.join("node")
        assert (await queue.store.arrivals(0.01))[:3] == ({}, frozenset(), False)

    asyncio.run(main())


def test_a_restart_of_the_store_that_its_nodes_outlive() -> None:
    """The marks that it lost are written again; who dies before has all in doubt that was in hand."""

    async def scenario(queue: MemoryHarness) -> None:
        one, two = queue.store, await queue.another()
        await one.submit([new(f"{name}@{key}") for key in ("one.example", "two.example") for name in "ab"])
        leases = {}
        for store, key in ((one, "one.example"), (two, "two.example")):
            await store.join(key)
            leases[key] = await lease_of(store, key)
            first, second = attempts(await claim(store, leases[key], NOON))
            await store.settle(leases[key], [], [first, second])
            assert await store.mark(leases[key], [first])
            leases[key, 1] = first, second
        one.restart()
        one.beat()
        with pytest.raises(QueueError, match="marked attempts"):
            await two.give_back([leases["two.example"]])  # that it is not on the disk changes nothing
        queue.clock.advance(VALID + 1)
        third = await queue.another()
        await third.join("third")
        found = {lease.site: in_doubt_of(lease) for lease in await take(third)}
        first, second = leases["one.example", 1]
        assert found["one.example"] == [(first, False)]
        first, second = leases["two.example", 1]
        assert found["two.example"] == [(first, True), (second, True)]

    play(MemoryHarness(), scenario)


def test_a_mark_asked_for_after_a_restart_writes_those_before_it_again() -> None:
    async def scenario(queue: MemoryHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net"), new("b@example.net")])
        await store.join("node")
        lease = await lease_of(store)
        first, second = attempts(await claim(store, lease, NOON))
        await store.settle(lease, [], [first, second])
        assert await store.mark(lease, [first])
        store.restart()
        assert await store.mark(lease, [second])
        after = store.crash()
        await after.join("node")
        assert in_doubt_of(await lease_of(after)) == [(first, False), (second, False)]

    play(MemoryHarness(), scenario)


def test_what_an_ended_lease_left_in_doubt_keeps_nobody_from_giving_it_back() -> None:
    async def scenario(queue: MemoryHarness) -> None:
        one, two = queue.store, await queue.another()
        await one.submit([new()])
        await one.join("one")
        lease = await lease_of(one)
        (claimed,) = await claim(one, lease, NOON)
        assert await one.mark(lease, attempts([claimed]))
        queue.clock.advance(VALID + 1)
        await two.join("two")
        newer = await lease_of(two)
        assert await one.settle(lease, [ended(claimed.recipient, NOON)], []) == attempts([claimed])
        await one.give_back([lease])
        assert in_doubt_of(newer) == [(claimed.recipient.next_attempt, False)]

    play(MemoryHarness(), scenario)

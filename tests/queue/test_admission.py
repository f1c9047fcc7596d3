"""Quotas held against figures of a store: what is counted when, and that nothing is counted twice or forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.queue.harness import NOON, Clock, claim, ended, lease_of, new, swept

from zsmtp.errors import QueueUnavailable, QuotaExceeded, SubmissionError
from zsmtp.queue.admission import FRESH, Admission, amount_of
from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.quotas import HOUR, SLOT, Amount, TenantLimits
from zsmtp.queue.store import Accepted, NewMessage

SIZE = len(new().content)


class World:
    """A queue in memory, and processes that submit to it."""

    def __init__(self, limits: TenantLimits) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=lambda: self.clock.now, monotonic=lambda: self.clock.turning)
        self.tenants = {"shop": limits}
        self.admission = self.process()

    def process(self) -> Admission:
        return Admission(self.store, self.tenants, clock=lambda: self.clock.now, monotonic=lambda: self.clock.turning)

    async def submit(self, process: Admission | None = None, **values: object) -> Accepted:
        one = new(tenant="shop", metered=True, **values)
        with await (process or self.admission).reserve("shop", amount_of(one, len(one.content))) as reservation:
            (accepted,) = await self.store.submit([one])
            reservation.done([accepted])
        return accepted

    async def deliver(self) -> None:
        await self.store.join("node")
        lease = await lease_of(self.store)
        for one in await claim(self.store, lease, self.clock.now):
            await self.store.settle(lease, [ended(one.recipient, self.clock.now)], [])
        await self.store.give_back([lease])
        await swept(self.store, self.clock.now)


def play(limits: TenantLimits, story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(World(limits))

    asyncio.run(run())


def test_an_hour_has_so_many_messages_for_one_process_exactly() -> None:
    async def story(world: World) -> None:
        for _ in range(3):
            await world.submit()
            world.clock.advance(1)
        for wait in (0.0, FRESH, HOUR - 100):
            world.clock.advance(wait)
            with pytest.raises(QuotaExceeded) as caught:
                await world.submit()
            assert (caught.value.quota, caught.value.used) == ("messages_per_hour", 3)
        assert caught.value.frees is not None
        world.clock.advance(caught.value.frees - world.clock.now)
        await world.submit()

    play(TenantLimits(messages_per_hour=3), story)


def test_submissions_side_by_side_do_not_share_the_last_place() -> None:
    async def story(world: World) -> None:
        found = await asyncio.gather(*[world.submit() for _ in range(10)], return_exceptions=True)
        assert sum(isinstance(one, Accepted) for one in found) == 4
        assert sum(isinstance(one, QuotaExceeded) for one in found) == 6

    play(TenantLimits(messages_per_hour=4), story)


def test_what_another_process_took_is_seen_with_the_next_count() -> None:
    async def story(world: World) -> None:
        other = world.process()
        await world.submit()
        for _ in range(2):
            await world.submit(other)
        await world.submit()  # by a figure that is a moment old: the bound that is documented
        world.clock.advance(FRESH)
        for process in (world.admission, other):
            with pytest.raises(QuotaExceeded):
                await world.submit(process)

    play(TenantLimits(messages_per_hour=3), story)


def test_what_is_not_queued_after_all_does_not_count() -> None:
    async def story(world: World) -> None:
        world.store.fail("submit", QueueUnavailable("the disk"))
        with pytest.raises(QueueUnavailable):
            await world.submit()
        await world.submit(idempotency_key="1", digest=b"1")
        world.tenants["shop"] = TenantLimits(messages_per_hour=2)
        again = await world.submit(idempotency_key="1", digest=b"1")
        assert again.existed
        await world.submit()
        with pytest.raises(QuotaExceeded):
            await world.submit()

    play(TenantLimits(messages_per_hour=1), story)


def test_mail_that_leaves_the_queue_makes_room() -> None:
    async def story(world: World) -> None:
        for _ in range(2):
            await world.submit()
        with pytest.raises(QuotaExceeded) as caught:
            await world.submit()
        assert (caught.value.quota, caught.value.frees) == ("queued_octets", None)
        await world.deliver()
        with pytest.raises(QuotaExceeded):
            await world.submit()
        world.clock.advance(FRESH)
        await world.submit()

    play(TenantLimits(queued_octets=2 * SIZE), story)


def test_a_count_that_takes_long_is_not_repeated_soon() -> None:
    async def story(world: World) -> None:
        counts = []
        real = world.store.queued_by_tenant

        async def slow() -> dict[str, Amount]:
            counts.append(world.clock.turning)
            world.clock.advance(3)
            return await real()

        world.store.queued_by_tenant = slow  # type: ignore[method-assign]
        for _ in range(100):
            await world.submit()
            world.clock.advance(1)
        assert len(counts) == 2

    play(TenantLimits(queued_messages=1000), story)


def test_what_comes_while_a_count_is_read_is_not_forgotten() -> None:
    async def story(world: World) -> None:
        reading, going = asyncio.Event(), asyncio.Event()
        real = world.store.queued_by_tenant

        async def slow() -> dict[str, Amount]:
            found = await real()  # as it was before the other one was committed
            reading.set()
            await going.wait()
            return found

        one = new(tenant="shop")
        with await world.admission.reserve("shop", amount_of(one, SIZE)) as reservation:
            world.clock.advance(FRESH)
            world.store.queued_by_tenant = slow  # type: ignore[method-assign]
            second = asyncio.create_task(world.submit())
            await reading.wait()
            await world.store.submit([one])
            reservation.done()
        going.set()
        await second
        with pytest.raises(QuotaExceeded):
            await world.submit()

    play(TenantLimits(queued_messages=2), story)


def test_several_messages_are_taken_all_or_none() -> None:
    async def story(world: World) -> None:
        def some(number: int) -> list[tuple[NewMessage, int]]:
            return [(new(tenant=tenant), SIZE) for tenant in ("other", *["shop"] * number)]

        world.tenants["other"] = TenantLimits(queued_messages=10)
        await world.submit()
        with pytest.raises(QuotaExceeded):
            await world.admission.reserve_all(some(3))
        with await world.admission.reserve_all(some(2)) as reservation:
            reservation.done()
        assert world.admission.refusal("shop", Amount(1, 1, 1)) is not None
        assert world.admission.refusal("other", Amount(9, 1, 1)) is None
        assert world.admission.refusal("other", Amount(10, 1, 1)) is not None
        with pytest.raises(SubmissionError, match="4 messages at a time"):
            await world.admission.reserve_all(some(4))

    play(TenantLimits(queued_messages=3), story)


def test_a_refusal_without_a_count_goes_by_fresh_figures_only() -> None:
    async def story(world: World) -> None:
        assert world.admission.refusal("shop", Amount(1, 1, 1)) is None
        await world.submit()
        assert world.admission.refusal("shop", Amount(1, 1, 1)) is not None
        world.clock.advance(FRESH)
        assert world.admission.refusal("shop", Amount(1, 1, 1)) is None
        assert not world.admission.has_quota("")
        assert world.admission.refusal("", Amount(1, 1, 1)) is None
        world.admission.reconfigure({})
        for _ in range(5):
            await world.submit()

    play(TenantLimits(messages_per_hour=1), story)


def test_a_store_that_cannot_be_read_refuses() -> None:
    async def story(world: World) -> None:
        for name in ("accepted_by", "queued_by_tenant"):
            world.store.fail(name, QueueUnavailable("the disk"))
            with pytest.raises(QueueUnavailable):
                await world.submit()
        await world.submit()

    play(TenantLimits(messages_per_hour=5, queued_messages=5), story)


def test_slots_are_counted_where_they_belong() -> None:
    async def story(world: World) -> None:
        await world.submit()
        world.clock.advance(SLOT + 10)
        await world.submit()
        assert await world.store.accepted_by("shop") == {
            int(NOON): Amount(1, SIZE, 1),
            int(NOON) + SLOT: Amount(1, SIZE, 1),
        }

    play(TenantLimits(messages_per_hour=5), story)

"""Random lives of a queue, by seed: every store answers as the one in memory does, whatever dies in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from tests.queue.harness import (
    DAY,
    STORES,
    Clock,
    Harness,
    MemoryHarness,
    claim,
    deferred,
    ended,
    failed,
    in_doubt,
    new,
    notice,
    to,
)

from zsmtp.errors import QueueError
from zsmtp.queue.filter import Filter
from zsmtp.queue.limits import BY_COMMAND
from zsmtp.queue.operators import (
    GROUPS,
    Change,
    Rule,
)
from zsmtp.queue.settling import attempt_of
from zsmtp.queue.states import START, AttemptKey, NoticeKind, Outcome, QueuedRecipient, SubQueue
from zsmtp.queue.store import (
    Accepted,
    Arrivals,
    Claimed,
    Lease,
    NewMessage,
    QueueStore,
    Settlement,
)

T = TypeVar("T")

SEEDS = range(12)
STEPS = 120
KEYS = ("one.example", "two.example", "three.example", "relay:x", "Four.example")
FILTERS = (
    "",
    "domain=one.example",
    "site=provider",
    "state=held",
    "state=leased",
    "state=due age<1h",
    "attempts>0",
    "to=u1*",
    "tenant=t due>0",
    "from=*shop* priority>=0",
    "reason=later",
    "size>30 rule=0",
)


class Lives:
    """Two queues that live through the same: the one in memory, and the one under test."""

    def __init__(self, seed: int, tested: Harness) -> None:
        self.chance = random.Random(seed)
        self.model = MemoryHarness()
        self.tested = tested
        self.model.clock = tested.clock = self.clock = Clock()
        self.leases: dict[str, tuple[Lease, Lease]] = {}
        self.claimed: dict[AttemptKey, tuple[str, QueuedRecipient]] = {}
        self.hands: dict[str, list[AttemptKey]] = {}
        self.cursor = "", ""
        self.node = 0

    async def both(self, question: Callable[[QueueStore], Awaitable[T]]) -> tuple[T, T]:
        """The answers of both; an error of one is an error of the other."""
        answers: list[T] = []
        errors: list[str] = []
        for store in (self.model.store, self.tested.store):
            try:
                answers.append(await question(store))
                errors.append("")
            except QueueError as error:
                errors.append(type(error).__name__)
        assert errors[0] == errors[1]
        if errors[0]:
            raise QueueError(errors[0])
        return answers[0], answers[1]

    async def same(self, question: Callable[[QueueStore], Awaitable[T]]) -> T:
        """The answer of both, which is the same."""
        expected, found = await self.both(question)
        assert found == expected
        return expected

    async def same_ids(self, question: Callable[[QueueStore], Awaitable[list[Accepted] | Accepted | None]]) -> None:
        """As :meth:`same`, for what draws ids: a store may leave some out, as the model does then."""
        errors: list[str] = []
        answers = []
        for store in (self.tested.store, self.model.store):
            try:
                answers.append(await question(store))
                errors.append("")
            except QueueError as error:
                errors.append(type(error).__name__)
            if answers and store is self.tested.store:
                found = answers[0] if isinstance(answers[0], list) else [answers[0]]
                drawn = [one.id for one in found if one is not None and not one.existed]
                if drawn:
                    self.model.store._data.last_id = min(drawn) - 1
        assert errors[0] == errors[1]
        if errors[0]:
            raise QueueError(errors[0])
        assert answers[0] == answers[1]

    async def live(self) -> None:
        await self.join()
        for _ in range(STEPS):
            step = self.chance.choices(self.steps, self.weights)[0]
            try:
                await step(self)
            except QueueError:
                continue
            await self.compare()

    async def compare(self) -> None:
        """Everything that can be seen is the same."""
        await self.same(lambda store: listed(store.select(Filter())))
        await self.same(counters)
        news: Arrivals = await self.same(lambda store: store.arrivals(0))
        assert all(at <= self.clock.now + 9 * DAY for at in news.keys.values())

    # ---------------------------------------------------------------- steps

    async def submit(self) -> None:
        chance = self.chance
        messages = [self.message() for _ in range(chance.randint(1, 4))]
        await self.same_ids(lambda store: store.submit(messages))

    def message(self) -> NewMessage:
        chance = self.chance
        recipients = [
            to(
                f"u{chance.randrange(30)}@{chance.choice(KEYS)}",
                chance.choice(KEYS),
                hold=chance.choice([0, 0, 1, 3]),
            )
            for _ in range(chance.choice([1, 1, 1, 2, 5]))
        ]
        return new(
            *recipients,
            sender=chance.choice([b"ann@shop.example", b"", b"x@y"]),
            content=b"x" * chance.randrange(60),
            tenant=chance.choice(["", "t"]),
            priority=chance.choice([0, 0, 3, -1]),
            due=self.clock.now + chance.choice([-10, 0, 5, 100, 4000]),
            expires=self.clock.now + chance.choice([30, 1000, 5 * DAY]),
            idempotency_key=chance.choice(["", "", "", "1", "2"]),
            digest=chance.choice([b"", b"d"]),
        )

    async def wait(self) -> None:
        self.clock.advance(self.chance.choice([0.001, 1, 9, 30, 1000, 8 * DAY] if self.chance.random() < 0.3 else [1]))
        if self.chance.random() < 0.8:
            self.model.store.beat()
            self.tested.store.beat()

    async def take(self) -> None:
        key = self.chance.choice(KEYS)
        agenda = await self.same(lambda store: store.agenda())
        keys = [key, *self.chance.sample(sorted(agenda), self.chance.randint(0, len(agenda)))]
        limit = self.chance.choice([100, 100, 2])
        expected, found = await self.both(lambda store: store.take(keys, limit=limit))
        ours, theirs = ({lease.site: lease for lease in leases} for leases in (expected, found))
        assert ours.keys() == theirs.keys()
        for site, lease in ours.items():
            assert (theirs[site].keys, theirs[site].slots) == (lease.keys, lease.slots)
            doubts = [[one._replace(machine=False) for one in some.doubts] for some in (theirs[site], lease)]
            assert doubts[0] == doubts[1]
            self.leases[site] = (lease, theirs[site])
            self.hands[site] = []
            await self.settle_doubts(site)

    async def settle_doubts(self, site: str) -> None:
        expected, _ = self.leases[site]
        if expected.doubts and self.chance.random() < 0.9:
            due = self.clock.now + self.chance.choice([0, 300])
            settlements = [in_doubt(one.recipient, self.clock.now, due) for one in expected.doubts]
            await self.settle(site, settlements, [])

    async def settle(self, site: str, settlements: Sequence[Settlement], hand: list[AttemptKey]) -> None:
        leases = dict(zip((self.model.store, self.tested.store), self.leases[site], strict=True))
        await self.same(lambda store: store.settle(leases[store], settlements, hand))

    def site(self) -> str:
        if not self.leases:
            raise QueueError("nothing is leased")
        return self.chance.choice(sorted(self.leases))

    async def give_back(self) -> None:
        site = self.site()
        leases = dict(zip((self.model.store, self.tested.store), self.leases[site], strict=True))
        await self.both(lambda store: store.give_back([leases[store]]))
        del self.leases[site]

    async def shed(self) -> None:
        site = self.site()
        leases = dict(zip((self.model.store, self.tested.store), self.leases[site], strict=True))
        slots = self.chance.choice([0x00FF, 0xFF00, 0x0F0F, self.chance.randrange(1 << 16)])
        expected, found = await self.both(lambda store: store.shed(leases[store], slots))
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            assert (found.keys, found.slots) == (expected.keys, expected.slots)
            doubts = [[one._replace(machine=False) for one in some.doubts] for some in (found, expected)]
            assert doubts[0] == doubts[1]
            self.leases[site] = (expected, found)

    async def claim(self) -> None:
        site = self.site()
        leases = dict(zip((self.model.store, self.tested.store), self.leases[site], strict=True))
        if self.model.store._shared.leases.get(self.leases[site][0].number) is None:
            return  # a claim only reads: its store need not know yet that the lease is over

        async def claimed(store: QueueStore) -> list[Claimed]:
            return await claim(store, leases[store], self.clock.now)

        for one in await self.same(claimed):
            self.claimed[one.recipient.next_attempt] = (site, one.recipient)
        after = (self.chance.choice([0, 1 << 62]), -1)
        await self.same(lambda store: store.review(leases[store], after, limit=5))
        for head in await self.same(lambda store: store.heads([leases[store]])):
            limit, octets = self.chance.randint(1, 4), self.chance.choice([0, 50, 1000])
            ask = partial(self.some, leases, head.sub_queue, self.clock.now + self.chance.choice([0, 100]))
            await self.same(partial(ask, limit=limit, octets=octets))

    @staticmethod
    async def some(
        leases: Mapping[QueueStore, Lease], sub_queue: SubQueue, now: float, store: QueueStore, **limits: int
    ) -> tuple[list[Claimed], float | None]:
        return await store.claim(leases[store], sub_queue, START, now, **limits)

    async def deliver(self) -> None:
        """Name some as in hand, mark some of them, and settle some of what was marked or claimed."""
        site = self.site()
        chance = self.chance
        mine = [key for key, (where, _) in self.claimed.items() if where == site]
        chosen = chance.sample(mine, min(len(mine), chance.randint(0, 6)))
        if chance.random() < 0.7:
            self.hands[site] = chosen + self.hands[site][: chance.randrange(3)]
            await self.settle(site, [], self.hands[site])
        leases = dict(zip((self.model.store, self.tested.store), self.leases[site], strict=True))
        if chance.random() < 0.8:
            some = chance.sample(chosen, min(len(chosen), 2))
            await self.same(lambda store: store.mark(leases[store], some))
        settlements = [self.settlement(self.claimed[key][1]) for key in chosen if chance.random() < 0.6]
        done = {attempt_of(one) for one in settlements}
        self.hands[site] = [key for key in self.hands[site] if key not in done]
        await self.settle(site, settlements, self.hands[site])

    def settlement(self, one: QueuedRecipient) -> Settlement:
        now, chance = self.clock.now, self.chance
        due = now + chance.choice([0, 60, 4000])
        return chance.choice(
            [
                lambda: ended(one, now),
                lambda: ended(one, now, Outcome.EXPIRED, attempt=0),
                lambda: failed(one, now),
                lambda: deferred(one, now, due),
                lambda: deferred(one, now, due, counted=False, key=chance.choice([None, *KEYS])),
                lambda: deferred(one, now, due, notice=notice(one, now, NoticeKind.DELAYED)),
                lambda: deferred(one, now, due, hold=chance.choice([0, 1])),
                lambda: in_doubt(one, now, due),
            ]
        )()

    async def change(self) -> None:
        chance, now = self.chance, self.clock.now
        change = chance.choice(
            [
                Change(due=now),
                Change(due=now + 500),
                Change(hold=chance.choice([0, 0, 1, 2, BY_COMMAND])),
                Change(key=chance.choice(KEYS)),
                Change(rank=chance.randint(-3, 3)),
                Change(expires=now + chance.choice([-5, 5000])),
                Change(end=chance.choice(["failed", "dropped"]), reason="gone", by="ann", notify=chance.random() < 0.5),
            ]
        )
        wanted = Filter.parse(chance.choice(FILTERS[1:]))

        async def changed(store: QueueStore) -> int:
            return sum(await listed(store.change(wanted, change)))

        await self.same(changed)

    async def rule(self) -> None:
        number = self.chance.randint(1, 3)
        if self.chance.random() < 0.5:
            await self.same(lambda store: store.add_rule(Rule(action="hold", filter="", until=self.clock.now + 2000)))
        else:
            await self.same(lambda store: store.delete_rule(number))

    async def learn(self) -> None:
        sites = {key: self.chance.choice(["provider", "other", "one.example"]) for key in self.chance.sample(KEYS, 2)}
        await self.both(lambda store: store.learn(sites))

    async def notify(self) -> None:
        owed = await self.same(lambda store: store.owed(self.clock.now, limit=3))
        for message, notices in owed:
            report = new(to("ann@shop.example"), sender=b"") if message.sender else None
            await self.same_ids(lambda store, notices=notices, report=report: store.notify(notices, report))

    async def sweep(self) -> None:
        for store in (self.model.store, self.tested.store):
            while await store.sweep(self.clock.now):
                pass

    async def ask(self) -> None:
        wanted = Filter.parse(self.chance.choice(FILTERS))
        limit = self.chance.choice([None, 3])
        await self.same(lambda store: listed(store.select(wanted, limit=limit)))
        for by in GROUPS:
            await self.same(lambda store, by=by: store.count(wanted, by=by))
        await self.same(lambda store: listed(store.ends(Filter.parse("end=failed,dropped"), limit=5)))
        for row in (await listed(self.model.store.select(Filter(), limit=5)))[-2:]:
            await self.same(lambda store, row=row: store.history(row.message.id))
            await self.same(lambda store, row=row: store.message(row.message.id))
        cursors = dict(zip((self.model.store, self.tested.store), self.cursor, strict=True))
        (first, events), (second, found) = await self.both(lambda store: store.events(cursors[store], limit=7))
        assert found == events
        self.cursor = first, second
        assert await listed(self.tested.store.check()) == []
        assert await listed(self.model.store.check()) == []

    async def die(self) -> None:
        machine = self.chance.random() < 0.4
        await self.model.crash(machine=machine)
        await self.tested.crash(machine=machine)
        await self.join()

    async def join(self) -> None:
        self.node += 1
        self.leases.clear()
        self.claimed.clear()
        self.hands.clear()
        await self.both(lambda store: store.join(f"node {self.node}"))

    plan = (
        (submit, 10),
        (wait, 8),
        (take, 8),
        (give_back, 2),
        (shed, 3),
        (claim, 8),
        (deliver, 14),
        (change, 5),
        (rule, 2),
        (learn, 1),
        (notify, 2),
        (sweep, 2),
        (ask, 3),
        (die, 2),
    )
    steps = tuple(step for step, _ in plan)
    weights = tuple(weight for _, weight in plan)


async def listed(found: AsyncIterator[T]) -> list[T]:
    return [one async for one in found]


async def counters(store: QueueStore) -> dict[str, int]:
    return {name: number for name, number in (await store.counters()).items() if number}


OTHERS = {name: make for name, make in STORES.items() if name != "memory"}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_life_is_that_of_the_store_in_memory(seed: int, make: type[Harness], tmp_path: Path) -> None:
    async def main() -> None:
        tested = make(tmp_path)
        lives = Lives(seed, tested)
        await lives.model.start()
        await tested.start()
        try:
            await lives.live()
        finally:
            await tested.stop()

    asyncio.run(main())

"""Mail moved between queues that are used: each pair of stores, and worlds in which everything dies, by seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.queue.harness import (
    DAY,
    FOLDERS,
    NOON,
    STORES,
    Harness,
    claim,
    content_of,
    deferred,
    ended,
    findings,
    in_doubt,
    lease_of,
    new,
    rows,
    swept,
    take,
    there,
    to,
)
from tests.support.effort import examples

from zsmtp.errors import QueueError, QueueFull
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import to_text
from zsmtp.queue.limits import BY_COMMAND, HELD_FOR_DOUBT, PART_RECIPIENTS
from zsmtp.queue.moves import MOVED_FROM, is_apart
from zsmtp.queue.moving import Mover
from zsmtp.queue.operators import Change, Rule
from zsmtp.queue.states import Outcome, QueuedRecipient
from zsmtp.queue.store import NewRecipient, QueueStore
from zsmtp.records import replace

PAIRS = [(source, target) for source in STORES for target in STORES]
pairs = pytest.mark.parametrize(("source", "target"), PAIRS, ids=["-to-".join(pair) for pair in PAIRS])


def between(source: str, target: str, folder: Path, scenario: Callable[[Harness, Harness], Awaitable[None]]) -> None:
    """Run a scenario between two queues, which are found to be in order in the end."""
    harnesses = []
    for name, kind in (("from", source), ("to", target)):
        (folder / name).mkdir()
        harnesses.append((STORES | FOLDERS)[kind](folder / name))

    async def main() -> None:
        started = []
        try:
            for harness in harnesses:
                await harness.start()
                started.append(harness)
            await scenario(*harnesses)
            for harness in harnesses:
                assert await findings(harness.store) == []
        finally:
            for harness in started:
                await harness.stop()

    asyncio.run(main())


def mover(source: QueueStore, target: QueueStore) -> Mover:
    """One that moves between two stores."""
    return Mover(source, target, "the old queue", "the new queue", by="ann")


async def moved(source: QueueStore, target: QueueStore, text: str = "") -> int:
    """Move what a filter matches; how many recipients were moved."""
    one = mover(source, target)
    number = sum([done async for done in one.finish()])
    number += sum([done async for done in one.move(Filter.parse(text))])
    assert one.problems == {}
    return number


# ----------------------------------------------------------------------- what is carried


async def everything_is_carried(source: Harness, target: Harness) -> None:
    """A recipient stands in the target as it stood in the source."""
    store = source.store
    rule = await store.add_rule(Rule(action="hold", filter="", by="ann"))
    content = bytes(range(256)) * 20
    message = new(
        NewRecipient(
            address="jörg@exämple.net".encode(),
            key="xn--exmple-cua.net",
            notify=b"SUCCESS,DELAY",
            orcpt=b"utf-8;j\\x{F6}rg@example.net",
        ),
        to("ruled@example.net", hold=rule.number),
        to("held@example.net", hold=BY_COMMAND),
        "ended@example.net",
        "tried@example.net",
        content=content,
        tenant="Ä-tenant",
        priority=3,
        due=NOON - 0.125,
        expires=NOON + 60.5,
        ret=b"HDRS",
        envid=b"abc+2B",
        name="<1@example.org>",
        origin="smtp 192.0.2.1 login ann",
        options={"require_tls": True, "tags": ["a", "ü"]},
        idempotency_key="order 17",
        digest=b"17",
    )
    (accepted,) = await store.submit([message])
    await store.join("node")
    lease = await lease_of(store, "example.net")
    by_address = {one.recipient.address: one.recipient for one in await claim(store, lease, NOON)}
    tried, over = by_address[b"tried@example.net"], by_address[b"ended@example.net"]
    assert await store.mark(lease, [tried.next_attempt, over.next_attempt])
    doubt = replace(in_doubt(tried, NOON, NOON), hold=HELD_FOR_DOUBT, notice=None)
    assert await store.settle(lease, [ended(over, NOON), doubt], []) == []
    await store.give_back([lease])
    _ = [one async for one in store.change(Filter.parse("to=jörg*"), Change(rank=2))]
    _ = [one async for one in store.change(Filter.parse("to=jörg*"), Change(due=NOON + 7.5))]
    before = await rows(store)

    source.wait(30)
    target.wait(30)
    assert await moved(store, target.store) == 4
    assert await rows(store) == []
    after = await rows(target.store)
    (here,) = {row.message.id for row in after}
    assert here == accepted.id  # nothing had it there
    origin = f"{to_text(accepted.id, store.shard)} in the old queue"
    for place, (old, was) in enumerate(zip(after, before, strict=True)):
        hold = BY_COMMAND if was.recipient.hold == rule.number else was.recipient.hold
        assert old.recipient == replace(was.recipient, number=place, hold=hold)
        options = {**(was.message.options or {}), MOVED_FROM: origin}
        assert old.message == replace(was.message, recipients=4, options=options)
    assert await content_of(target.store, after[0].message) == content

    (again,) = await target.store.submit([message])  # whoever submits it again now gets to know it
    assert (again.id, again.existed) == (here, True)
    (again,) = await store.submit([message])
    assert (again.id, again.existed) == (accepted.id, True)
    ends = [one async for one in store.ends(Filter.parse("end=moved"))]
    assert {one.reason for one in ends} == {f"to {to_text(here, target.store.shard)} in the new queue"}
    await swept(store, source.now())
    with pytest.raises(QueueError):
        await content_of(store, before[0].message)
    assert await moved(store, target.store) == 0


@pairs
def test_everything_is_carried(source: str, target: str, tmp_path: Path) -> None:
    between(source, target, tmp_path, everything_is_carried)


async def large_messages_are_moved_in_parts(source: Harness, target: Harness) -> None:
    many = [f"u{number}@d{number % 3}.example" for number in range(PART_RECIPIENTS + 300)]
    small, content = b"Subject: x\r\n\r\nhello\r\n", b"0123456789abcdef" * (200 << 10)
    old = await source.store.submit(
        [new(*many, content=content), new("a@example.net", content=content), new("b@example.net"), new("c@d0.example")]
    )
    for _ in range(100):
        if await source.store.count(Filter.parse("state=due"), by="state") == {"due": len(many) + 3}:
            break
        await source.store.sweep(NOON)
    assert await moved(source.store, target.store) == len(many) + 3
    messages = {row.message.id: row.message for row in await rows(target.store)}
    assert len(messages) == len(old)  # the content of each was copied once
    assert [one.recipients for one in messages.values() if one.recipients > 1] == [len(many)]
    for message in messages.values():
        assert await content_of(target.store, message) == (content if message.size > 100 else small)
    assert sorted(await there(target.store)) == sorted([*many, "a@example.net", "b@example.net", "c@d0.example"])
    await target.store.join("node")
    seen: set[str] = set()
    async with asyncio.timeout(60):
        while len(seen) < len(many) + 3:  # those of a large one are let go in pieces
            target.store.beat()
            leases = await take(target.store)
            claimed = [one for lease in leases for one in await claim(target.store, lease, NOON, 10_000)]
            seen |= {one.recipient.address.decode() for one in claimed}
            await target.store.give_back(leases)
            await target.store.arrivals(0.01)


@pytest.mark.parametrize(
    ("source", "target"),
    [*PAIRS, *((one, other) for name in FOLDERS for one, other in ((name, "sqlite"), ("sqlite", name), (name, name)))],
)
def test_large_messages_are_moved_in_parts(source: str, target: str, tmp_path: Path) -> None:
    between(source, target, tmp_path, large_messages_are_moved_in_parts)


async def a_filter_chooses(source: Harness, target: Harness) -> None:
    (accepted,) = await source.store.submit([new("a@one.example", "b@two.example", "c@one.example")])
    assert await moved(source.store, target.store, "domain=one.example") == 2
    assert await there(source.store) == ["b@two.example"]
    assert await there(target.store) == ["a@one.example", "c@one.example"]
    assert await moved(source.store, target.store) == 1  # the same message again, with the last one
    assert await there(target.store) == ["a@one.example", "c@one.example", "b@two.example"]
    assert {(row.message.options or {})[MOVED_FROM] for row in await rows(target.store)} == {
        f"{to_text(accepted.id, source.store.shard)} in the old queue"
    }
    assert await moved(target.store, source.store) == 3  # and back
    assert sorted(await there(source.store)) == ["a@one.example", "b@two.example", "c@one.example"]
    assert await moved(source.store, target.store) == 3


async def a_rule_of_both_queues_holds_in_both(source: Harness, target: Harness) -> None:
    until = NOON + 3600
    await target.store.add_rule(Rule(action="hold", filter="domain=other.example"))
    rules = [
        await source.store.add_rule(Rule(action="hold", filter="domain=example.net", until=end))
        for end in (None, until)
    ]
    await source.store.submit([new(*(to(f"u{rule.number}@example.net", hold=rule.number) for rule in rules))])
    move = mover(source.store, target.store)
    assert [rule.until for rule in await move.missing_rules()] == [None, until]
    added = await move.add_rule(rules[1])
    assert [rule.until for rule in await move.missing_rules()] == [None]
    assert await moved(source.store, target.store) == 2
    assert [row.recipient.hold for row in await rows(target.store)] == [BY_COMMAND, added.number]
    target.wait(3601)
    await swept(target.store, target.now())
    assert [row.recipient.hold for row in await rows(target.store)] == [BY_COMMAND, 0]  # released as it would be there


async def many_go_there_and_back(source: Harness, target: Harness) -> None:
    """Ids that lie close together, and were used in either queue before."""
    addresses = [f"u{number}@example.net" for number in range(60)]
    await source.store.submit([new(address) for address in addresses])
    await target.store.submit([new("other@example.net") for _ in range(20)])
    source.wait(60)
    target.wait(60)
    for start, goal in ((source, target), (target, source), (source, target)):
        assert await moved(start.store, goal.store, "from=ann@shop.example to!=other@example.net") == len(addresses)
        found = await rows(goal.store, "to!=other@example.net")
        assert sorted(row.recipient.address.decode() for row in found) == sorted(addresses)
        assert len({row.message.id for row in found}) == len(addresses)
        (last,) = await goal.store.submit([new("other@example.net")])  # the next id is free, too
        assert last.id not in {row.message.id for row in found}
        assert await findings(goal.store) == []


async def what_cannot_be_taken_now_is_taken_later(source: Harness, target: Harness) -> None:
    await source.store.submit([new("a@example.net"), new("b@example.net")])
    target.free = 1000
    with pytest.raises(QueueFull):
        await moved(source.store, target.store)
    assert await there(source.store, "state=held") == ["a@example.net", "b@example.net"]
    target.free = -1
    assert await moved(source.store, target.store, "to=nobody@example.net") == 2


@pairs
def test_two_that_move_add_a_rule_once(source: str, target: str, tmp_path: Path) -> None:
    """Each has found that the target lacks it; the first one stays, and what it holds is held by that one."""

    async def scenario(old: Harness, there: Harness) -> None:
        kept = await old.store.add_rule(Rule(action="hold", filter="", by="ann"))
        await old.store.submit([new(to("a@example.net", hold=kept.number))])
        movers = [mover(old.store, there.store) for _ in range(2)]
        missing = [await one.missing_rules() for one in movers]
        assert missing[0] == missing[1] != []
        first, second = [await one.add_rule(*rules) for one, rules in zip(movers, missing, strict=True)]
        assert await there.store.rules() == [first] == [second]
        await there.store.add_rule(replace(kept, by="bob"))  # which is about to go
        assert await moved(old.store, there.store) == 1
        assert [row.recipient.hold for row in await rows(there.store)] == [first.number]

    between(source, target, tmp_path, scenario)


def test_a_queue_is_not_moved_to_itself(tmp_path: Path) -> None:
    async def scenario(source: Harness, target: Harness) -> None:
        with pytest.raises(QueueError, match="the same queue"):
            mover(source.store, await source.another())

    between("sqlite", "memory", tmp_path, scenario)


@pairs
@pytest.mark.parametrize(
    "scenario",
    [
        a_filter_chooses,
        a_rule_of_both_queues_holds_in_both,
        many_go_there_and_back,
        what_cannot_be_taken_now_is_taken_later,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_pair(
    scenario: Callable[[Harness, Harness], Awaitable[None]], source: str, target: str, tmp_path: Path
) -> None:
    between(source, target, tmp_path, scenario)


# ------------------------------------------------------------------------------- worlds


class Died(BaseException):
    """A mover's process was killed."""


class Mortal:
    """A store as a process sees it that is killed at its n-th step; a step was done, or was not."""

    def __init__(self, store: QueueStore, life: Life) -> None:
        self._store = store
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name in ("uid", "shard"):
            return found
        if name in ("change", "content"):
            return lambda *given, **named: self._pieces(found(*given, **named))

        async def step(*given: object, **named: object) -> object:
            self._life.step()
            answer = await found(*given, **named)
            self._life.step()
            return Mortal(answer, self._life) if name == "upload" else answer

        return step

    async def _pieces(self, pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
        self._life.step()
        async for piece in pieces:
            self._life.step()
            yield piece


class Life:
    """How many steps a process has left."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self) -> None:
        """Make a step, or die before it."""
        self.steps -= 1
        if self.steps < 0:
            raise Died


class Moving:
    """A world: two queues, their deliverers, somebody who submits, and movers that die."""

    def __init__(self, source: Harness, target: Harness, seed: str) -> None:
        self.queues = (source, target)
        self.chance = random.Random(seed)
        self.accepted: list[str] = []
        self.sent: Counter[str] = Counter()
        self.settled: Counter[str] = Counter()  # sendings that a server did not take, or that are known to be in doubt
        self.nodes = 0

    async def submit(self) -> None:
        """Some messages, at the source."""
        chance, batch = self.chance, []
        for _ in range(chance.randint(1, 6)):
            some = [
                f"u{len(self.accepted) + n}@d{chance.randrange(3)}.example" for n in range(chance.choice([1, 1, 2, 5]))
            ]
            self.accepted += some
            size = chance.choice([10, 10, 300_000, 1_200_000]) if chance.random() < 0.1 else 10
            batch.append(new(*some, content=b"x" * size, tenant=chance.choice(["", "t"])))
        await self.queues[0].store.submit(batch)

    async def operate(self) -> None:
        """What operators do, at either end."""
        store = self.chance.choice(self.queues).store
        wanted = Filter.parse(f"to=u{self.chance.randrange(10)}*")
        change = self.chance.choice([Change(due=NOON), Change(rank=1), Change(hold=BY_COMMAND), Change(hold=0)])
        _ = [one async for one in store.change(wanted, change)]

    async def deliver(self, store: QueueStore, *, dies: bool = False) -> None:
        """Deliver some of what is due; whoever ``dies`` leaves it in hand, or marked."""
        chance = self.chance
        store.beat()
        for lease in await take(store, limit=3):
            doubts = [in_doubt(doubt.recipient, NOON, NOON) for doubt in lease.doubts]
            self.settled.update(doubt.recipient.address.decode() for doubt in lease.doubts)
            assert await store.settle(lease, doubts, []) == []
            claimed = {one.recipient.next_attempt: one.recipient for one in await claim(store, lease, NOON)}
            some = [one for one in claimed.values() if chance.random() < 0.4]
            keys = [one.next_attempt for one in some]
            if chance.random() < 0.5:
                await store.settle(lease, [], list(claimed))
            await asyncio.sleep(0)
            if await store.mark(lease, keys):
                await self._send(store, lease, some, dies=dies)
            if not dies:
                await store.settle(lease, [], [])
                await store.give_back([lease])

    async def _send(self, store: QueueStore, lease: Any, some: list[QueuedRecipient], *, dies: bool) -> None:
        self.sent.update(one.address.decode() for one in some)
        await asyncio.sleep(0)
        if dies:
            return
        results = [ended(one, NOON) if self.chance.random() < 0.6 else deferred(one, NOON, NOON) for one in some]
        for one, result in zip(some, results, strict=True):
            assert result.entry is not None
            self.settled[one.address.decode()] += result.entry.outcome is Outcome.DEFERRED
        assert await store.settle(lease, results, []) == []

    async def move(self, steps: int | None) -> None:
        """Move what an earlier mover left, and everything else, until death comes."""
        life = Life(1 << 60 if steps is None else steps)
        source, target = (Mortal(queue.store, life) for queue in self.queues)
        try:
            one = mover(source, target)  # type: ignore[arg-type]
            _ = [done async for done in one.finish()]
            _ = [done async for done in one.move(Filter())]
            assert one.problems == {}
        except Died:
            pass

    async def join(self) -> None:
        """The deliverers begin."""
        for queue in self.queues:
            self.nodes += 1
            await queue.store.join(f"node {self.nodes}")

    async def live(self) -> None:
        """A while in which everything happens, and deaths at its end."""
        chance = self.chance
        await self.join()
        deaths = [chance.random() < 0.4 for _ in self.queues]
        movers = [self.move(chance.randrange(60)) for _ in range(chance.choice([1, 1, 2]))]
        await self.submit()
        await asyncio.gather(
            *movers,
            self.submit(),
            self.operate(),
            *(self.deliver(queue.store, dies=dies) for queue, dies in zip(self.queues, deaths, strict=True)),
        )
        for queue, dies in zip(self.queues, deaths, strict=True):
            machine = dies and chance.random() < 0.5 and not hasattr(queue, "cluster")  # both databases may be on one
            await queue.crash(machine=machine)

    async def end(self) -> None:
        """What is left is moved, and delivered by the target."""
        source, target = (queue.store for queue in self.queues)
        await self.join()
        for store in (source, target):
            _ = [one async for one in store.change(Filter.parse("state=held"), Change(hold=0))]
        async with asyncio.timeout(120):
            while await source.count(Filter()) != {"": 0}:
                for lease in await take(source):
                    doubts = [in_doubt(doubt.recipient, NOON, NOON) for doubt in lease.doubts]
                    self.settled.update(doubt.recipient.address.decode() for doubt in lease.doubts)
                    assert await source.settle(lease, doubts, []) == []
                    await source.give_back([lease])
                await self.move(None)
            await self.move(None)  # the last one may have died when all was moved
            assert await target.taken_in(source.uid) == []
            _ = [one async for one in target.change(Filter.parse("state=held"), Change(hold=0))]
            while await target.count(Filter()) != {"": 0}:
                await self.deliver(target)

    async def judge(self) -> None:
        """Everybody has one end, and no copy that nobody knows of."""
        ends: Counter[str] = Counter()
        gone: Counter[str] = Counter()
        for queue in self.queues:
            _, events = await queue.store.events("", limit=1_000_000)
            for one in events:
                if one.outcome is Outcome.MOVED:
                    gone[one.address.decode()] += 1
                elif one.outcome.end is not None:
                    ends[one.address.decode()] += 1
            assert not any(is_apart(row.recipient.hold) for row in await rows(queue.store))
        assert ends == Counter(self.accepted)
        assert set(gone.values()) <= {1}
        for address in self.accepted:
            assert 1 <= self.sent[address] <= 1 + self.settled[address], address
        first, second = [await queue.store.counters() for queue in self.queues]
        assert first["moved"] == second["accepted"] == sum(gone.values())


@pairs
@pytest.mark.parametrize("seed", range(examples(3)))
def test_whoever_dies_each_recipient_is_delivered_by_one_queue(
    source: str, target: str, seed: int, tmp_path: Path
) -> None:
    async def scenario(first: Harness, second: Harness) -> None:
        world = Moving(first, second, f"{source} {target} {seed}")
        for _ in range(4):
            await world.live()
        await world.end()
        await world.judge()
        assert await first.store.owed(NOON + DAY, limit=1) == []

    between(source, target, tmp_path, scenario)

"""Nodes in virtual time: what becomes of mail while sites, stores and nodes come and go."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

import pytest
from tests.queue.world import HOUR, SimulatedConnections, SimulatedSite, World
from tests.support import virtualtime
from tests.support.effort import examples
from tests.support.virtualtime import VirtualLoop

from zsmtp.errors import ContentUnavailable, QueueError, QueueUnavailable
from zsmtp.queue.config import Deliver, QueueConfig
from zsmtp.queue.filter import Filter
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.memory.store import MemoryStore
from zsmtp.queue.operators import Change, Rule
from zsmtp.queue.runner import Runner
from zsmtp.queue.schedule import RetryPolicy
from zsmtp.queue.settlement import InDoubt
from zsmtp.queue.shaping import Rate, SiteLimits
from zsmtp.queue.site import Group
from zsmtp.queue.siterunner import SiteRunner
from zsmtp.queue.states import AttemptKey, HistoryEntry, NoticeKind, Outcome
from zsmtp.queue.store import Deferred, Lease, NewMessage, NewRecipient, QueueStore, Settlement


class Scene:
    """A queue, a world, and the node that is alive now."""

    def __init__(self, loop: VirtualLoop, seed: int = 0, config: QueueConfig | None = None) -> None:
        self.loop = loop
        self.config = config or QueueConfig()
        self.store = MemoryStore(clock=loop.wall, monotonic=loop.time)
        self.world = World(seed, loop.time)
        self.entries: list[HistoryEntry] = []
        self.nodes = 0
        self.runner: Runner
        self.task: asyncio.Task[None]

    def start(self) -> None:
        self.nodes += 1
        self.runner = Runner(
            self.store,
            SimulatedConnections(self.world),
            self.config,
            node=f"node{self.nodes}",
            clock=self.loop.wall,
            chance=self.world.chance.random,
            on_entry=self.entries.append,
        )
        self.task = self.loop.create_task(self.runner.run())

    async def stop(self) -> None:
        self.runner.stop()
        await self.task
        assert not [task for task in asyncio.all_tasks() if "zsmtp" in task.get_name()]

    async def kill(self, *, machine: bool = False) -> None:
        """The process is dead from one step to the next; what a store keeps in spite of it is another one's now."""
        self.store = self.store.crash(machine=machine)
        self.runner.stopping = True  # nothing begins in the steps that its tasks need to end
        mine = asyncio.current_task()
        dying = [task for task in asyncio.all_tasks() if task is not mine]
        for task in dying:
            task.cancel()
        await asyncio.gather(*dying, return_exceptions=True)
        for site in self.world.sites.values():
            site.connections = 0

    async def submit(self, *keys: str, count: int = 1, tenant: str = "", expires: float = 4 * HOUR) -> list[int]:
        now = self.loop.wall()
        messages = [
            NewMessage(
                sender=b"a@example.org",
                recipients=[NewRecipient(address=f"r{i}@{key}".encode(), key=key) for i, key in enumerate(keys)],
                content=b"Subject: x\n\nhello\n",
                tenant=tenant,
                due=now,
                expires=now + expires,
            )
            for _ in range(count)
        ]
        return [accepted.id for accepted in await self.store.submit(messages)]

    async def left(self) -> int:
        return (await self.store.count(Filter.parse(""))).get("", 0)

    async def until_done(self, limit: float = 16 * HOUR) -> None:
        end = self.loop.time() + limit
        pause = 0.1
        while await self.left():
            assert self.loop.time() < end, f"{await self.left()} recipients are stuck"
            pause = min(pause * 1.2, 60.0)
            await asyncio.sleep(pause)

    def outcomes(self, message: int, number: int = 0) -> list[Outcome]:
        return [one.outcome for one in self.entries if (one.message, one.number) == (message, number)]


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]], seed: int = 0, config: QueueConfig | None = None) -> None:
    """Play a scene in virtual time."""

    async def main(loop: VirtualLoop) -> None:
        await scene(Scene(loop, seed, config))

    virtualtime.run(main)


def test_what_is_submitted_is_delivered_and_connections_are_used_again() -> None:
    async def scene(it: Scene) -> None:
        it.start()
        ids = await it.submit("one.example", "two.example", count=50)
        await it.until_done()
        assert all(it.outcomes(one, number) == [Outcome.DELIVERED] for one in ids for number in (0, 1))
        assert all(it.world.copies(one, number) == 1 for one in ids for number in (0, 1))
        assert it.world.sites["one.example"].most_seen <= 2
        assert (await it.store.counters())["delivered"] == 100
        await it.stop()

    play(scene)


def test_a_greylisting_site_gets_a_second_try_after_minutes() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["grey.example"] = SimulatedSite(greylists=True)
        it.start()
        (one,) = await it.submit("grey.example")
        await it.until_done()
        assert it.outcomes(one) == [Outcome.DEFERRED, Outcome.DELIVERED]
        waited = it.entries[1].at - it.entries[0].at
        assert 5 * 60 <= waited <= 7 * 60
        await it.stop()

    play(scene)


def test_a_dead_site_costs_a_probe_at_a_time_and_its_mail_is_not_touched() -> None:
    async def scene(it: Scene) -> None:
        start = it.loop.time()
        site = it.world.sites["dead.example"] = SimulatedSite(dead=((start, start + 3 * HOUR),))
        ids = await it.submit("dead.example", count=400)
        it.start()
        await asyncio.sleep(3 * HOUR - 1)
        assert site.tried < 25
        assert len(it.entries) == site.tried
        await it.until_done(1 * HOUR)  # the next probe finds it alive, at most 15 minutes later
        assert all(it.world.copies(one, 0) == 1 for one in ids)
        await it.stop()

    play(scene)


def test_a_dead_site_delays_nobody_else() -> None:
    async def times(it: Scene, *, dead: int) -> float:
        it.world.sites["dead.example"] = SimulatedSite(dead=((0.0, 1e12),))
        if dead:
            await it.submit("dead.example", count=dead)
        it.start()
        await asyncio.sleep(600)
        start = it.loop.time()
        ids = await it.submit(*[f"s{n}.example" for n in range(20)], count=20)
        while not all((one, number) in delivered(it) for one in ids for number in range(20)):
            await asyncio.sleep(0.05)
        took = it.loop.time() - start
        await it.stop()
        return took

    def delivered(it: Scene) -> set[tuple[int, int]]:
        return {(message, number) for _, _, message, number in it.world.delivered}

    found: list[float] = []
    for dead in (0, 5000):

        async def scene(it: Scene, dead: int = dead) -> None:
            found.append(await times(it, dead=dead))

        play(scene)
    assert found[1] <= found[0] * 1.05 + 0.05


def test_a_site_that_takes_few_connections_gets_no_more_and_nobody_is_deferred() -> None:
    async def scene(it: Scene) -> None:
        site = it.world.sites["small.example"] = SimulatedSite(most=2)
        ids = await it.submit("small.example", count=500)
        it.start()
        await it.until_done()
        assert site.most_seen == 2
        assert sum(it.outcomes(one) == [Outcome.DELIVERED] for one in ids) >= 498
        await it.stop()

    play(scene)


def test_a_slow_site_gets_another_connection_for_what_waits() -> None:
    async def scene(it: Scene) -> None:
        site = it.world.sites["slow.example"] = SimulatedSite(latency=60.0)
        await it.submit("slow.example", count=10)
        it.start()
        await it.until_done()
        times = [at for at, *_ in it.world.delivered]
        assert site.most_seen == 5
        assert max(times) - min(times) < 6 * 60, "one connection would take 20 minutes"
        await it.stop()

    play(scene)


def test_rates_hold() -> None:
    limits = {"*": SiteLimits(messages=(Rate(10, 60.0),))}

    async def scene(it: Scene) -> None:
        await it.submit("slow.example", count=60)
        it.start()
        await it.until_done()
        times = [at for at, *_ in it.world.delivered]
        assert all(b - a >= 59 for a, b in zip(times, times[20:], strict=False)), "more than a bucket and its refill"
        assert times[-1] - times[0] >= 4.9 * 60
        await it.stop()

    play(scene, config=QueueConfig(sites=limits))


def test_a_lease_that_could_not_be_given_back_is_given_back_later() -> None:
    """The store takes it for this node's, so nobody could serve the site."""

    async def scene(it: Scene) -> None:
        it.start()
        (first,) = await it.submit("one.example")
        it.store.fail("give_back", QueueUnavailable("the connection was lost"), times=3)
        await asyncio.sleep(120)
        (second,) = await it.submit("one.example")
        await it.until_done(limit=30.0)
        assert it.outcomes(first) == it.outcomes(second) == [Outcome.DELIVERED]
        await it.stop()

    play(scene)


@pytest.mark.parametrize("operation", ["rules", "heads"])
def test_news_that_could_not_be_read_is_read_later(operation: str) -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["slow.example"] = SimulatedSite(latency=5.0)
        it.start()
        await it.submit("slow.example")
        await asyncio.sleep(2)
        it.store.fail(operation, QueueUnavailable("the connection was lost"), times=3)
        await it.store.add_rule(Rule(action="suspend", filter="key=one.example", until=it.loop.wall() + HOUR))
        await it.submit("one.example", "two.example", "slow.example")
        await asyncio.sleep(60)
        keys = [key for _, key, *_ in it.world.delivered]
        assert sorted(keys) == ["slow.example", "slow.example", "two.example"]
        await it.stop()

    play(scene)


def test_a_mark_for_what_was_not_sent_after_all_goes_before_the_node_does() -> None:
    """The server closes the connection before the content while the node stops: nobody may have it."""

    async def scene(it: Scene) -> None:
        site = it.world.sites["odd.example"] = SimulatedSite(latency=1.0, closes=1.0)
        it.start()
        (one,) = await it.submit("odd.example")
        await asyncio.sleep(1.5)
        assert site.connections == 1
        await it.stop()
        assert not it.entries
        site.closes = 0.0
        it.start()
        await it.until_done(limit=30.0)
        assert it.outcomes(one) == [Outcome.DELIVERED]
        await it.stop()

    play(scene)


def test_a_site_that_is_lost_before_its_first_read_is_given_back() -> None:
    async def scene(it: Scene) -> None:
        it.start()
        learn = it.runner._learn

        async def then_lost(sites: list[SiteRunner], *came: Mapping[str, float]) -> None:
            it.runner._learn = learn  # type: ignore[method-assign]
            await learn(sites, *came)
            for site in sites:
                it.runner.lose(site)

        await it.submit("one.example", count=300)
        it.runner._learn = then_lost  # type: ignore[method-assign]
        await it.until_done(limit=60.0)
        await it.stop()

    play(scene)


def test_work_that_is_cancelled_before_it_began_is_closed() -> None:
    async def scene(it: Scene) -> None:
        async def work() -> None:
            raise AssertionError("it never begins")

        it.start()
        await it.runner.joined.wait()
        some = work()
        it.runner.spawn(some)
        (task,) = it.runner._tasks
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
        await it.stop()
        assert inspect.getcoroutinestate(some) == inspect.CORO_CLOSED

    play(scene)


def test_the_number_of_connections_in_all_is_bounded_and_everybody_has_a_turn() -> None:
    async def scene(it: Scene) -> None:
        await it.submit(*[f"s{n}.example" for n in range(50)], count=10)
        it.start()
        most = 0
        for _ in range(100):
            most = max(most, sum(site.connections for site in it.world.sites.values()))
            await asyncio.sleep(0.1)
        assert most <= 5
        await it.until_done()
        first = {key: at for at, key, *_ in reversed(it.world.delivered)}
        assert len(first) == 50
        await it.stop()

    play(scene, config=QueueConfig(connections=5))


def test_expired_mail_ends_with_the_last_reason_and_a_notice_owed() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["dead.example"] = SimulatedSite(dead=((0.0, 1e12),))
        ids = await it.submit("dead.example", count=120, expires=6 * HOUR)
        it.start()
        await it.until_done(7 * HOUR)
        assert all(it.outcomes(one)[-1] is Outcome.EXPIRED for one in ids)
        owed = await it.store.owed(it.loop.wall() + 600, limit=1000)
        assert len(owed) == 120
        kinds = [sorted(one.kind.value for one in notices) for _, notices in owed]
        assert all(found == ["delayed", "failed"] for found in kinds), "a warning, though hardly any was ever tried"
        await it.stop()

    play(scene, config=QueueConfig(retry=RetryPolicy(warn_after=HOUR)))


def test_a_queue_that_is_stopped_and_started_goes_on() -> None:
    async def scene(it: Scene) -> None:
        ids = await it.submit("one.example", count=300)
        it.start()
        await asyncio.sleep(3)
        await it.stop()
        done = len(it.world.delivered)
        assert 0 < done < 300
        it.start()
        await it.until_done()
        assert all(it.world.copies(one, 0) == 1 for one in ids)
        assert not any(one.outcome is Outcome.IN_DOUBT for one in it.entries)
        await it.stop()

    play(scene)


def test_held_suspended_and_rerouted_mail() -> None:
    async def scene(it: Scene) -> None:
        rule = await it.store.add_rule(Rule(action="suspend", filter="key=one.example", until=it.loop.wall() + HOUR))
        await it.store.add_rule(Rule(action="reroute", filter="key=old.example", argument="new.example"))
        it.start()
        (held,) = await it.submit("two.example")
        async for _ in it.store.change(Filter.parse("key=two.example"), Change(hold=1, by="me")):
            pass
        await it.submit("one.example", "old.example", count=3)
        await asyncio.sleep(HOUR - 60)
        assert {key for _, key, *_ in it.world.delivered} <= {"new.example", "two.example"}
        assert len([1 for _, key, *_ in it.world.delivered if key == "new.example"]) == 3
        await asyncio.sleep(10 * 60)
        assert len([1 for _, key, *_ in it.world.delivered if key == "one.example"]) == 3, f"rule {rule.number} is over"
        async for _ in it.store.change(Filter.parse("key=two.example"), Change(hold=0, by="me")):
            pass
        await it.until_done(HOUR)
        assert it.world.copies(held, 0) == 1
        await it.stop()

    play(scene)


@pytest.mark.parametrize("operation", ["settle", "mark", "claim", "take", "heads", "agenda", "arrivals", "report"])
def test_a_store_that_fails_for_a_while(operation: str) -> None:
    async def scene(it: Scene) -> None:
        ids = await it.submit("one.example", "two.example", count=100)
        it.start()
        for _ in range(5):
            await asyncio.sleep(1)
            it.store.fail(operation, QueueUnavailable("the disk is full"), times=4)
        await it.until_done()
        assert all(it.world.copies(one, number) == 1 for one in ids for number in (0, 1))
        await it.stop()

    play(scene)


def test_while_results_cannot_be_written_nothing_new_is_delivered() -> None:
    async def scene(it: Scene) -> None:
        await it.submit("one.example", count=1000)
        it.start()
        await asyncio.sleep(2)
        it.store.fail("settle", QueueUnavailable("the disk is full"), times=60)
        await asyncio.sleep(5)
        before = len(it.world.delivered)
        await asyncio.sleep(60)
        assert len(it.world.delivered) == before
        await it.until_done()
        assert len(it.world.delivered) == 1000
        await it.stop()

    play(scene)


def test_a_clock_that_jumps_neither_freezes_the_queue_nor_sends_all_at_once() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["grey.example"] = SimulatedSite(greylists=True)
        it.start()
        await it.submit("grey.example", count=10)
        await asyncio.sleep(30)
        it.loop.offset += HOUR
        await asyncio.sleep(90)
        it.loop.offset -= 2 * HOUR
        await it.submit("one.example", count=10)
        await asyncio.sleep(5)
        assert len([1 for _, key, *_ in it.world.delivered if key == "one.example"]) == 10
        await it.until_done(3 * HOUR)
        await it.stop()

    play(scene)


@pytest.mark.parametrize("policy", list(InDoubt))
def test_lost_replies_are_in_doubt(policy: InDoubt) -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["odd.example"] = SimulatedSite(breaks=1.0)
        it.start()
        (one,) = await it.submit("odd.example")
        await asyncio.sleep(10)
        it.world.sites["odd.example"].breaks = 0.0
        await asyncio.sleep(HOUR)
        expected = {
            InDoubt.RETRY: ([Outcome.IN_DOUBT, Outcome.DELIVERED], 2, 0),
            InDoubt.HOLD: ([Outcome.IN_DOUBT], 1, 1),
            InDoubt.DELIVERED: ([Outcome.DELIVERED], 1, 0),
        }
        assert (it.outcomes(one), it.world.copies(one, 0), await it.left()) == expected[policy]
        await it.stop()

    play(scene, config=QueueConfig(in_doubt=policy))


def test_a_server_that_takes_a_message_and_breaks_does_not_get_it_every_few_minutes() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["odd.example"] = SimulatedSite(breaks=1.0)
        it.start()
        (one,) = await it.submit("odd.example")
        await asyncio.sleep(3 * HOUR)
        assert 3 <= it.world.copies(one, 0) <= 7, "5, 10, 20, 40 minutes, an hour"
        await it.stop()

    play(scene)


def test_what_a_connection_had_in_hand_whose_process_died_is_in_doubt_or_as_it_was() -> None:
    """With leave to be complete it is in doubt, as after the death of the node; without it nothing was tried."""

    async def scene(it: Scene) -> None:
        unasked = it.world.sites["unasked.example"] = SimulatedSite(unasked=1.0)
        unheard = it.world.sites["unheard.example"] = SimulatedSite(unheard=1.0)
        it.start()
        (one,) = await it.submit("unasked.example", "unheard.example")
        await asyncio.sleep(1)
        unasked.unasked = unheard.unheard = 0.0
        await it.until_done()
        assert (it.outcomes(one, 0), it.world.copies(one, 0)) == ([Outcome.DELIVERED], 1)
        assert (it.outcomes(one, 1), it.world.copies(one, 1)) == ([Outcome.IN_DOUBT, Outcome.DELIVERED], 2)
        assert [entry.attempt for entry in it.entries if entry.number == 0] == [1]
        doubt = next(entry for entry in it.entries if entry.outcome is Outcome.IN_DOUBT)
        assert "the process that delivered it died" in doubt.reason
        await it.stop()

    play(scene)


def worlds(seed: int, now: float) -> dict[str, SimulatedSite]:
    """Sites with troubles of all kinds."""
    chance = World(seed, lambda: now).chance
    found = {}
    for number in range(6):
        start = now + chance.uniform(0, 1 * HOUR)
        found[f"s{number}.example"] = SimulatedSite(
            dead=((start, start + chance.uniform(0, 2 * HOUR)),) if chance.random() < 0.4 else (),
            most=chance.choice([1, 2, 5, 1000]),
            latency=chance.choice([0.001, 0.05, 2.0]),
            greylists=chance.random() < 0.3,
            refuses=chance.choice([0.0, 0.0, 0.3]),
            defers=chance.choice([0.0, 0.1, 0.5]),
            breaks=chance.choice([0.0, 0.0, 0.1]),
        )
    return found


def check(it: Scene, messages: Sequence[tuple[int, int]], *, died: bool) -> None:
    """Nothing is lost, and what came twice was said to be in doubt."""
    histories: dict[tuple[int, int], list[Outcome]] = {}
    for entry in it.entries:
        histories.setdefault((entry.message, entry.number), []).append(entry.outcome)
    for path in messages:
        outcomes = histories.get(path, [])
        copies = it.world.copies(*path)
        ends = [one for one in outcomes if one.end is not None]
        assert len(ends) == 1, (path, outcomes)
        doubts = outcomes.count(Outcome.IN_DOUBT)
        if ends[0] is Outcome.DELIVERED:
            assert 1 <= copies <= 1 + doubts, (path, copies, outcomes)
        else:
            assert copies <= doubts, (path, copies, outcomes)
        assert died or doubts == 0 or copies > 0


SEEDS = examples(5)


async def deliver_all(it: Scene) -> None:
    """Submit messages now and then, deliver them all, and check the world."""
    it.start()
    paths = []
    for _ in range(20):
        keys = it.world.chance.sample(sorted(it.world.sites), it.world.chance.randint(1, 4))
        for one in await it.submit(*keys, count=it.world.chance.randint(1, 5)):
            paths += [(one, number) for number in range(len(keys))]
        await asyncio.sleep(it.world.chance.expovariate(1 / 60))
    await it.until_done()
    await it.stop()
    check(it, paths, died=False)


@pytest.mark.seeds
@pytest.mark.parametrize("seed", range(SEEDS))
def test_worlds_without_deaths(seed: int) -> None:
    async def scene(it: Scene) -> None:
        it.world.sites = worlds(seed, it.loop.time())
        await deliver_all(it)

    play(scene, seed)


@pytest.mark.seeds
@pytest.mark.parametrize("seed", range(SEEDS))
def test_worlds_in_which_processes_die_that_carry_connections(seed: int) -> None:
    async def scene(it: Scene) -> None:
        it.world.sites = worlds(seed, it.loop.time())
        for site in it.world.sites.values():
            site.unasked, site.unheard = (it.world.chance.choice([0.0, 0.1, 0.3]) for _ in range(2))
        await deliver_all(it)

    play(scene, seed)


@pytest.mark.seeds
@pytest.mark.parametrize("seed", range(SEEDS))
def test_worlds_in_which_nodes_die(seed: int) -> None:
    async def scene(it: Scene) -> None:
        it.world.sites = worlds(seed, it.loop.time())
        chance = it.world.chance
        it.start()
        paths = []
        for _ in range(25):
            keys = chance.sample(sorted(it.world.sites), chance.randint(1, 4))
            for one in await it.submit(*keys, count=chance.randint(1, 5)):
                paths += [(one, number) for number in range(len(keys))]
            await asyncio.sleep(chance.choice([0.01, 0.1, 1.0, 20.0, 400.0]) * chance.random())
            await it.kill(machine=chance.random() < 0.3)
            it.start()
        await it.until_done()
        await it.stop()
        counters = await it.store.counters()
        ended = sum(counters.get(end, 0) for end in ("delivered", "failed", "expired", "dropped"))
        assert counters["accepted"] == ended == len(paths)
        histories = [await it.store.history(message) for message, number in paths if number == 0]
        it.entries = [entry for history in histories for entry in history]
        check(it, paths, died=True)

    play(scene, seed, QueueConfig(retry=RetryPolicy(expire=4 * HOUR)))


def test_a_site_whose_mark_was_refused_is_served_again() -> None:
    """The store still takes its lease for this node's: it has to be given back, or nobody could take it."""

    async def scene(it: Scene) -> None:
        mark, refusals = it.store.mark, [False]

        async def refuse_once(lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
            return refusals.pop() if refusals else await mark(lease, attempts)

        it.store.mark = refuse_once  # type: ignore[method-assign]
        it.start()
        (one,) = await it.submit("one.example")
        await it.until_done(limit=60.0)
        assert not refusals
        assert it.outcomes(one) == [Outcome.DELIVERED]
        await it.stop()

    play(scene)


def test_a_site_that_waits_for_a_connection_is_served_before_one_with_much_mail() -> None:
    async def scene(it: Scene) -> None:
        await it.submit("much.example", count=200)
        it.start()
        await asyncio.sleep(1)
        await it.submit("little.example")
        await it.until_done()
        order = [key for _, key, *_ in it.world.delivered]
        assert order.index("little.example") < 50, "its turn comes with the next connection, and not after all others"
        await it.stop()

    play(scene, config=QueueConfig(connections=1))


def test_a_connection_for_a_site_without_mail_is_offered_to_the_next_one() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["slow.example"] = SimulatedSite(latency=20.0)
        await it.submit("slow.example")
        it.start()
        await asyncio.sleep(1)
        await it.submit("withdrawn.example")
        await asyncio.sleep(1)
        await it.submit("waiting.example")
        await asyncio.sleep(1)
        async for _ in it.store.change(Filter.parse("key=withdrawn.example"), Change(end="dropped", by="me")):
            pass
        await it.until_done(limit=120.0)
        assert [key for _, key, *_ in it.world.delivered] == ["slow.example", "waiting.example"]
        await it.stop()

    play(scene, config=QueueConfig(connections=1))


def test_all_mail_for_a_domain_that_does_not_exist_fails_at_once() -> None:
    """There is no server to be spared by probes."""

    async def scene(it: Scene) -> None:
        it.world.sites["gone.example"] = SimulatedSite(exists=False)
        ids = await it.submit("gone.example", count=500)
        it.start()
        await it.until_done(limit=60.0)
        assert all(it.outcomes(one) == [Outcome.FAILED] for one in ids)
        await it.stop()

    play(scene)


def test_mail_that_is_kept_goes_after_a_reload_although_the_store_fails_then() -> None:
    async def scene(it: Scene) -> None:
        it.start()
        ids = await it.submit("one.example", count=3)
        await asyncio.sleep(5)
        assert not it.world.delivered
        it.store.fail("rules", QueueUnavailable("another process has it locked"), times=2)
        it.runner.reconfigure(QueueConfig())
        await it.until_done(limit=60.0)
        assert all(it.world.copies(one, 0) == 1 for one in ids)
        await it.stop()

    play(scene, config=QueueConfig(deliver=Deliver.NONE))


@pytest.mark.parametrize("pause", [0.0, 5.0])
def test_a_rule_that_is_deleted_while_what_it_holds_is_written_holds_nothing(pause: float) -> None:
    """The store holds nothing for a rule that is gone; the node reads the recipients again, soon."""

    async def scene(it: Scene) -> None:
        ids = await it.submit("one.example", count=3)
        rule = await it.store.add_rule(Rule(action="hold", filter=""))
        settle = it.store.settle

        async def late(
            lease: Lease, results: Sequence[Settlement], in_hand: Collection[AttemptKey]
        ) -> list[AttemptKey]:
            if any(isinstance(one, Deferred) and one.hold for one in results):
                assert await it.store.delete_rule(rule.number)
                await asyncio.sleep(pause)  # the node hears of it before the results are written, or behind that
                it.store.settle = settle  # type: ignore[method-assign]
            return await settle(lease, results, in_hand)

        it.store.settle = late  # type: ignore[method-assign]
        it.start()
        await it.until_done(limit=60.0)
        assert it.store.settle == settle, "nothing was about to be held: the test shows nothing"
        assert all(it.world.copies(one, 0) == 1 for one in ids)
        await it.stop()

    play(scene)


@pytest.mark.parametrize("operation", ["settle", "claim"])
def test_an_error_of_the_store_that_is_not_for_now_stops_nothing_for_good(operation: str) -> None:
    async def scene(it: Scene) -> None:
        ids = await it.submit("one.example", count=100)
        it.store.fail(operation, QueueError("it has values that cannot be understood"), times=3)
        it.start()
        await it.until_done(limit=300.0)
        assert all(it.world.copies(one, 0) == 1 for one in ids)
        await it.stop()

    play(scene)


def test_a_fault_in_writing_results_ends_the_node() -> None:
    """Nothing is delivered whose result nobody writes; whoever runs the node starts it again."""

    async def scene(it: Scene) -> None:
        await it.submit("one.example", count=10)
        it.start()
        await asyncio.sleep(0.01)

        def fails(entry: HistoryEntry) -> None:
            raise ValueError("a fault")

        it.runner.results._on_entry = fails
        with pytest.raises(ValueError, match="a fault"):
            await asyncio.wait_for(it.task, 10.0)

    play(scene)


def test_a_site_is_not_connected_to_all_the_time_while_marks_cannot_be_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(it: Scene) -> None:
        mark = it.store.mark

        async def failing(lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
            if it.loop.time() < end:
                raise QueueUnavailable("the disk is full")
            return await mark(lease, attempts)

        it.store.mark = failing  # type: ignore[method-assign]
        await it.submit("one.example", count=100)
        it.start()
        end = it.loop.time() + 60
        await asyncio.sleep(60)
        assert it.world.sites["one.example"].asked <= 60 * 5, "once a second for each connection of its window"
        said = [one for one in caplog.messages if "the disk is full" in one]
        assert len(said) == 1, "said once"
        await it.until_done(limit=60.0)
        await asyncio.sleep(12)
        assert "the queue's store can be used again" in caplog.messages
        await it.stop()

    play(scene)


@pytest.mark.parametrize(
    ("error", "failures"), [(QueueUnavailable("the disk is full"), 30), (OSError(28, "No space left on device"), 9)]
)
def test_a_large_content_that_cannot_be_loaded_for_a_while(error: Exception, failures: int) -> None:
    async def scene(it: Scene) -> None:
        it.start()
        loads = 0
        load = it.runner.connections.load

        async def failing(store: QueueStore, group: Group) -> None:
            nonlocal loads
            loads += 1
            if loads <= failures:
                raise type(error)(*error.args)  # each with a traceback of its own
            await load(store, group)

        it.runner.connections.load = failing  # type: ignore[method-assign]
        now = it.loop.wall()
        large = NewMessage(
            sender=b"a@example.org",
            recipients=[NewRecipient(address=b"r@one.example", key="one.example")],
            content=b"Subject: x\n\n" + b"x\n" * 200_000,
            due=now,
            expires=now + 400 * HOUR,
        )
        began = it.loop.time()
        await it.store.submit([large])
        await it.until_done(limit=200 * HOUR)
        assert len(it.world.delivered) == 1
        assert it.loop.time() - began >= 30, "a moment between two tries"
        await it.stop()

    play(scene)


def test_what_waits_for_its_turn_expires_and_is_warned_of() -> None:
    async def scene(it: Scene) -> None:
        ids = await it.submit("slow.example", count=100, expires=6 * HOUR)
        it.start()
        await it.until_done(limit=7 * HOUR)
        last = [it.outcomes(one)[-1] for one in ids]
        assert 20 <= last.count(Outcome.DELIVERED) <= 40
        assert last.count(Outcome.DELIVERED) + last.count(Outcome.EXPIRED) == 100
        owed = await it.store.owed(it.loop.wall() + 600, limit=1000)
        kinds = [one.kind for _, notices in owed for one in notices]
        assert kinds.count(NoticeKind.FAILED) == last.count(Outcome.EXPIRED)
        assert kinds.count(NoticeKind.DELAYED) >= kinds.count(NoticeKind.FAILED)
        await it.stop()

    limits = {"slow.example": SiteLimits(messages=(Rate(4, 3600.0),))}
    play(scene, config=QueueConfig(sites=limits, retry=RetryPolicy(warn_after=HOUR)))


def test_senders_of_suspended_mail_are_warned_once() -> None:
    async def scene(it: Scene) -> None:
        await it.store.add_rule(Rule(action="suspend", filter="key=one.example", until=it.loop.wall() + 9 * HOUR))
        await it.submit("one.example", count=10, expires=20 * HOUR)
        it.start()
        await asyncio.sleep(8 * HOUR)
        owed = await it.store.owed(it.loop.wall() + 600, limit=1000)
        assert [one.kind for _, notices in owed for one in notices] == [NoticeKind.DELAYED] * 10
        assert not it.world.delivered
        await it.until_done(limit=2 * HOUR)
        assert len(it.world.delivered) == 10
        await it.stop()

    play(scene, config=QueueConfig(retry=RetryPolicy(warn_after=HOUR)))


class WithoutFolder(MemoryStore):
    """A store whose large contents cannot be read for a while."""

    mounted = False

    async def content(self, message: int, size: int) -> AsyncIterator[bytes]:
        if not self.mounted:
            raise ContentUnavailable("the folder is not mounted")
        async for chunk in super().content(message, size):
            yield chunk


def test_a_folder_that_is_not_there_delays_its_messages_and_no_others() -> None:
    async def scene(it: Scene) -> None:
        store = it.store = WithoutFolder(clock=it.loop.wall, monotonic=it.loop.time)
        now = it.loop.wall()
        recipients = [NewRecipient(address=b"r%d@one.example" % number, key="one.example") for number in range(3)]
        large, given_up = [
            NewMessage(sender=b"", recipients=recipients, content=bytes(CHUNK + 1), due=now, expires=now + seconds)
            for seconds in (4 * HOUR, 600)
        ]
        (kept,) = await store.submit([large])
        it.start()
        await asyncio.sleep(10)
        small = await it.submit("one.example", count=20)
        (lost,) = await store.submit([given_up])
        await asyncio.sleep(60)
        assert all(it.outcomes(one) == [Outcome.DELIVERED] for one in small)
        await asyncio.sleep(HOUR)
        assert it.outcomes(kept.id) == []  # what was not tried is no attempt
        (row, *_) = [row async for row in store.select(Filter.parse("domain=one.example"))]
        assert (row.recipient.attempts, row.recipient.reason) == (0, "the folder is not mounted")
        assert it.outcomes(lost.id) == [Outcome.EXPIRED]
        store.mounted = True
        await it.until_done(300)
        assert [it.outcomes(kept.id, number) for number in range(3)] == [[Outcome.DELIVERED]] * 3
        await it.stop()

    play(scene)

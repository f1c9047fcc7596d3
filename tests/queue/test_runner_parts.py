"""Nodes that share a site, in virtual time: how it is divided, what of its limits each has, what follows a death."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from tests.queue.harness import DAY
from tests.queue.world import SimulatedConnection, SimulatedConnections, SimulatedSite, World
from tests.support import virtualtime
from tests.support.virtualtime import VirtualLoop

from zsmtp.delivery.attempt import Returns
from zsmtp.delivery.envelope import Delivery
from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue import dividing
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.connections import Allow
from zsmtp.queue.dividing import ALONE, PRESSED, beyond_share
from zsmtp.queue.leases import VALID
from zsmtp.queue.memory.store import MemoryStore
from zsmtp.queue.operators import SiteStatus
from zsmtp.queue.runner import Runner
from zsmtp.queue.shaping import Rate, SiteLimits
from zsmtp.queue.site import KeyQueue
from zsmtp.queue.siterunner import SiteRunner
from zsmtp.queue.slots import ALL, count, has, slot_of
from zsmtp.queue.states import START, AttemptKey, QueuedMessage, QueuedRecipient, SubQueue
from zsmtp.queue.store import Claimed, Lease, NewMessage, NewRecipient

KEY = "relay.example"
FEW = QueueConfig(claim=50)


class NodeConnections(SimulatedConnections):
    """The network of a node, which counts its messages and connections."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.sent: list[tuple[float, int]] = []
        """When which message was sent."""
        self.open = 0

    def connection(self, key: str, allow: Allow, *, site: str = "", in_turn: bool = False) -> SimulatedConnection:
        return NodeConnection(self, key, allow)


class NodeConnection(SimulatedConnection):
    """One connection of a node."""

    def __init__(self, network: NodeConnections, key: str, allow: Allow) -> None:
        super().__init__(network.world, key, allow)
        self._network = network

    def _sent(self, recipients: Any) -> None:
        super()._sent(recipients)
        self._network.sent += [(self._network.world.clock(), one.message) for one in recipients]


class Sharing:
    """Nodes on one queue with one big site."""

    def __init__(self, loop: VirtualLoop, config: QueueConfig) -> None:
        self.loop = loop
        self.config = config
        self.store = MemoryStore(clock=loop.wall, monotonic=loop.time)
        self.world = World(0, loop.time)
        self.world.sites[KEY] = SimulatedSite(latency=0.5)
        self.networks: list[NodeConnections] = []
        self.runners: list[Runner] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let one more node begin."""
        network = NodeConnections(self.world)
        name = f"node{len(self.runners)}"
        runner = Runner(self.store.another(), network, self.config, node=name, clock=self.loop.wall, chance=lambda: 0.5)
        self.networks.append(network)
        self.runners.append(runner)
        self.tasks.append(self.loop.create_task(runner.run()))

    async def submit(self, number: int, key: str = KEY) -> None:
        now = self.loop.wall()
        recipient = NewRecipient(address=b"r@relay.example", key=key)
        message = NewMessage(
            sender=b"a@example.org", recipients=[recipient], content=b"Subject: x\n\n", due=now, expires=now + DAY
        )
        await self.store.submit([message] * number)

    def site(self, node: int) -> SiteRunner | None:
        """The part of the site that a node has."""
        return self.runners[node]._sites.get(KEY)

    @property
    def slots(self) -> list[int]:
        """How many slots each node has."""
        return [0 if site is None else count(site.lease.slots) for site in map(self.site, range(len(self.runners)))]

    async def until(self, reached: Callable[[], bool], seconds: float) -> float:
        """Wait for something, so many seconds at most; returns how long it took."""
        begun = self.loop.time()
        while not reached():
            assert self.loop.time() - begun < seconds, f"{self.slots} after {seconds} s"
            await asyncio.sleep(0.1)
        return self.loop.time() - begun

    async def until_empty(self) -> None:
        while (await self.store.counters()).get("delivered", 0) < (await self.store.counters())["accepted"]:
            await asyncio.sleep(1.0)

    async def stop(self) -> None:
        for runner in self.runners:
            runner.stop()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def sent_by(self, node: int, since: float = 0.0) -> int:
        return sum(at >= since for at, _ in self.networks[node].sent)


def play(scene: Callable[[Sharing], Coroutine[Any, Any, None]], config: QueueConfig = FEW) -> None:
    """Play a scene in virtual time; a message is sent twice only after a doubt."""

    async def main(loop: VirtualLoop) -> None:
        it = Sharing(loop, config)
        await scene(it)
        await it.stop()
        copies = it.world.sites[KEY].copies
        assert copies.total() - len(copies) <= (await it.store.counters()).get("doubtful", 0)
        assert [finding async for finding in it.store.check()] == []

    virtualtime.run(main)


def test_two_nodes_share_a_site_with_much_work() -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        await it.submit(3000)
        await it.until(lambda: sorted(it.slots) == [0, 16], 3)
        took = await it.until(lambda: it.slots == [8, 8], 3 * PRESSED)
        assert took >= PRESSED - 1
        assert it.world.sites[KEY].most_seen <= 20
        shared = it.loop.time()
        windows = [site.window.most for site in map(it.site, (0, 1)) if site is not None]
        assert windows == [10, 10]
        statuses: list[SiteStatus] = []
        while sum(one.slots for one in statuses) != ALL or len(statuses) != 2:
            await asyncio.sleep(1.0)
            statuses = await it.store.sites([KEY])
        await it.until_empty()
        assert min(it.sent_by(0, shared), it.sent_by(1, shared)) > 1000
        assert it.world.sites[KEY].most_seen <= 20
        await it.until(lambda: it.slots == [0, 0], 120)

    play(scene)


def test_a_site_goes_on_while_it_is_divided() -> None:
    """No connection is opened beyond the limit either: the owner closes those that it gives up first."""

    async def scene(it: Sharing) -> None:
        it.start()
        await it.submit(8000)
        await it.until(lambda: it.world.sites[KEY].connections == 20, 60)
        it.start()
        await it.until(lambda: it.slots == [8, 8], 30)
        await it.until(lambda: it.sent_by(1) > 200, 60)
        assert it.world.sites[KEY].most_seen == 20
        times = [at for at, _ in it.networks[0].sent]
        assert max(after - before for before, after in pairwise(times[100:])) < 1.1

    play(scene, QueueConfig(claim=1000, sites={KEY: SiteLimits(start=20, most=20)}))


@pytest.mark.parametrize("more", [0, 1])
def test_sites_with_much_work_are_divided_where_they_are_few(more: int) -> None:
    async def scene(it: Sharing) -> None:
        keys = [f"relay{number}.example" for number in range(dividing.FEW + more)]
        for key in keys:
            it.world.sites[key] = SimulatedSite(latency=0.5)
            await it.submit(3000, key)
        it.start()
        await it.until(lambda: len(it.runners[0]._sites) == len(keys), 10)
        it.start()
        await asyncio.sleep(4 * PRESSED)
        assert len(it.runners[1]._sites) == (0 if more else len(keys))

    play(scene)


def test_three_nodes_share_a_site() -> None:
    async def scene(it: Sharing) -> None:
        for _ in range(3):
            it.start()
        await it.submit(6000)
        await it.until(lambda: min(it.slots) >= 4, 60)
        assert sum(it.slots) == 16
        assert max(it.slots) <= 8
        await asyncio.sleep(20)
        assert sum(it.slots) == 16

    play(scene)


def test_the_slots_of_a_dead_node_are_served_soon() -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        await it.submit(4000)
        await it.until(lambda: it.slots == [8, 8], 30)
        it.runners[1].store.beat = lambda: None  # type: ignore[method-assign]
        it.tasks[1].cancel()
        begun = it.loop.time()
        await it.until(lambda: it.slots[0] == 16, VALID + 2)
        assert it.loop.time() - begun > VALID - 2
        await it.until_empty()

    play(scene)


def test_the_slots_of_a_drained_node_are_served_at_once() -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        await it.submit(4000)
        await it.until(lambda: it.slots == [8, 8], 30)
        await it.store.drain("node1")
        await it.tasks[1]
        await it.until(lambda: it.slots[0] == 16, 2.5)
        await it.until_empty()

    play(scene)


def test_a_site_with_one_connection_stays_with_one_node() -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        await it.submit(100)
        await asyncio.sleep(60)
        assert sorted(it.slots) == [0, 16]
        assert it.world.sites[KEY].most_seen == 1
        await it.until_empty()

    play(scene, QueueConfig(claim=10, sites={KEY: SiteLimits(start=1, most=1)}))


def test_rates_of_a_divided_site_are_those_of_the_site() -> None:
    async def scene(it: Sharing) -> None:
        it.world.sites[KEY].latency = 0.001
        it.start()
        it.start()
        await it.submit(4000)
        await it.until(lambda: it.slots == [8, 8], 60)
        await asyncio.sleep(10)
        begun = it.loop.time()
        await asyncio.sleep(20)
        sent = [it.sent_by(0, begun), it.sent_by(1, begun)]
        assert sum(sent) <= 20 * 20 + 20
        assert min(sent) > 150

    play(scene, QueueConfig(claim=50, sites={KEY: SiteLimits(start=2, most=2, messages=(Rate(20, 1.0),))}))


def test_a_node_that_stays_alone_does_not_divide_again_and_again() -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        for runner in it.runners[1:]:
            runner.note = lambda key, due: None  # type: ignore[method-assign]  # it never wants this site
        shed = Counter[int]()
        await it.submit(6000)
        await it.until(lambda: it.slots == [16, 0], 30)
        store, asked = it.runners[0].store, it.runners[0].store.shed

        async def counting(lease: Any, slots: int) -> Any:
            shed[slots] += 1
            return await asked(lease, slots)

        store.shed = counting  # type: ignore[method-assign]
        await it.until(lambda: it.slots == [8, 0], 30)
        await it.until(lambda: it.slots == [16, 0], 5)
        divided = shed.total()
        await asyncio.sleep(ALONE / 2)
        assert it.slots == [16, 0]
        assert shed.total() == divided

    play(scene)


def test_each_node_gets_some_of_the_connections_that_a_server_takes() -> None:
    """It takes ten in all, and one node had them."""

    async def scene(it: Sharing) -> None:
        it.world.sites[KEY].most = 10
        it.start()
        await it.submit(4000)
        await it.until(lambda: it.world.sites[KEY].connections == 10, 60)
        it.start()
        await it.until(lambda: it.slots == [8, 8], 60)
        for _ in range(60):
            await asyncio.sleep(1.0)
            assert not any(site is not None and site.window.dead for site in map(it.site, (0, 1)))
        assert it.slots == [8, 8]
        assert min(it.sent_by(0, it.loop.time() - 60), it.sent_by(1, it.loop.time() - 60)) > 100
        await it.until_empty()

    play(scene, QueueConfig(claim=500))


def test_a_server_with_one_connection_stays_with_one_node() -> None:
    async def scene(it: Sharing) -> None:
        it.world.sites[KEY].most = 1
        it.start()
        it.start()
        await it.submit(300)
        await it.until(lambda: sorted(it.slots) == [0, 16], 3)
        for _ in range(60):
            await asyncio.sleep(1.0)
            assert sorted(it.slots) == [0, 16]
        await it.until_empty()

    play(scene)


def test_a_delivery_that_takes_an_hour_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot is to be given up meanwhile: the rest of that slot is delivered all the same."""
    hung: list[AttemptKey] = []
    at_once = SimulatedConnection._one

    async def slowly(connection: SimulatedConnection, delivery: Delivery, returns: Returns) -> bool:
        recipient = connection.groups[delivery.ledger].recipients[0]
        if not hung and has(beyond_share(ALL, 2, FEW.limits_for(KEY)), recipient.message):
            hung.append(recipient.next_attempt)
            await asyncio.sleep(3600)
        return await at_once(connection, delivery, returns)

    monkeypatch.setattr(SimulatedConnection, "_one", slowly)

    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        await it.submit(2000)
        await it.until(lambda: min(it.slots) >= 7, 60)
        await it.until(lambda: len(it.world.delivered) == 1999, 600)
        assert [await it.store.message(message) is not None for message, _, _ in hung] == [True]
        await it.until_empty()

    play(scene)


def test_slots_are_kept_when_the_other_node_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        monkeypatch.setattr(KeyQueue, "busy_slots", ALL)  # nothing can be given up
        await it.submit(2000)
        begun: list[int] = []

        def leaving() -> bool:
            begun[:] = [node for node in (0, 1) if (site := it.site(node)) is not None and site.division.leaving]
            return bool(begun)

        await it.until(leaving, 30)
        (owner,) = begun
        await it.store.drain(f"node{1 - owner}")
        await it.tasks[1 - owner]
        await it.until(lambda: not leaving(), 3)
        await it.until_empty()

    play(scene)


def test_what_is_under_way_when_a_node_gets_its_site_anew_is_waited_for() -> None:
    """Its first lease ended while it stood still, and it was the first to take the site: with a new lease."""

    async def scene(it: Sharing) -> None:
        it.world.sites[KEY].latency = 60.0
        it.start()
        await it.submit(50)
        await it.until(lambda: it.sent_by(0) > 0, 200)
        first = it.site(0)
        assert first is not None
        under_way = [worker.task for worker in first.workers]
        store = it.runners[0].store
        beat = store.beat
        store.beat = lambda: None  # type: ignore[method-assign]
        await it.until(lambda: it.site(0) is not first, VALID + 10)
        store.beat = beat  # type: ignore[method-assign]
        assert first.lost
        assert not all(task.done() for task in under_way)
        it.runners[0].stop()
        await it.tasks[0]
        assert all(task.done() and not task.cancelled() for task in under_way)

    play(scene)


def test_slots_that_the_store_does_not_take_back_are_served_again() -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        asked: list[int] = []

        async def refusing(lease: Lease, slots: int) -> Lease | None:
            asked.append(slots)
            raise QueueError("slots with marked attempts cannot be given up: settle them first")

        it.runners[0].store.shed = it.runners[1].store.shed = refusing  # type: ignore[method-assign]
        await it.submit(1500)
        await it.until(lambda: bool(asked), 30)
        await it.until_empty()
        assert not it.tasks[0].done()
        assert not it.tasks[1].done()

    play(scene)


def test_what_a_read_brings_of_slots_that_were_given_up_is_left_out() -> None:
    """It began before they were."""

    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        await it.submit(1500)
        await it.until(lambda: it.slots == [8, 8], 30)
        site = it.site(0)
        assert site is not None
        key = site.key_queue(KEY)
        messages = range(1, 60)
        assert [site._usable(key, claimed(one)) for one in messages] == [has(site.lease.slots, one) for one in messages]
        site.division.leaving = site.lease.slots
        assert not any(site._usable(key, claimed(one)) for one in messages)
        site.division.leaving = 0
        await it.until_empty()

    play(scene)


def test_a_store_that_cannot_be_reached_is_asked_again() -> None:
    async def scene(it: Sharing) -> None:
        it.start()
        it.start()
        await it.submit(3000)
        for runner in it.runners:
            assert isinstance(runner.store, MemoryStore)
            runner.store.fail("shed", QueueUnavailable("the connection was lost"), times=3)
        await it.until(lambda: it.slots == [8, 8], 40)
        await it.until_empty()

    play(scene)


def claimed(message: int) -> Claimed:
    recipient = QueuedRecipient(
        message=message,
        number=0,
        address=b"r@one.example",
        key=KEY,
        tenant="",
        rank=0,
        due=1.0,
        expires=float(1 << 40),
    )
    queued = QueuedMessage(id=message, tenant="", sender=b"", submitted=1.0, size=1, recipients=1)
    return Claimed(recipient, queued, b"x")


def test_what_was_read_and_not_begun_of_slots_is_dropped() -> None:
    queue = KeyQueue(KEY)
    sub = SubQueue(KEY, "", 0)
    queue.learn(sub, 0.0)
    assert queue.to_read(5.0) == [(sub, START)]
    assert queue.add(sub, [claimed(number) for number in range(1, 40)], None, queue.generation)
    first = queue.next()
    assert first is not None
    mine = 1 << slot_of(first.message.id)
    others = sum(slot_of(number) == slot_of(first.message.id) for number in range(1, 40)) - 1
    assert queue.busy_slots == ALL
    queue.release(mine)
    assert queue.ready == 38 - others
    assert queue.busy_slots & mine, "the one that was begun is in hand still"
    assert not any(1 << slot_of(group.message.id) & mine for group in queue.buffered())
    queue.done(first.message.id, 0)
    assert not queue.busy_slots & mine
    queue.release(ALL)
    assert queue.ready == queue.busy_slots == 0
    assert queue.next() is None

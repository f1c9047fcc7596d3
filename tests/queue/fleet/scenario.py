"""The life of a fleet, by seed: nodes deliver what clients submit, while everything fails that can.

:func:`run_fleet` plays it and returns a :class:`~tests.queue.fleet.verdict.FleetReport`. For a while nodes are killed,
stopped for longer than their leases are good, cut off from the store, drained and replaced, and their clocks jump; the
store's machine dies and comes back; receivers vanish, or answer at random. Then all is calm again, and the fleet has
to bring everything to an end. The store is an argument: whatever keeps the contract can be played with, as long as its
answers come in the time of the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.queue.fleet.links import StoreLink, Umpire
from tests.queue.fleet.network import BIG, FleetConnections, FleetWorld
from tests.queue.fleet.stores import FleetStore
from tests.queue.fleet.verdict import FleetReport, judge
from tests.queue.world import HOUR, SimulatedSite
from tests.support.processes import ProcessLoop, SimulatedProcess

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.runner import Runner
from zsmtp.queue.schedule import FailureClass, RetryPolicy, Schedule
from zsmtp.queue.store import NewMessage, NewRecipient, QueueStore

CONFIG = QueueConfig(
    retry=RetryPolicy(schedules={FailureClass.OTHER: Schedule((20, 40, 60), then=120)}),
    claim=50,
    shutdown=20.0,
)
"""Retries come soon, so that much happens in little time; little is in hand, so that little is in doubt with it."""
LIMIT = 6 * HOUR
"""Seconds of calm in which all has to come to an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What is played."""

    seed: int
    messages: int = 5000
    nodes: int = 5
    sites: int = 20
    big: float = 0.3
    """The share of recipients at one site, which is more than one node begins."""
    clients: int = 3
    seconds: float = 400.0
    """How long there are faults."""
    pause: float = 4.5
    """Seconds between two faults, on average."""


class FleetNode:
    """One node, from its start to its end."""

    def __init__(self, fleet: Fleet, name: str, store: QueueStore) -> None:
        self.name = name
        self.process = SimulatedProcess(fleet.loop, name)
        self.link = StoreLink(store, fleet.umpire, name, fleet.chance, fleet.store_is_down)
        self.network = FleetConnections(fleet.world, name)
        self.clock_error = 0.0
        """Seconds that its clock is ahead."""
        self.leaving = False
        self.gone = False
        self.runner: Runner
        self._fleet = fleet
        self.task = self.process.start(self._live())

    async def _live(self) -> None:
        """What a service does: start until there is a store, deliver until it is to leave."""
        fleet = self._fleet
        while not self.leaving:
            self.runner = Runner(
                self.link,
                self.network,
                CONFIG,
                node=self.name,
                clock=lambda: fleet.loop.wall() + self.clock_error,
                chance=fleet.chance.random,
            )
            try:
                await self.runner.run()
            except QueueUnavailable:
                await asyncio.sleep(1.0)
            except Exception as error:
                fleet.umpire.faults.append(f"{self.name} ended with {error!r}")
                break
        with suppress(QueueUnavailable):
            await self.link.close()
        self.gone = True

    def leave(self) -> None:
        """Drain (SIGTERM)."""
        self.leaving = True
        self.runner.stop()

    async def kill(self) -> None:
        """Let it die from one step to the next (SIGKILL)."""
        self.gone = True
        self.link.dead = True
        self.network.kill()
        await self.process.kill()


class Fleet:
    """All of it."""

    def __init__(self, loop: ProcessLoop, plan: FleetPlan, store: FleetStore) -> None:
        self.loop = loop
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.world = FleetWorld(plan.seed, loop.time)
        self.umpire = Umpire(self._contest, self._restart_at_mark)
        self.faults: Counter[str] = Counter()
        self.nodes: list[FleetNode] = []
        self.joined = 0
        self.accepted: set[tuple[int, int]] = set()
        """Message and number of each recipient that the store said it has."""
        self._store = store
        self._down_until = 0.0
        self._trouble_until = 0.0
        self._restarts_at_mark = False
        self._links: list[StoreLink] = []  # of clients
        self._keys = [f"s{number}.example" for number in range(plan.sites)]
        self._coming: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------- parts

    def store_is_down(self) -> bool:
        """Whether the store's machine is."""
        return self.loop.time() < self._down_until

    async def join(self) -> None:
        """Let one more node begin."""
        self.joined += 1
        self.nodes.append(FleetNode(self, f"node{self.joined}", await self._store.open()))

    def join_later(self) -> None:
        """Let one more node begin in a while."""

        async def later() -> None:
            await asyncio.sleep(self.chance.uniform(0, 30))
            await self.join()

        self._in_a_while(later())

    def _in_a_while(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done by no node: it goes on whatever is stopped."""
        task = contextvars.Context().run(self.loop.create_task, work)
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    def _some(self) -> FleetNode | None:
        """One of the nodes that are there."""
        there = [node for node in self.nodes if not node.gone]
        return self.chance.choice(there) if there else None

    # ----------------------------------------------------------------- clients

    async def _submit(self, messages: int) -> None:
        """One client: it submits, and does so again until it is told that the message is there."""
        chance, loop = self.chance, self.loop
        link = StoreLink(await self._store.open(), self.umpire, "client", chance, self.store_is_down)
        self._links.append(link)
        name = len(self._links)
        sent = 0
        while sent < messages:
            many = min(chance.choice([1, 10, 40, 80]), messages - sent)
            batch = [self._message(f"{name}/{sent + number}") for number in range(many)]
            sent += many
            while True:
                try:
                    answers = await link.submit(batch)
                except QueueUnavailable:
                    await asyncio.sleep(1.0)
                    continue
                break
            for message, answer in zip(batch, answers, strict=True):
                self.accepted.update((answer.id, number) for number in range(len(message.recipients)))
            left = max(self.plan.seconds * 0.9 - (loop.time() - 1000.0), 1.0)
            await asyncio.sleep(chance.expovariate(1.0) * left * many / max(messages - sent, 1))

    def _message(self, idempotency_key: str) -> NewMessage:
        chance, now = self.chance, self.loop.wall()
        count = chance.choice([1] * 30 + [2, 3])
        keys = chance.sample(self._keys, count) if chance.random() < 0.5 else [chance.choice(self._keys)] * count
        if chance.random() < self.plan.big:
            keys = [BIG] * count
        return NewMessage(
            sender=b"a@example.org",
            recipients=[NewRecipient(address=b"r%d@%b" % (n, key.encode()), key=key) for n, key in enumerate(keys)],
            content=_LARGE if chance.random() < 0.002 else b"Subject: x\n\nhello\n",
            tenant=chance.choice(["", "", "t"]),
            due=now,
            expires=now + (30.0 if chance.random() < 0.02 else 12 * HOUR),
            idempotency_key=idempotency_key,
            digest=b"d",
        )

    # ------------------------------------------------------------------ faults

    async def kill(self) -> None:
        """A node dies, and another one comes."""
        node = self._some()
        if node is not None:
            await self._kill(node)

    async def _kill(self, node: FleetNode) -> None:
        if not node.gone:
            self.faults["killed while it left" if node.leaving else "killed"] += 1
            await node.kill()
            self.join_later()

    async def stop(self) -> None:
        """A node is stopped and continued, mostly when its leases are others'."""
        node = self._some()
        if node is None or node.process.stopped:
            return
        self.faults["stopped"] += 1
        node.process.stop()
        self._continue(node, self.chance.choice([1, 12, 25, 60, 180]) * self.chance.uniform(0.8, 1.2))

    def _continue(self, node: FleetNode, seconds: float) -> None:
        """Let a node go on in a while."""
        self.loop.call_later(seconds, self._go_on, node, context=contextvars.Context())  # by no node's own clockwork

    def _go_on(self, node: FleetNode) -> None:
        if not node.gone:
            node.process.resume()

    async def cut(self) -> None:
        """Somebody is cut off from the store."""
        node = self._some()
        links = [*self._links, *([node.link] * 3 if node is not None else [])]
        self.faults["cut off"] += 1
        seconds = self.chance.choice([0.5, 5, 15, 30, 90]) * self.chance.random()
        self.chance.choice(links).cut(seconds, refuses=self.chance.random() < 0.5)

    async def restart(self) -> None:
        """The store's machine dies."""
        if self.chance.random() < 0.5:
            self._restarts_at_mark = True
        else:
            await self._restart(self._some())

    def _restart_at_mark(self, name: str) -> None:
        """A node has a mark: if the store is to die now, it is not on the disk yet."""
        if self._restarts_at_mark:
            self._restarts_at_mark = False
            (node,) = [node for node in self.nodes if node.name == name]
            self._in_a_while(self._restart(node))

    async def _restart(self, witness: FleetNode | None) -> None:
        """The store's machine dies; a node that had marks there may not live to write them again, or to use them."""
        if self.store_is_down():
            return
        self.faults["store restarted"] += 1
        self._down_until = self.loop.time() + self.chance.choice([0.05, 2, 10, 30]) * self.chance.random()
        await self._store.restart()
        for link in (*self._links, *(node.link for node in self.nodes)):
            link.break_off()
        if witness is not None and self.chance.random() < 0.7:
            await asyncio.sleep(max(self._down_until - self.loop.time() + self.chance.uniform(-0.5, 2.0), 0.0))
            await self._kill(witness)

    def _contest(self, name: str) -> None:
        """A node has got a site in doubt: it is stopped before it settles that, and who had the site goes on."""
        if self.loop.time() >= self._trouble_until or self.chance.random() < 0.5:
            return
        self.faults["stopped while it took over"] += 1
        for node in self.nodes:
            if node.name == name:
                node.process.stop()
                self._continue(node, self.chance.choice([1, 12, 25]))
            elif node.process.stopped:
                self._continue(node, self.chance.random())

    async def jump(self) -> None:
        """The clock of a node is set."""
        node = self._some()
        if node is not None:
            self.faults["clock jumped"] += 1
            node.clock_error = self.chance.choice([0, 1, 30, 300, 1200]) * self.chance.uniform(-1, 1)

    async def leave(self) -> None:
        """A node is drained, and another one comes."""
        node = self._some()
        if node is not None and not node.leaving and not node.process.stopped:
            self.faults["drained"] += 1
            node.leave()
            self.join_later()

    async def vanish(self) -> None:
        """A receiver does not answer for a while."""
        self.faults["receiver vanished"] += 1
        now = self.loop.time()
        site = self.world.site(self.chance.choice(self._keys))
        site.dead = (*site.dead, (now, now + self.chance.choice([1, 20, 120]) * self.chance.random()))

    async def confuse(self) -> None:
        """A receiver answers at random for a while."""
        self.faults["receiver answered at random"] += 1
        chance = self.chance
        site = self.world.site(chance.choice(self._keys))
        site.refuses = chance.choice([0.0, 0.1, 0.5])
        site.defers = chance.choice([0.0, 0.1, 0.5])
        site.breaks = chance.choice([0.0, 0.1, 0.5])
        site.closes = chance.choice([0.0, 0.1, 0.5])
        site.most = chance.choice([1, 3, 1000])
        self.loop.call_later(chance.uniform(5, 90), _calm, site)

    kinds = ((kill, 3), (stop, 4), (cut, 5), (restart, 2), (jump, 3), (leave, 2), (vanish, 4), (confuse, 4))

    # -------------------------------------------------------------------- life

    async def live(self) -> FleetReport:
        """Play it, to the end."""
        plan, chance, loop = self.plan, self.chance, self.loop
        for key in self._keys:
            self.world.sites[key] = SimulatedSite(
                latency=chance.choice([0.01, 0.05, 0.5, 3.0]), greylists=chance.random() < 0.1
            )
        self.world.sites[BIG] = SimulatedSite(latency=8.0)
        store = await self._store.open()
        await store.learn(dict.fromkeys(self._keys[:4], "provider"))
        for _ in range(plan.nodes - 1):
            await self.join()
        self.join_later()
        shares = [plan.messages // plan.clients] * plan.clients
        shares[0] += plan.messages - sum(shares)
        clients = [loop.create_task(self._submit(share)) for share in shares]
        await self._trouble(loop.time() + plan.seconds)
        self._make_calm()
        await asyncio.gather(*clients)
        while self._coming:
            await asyncio.gather(*self._coming)
        self._make_calm()
        await self._until_ended(store)
        await self._leave_all()
        return await judge(self, store)

    async def _trouble(self, end: float) -> None:
        self._trouble_until = end
        faults, weights = zip(*self.kinds, strict=True)
        while self.loop.time() < end:
            await asyncio.sleep(self.chance.expovariate(1 / self.plan.pause))
            fault: Callable[[Fleet], Awaitable[None]] = self.chance.choices(faults, weights)[0]
            await fault(self)

    def _make_calm(self) -> None:
        """All faults are over."""
        self._restarts_at_mark = False
        self._down_until = 0.0
        for link in self._links:
            link.mend()
        for node in self.nodes:
            node.link.mend()
            node.clock_error = 0.0
            self._go_on(node)
        for site in self.world.sites.values():
            _calm(site)

    async def _until_ended(self, store: QueueStore) -> None:
        end = self.loop.time() + LIMIT
        while self.loop.time() < end:
            counters = await store.counters()
            if counters["accepted"] == sum(counters.get(name, 0) for name in _ENDS):
                return
            await asyncio.sleep(5.0)

    async def _leave_all(self) -> None:
        there = [node for node in self.nodes if not node.gone]
        for node in there:
            if not node.leaving:
                node.leave()
        if there:
            _, pending = await asyncio.wait([node.task for node in there], timeout=300.0)
            self.umpire.faults += [f"{node.name} does not leave" for node in there if node.task in pending]
        for node in self.nodes:
            await node.kill()


_ENDS = ("delivered", "failed", "expired", "dropped")
_LARGE = b"Subject: x\n\n" + b"x\n" * 40_000


def _calm(site: SimulatedSite) -> None:
    site.refuses = site.defers = site.breaks = site.closes = 0.0
    site.most = 1000


class _Complaints(logging.Handler):
    """What the program says of its own faults."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._faults.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@asynccontextmanager
async def _listening(faults: list[str]) -> AsyncIterator[None]:
    log = logging.getLogger("zsmtp.queue")
    handler, passed_on = _Complaints(faults), log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = passed_on


async def run_fleet(loop: ProcessLoop, plan: FleetPlan, store: FleetStore) -> FleetReport:
    """Play a plan on a store, and say what became of it."""
    fleet = Fleet(loop, plan, store)
    async with _listening(fleet.umpire.faults):
        return await fleet.live()

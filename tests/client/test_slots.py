"""Connections given out: to whom, in which order, to how many, and at the same cost whatever waits."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zsmtp.client import slots as module
from zsmtp.client.slots import LONGEST_PAUSE, PAUSE, ConnectionSlots, DestinationLimit


class TestDestinationLimit:
    def test_as_many_as_this_side_wants_while_none_is_refused(self) -> None:
        limit = DestinationLimit(5)
        for standing in range(1, 6):
            limit.took(standing, 10.0)
        assert limit.allowed(0.0) == limit.allowed(1e9) == 5

    def test_a_refusal_tells_how_many_it_takes_and_one_more_is_tried_later(self) -> None:
        limit = DestinationLimit(5)
        limit.refused(2, 100.0)
        assert limit.allowed(100.0) == limit.allowed(100.0 + PAUSE - 1) == 2
        assert limit.allowed(100.0 + PAUSE) == 3

    def test_each_further_refusal_makes_it_wait_longer_up_to_a_limit(self) -> None:
        limit, now = DestinationLimit(5), 0.0
        pauses = []
        for _ in range(8):
            limit.refused(2, now)
            began = now
            while limit.allowed(now) == 2:
                now += 1.0
            pauses.append(now - began)
        assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, LONGEST_PAUSE, LONGEST_PAUSE]

    def test_it_grows_one_by_one_as_connections_are_taken(self) -> None:
        limit = DestinationLimit(5)
        limit.refused(2, 0.0)
        limit.took(3, 40.0)
        assert (limit.allowed(40.0), limit.allowed(40.0 + PAUSE)) == (3, 4)
        limit.took(2, 41.0)
        assert limit.allowed(41.0) == 3

    def test_there_is_always_room_for_one(self) -> None:
        limit = DestinationLimit(3)
        limit.refused(0, 0.0)
        assert limit.allowed(0.0) == 1
        one = DestinationLimit(1)
        one.refused(1, 0.0)
        assert one.allowed(1e9) == 1


@dataclass(eq=False)
class Asker:
    """Wants so many workers more."""

    slots: ConnectionSlots
    wants: int = 1
    workers: deque[Worker] = field(default_factory=deque)

    def wants_worker(self) -> bool:
        return self.wants > 0

    def start_worker(self) -> None:
        self.wants -= 1
        worker = Worker()
        self.workers.append(worker)
        self.slots.take(worker, self)

    def leave(self) -> None:
        self.slots.release(self.workers.popleft())


@dataclass(eq=False)
class Worker:
    awaits_peer: bool = False
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1


def within_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a loop whose timers do not go off by themselves."""

    def run(self: object) -> None:
        asyncio.run(test(self))

    return run


class TestSlots:
    @within_a_loop
    async def test_the_lane_with_the_fewest_comes_first_and_then_the_first_to_ask(self) -> None:
        slots = ConnectionSlots(3, 3)
        big, first, second = Asker(slots, 9), Asker(slots), Asker(slots)
        for _ in range(3):
            slots.ask(big)
        for pool in (big, first, second):
            slots.ask(pool)
        assert [len(pool.workers) for pool in (big, first, second)] == [3, 0, 0]
        big.leave()
        assert [len(pool.workers) for pool in (big, first, second)] == [2, 1, 0]
        big.leave()
        assert [len(pool.workers) for pool in (big, first, second)] == [1, 1, 1]
        first.leave()
        assert [len(pool.workers) for pool in (big, first, second)] == [2, 0, 1]
        assert not slots.wanted_besides()

    @within_a_loop
    async def test_who_asked_and_wants_none_any_more_is_passed_over(self) -> None:
        slots = ConnectionSlots(1, 1)
        one, gone, withdrawn, last = (Asker(slots) for _ in range(4))
        for pool in (one, gone, withdrawn, last):
            slots.ask(pool)
        gone.wants = 0
        slots.withdraw(withdrawn)
        one.leave()
        assert [len(pool.workers) for pool in (gone, withdrawn, last)] == [0, 0, 1]

    @within_a_loop
    async def test_to_ask_twice_is_to_ask_once(self) -> None:
        slots = ConnectionSlots(1, 1)
        one, other = Asker(slots), Asker(slots, 2)
        for pool in (one, other, other):
            slots.ask(pool)
        assert slots.wanted_besides(one)
        assert not slots.wanted_besides(other)
        one.leave()
        assert len(other.workers) == 1
        assert not slots.wanted_besides()

    @within_a_loop
    async def test_one_who_rests_is_woken_for_each_who_asks(self) -> None:
        slots = ConnectionSlots(2, 2)
        pool = Asker(slots, 2)
        slots.ask(pool)
        slots.ask(pool)
        for worker in pool.workers:
            slots.idle[worker] = None
        slots.ask(Asker(slots))
        assert [worker.woken for worker in pool.workers] == [1, 0]

    @within_a_loop
    async def test_a_connection_that_waits_for_its_peer_uses_no_slot(self) -> None:
        slots = ConnectionSlots(2, 3)
        slow, fast, third, fourth = (Asker(slots) for _ in range(4))
        for pool in (slow, fast, third, fourth):
            slots.ask(pool)
        slow.workers[0].awaits_peer = True
        looks = round(module.SLOW_AFTER / module.TICK)
        for _ in range(looks - 1):
            slots._look()
        assert len(third.workers) == 0
        slots._look()
        assert len(third.workers) == 1
        fast.workers[0].awaits_peer = True
        for _ in range(looks):
            slots._look()
        assert len(fourth.workers) == 0, "three in all are the limit"
        slow.leave()
        assert len(fourth.workers) == 1

    @within_a_loop
    async def test_a_message_that_was_taken_in_time_makes_it_count_again(self) -> None:
        slots = ConnectionSlots(1, 9)
        pools = [Asker(slots) for _ in range(4)]
        for pool in pools:
            slots.ask(pool)
        first = pools[0].workers[0]
        first.awaits_peer = True
        looks = round(module.SLOW_AFTER / module.TICK)
        for _ in range(looks - 1):
            slots._look()
        slots.progressed(first)  # each message has its own time
        slots._look()
        assert not pools[1].workers
        for _ in range(looks):
            slots._look()
        assert pools[1].workers
        slots.progressed(first)  # that took long: it stays slow
        pools[1].workers[0].awaits_peer = True
        for _ in range(looks - 1):
            slots._look()
        slots.progressed(first)  # and that did not
        slots._look()
        assert pools[1].workers
        assert not pools[2].workers, "the first counts again"

    @within_a_loop
    async def test_nobody_looks_while_there_is_room_for_as_many_again(self) -> None:
        slots = ConnectionSlots(4, 4)
        pool = Asker(slots, 3)
        slots.ask(pool)
        slots.ask(pool)
        assert slots._timer is None
        slots.ask(pool)
        assert slots._timer is not None
        pool.leave()
        slots._look()
        assert slots._timer is None

    @within_a_loop
    async def test_who_is_slow_is_known_before_slots_are_wanted(self) -> None:
        slots = ConnectionSlots(2, 9)
        for pool in (Asker(slots), Asker(slots)):
            slots.ask(pool)
            pool.workers[0].awaits_peer = True
        for _ in range(round(module.SLOW_AFTER / module.TICK)):
            slots._look()
        late = Asker(slots)
        slots.ask(late)
        assert late.workers

    @within_a_loop
    async def test_ten_thousand_may_wait_and_none_is_looked_at_for_another(self) -> None:
        """The work for one slot does not depend on how many wait: it is counted, not timed."""
        counts = []
        for waiting in (100, 10_000):
            slots = ConnectionSlots(10, 10)
            pools = [Asker(slots) for _ in range(waiting)]
            for pool in pools:
                slots.ask(pool)
            asked: Counter[str] = Counter()
            for pool in pools:
                pool.wants_worker = lambda asked=asked: bool(asked.update(["pool"])) or True  # type: ignore[method-assign]
            for pool in pools[:50]:
                pool.leave()
            counts.append(asked["pool"])
        assert counts == [50, 50]


class SlotsMachine(RuleBasedStateMachine):
    """Whatever happens: no more than allowed, nobody waits beside a free slot, nobody is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.slots = ConnectionSlots(3, 5)
        self.pools = [Asker(self.slots, 0) for _ in range(5)]

    def run(self, call: Callable[..., None], *arguments: object) -> None:
        async def work() -> None:
            call(*arguments)

        self.loop.run_until_complete(work())

    @rule(pool=st.integers(0, 4))
    def ask(self, pool: int) -> None:
        self.pools[pool].wants += 1
        self.run(self.slots.ask, self.pools[pool])

    @rule(pool=st.integers(0, 4))
    def withdraw(self, pool: int) -> None:
        self.pools[pool].wants = 0
        self.run(self.slots.withdraw, self.pools[pool])

    @precondition(lambda self: any(pool.workers for pool in self.pools))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        pool = data.draw(st.sampled_from([pool for pool in self.pools if pool.workers]))
        self.run(pool.leave)

    @precondition(lambda self: any(pool.workers for pool in self.pools))
    @rule(data=st.data(), awaits=st.booleans())
    def wait(self, data: st.DataObject, awaits: bool) -> None:
        worker = data.draw(st.sampled_from([worker for pool in self.pools for worker in pool.workers]))
        worker.awaits_peer = awaits
        if not awaits:
            self.slots.progressed(worker)

    @rule()
    def look(self) -> None:
        self.run(self.slots._look)

    @invariant()
    def limits_hold(self) -> None:
        workers = [worker for pool in self.pools for worker in pool.workers]
        assert len(self.slots) == len(workers) <= 5
        assert set(self.slots._at_work) | set(self.slots._slow) == set(workers)
        assert not set(self.slots._at_work) & set(self.slots._slow)
        room = len(self.slots._at_work) < 3 and len(workers) < 5
        assert not (room and self.slots.wanted_besides())
        queued = [pool for queue in self.slots._queues.values() for pool in queue]
        assert sorted(map(id, queued)) == sorted(map(id, self.slots._asking))
        assert all(self.slots._held[pool] == held for pool, held in self.slots._asking.items())
        assert all(len(pool.workers) == self.slots._held[pool] for pool in self.pools)

    def teardown(self) -> None:
        self.slots.end()
        self.loop.close()
        asyncio.set_event_loop(None)


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=60, stateful_step_count=30)

pytestmark = pytest.mark.filterwarnings("ignore:There is no current event loop")

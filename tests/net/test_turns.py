"""How long runs hold the loop: they take turns with everything else on it, however much there is to do at once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from tests.net.test_aio import new_driver

from zsmtp.effects import GiveWay
from zsmtp.net import aio
from zsmtp.net import turns as turns_module
from zsmtp.net.turns import IDLE, MOST, SHARE, LoopTurns, turns_of

PIECE = SHARE / 5


class Clock:
    """A clock that work sets forward, and nothing else."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Any:
    return request.param


class TurnLog:
    """What was worked in each turn of the loop."""

    def __init__(self, clock: Clock) -> None:
        self.turns = [0.0]
        self._clock = clock
        self._over = False

    def begin(self) -> None:
        """Count turns from now on."""
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self.turns.append(0.0)
        if not self._over:
            asyncio.get_running_loop().call_soon(self._next)

    def work(self, seconds: float) -> None:
        self.turns[-1] += seconds
        self._clock.work(seconds)

    def end(self) -> None:
        self._over = True


def test_long_work_shares_the_loop(loop_factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: Any) -> None:
    clock = Clock()
    turns = LoopTurns(clock, clock)
    monkeypatch.setattr(aio, "turns_of", lambda loop: turns)
    log = TurnLog(clock)
    done = []

    async def long_work(number: int) -> None:
        for _ in range(20):
            log.work(PIECE)
            await GiveWay()
        done.append(number)

    async def main() -> None:
        driver = new_driver()
        log.begin()
        await asyncio.gather(*(driver.run(long_work(number)) for number in range(30)))
        log.end()
        await asyncio.sleep(0)
        await driver.aclose()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert sorted(done) == list(range(30))
    assert sum(log.turns) == pytest.approx(30 * 20 * PIECE)
    assert max(log.turns) <= MOST + 2 * PIECE  # of the turn's last piece, and of one that began before it was counted
    assert len(log.turns) >= 30 * 20 * PIECE / (MOST + 2 * PIECE)


def test_a_burst_of_short_work_shares_the_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: Any
) -> None:
    """As when hundreds of handshakes go on at once: each of them works for a moment, and waits."""
    clock = Clock()
    turns = LoopTurns(clock, clock)
    log = TurnLog(clock)

    async def one(go: asyncio.Event, wakes: int) -> None:
        for _ in range(wakes):
            turns.waits()
            await go.wait()
            if turns.woken():
                await turns.next_turn()
            log.work(0.0004)
            await asyncio.sleep(0)

    async def main() -> None:
        go = asyncio.Event()
        tasks = [asyncio.create_task(one(go, 3)) for _ in range(200)]
        await asyncio.sleep(0)
        clock.work(1.0)
        log.begin()
        go.set()
        await asyncio.gather(*tasks)
        log.end()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert sum(log.turns) == pytest.approx(200 * 3 * 0.0004)
    assert max(log.turns) <= MOST + 2 * 0.0004


@pytest.mark.parametrize("share", [SHARE, -1.0])
def test_nobody_is_passed_over(
    share: float, loop_factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: Any
) -> None:
    monkeypatch.setattr(turns_module, "SHARE", share)
    clock = Clock()
    turns = LoopTurns(clock, clock)
    done: list[int] = []

    async def long_work(number: int) -> None:
        for _ in range(10):
            clock.work(2 * MOST)
            if turns.used_up():
                await turns.next_turn()
            done.append(number)

    async def main() -> None:
        tasks = [asyncio.create_task(long_work(number)) for number in range(5)]
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert done == [0, 1, 3, 4] * 10


def test_one_that_is_woken_now_and_then_goes_on_at_once() -> None:
    clock = Clock()
    turns = LoopTurns(clock, clock)
    for _ in range(1000):
        clock.work(IDLE)
        assert not turns.woken()
        clock.work(0.0003)
        assert not turns.used_up()
        turns.waits()


def test_what_others_do_is_not_counted() -> None:
    clock = Clock()
    turns = LoopTurns(clock, clock)
    turns.woken()
    clock.work(2 * MOST)
    assert turns.used_up()
    turns.waits()
    assert turns.woken()  # nobody else had the loop meanwhile
    turns.waits()
    clock.work(IDLE)
    assert not turns.woken()


def test_turns_belong_to_their_loop_and_go_with_it() -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        assert turns_of(first) is turns_of(first)
        assert turns_of(first) is not turns_of(second)
    finally:
        first.close()
        second.close()
    del first, second
    gc.collect()
    assert len([loop for loop in turns_module._ALL if loop.is_closed()]) == 0


def test_time_that_other_programs_had_is_not_counted_where_work_is_short() -> None:
    clock, cpu = Clock(), Clock()
    turns = LoopTurns(clock, cpu)
    turns.woken()
    clock.work(3 * MOST)
    cpu.work(MOST / 2)
    assert turns.used_up()
    assert not turns.worked_enough()
    turns.waits()
    assert not turns.woken()
    cpu.work(MOST)
    assert turns.worked_enough()
    turns.waits()
    assert turns.woken()

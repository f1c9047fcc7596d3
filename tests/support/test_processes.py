"""Processes in virtual time: what stops with them, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.support import virtualtime
from tests.support.processes import ProcessLoop, SimulatedProcess


def play(scene: Callable[[ProcessLoop], Awaitable[None]]) -> None:
    async def main(loop: ProcessLoop) -> None:
        await scene(loop)

    virtualtime.run(main, make=ProcessLoop)


async def count(ticks: list[float]) -> None:
    """Note the time every second."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1.0)
        ticks.append(loop.time() - 1000.0)


def test_a_process_that_is_stopped_does_nothing_and_the_others_go_on() -> None:
    async def scene(loop: ProcessLoop) -> None:
        one, other = SimulatedProcess(loop, "one"), SimulatedProcess(loop, "other")
        ticks: list[float] = []
        others: list[float] = []
        one.start(count(ticks))
        other.start(count(others))
        await asyncio.sleep(2.5)
        one.stop()
        await asyncio.sleep(3.0)
        assert (ticks, others) == ([1.0, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0])
        one.resume()
        await asyncio.sleep(1.1)
        assert ticks == [1.0, 2.0, 5.5, 6.5]
        await one.kill()
        await asyncio.sleep(3.0)
        assert len(ticks) == 4
        assert len(others) == 9

    play(scene)


def test_a_timer_that_went_off_meanwhile_may_be_cancelled_by_what_came_before() -> None:
    async def scene(loop: ProcessLoop) -> None:
        process = SimulatedProcess(loop, "one")
        event = asyncio.Event()

        async def waits() -> bool:
            async with asyncio.timeout(2.0):
                await event.wait()
            await asyncio.sleep(1.0)
            return True

        task = process.start(waits())
        await asyncio.sleep(1.0)
        process.stop()
        event.set()
        await asyncio.sleep(5.0)
        assert not task.done()
        process.resume()
        assert await task

    play(scene)


def test_what_tasks_of_a_process_start_belongs_to_it() -> None:
    async def scene(loop: ProcessLoop) -> None:
        process = SimulatedProcess(loop, "one")
        ticks: list[float] = []
        children: list[asyncio.Task[None]] = []

        async def parent() -> None:
            children.append(asyncio.create_task(count(ticks)))

        await process.start(parent())
        await asyncio.sleep(1.5)
        process.stop()
        await asyncio.sleep(2.0)
        await process.kill()
        assert ticks == [1.0]
        assert children[0].cancelled()

    play(scene)

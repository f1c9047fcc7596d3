"""Threads with a queue of jobs: which jobs they get together, and what happens to the jobs at their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.threads import JobResult, LastJob, WorkerThread


class _Sum(NamedTuple):
    number: int
    future: asyncio.Future[int]


class _Adding(WorkerThread):
    """Returns for each job the sum of the jobs taken together; a negative number ends the thread unexpectedly."""

    def ask(self, number: int) -> asyncio.Future[int]:
        future = self.future()
        self.put_soon(_Sum(number, future))
        return future

    def work(self) -> None:
        while True:
            jobs = self.take_all()
            work = [job for job in jobs if isinstance(job, _Sum)]
            if any(job.number < 0 for job in work):
                raise MemoryError
            found = sum(job.number for job in work)
            self.answer([JobResult(job.future, found, None) for job in work])
            if ends := [job for job in jobs if isinstance(job, LastJob)]:
                self.answer([JobResult(end.future, None, None) for end in ends])
                return


def _play(scenario: Callable[[_Adding], Awaitable[None]]) -> None:
    async def main() -> None:
        thread = _Adding("a thread of a test", asyncio.get_running_loop())
        thread.start()
        try:
            await scenario(thread)
        finally:
            await thread.end()

    asyncio.run(main())


def test_jobs_of_one_turn_of_the_loop_are_taken_together() -> None:
    async def asking(thread: _Adding, number: int) -> int:
        return await thread.ask(number)

    async def scenario(thread: _Adding) -> None:
        for _ in range(100):
            assert await asyncio.gather(*[asking(thread, number) for number in (1, 2, 4)]) == [7, 7, 7]
        assert await thread.ask(8) == 8

    _play(scenario)


def test_queued_jobs_are_done_before_the_end() -> None:
    async def scenario(thread: _Adding) -> None:
        future = thread.ask(1)
        await thread.end()
        assert await future == 1
        with pytest.raises(QueueError, match="closed"):
            thread.ask(2)

    _play(scenario)


def test_jobs_of_a_thread_that_ended_unexpectedly_fail() -> None:
    async def scenario(thread: _Adding) -> None:
        for number in (-1, 1, 2):
            with pytest.raises(QueueUnavailable, match=r"ended: MemoryError\(\); close the queue and open it again"):
                await thread.ask(number)

    _play(scenario)

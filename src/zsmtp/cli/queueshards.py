"""The queues of a verb of ``zsmtp queue``: one, or the shards of a fleet, which are queried in parallel.

The errors of a single queue end the command. If several were requested, those that cannot be opened, fail, or do not
answer in time are left out: each is named on standard error, the answers of the others count, and the exit status shows
that one is missing (:attr:`Shards.lost`). A message's id contains its shard; if a filter names ids only the queues of
their shards are queried, and the command does not wait for the others.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.queuestore import open_store
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import QueueUnavailable
from zsmtp.escape import escape
from zsmtp.queue.location import locate, usual_location
from zsmtp.queue.operators import Row
from zsmtp.queue.store import QueueStore

OPENING = 15.0
"""The longest time in seconds to open each of several queues."""
ANSWER = 60.0
"""The longest time in seconds until each of several queues answers, or yields the next rows of a list."""
AGAIN = 10.0
"""Seconds between two tries whether a queue that was left out answers again."""
_CLOSING = 5.0  # seconds: a hanging server must not delay the end

T = TypeVar("T")
Opening = AbstractAsyncContextManager[QueueStore]


class Shard(NamedTuple):
    """An open queue, and its name for people."""

    name: str
    store: QueueStore

    @property
    def number(self) -> int:
        """Its shard number, which is part of its ids."""
        return self.store.shard

    @property
    def title(self) -> str:
        """Its name with its number: ``shard 1 (postgresql://b/mail)``."""
        return f"shard {self.number} ({self.name})"


def place_of(row: Row) -> tuple[int, int]:
    """The sort key for rows of several queues: message and recipient."""
    return row.message.id, row.recipient.number


class Shards:
    """The queues of a verb. ``note`` is called with a sentence about each that is left out.

    ``found`` are those that answer, ``lost`` the others: the problem by name. ``several`` is true if more than one was
    requested, for any number of them left.
    """

    def __init__(self, found: Sequence[Shard], note: Callable[[str], None], *, several: bool) -> None:
        self.found = list(found)
        self.several = several
        self.lost: dict[str, str] = {}
        self._silent: list[Shard] = []  # the open ones among those that are lost
        self._note = note

    @classmethod
    def single(cls, shard: Shard) -> Shards:
        """One queue."""
        return cls([shard], lambda text: None, several=False)

    @property
    def only(self) -> Shard:
        """The queue of a verb that takes only one."""
        (one,) = self.found
        return one

    def lose(self, name: str, problem: str) -> None:
        """Leave a queue out from now on. Raises CommandFailed if none is left."""
        self.lost[name] = problem = problem.removeprefix(f"queue {name}: ")
        self._silent += [one for one in self.found if one.name == name]
        self.found = [one for one in self.found if one.name != name]
        self._note(f"{name} is left out: {problem}")
        if not self.found:
            raise CommandFailed(Exit.TEMPORARY, "no queue answers")

    async def rejoin(self, pause: float = AGAIN) -> None:
        """Query the queues that were left out until they answer, and count those again; runs until it is cancelled."""
        while True:
            await asyncio.sleep(pause)
            await _side_by_side([self._try_again(one) for one in self._silent])

    async def _try_again(self, one: Shard) -> None:
        with suppress(TimeoutError, QueueUnavailable):
            async with asyncio.timeout(ANSWER):
                await one.store.counters()
            self._silent.remove(one)
            del self.lost[one.name]
            self.found = sorted([*self.found, one], key=lambda shard: shard.number)
            self._note(f"{one.name} answers again")

    def narrow(self, numbers: frozenset[int]) -> None:
        """Query only the queues of these shards; if all of them are open, no other one counts as missing.

        Raises CommandFailed if none of them is open and a queue that is left out may be one.
        """
        here = [one for one in self.found if one.number in numbers]
        missing = sorted(numbers - {one.number for one in here})
        if not missing:
            self.lost.clear()
        elif self.lost and not here:
            raise CommandFailed(Exit.TEMPORARY, f"no queue that answers is shard {missing[0]}")
        elif not self.lost:
            self._note(f"no queue of these is shard {', '.join(map(str, missing))}")
        self.found = here or self.found

    async def each(
        self, work: Callable[[Shard], Awaitable[T]], *, seconds: float | None = ANSWER
    ) -> list[tuple[Shard, T]]:
        """Run an operation on each queue, in parallel; those that fail are left out.

        ``seconds`` is the limit for each of several, None: the operation has deadlines of its own (:meth:`pieces`).
        """
        if not self.several:
            return [(one, await work(one)) for one in self.found]
        answers = await _side_by_side([self._answer(one, work(one), seconds) for one in self.found])
        return [answer for answer in answers if answer is not None]

    async def _answer(self, one: Shard, work: Awaitable[T], seconds: float | None) -> tuple[Shard, T] | None:
        try:
            async with asyncio.timeout(seconds):
                return one, await work
        except TimeoutError:
            self.lose(one.name, f"no answer in {seconds or ANSWER:g} s")
        except QueueUnavailable as error:
            self.lose(one.name, str(error))
        return None

    async def ask(self, one: Shard, work: Awaitable[T]) -> T | None:
        """The answer of one of the queues; None if it is left out from now on."""
        if not self.several:
            return await work
        answer = await self._answer(one, work, ANSWER)
        return None if answer is None else answer[1]

    async def pieces(self, rows: AsyncIterator[T], *, seconds: float = ANSWER) -> AsyncGenerator[T, None]:
        """The items that one of the queues yields; with several, each must come in time. Raises TimeoutError."""
        try:
            while True:
                async with asyncio.timeout(seconds if self.several else None):
                    try:
                        row = await anext(rows)
                    except StopAsyncIteration:
                        return
                yield row
        finally:
            if isinstance(rows, AsyncGenerator):
                await rows.aclose()

    async def merged(
        self, rows: Callable[[QueueStore], AsyncIterator[T]], order: Callable[[T], Any], limit: int | None = None
    ) -> AsyncIterator[tuple[Shard, T]]:
        """Rows of all queues merged in the order of each queue's own rows; read on demand.

        ``limit`` is the most rows, also for each queue. A queue that fails in between is left out from there on.
        """
        if not self.several:
            async for row in rows(self.only.store):
                yield self.only, row
            return
        sources = [(one, self.pieces(rows(one.store))) for one in self.found]
        heap: list[tuple[Any, int, T]] = []

        async def advance(place: int) -> None:
            source = sources[place][1]
            with suppress(StopAsyncIteration):
                row = await anext(source)
                heapq.heappush(heap, (order(row), place, row))

        async def read(place: int) -> None:
            await self._answer(sources[place][0], advance(place), None)

        try:
            await _side_by_side([read(place) for place in range(len(sources))])
            number = 0
            while heap and number != limit:
                _, place, row = heapq.heappop(heap)
                yield sources[place][0], row
                number += 1
                if number != limit:
                    await read(place)
        finally:
            for _, source in sources:
                await source.aclose()


async def _side_by_side(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines in parallel; return their results. The first error ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --------------------------------------------------------------------- opening


@asynccontextmanager
async def open_shards(
    urls: Sequence[str], numbers: frozenset[int] | None, note: Callable[[str], None]
) -> AsyncIterator[Shards]:
    """Open existing queues; without a URL the default one. ``numbers``: only those of these shards are queried.

    Raises as :func:`zsmtp.cli.queuestore.open_store` for one queue; for several CommandFailed if none can be opened, or
    if two are the same or have the same number, ConfigError for an invalid URL.
    """
    if len(urls) < 2:
        async with open_store(urls[0] if urls else None) as store:
            where = locate(urls[0]) if urls else usual_location()
            yield Shards.single(Shard(where.full_name, store))
        return
    places = [locate(url) for url in urls]
    if len(set(places)) < len(places):
        raise CommandFailed(Exit.USAGE, "--queue: the same queue is named twice")
    names: dict[str, str] = {}
    for number, (where, url) in enumerate(zip(places, urls, strict=True), 1):
        name = where.full_name
        names[f"{name} ({number})" if name in names else name] = url  # a URL may have more parts than its name
    asyncio.get_running_loop().set_default_executor(_UnjoinedThreads())
    async with AsyncExitStack() as stack:
        shards = Shards([], note, several=True)
        problems = await _open_all(shards, names, numbers, stack)
        _check_numbers(shards.found)
        shards.lost.update(problems)
        if not shards.found:
            for name, problem in problems.items():
                note(f"{name}: {problem}")
            raise CommandFailed(Exit.TEMPORARY, "no queue answers")
        if numbers:
            shards.narrow(numbers)
        for name, problem in shards.lost.items():
            note(f"{name} is left out: {problem}")
        yield shards


class _UnjoinedThreads(ThreadPoolExecutor):
    """Threads that are not joined at the end: one may still wait for a server that does not answer."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **options: Any) -> Future[T]:
        """Run it in a thread of its own."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = work(*arguments, **options)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        Thread(target=run, name="zsmtp queue", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the threads to the end of the process."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


async def _open_all(
    shards: Shards, names: dict[str, str], numbers: frozenset[int] | None, stack: AsyncExitStack
) -> dict[str, str]:
    """Open queues in parallel, until all requested ones are open; also return the problems of the others, by name."""
    opening = {name: asyncio.ensure_future(_opened(url, stack)) for name, url in names.items()}
    problems: dict[str, str] = {}
    try:
        async with asyncio.timeout(OPENING):
            waiting = set(opening.values())
            while waiting and not (numbers and numbers <= {one.number for one in shards.found}):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                shards.found = [
                    Shard(name, task.result())
                    for name, task in opening.items()
                    if task.done() and task.exception() is None
                ]
    except TimeoutError:
        problems = {name: f"not open in {OPENING:g} s" for name, task in opening.items() if not task.done()}
    finally:
        for task in opening.values():
            task.cancel()
        await asyncio.gather(*opening.values(), return_exceptions=True)
    known = {one.name for one in shards.found} | problems.keys()
    for name, task in opening.items():
        if name not in known and not task.cancelled() and (error := task.exception()) is not None:
            problems[name] = _problem(name, error)
    return problems


def _problem(name: str, error: BaseException) -> str:
    """The problem of a queue that cannot be opened, without its name; raises errors of the command itself."""
    missing = isinstance(error, CommandFailed) and error.status not in (Exit.USAGE, Exit.CONFIG)
    if not (missing or isinstance(error, QueueUnavailable)):
        raise error
    return str(error).removeprefix("queue ").removeprefix(f"{escape(name)}: ")


async def _opened(url: str, stack: AsyncExitStack) -> QueueStore:
    opening: Opening = open_store(url)
    store = await opening.__aenter__()
    stack.push_async_callback(_close, opening)
    return store


async def _close(opening: Opening) -> None:
    with suppress(TimeoutError, QueueUnavailable):
        async with asyncio.timeout(_CLOSING):
            await opening.__aexit__(None, None, None)


def _check_numbers(found: Sequence[Shard]) -> None:
    """Raise CommandFailed if two queues have the same number: an id would be ambiguous."""
    seen: dict[int, Shard] = {}
    for one in found:
        other = seen.setdefault(one.number, one)
        if other is one:
            continue
        pair = f"{escape(other.name)} and {escape(one.name)}"
        if other.store.uid == one.store.uid:
            raise CommandFailed(Exit.USAGE, f"{pair} are the same queue")
        raise CommandFailed(Exit.USAGE, f"{pair} are both shard {one.number}: ids are ambiguous; name only one of them")

"""Submits to a fleet of several queues: each message goes to one that is available (:class:`ShardedQueue`).

Each queue is a shard: a database, or a file, with its own number that is in the ids of its messages. Shards do not
communicate; the program has all of them, by their numbers::

    async with zsmtp.aio.ShardedQueue.open({0: "postgresql://db0/mail", 1: "postgresql://db1/mail"}) as queue:
        id = await queue.submit(message, sender="a@example.org", recipients=["b@example.net"])
        ends = await queue.wait(id, timeout=60)

A message without an idempotency key goes to the same shard as the one before, as long as that one accepts messages,
else to the next one that does. One with a key goes only to the shard of the key (:func:`home`): only that shard knows
whether the key was used before. If it is unknown whether a shard has accepted a message
(``QueueUnavailable.undecided``) no other one is tried, so no message is queued twice.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping
from hashlib import sha256
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from zsmtp.client.client import Submission
from zsmtp.client.config import Config
from zsmtp.client.message import MessageLike
from zsmtp.errors import (
    ConfigError,
    QueueError,
    QueueFull,
    QueueUnavailable,
    QuotaExceeded,
    SubmissionError,
    ZsmtpError,
)
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.ids import MAX_SHARD, from_text
from zsmtp.queue.ingest import Ingest, Ingested, QueueSubmission
from zsmtp.queue.location import Location, locate
from zsmtp.queue.queue import Queue
from zsmtp.queue.states import HistoryEntry
from zsmtp.queue.store import NewMessage
from zsmtp.queue.tracking import MessageStatus, Recall

if TYPE_CHECKING:
    from zsmtp.queue.ingest import SubmitArguments

REST = 5.0
"""Seconds between two tries to reach a shard that is down."""

T = TypeVar("T")


def home(tenant: str, idempotency_key: str, shards: Collection[int]) -> int:
    """The number of the shard of a tenant's idempotency key.

    A new shard gets its share of the keys, and the keys of a removed one are distributed to the others; all other keys
    keep their shards (rendezvous hashing).
    """
    words = f"{tenant}\0{idempotency_key}".encode("utf-8", "surrogatepass")
    return max(shards, key=lambda shard: sha256(shard.to_bytes(2) + words).digest())


class ShardedQueue:
    """Several queues to submit to. Made by :meth:`open`; use it on the event loop on which it was opened."""

    def __init__(
        self,
        locations: Mapping[int, Location],
        config: Config,
        queue_config: QueueConfig,
        chance: Callable[[], float],
    ) -> None:
        self._locations = dict(sorted(locations.items()))
        self._config = config
        self._queue_config = queue_config
        self._ingest = Ingest(config, queue_config)
        self._process = os.getpid()
        numbers = list(self._locations)
        first = int(chance() * len(numbers)) % len(numbers)
        self._order = numbers[first:] + numbers[:first]
        self._queues: dict[int, Queue] = {}
        self._opening: dict[int, asyncio.Task[Queue]] = {}
        self._resting: dict[int, asyncio.Task[None]] = {}
        self._open = False

    # ----------------------------------------------------------------- opening

    @classmethod
    def open(
        cls,
        urls: Mapping[int, str | PathLike[str]],
        *,
        config: Config | None = None,
        queue: QueueConfig | None = None,
        chance: Callable[[], float] = random.random,
    ) -> ShardedQueue:
        """Queues that ``async with`` or awaiting the result opens.

        ``urls`` are those of the queues, by their numbers (0 to 1023); they, ``config`` and ``queue`` are as in
        :meth:`zsmtp.aio.Queue.open`. All programs of a fleet must use the same numbers: the queue of an idempotency key
        depends on them, not on the URLs. ``chance`` gives a number from 0 up to 1, which selects the first queue to
        submit to. Raises ConfigError; opening raises QueueUnavailable if no queue can be opened. A queue whose own
        number differs from the given one is a QueueError, when it is opened or first needed.
        """
        if not isinstance(urls, Mapping) or not urls:
            raise ConfigError("queue: URLs of shards by their numbers are expected: {0: 'postgresql://...', 1: ...}")
        for shard in urls:
            if isinstance(shard, bool) or not isinstance(shard, int) or not 0 <= shard <= MAX_SHARD:
                raise ConfigError(f"queue: {shard!r} is no shard from 0 to {MAX_SHARD}")
        locations = {shard: locate(url) for shard, url in urls.items()}
        if any(where.in_memory for where in locations.values()):
            raise ConfigError("queue: memory: is no shard")
        return cls(locations, config or Config(), queue or QueueConfig(), chance)

    def __await__(self) -> Generator[Any, None, ShardedQueue]:
        return self.start().__await__()

    async def __aenter__(self) -> ShardedQueue:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> ShardedQueue:
        """Open the queues; ``async with`` and awaiting it call this. It returns when one of them is open."""
        if self._open:
            raise QueueError("these queues are open already")
        self._open = True
        try:
            await self._first_open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _first_open(self) -> None:
        opening = [self._begin_opening(shard) for shard in self._order]
        waiting = set(opening)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return
                if not isinstance(error, QueueUnavailable):
                    raise error
        raise QueueUnavailable(f"no queue can be opened: {'; '.join(str(task.exception()) for task in opening)}")

    async def aclose(self) -> None:
        """Close all queues. May be called again."""
        if os.getpid() != self._process or not self._open:
            return
        self._open = False
        tasks = [*self._opening.values(), *self._resting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        queues = list(self._queues.values())
        self._queues.clear()
        await asyncio.gather(*(queue.aclose() for queue in queues))

    def _begin_opening(self, shard: int) -> asyncio.Task[Queue]:
        """Begin to open a queue, unless a task does already; a failed open is tried again later."""
        task = self._opening.get(shard)
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._opened(shard), name="zsmtp shard")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # another waiter may get it
            self._opening[shard] = task
        return task

    async def _opened(self, shard: int) -> Queue:
        if shard in self._queues:
            return self._queues[shard]
        queue = Queue(self._locations[shard], self._config, self._queue_config, deliver=False, node="", shard=shard)
        try:
            await queue.start()
        except QueueUnavailable:
            self._skip(shard)
            raise
        self._queues[shard] = queue
        return queue

    async def _queue(self, shard: int) -> Queue:
        self._check()
        found = self._queues.get(shard)
        return await asyncio.shield(self._begin_opening(shard)) if found is None else found

    # ------------------------------------------------------------ what is down

    def _skip(self, shard: int) -> None:
        """Skip a queue, and try every :data:`REST` seconds whether it is available again."""
        if shard not in self._resting and self._open:
            task = asyncio.get_running_loop().create_task(self._look(shard), name="zsmtp shard")
            self._resting[shard] = task

    async def _look(self, shard: int) -> None:
        while True:
            await asyncio.sleep(REST)
            try:
                queue = await self._queue(shard)
                await queue.store.rules()
            except QueueUnavailable:
                continue
            except ZsmtpError:
                pass  # submissions raise it
            del self._resting[shard]
            return

    def _candidates(self, key: tuple[str, str] | None) -> list[int]:
        """The queues that may take a message, in order; ``key``: its tenant and idempotency key, if it has one."""
        if key is not None:
            return [home(*key, self._locations)]
        return sorted(self._order, key=lambda shard: shard in self._resting)

    async def _at_one(self, key: tuple[str, str] | None, work: Callable[[Queue], Awaitable[T]]) -> T:
        """Call ``work`` with the first available queue."""
        problem: QueueError | None = None
        for shard in self._candidates(key):
            try:
                return await work(await self._queue(shard))
            except QuotaExceeded:
                raise
            except QueueUnavailable as error:
                self._skip(shard)
                if error.undecided:
                    raise
                problem = error
            except QueueFull as error:
                self._skip(shard)
                problem = error
        assert problem is not None
        raise problem

    # -------------------------------------------------------------- submission

    async def submit(self, message: MessageLike, **arguments: Unpack[SubmitArguments]) -> str:
        """Queue a message in one of the queues, and return its id when it is on the disk.

        The arguments are those of :meth:`zsmtp.aio.Queue.submit` without ``connection``. Raises the same errors when no
        queue accepts the message; QueueUnavailable with ``undecided`` if one may have it, which a second call would not
        detect: give a message that must not be queued twice an idempotency key, and submit it again with that.
        """
        self._check()
        submission = QueueSubmission(message=message, **arguments)
        with await self._ingest.read_aside(submission) as one:
            return await self.put(one)

    def read(self, given: Submission | MessageLike) -> Ingested:
        """Read a message for queueing, in any thread. For other intakes."""
        self._check()
        return self._ingest.read(given)

    async def put(self, one: Ingested) -> str:
        """Queue a message that was already read. For other intakes."""
        return await self._at_one(_key(one.new), lambda queue: queue.put(one))

    async def submit_many(self, submissions: Iterable[Submission | MessageLike]) -> list[str]:
        """Queue messages in one commit of one queue, all or none, and return their ids.

        Raises the errors of :meth:`zsmtp.aio.Queue.submit_many`; SubmissionError for idempotency keys of different
        queues, and for messages with a key together with others without one.
        """
        self._check()
        new = await self._ingest.read_many(submissions)
        keys = {_key(one) for one in new}
        shards = {None if key is None else home(*key, self._locations) for key in keys}
        if len(shards) > 1:
            raise SubmissionError("the idempotency keys belong to different queues; submit these messages one by one")
        return await self._at_one(next(iter(keys), None), lambda queue: queue.put_many(new))

    # ----------------------------------------------------------------- tracking

    async def queue_of(self, id: str) -> Queue:
        """The queue of a message, by its id.

        Raises QueueUnavailable if it cannot be opened, QueueError if it is none of these.
        """
        self._check()
        shard = from_text(id)[1]
        if shard not in self._locations:
            raise QueueError(f"{id} is of shard {shard}; these queues are {', '.join(map(str, self._locations))}")
        return await self._queue(shard)

    async def status(self, id: str) -> MessageStatus:
        """The status of a message; see :meth:`zsmtp.aio.Queue.status`, and :meth:`queue_of` for errors."""
        return await (await self.queue_of(id)).status(id)

    async def wait(self, id: str, timeout: float | None = None) -> list[HistoryEntry]:
        """Wait until all recipients of a message have an end; see :meth:`zsmtp.aio.Queue.wait`."""
        async with asyncio.timeout(timeout):
            return await (await self.queue_of(id)).wait(id)

    async def cancel(self, id: str) -> Recall:
        """Recall a message; see :meth:`zsmtp.aio.Queue.cancel`."""
        return await (await self.queue_of(id)).cancel(id)

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise QueueError("these queues were opened before a fork; the child is to open them for itself")
        if not self._open:
            raise QueueError("these queues are not open: use them inside 'async with', or await them")


def _key(new: NewMessage) -> tuple[str, str] | None:
    return (new.tenant, new.idempotency_key) if new.idempotency_key else None

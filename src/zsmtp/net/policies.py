"""MTA-STS on an event loop: policies fetched side by side, each of them once (RFC 8461 3.3).

A fetch is an operation like a delivery, and runs on the same loop. The number of fetches at a time is limited
(:func:`most_fetches`), others wait for their turn; a policy that is being fetched is not fetched a second time.

Policies are remembered in a file, which one thread uses: SQLite waits for the disk at every commit and up to two
seconds for other processes, and a loop cannot wait for it. Policies that arrive during a commit are the next
transaction, so that a thousand policies do not wait for the disk a thousand times::

    policies = AsyncPolicies(keeper, run)
    fetched = await policies.fetch(effect)
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from zsmtp.effects import FetchPolicy, KeepPolicy, Operation, RecallPolicy
from zsmtp.tls.mtasts import FetchedPolicy, RecalledPolicy
from zsmtp.tls.problem import TLSProblem

if TYPE_CHECKING:
    from zsmtp.net.stspolicies import PolicyKeeper

MAX_FETCHES = 1000
"""Fetches under way at a time."""
SHARE = 8
"""Fetches use one in so many of the files that may be open: the others are for sessions."""
TURN_TIME = 300.0
"""Seconds to wait for a turn: longer than ten fetches may take, so that an owner of many domains with slow policy hosts
does not prevent the fetches of others."""

T = TypeVar("T")
FutureT = TypeVar("FutureT", bound="asyncio.Future[Any]")
RunFetch = Callable[[Operation[FetchedPolicy]], Awaitable[FetchedPolicy]]
"""Carries a fetch out on the loop, until it is told to stop."""


def most_fetches() -> int:
    """How many fetches there may be under way at a time, in the files that this process may have open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_FETCHES if files == resource.RLIM_INFINITY else min(MAX_FETCHES, max(files // SHARE, 1))


def not_fetched(problem: str) -> FetchedPolicy:
    """The answer to a fetch that this side did not carry out."""
    return FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem=problem, own=True)


class AsyncPolicies:
    """The MTA-STS policies of one driver. ``run`` carries out a fetch."""

    def __init__(self, keeper: PolicyKeeper, run: RunFetch) -> None:
        self._keeper = keeper
        self._run = run
        self._turns = asyncio.Semaphore(most_fetches())
        self._fetches: dict[FetchPolicy, asyncio.Task[FetchedPolicy]] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._commits = asyncio.Lock()
        self._unwritten: dict[str, KeepPolicy] = {}  # by domain, as what is being written
        self._writing: dict[str, KeepPolicy] = {}
        self._next_commit: asyncio.Task[None] | None = None  # which takes what is unwritten
        self._under_way: set[asyncio.Future[Any]] = set()

    def recall(self, effect: RecallPolicy) -> RecalledPolicy | asyncio.Future[RecalledPolicy]:
        """What is remembered of a domain; what is on its way to the disk is known already."""
        domain = effect.domain.lower()
        kept = self._unwritten.get(domain) or self._writing.get(domain)
        if kept is not None:
            return self._keeper.recalled(kept.entry)
        return self._in_thread(partial(self._keeper.recall, effect))

    def keep(self, effect: KeepPolicy) -> asyncio.Future[None]:
        """Remember a policy; the future is done when it is written."""
        self._unwritten[effect.entry.domain.lower()] = effect
        if self._next_commit is None:
            self._next_commit = self._counted(asyncio.get_running_loop().create_task(self._commit()))
        return self._next_commit

    def fetch(self, effect: FetchPolicy) -> asyncio.Future[FetchedPolicy]:
        """A future that several operations may await; the fetch continues if one of them is cancelled."""
        fetch = self._fetches.get(effect)
        if fetch is None:
            fetch = self._fetches[effect] = asyncio.get_running_loop().create_task(self._fetch(effect))
            fetch.add_done_callback(lambda _: self._fetches.pop(effect))
        return fetch

    @property
    def fetches(self) -> set[asyncio.Future[Any]]:
        """Those that are under way, or wait for their turn."""
        return set(self._fetches.values())

    async def aclose(self) -> None:
        """Write what is unwritten, and close the file. The driver ends the fetches."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        if self._thread is not None:
            await self._in_thread(self._keeper.close)
            self._thread.shutdown()

    async def _fetch(self, effect: FetchPolicy) -> FetchedPolicy:
        try:
            async with asyncio.timeout(TURN_TIME):
                await self._turns.acquire()
        except TimeoutError:
            return not_fetched("too many policies were being fetched")
        try:
            return await self._run(self._keeper.fetch(effect))
        finally:
            self._turns.release()

    async def _commit(self) -> None:
        """Write all that arrived before the previous commit was done."""
        async with self._commits:
            self._writing, self._unwritten, self._next_commit = self._unwritten, {}, None
            try:
                await self._in_thread(partial(self._keeper.keep, tuple(self._writing.values())))
            finally:
                self._writing = {}

    def _in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="zsmtp policies")
        return self._counted(asyncio.get_running_loop().run_in_executor(self._thread, call))

    def _counted(self, work: FutureT) -> FutureT:
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        return work

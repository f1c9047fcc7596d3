"""Leases, claims, marks and results, on the event loop.

:class:`PostgresDelivery` has the delivery operations of a store that has joined as a node. The keys and slots of a
lease are also in memory, because only its owner adds to them. Whether this node still owns the lease, and with which
slots, is read from the database, in the transaction that writes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.leases import MARGIN, VALID
from zsmtp.queue.operators import SiteStatus
from zsmtp.queue.postgres import claims, leases
from zsmtp.queue.postgres.connect import Database
from zsmtp.queue.postgres.leases import Joining, Taking
from zsmtp.queue.postgres.news import read_news
from zsmtp.queue.postgres.pulse import NewsListener, Pulse, PulseAnswer
from zsmtp.queue.postgres.results import GiveUpRequest, MarkRequest, PostgresResults, SettleRequest
from zsmtp.queue.postgres.threads import PostgresJob, PostgresReader, PostgresWriter
from zsmtp.queue.postgres.transaction import WriteTransaction
from zsmtp.queue.settling import attempt_of
from zsmtp.queue.slots import NO_PART, SitePart
from zsmtp.queue.sql import ClaimBounds
from zsmtp.queue.states import AttemptKey, Position, SubQueue
from zsmtp.queue.store import Arrivals, Claimed, Doubt, Head, Lease, Settlement

POLL = 1.0
"""Seconds between polls for changes without a notification."""
PATIENCE = 3.0
"""Seconds until a node takes sites beyond its share, if no other node takes them."""
_KEYS = 500  # in one query

log = logging.getLogger("zsmtp")


class PostgresDelivery:
    """The delivery operations of a store, for a process that has joined as a node."""

    def __init__(
        self,
        database: Database,
        writer: PostgresWriter,
        takes: PostgresWriter,
        reader: PostgresReader,
        *,
        monotonic: Callable[[], float],
        pulse: Pulse,
    ) -> None:
        self._database = database
        self._writer = writer
        self._takes = takes
        self._reader = reader
        self._monotonic = monotonic
        self._pulse = pulse
        self._results = PostgresResults()
        self._join = PostgresJob("beginning to deliver", leases.join)
        self._leave = PostgresJob("giving leases back", leases.leave)
        self._take = PostgresJob("taking leases", leases.take)
        self._give_back = PostgresJob("giving leases back", self._results.give_back)
        self._shed = PostgresJob("giving slots up", self._results.shed)
        self._mark = PostgresJob("writing marks", self._results.mark, durable=self._results.must_wait, reads_first=True)
        self._repeat = PostgresJob("writing marks again", self._results.repeat_marks)
        self._settle = PostgresJob("writing results", self._results.settle, reads_first=True)
        self.learning = PostgresJob("learning sites", _learn, durable=lambda sites: False)
        self._report = PostgresJob("keeping the status of sites", self._results.report, durable=lambda report: False)
        self._parts: dict[int, SitePart] = {}  # by lease
        self._lease_of: dict[str, int] = {}  # by queue key, as far as this node knows
        self._unsettled: dict[int, dict[AttemptKey, Doubt]] = {}  # by lease
        self._turned = monotonic()
        self._name = ""
        self._snapshot = ""
        self._asked_for: dict[str, float] = {}  # keys requested without success, since when
        self._surplus = 0
        self._nodes = 1
        self._unsure = False  # whether there may be leases that this node does not know of
        self._there = asyncio.Event()
        self._woken = False
        self._loop = asyncio.get_running_loop()
        self._listener: NewsListener | None = None
        self._repeating: asyncio.Task[None] | None = None
        self.draining = False
        """Whether an operator asked this node to leave."""

    @property
    def joined(self) -> bool:
        """Whether this process delivers."""
        return self._results.node != 0

    def age(self) -> float:
        """Seconds since the last heartbeat of the event loop."""
        return self._monotonic() - self._turned

    # ---------------------------------------------------------------- joining

    async def join(self, node: str) -> None:
        """Become a node."""
        if self.joined:
            raise QueueError(f"queue {self._database.name}: this store is a node already")
        self._turned = self._monotonic()
        joined = await self._writer.do(self._join, Joining(node))
        self._results.node = joined.node
        self._name = node
        self._snapshot = joined.snapshot
        self._pulse.beat_for(joined.node)
        if not self._database.pooled:
            self._listener = NewsListener(self._database, self.look)
            self._listener.start()

    def look(self) -> None:
        """Make the loop look for changes; callable from any thread."""
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._there.set)

    def wake(self) -> None:
        """Look at once, and make :meth:`arrivals` return."""
        self._woken = True
        self._there.set()

    def answered(self, answer: PulseAnswer | None) -> None:
        """Handle the reply of the database to a heartbeat; called in the thread of the pulse."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._heed, answer)

    def _heed(self, answer: PulseAnswer | None) -> None:
        if answer is None:
            if self._repeating is None and self.joined:
                self._repeating = self._loop.create_task(self._rejoin())
            return
        if answer.draining and not self.draining:
            self.draining = True
            self.wake()
        self._surplus = answer.surplus
        self._nodes = answer.sharing
        if not answer.same_server and self._repeating is None and self.joined:
            self._repeating = self._loop.create_task(self._repeat_marks())

    async def _rejoin(self) -> None:
        """Become a node again, without leases, after this process stood still until its row was deleted."""
        try:
            await self._writer.do(self._join, Joining(self._name, self._results.node))
            log.warning("queue %s: this node was removed as dead, and has joined again", self._database.name)
        except QueueUnavailable:
            pass  # the next heartbeat says so again
        finally:
            self._repeating = None

    async def _repeat_marks(self) -> None:
        try:
            await self._writer.do(self._repeat, None)
            log.warning("queue %s: the server was started anew: marks were written again", self._database.name)
        except QueueUnavailable:
            pass  # the next heartbeat says so again
        finally:
            self._repeating = None

    async def leave(self) -> None:
        """Give all leases back, and stop delivering; attempts with a mark are in doubt for the next owner."""
        if not self.joined:
            return
        node, self._results.node = self._results.node, 0
        self._pulse.beat_for(0)
        if self._listener is not None:
            self._listener.end()
        self._parts.clear()
        self._lease_of.clear()
        self._unsettled.clear()
        with suppress(QueueError):  # otherwise others detect it by the missing heartbeat
            await self._writer.do(self._leave, node)
            self._pulse.notify()

    def end(self) -> None:
        """Wait for the end of the listening thread; not on the event loop."""
        if self._listener is not None:
            self._listener.join()

    def beat(self) -> None:
        """Record that the event loop runs."""
        silent = self.age() >= VALID - MARGIN
        self._turned = self._monotonic()
        if silent and self.joined:
            self._pulse.beat_now()

    def _expect_node(self) -> None:
        if not self.joined:
            raise QueueError(f"queue {self._database.name}: only a node can do this: join first")

    # ----------------------------------------------------------------- leases

    async def agenda(self) -> dict[str, float]:
        """The queue keys with recipients that are not held, and the due time of the first of each."""
        self._expect_node()
        found: dict[str, float] = {}
        after: str | None = None
        while keys := await self._reader.read(
            "looking for work", partial(claims.keys_with_work, after=after, limit=_KEYS)
        ):
            found |= await self._reader.read("looking for work", partial(claims.agenda, keys=keys))
            after = keys[-1]
        return found

    async def take(self, keys: Collection[str], *, limit: int) -> list[Lease]:
        """Lease sites without owner."""
        self._expect_node()
        now = time.monotonic()
        growing = {key: self._lease_of[key] for key in keys if key in self._lease_of}
        waited = [key for key in keys if self._asked_for.get(key, now) <= now - PATIENCE]
        known = list(self._parts) if self._unsure else None
        self._unsure = True
        request = Taking(self._results.node, list(keys), limit, not waited, growing, known)
        taken = [lease for lease in await self._takes.do(self._take, request) if self._is_news(lease)]
        self._unsure = False
        for lease in taken:
            self._remember(lease)
        there = {key for lease in taken for key in lease.keys}
        self._asked_for = {
            key: at for key, at in self._asked_for.items() if key not in there and at > now - 10 * PATIENCE
        } | {key: self._asked_for.get(key, now) for key in keys if key not in there and key not in growing}
        return taken

    def _is_news(self, lease: Lease) -> bool:
        """Whether a lease has other keys or slots than this node knows of."""
        return self._parts.get(lease.number) != SitePart(frozenset(lease.keys), lease.slots)

    def _remember(self, lease: Lease) -> None:
        for number in {self._lease_of.get(key, lease.number) for key in lease.keys} - {lease.number}:
            self._forget(number)  # it is over, or its keys would have stayed with it
        self._parts[lease.number] = SitePart(frozenset(lease.keys), lease.slots)
        self._lease_of |= dict.fromkeys(lease.keys, lease.number)
        self._unsettled[lease.number] = {doubt.recipient.next_attempt: doubt for doubt in lease.doubts}

    def _forget(self, number: int) -> None:
        for key in self._parts.pop(number, NO_PART).keys:
            if self._lease_of.get(key) == number:
                del self._lease_of[key]
        self._unsettled.pop(number, None)

    async def give_back(self, given: Collection[Lease]) -> None:
        """Give leases back."""
        self._expect_node()
        numbers = [lease.number for lease in given]
        await self._writer.do(self._give_back, numbers)
        for number in numbers:
            self._forget(number)

    async def shed(self, lease: Lease, slots: int) -> Lease | None:
        """Give up some slots of a lease."""
        self._expect_node()
        left = await self._writer.do(self._shed, GiveUpRequest(lease.number, slots))
        if left is not None:
            self._remember(left)
        return left

    # ----------------------------------------------------------------- claims

    def _part(self, lease: Lease) -> SitePart:
        """The keys and slots that a lease has, as far as this node knows."""
        return self._parts.get(lease.number, NO_PART)

    async def heads(self, given: Collection[Lease]) -> list[Head]:
        """The sub-queues of the leases with work."""
        keys = sorted({key for lease in given for key in self._part(lease).keys})
        found: list[Head] = []
        for start in range(0, len(keys), _KEYS):
            part = keys[start : start + _KEYS]
            found += await self._reader.read("looking for work", partial(claims.heads, keys=part))
        return found

    async def claim(
        self, lease: Lease, sub_queue: SubQueue, after: Position, now: float, *, limit: int, octets: int
    ) -> tuple[list[Claimed], float | None]:
        """Read due recipients; returns them and the due time of the next one."""
        keys, slots = self._part(lease)
        if sub_queue.key not in keys:
            return [], None
        doubts = frozenset(self._unsettled.get(lease.number, ()))
        bounds = ClaimBounds(limit, octets, slots & lease.slots, doubts)
        return await self._reader.read("claiming", lambda db: claims.claim(db, sub_queue, after, now, bounds))

    async def review(self, lease: Lease, after: tuple[int, int], *, limit: int) -> list[Claimed]:
        """Read recipients in order of their ids, due or not."""
        keys, slots = self._part(lease)
        part = SitePart(sorted(keys), slots & lease.slots)
        doubts = frozenset(self._unsettled.get(lease.number, ()))
        return await self._reader.read(
            "looking through a site", partial(claims.review, part=part, after=after, limit=limit, doubts=doubts)
        )

    # ------------------------------------------------------ marks and results

    async def mark(self, lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
        """Commit that these attempts may complete."""
        if VALID - self.age() < MARGIN or lease.number not in self._parts:
            return False
        return await self._writer.do(self._mark, MarkRequest(lease.number, self._part(lease).keys, attempts, self.age))

    async def settle(
        self, lease: Lease, settlements: Sequence[Settlement], in_hand: Collection[AttemptKey]
    ) -> list[AttemptKey]:
        """Write results, and the list of attempts in hand after them."""
        doubts = frozenset(self._unsettled.get(lease.number, ()))
        request = SettleRequest(lease.number, self._part(lease).keys, settlements, frozenset(in_hand), doubts)
        conflicts = await self._writer.do(self._settle, request)
        unsettled = self._unsettled.get(lease.number, {})  # the lease may have been changed meanwhile
        for settlement in settlements:
            unsettled.pop(AttemptKey(*attempt_of(settlement)), None)
        return conflicts

    # --------------------------------------------------------------- arrivals

    async def arrivals(self, timeout: float) -> Arrivals:
        """Wait until something has changed."""
        self._expect_node()
        end = time.monotonic() + timeout
        while True:
            await self._wait(min(max(end - time.monotonic(), 0), POLL))
            woken, self._woken = self._woken, False
            found = await self._reader.read("looking for new messages", partial(read_news, since=self._snapshot))
            self._snapshot = found.snapshot
            if found.keys or found.poked or found.rules or woken or time.monotonic() >= end:
                keys = {key: at / 1000 for key, at in found.keys.items()}
                surplus, self._surplus = self._surplus, 0
                poked, nodes = frozenset(found.poked), self._nodes
                return Arrivals(keys, poked, found.rules, drain=self.draining, surplus=surplus, nodes=nodes)

    async def _wait(self, timeout: float) -> None:
        """Wait for a notification of changes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._there.wait()
        self._there.clear()

    async def report(self, statuses: Sequence[SiteStatus]) -> None:
        """Store the status of sites."""
        self._expect_node()
        if statuses:
            await self._writer.do(self._report, list(statuses))


def _learn(transaction: WriteTransaction, requests: list[dict[str, str]]) -> list[None]:
    for sites in requests:
        transaction.db.execute(
            "INSERT INTO zsmtp_site (key, site) SELECT * FROM unnest(%s::text[], %s::text[]) "
            "ON CONFLICT (key) DO UPDATE SET site = excluded.site WHERE zsmtp_site.site <> excluded.site",
            (sorted(sites), [sites[key] for key in sorted(sites)]),
        )
    return [None] * len(requests)

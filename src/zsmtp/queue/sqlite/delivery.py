"""Leases, claims, marks and results, on the event loop.

One process delivers from a file: its leases are a table in its memory, and the file stores the *fence*, which grows
with each start of a deliverer. :class:`SQLiteDelivery` is that part of a store; the writer's thread does the rest
(``zsmtp.queue.sqlite.results``).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from zsmtp.errors import QueueError
from zsmtp.queue.leases import Holding, LeaseTable, check_shed
from zsmtp.queue.operators import SiteStatus
from zsmtp.queue.settling import attempt_of
from zsmtp.queue.slots import NO_PART, SitePart, has
from zsmtp.queue.sql import ClaimBounds
from zsmtp.queue.sqlite import claims
from zsmtp.queue.sqlite.locks import DelivererLock
from zsmtp.queue.sqlite.reader import Reader
from zsmtp.queue.sqlite.results import (
    Joined,
    Marking,
    Open,
    Settling,
    ShedRequest,
    SiteReport,
    SQLiteResults,
)
from zsmtp.queue.sqlite.transaction import News, WriteTransaction
from zsmtp.queue.sqlite.writer import DatabaseWatch, JobKind, Writer
from zsmtp.queue.states import AttemptKey, Position, SubQueue
from zsmtp.queue.store import (
    Arrivals,
    Claimed,
    Doubt,
    Head,
    Lease,
    Settlement,
)

_NUMBERS = 32  # bits of a lease's number below the fence
_KEYS = 500  # in one question


class SQLiteDelivery:
    """The delivery operations of a store, for a process that has joined as a node."""

    def __init__(
        self,
        path: str,
        writer: Writer,
        reader: Reader,
        *,
        boot: str,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        release: Callable[[int], None],
    ) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._boot = boot
        self._clock = clock
        self._monotonic = monotonic
        self._release = release
        self._lock = DelivererLock(path)
        self._results = SQLiteResults()
        self._join = JobKind("beginning to deliver", self._results.join)
        self._mark = JobKind("writing marks", self._results.mark, durable=self._results.must_wait)
        self._settle = JobKind("writing results", self._results.settle)
        self._give_back = JobKind("giving leases back", self._results.give_back)
        self._shed = JobKind("giving slots up", self._results.shed)
        self._lapse = JobKind("taking leases away", self._results.lapse)
        self._learn = JobKind("learning sites", _learn, durable=lambda sites: False)
        self._report = JobKind("keeping the status of sites", self._results.report, durable=lambda report: False)
        self._node = ""
        self._leases = LeaseTable()
        self._doubts: dict[str, dict[AttemptKey, bool]] = {}  # by key, with ``Doubt.machine``, of ended leases
        self._unsettled: dict[int, dict[AttemptKey, Doubt]] = {}  # by lease
        self._taking = asyncio.Lock()
        self._news = News()
        self._there = asyncio.Event()
        self.busy: dict[int, set[int]] = {}
        """The messages in hand, by lease."""
        self._socket: socket.socket | None = None

    @property
    def joined(self) -> bool:
        """Whether this process delivers."""
        return bool(self._node)

    # ---------------------------------------------------------------- joining

    async def join(self, node: str) -> None:
        """Become the deliverer; raises QueueBusy if another process is it."""
        if self._node:
            raise QueueError(f"queue {self._path}: this store is node {self._node} already")
        self._writer.check()
        self._lock.acquire(node)
        try:
            joined = await self._writer.do(self._join, (node, self._boot))
            await self._begin(node, joined)
        except BaseException:
            self._writer.watch(None)
            self._lock.release()
            raise

    async def _begin(self, node: str, joined: Joined) -> None:
        loop = asyncio.get_running_loop()

        def tell(news: News) -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self.tell, news)

        self._leases = LeaseTable(joined.fence << _NUMBERS)
        self._leases.join(node, self._monotonic())
        self._keep_doubts(joined.doubts)
        self._writer.watch(DatabaseWatch(joined.last_id, joined.rules, joined.poke, tell))
        self._node = node
        self._listen(loop)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive notifications of other processes; without them their changes are found within a second."""
        path = f"{self._path}-wake"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            Path(path).unlink(missing_ok=True)
            listener.bind(path)
            Path(path).chmod(Path(self._path).stat().st_mode & 0o666)
            loop.add_reader(listener, self._woken)
        except (OSError, NotImplementedError):  # a path of more than 107 octets, a file system without sockets
            listener.close()
        else:
            self._socket = listener

    def _woken(self) -> None:
        with suppress(OSError):
            while self._socket is not None and self._socket.recv(16):
                pass
        self._writer.wake()

    def wake(self) -> None:
        """Look for changes by others, and make :meth:`arrivals` return."""
        self._writer.wake()
        self._there.set()

    async def leave(self) -> None:
        """Give all leases back, and stop delivering; marks stay."""
        if self._node:
            holdings = self._leases.leave(self._node)
            self._node = ""
            if self._socket is not None:
                asyncio.get_running_loop().remove_reader(self._socket)
                self._socket.close()
                with suppress(OSError):
                    Path(f"{self._path}-wake").unlink(missing_ok=True)
            try:
                with suppress(QueueError):  # the next deliverer finds the leases that could not be given back
                    await self._writer.do(self._lapse, [one.number for one in holdings])
            finally:
                self._writer.watch(None)
                self._lock.release()

    def close(self) -> None:
        """Close locks and sockets."""
        self._lock.close()
        if self._socket is not None:
            self._socket.close()

    def delivers_somewhere(self) -> bool:
        """Whether a process delivers from the file, this one included."""
        self._writer.check()
        return self._leases.lives(self._node, self._monotonic()) if self._node else self._lock.held_by_somebody()

    def beat(self) -> None:
        """Record that the event loop runs."""
        self._leases.beat(self._node, self._monotonic())

    def _expect_node(self) -> None:
        if not self._node:
            raise QueueError(f"queue {self._path}: only a node can do this: join first")

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
        async with self._taking:
            await self._take_away()
            candidates = list(dict.fromkeys([*keys, *sorted(self._doubts)]))
            taken: dict[int, Lease] = {}
            for start in range(0, len(candidates), _KEYS):
                limit = await self._lease(candidates[start : start + _KEYS], limit, taken)
            return list(taken.values())

    async def _lease(self, candidates: Collection[str], limit: int, taken: dict[int, Lease]) -> int:
        """Lease the sites of keys; returns how many more may be leased."""
        leases, node = self._leases, self._node
        free = [key for key in candidates if leases.site_of(key) is None]
        sites = await self._reader.read("looking for sites", partial(claims.sites_of, keys=free))
        asked: dict[str, list[str]] = {}
        for key in candidates:
            site = leases.site_of(key) or sites.get(key, key)
            if site in asked or leases.of_node(site, node) is not None:
                asked.setdefault(site, []).append(key)
            elif limit > 0:
                limit -= 1
                asked[site] = [key]
        fresh = [site for site in asked if leases.of_node(site, node) is None]
        for site, key in await self._members(fresh):
            asked[site].append(key)
        for site, keys in asked.items():
            holding = leases.of_node(site, node)
            if holding is None:
                holding, changed = leases.take(site, keys, node), True
            else:
                grown = not holding.keys.isdisjoint(keys) and leases.grow(holding)
                changed = leases.extend(holding, keys) or grown
            if changed:
                await self._adopt_doubts(holding)
                taken[holding.number] = self._lease_of(holding)
        return limit

    def _lease_of(self, holding: Holding) -> Lease:
        doubts = tuple(self._unsettled.get(holding.number, {}).values())
        return Lease(holding.number, holding.site, tuple(sorted(holding.keys)), doubts, holding.slots)

    async def _members(self, sites: Collection[str]) -> list[tuple[str, str]]:
        """The other keys of sites with recipients that are not held: site, key."""
        learned = await self._reader.read("looking for sites", partial(claims.keys_of, sites=sites))
        elsewhere = await self._reader.read("looking for sites", partial(claims.sites_of, keys=sites))
        found = learned + [(site, site) for site in sites if elsewhere.get(site, site) == site]
        members = []
        for start in range(0, len(found), _KEYS):
            part = found[start : start + _KEYS]
            keys = [key for _, key in part]
            work = await self._reader.read("looking for work", partial(claims.agenda, keys=keys))
            members += [(site, key) for site, key in part if key in work]
        return members

    async def _adopt_doubts(self, holding: Holding) -> None:
        """Assign its doubts to a lease; an operator may have ended some recipients, or moved them."""
        doubts = {attempt: machine for key in holding.keys for attempt, machine in self._doubts.pop(key, {}).items()}
        if not doubts:
            return
        there = await self._reader.read("looking for doubts", partial(claims.recipients, attempts=list(doubts)))
        for attempt in sorted(there):
            recipient, message = there[attempt]
            if holding.part.has(recipient.key, recipient.message):
                doubt = Doubt(recipient, message, doubts[attempt])
                self._unsettled.setdefault(holding.number, {})[attempt] = doubt
            else:
                self._keep_doubts([Open(recipient.key, attempt, doubts[attempt])])

    def _keep_doubts(self, doubts: Iterable[Open]) -> None:
        """Store doubts for the next owner of their key."""
        for key, attempt, machine in doubts:
            self._doubts.setdefault(key, {})[attempt] = machine

    async def give_back(self, leases: Collection[Lease]) -> None:
        """Give leases back."""
        self._expect_node()
        numbers = [lease.number for lease in leases]
        if await self._writer.do(self._give_back, numbers):
            raise QueueError("a lease with marked attempts cannot be given back: settle them first")
        self._dropped(self._leases.drop(numbers))

    async def shed(self, lease: Lease, slots: int) -> Lease | None:
        """Give up some slots of a lease."""
        self._expect_node()
        async with self._taking:
            holding = self._leases.get(lease.number)
            if holding is None:
                return None
            held = holding.slots
            check_shed(held, slots, ())
            self._leases.shed(holding, slots)  # first: no mark is given for them from now on
            try:
                await self._writer.do(self._shed, ShedRequest(holding.number, held, slots))
            except BaseException:
                holding.slots = held
                raise
            unsettled = self._unsettled.get(holding.number, {})
            for attempt in [attempt for attempt in unsettled if not has(holding.slots, attempt.message)]:
                doubt = unsettled.pop(attempt)
                self._keep_doubts([Open(doubt.recipient.key, attempt, doubt.machine)])
            return self._lease_of(holding)

    async def _take_away(self) -> None:
        """End the leases if the event loop was blocked for too long."""
        holdings = self._leases.lapse(self._monotonic())
        if holdings:
            doubts = await self._writer.do(self._lapse, [holding.number for holding in holdings])
            self._keep_doubts(doubts)
            self._dropped(holdings)

    def _dropped(self, holdings: Collection[Holding]) -> None:
        """Store the unsettled doubts of ended leases."""
        for holding in holdings:
            left = self._unsettled.pop(holding.number, {})
            self._keep_doubts(Open(one.recipient.key, attempt, one.machine) for attempt, one in left.items())
            self.busy.pop(holding.number, None)

    async def learn(self, sites: Mapping[str, str]) -> None:
        """Store the site of each queue key."""
        await self._writer.do(self._learn, dict(sites))

    # ----------------------------------------------------------------- claims

    def _part(self, lease: Lease) -> SitePart:
        """The keys and slots that a lease has now."""
        holding = self._leases.get(lease.number)
        return NO_PART if holding is None else holding.part

    def _then(self, lease: Lease) -> Callable[[], SitePart]:
        """What a lease has when this is called, as long as it is not over by now: slots may be given up before."""
        holding = self._leases.get(lease.number)
        return lambda: NO_PART if holding is None else holding.part

    async def heads(self, leases: Collection[Lease]) -> list[Head]:
        """The sub-queues of the leases with work."""
        keys = sorted({key for lease in leases for key in self._part(lease).keys})
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
        return await self._reader.read(
            "claiming", lambda connection: claims.claim(connection, sub_queue, after, now, bounds)
        )

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

        def good() -> bool:
            return self._leases.may_mark(lease.number, self._monotonic())

        marking = Marking(lease.number, self._then(lease), attempts, good)
        return good() and await self._writer.do(self._mark, marking)

    async def settle(
        self, lease: Lease, settlements: Sequence[Settlement], in_hand: Collection[AttemptKey]
    ) -> list[AttemptKey]:
        """Write results, and the list of attempts in hand after them."""
        request = Settling(lease.number, self._then(lease), settlements, in_hand)
        conflicts = await self._writer.do(self._settle, request)
        unsettled = self._unsettled.get(lease.number)
        if unsettled:
            for settlement in settlements:
                unsettled.pop(AttemptKey(*attempt_of(settlement)), None)
        if self._leases.get(lease.number) is not None:
            self.busy[lease.number] = {attempt.message for attempt in in_hand}
        return conflicts

    # --------------------------------------------------------------- arrivals

    def tell(self, news: News) -> None:
        """Record changes for :meth:`arrivals`."""
        for message in news.released:
            self._release(message)
        self._news.add(news)
        self._there.set()

    async def arrivals(self, timeout: float) -> Arrivals:
        """Wait until something has changed."""
        self._expect_node()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._there.wait()
        self._there.clear()
        news, self._news = self._news, News()
        keys = {key: at / 1000 for key, at in news.keys.items()}
        return Arrivals(keys, frozenset(news.poked), news.rules)

    async def report(self, statuses: Sequence[SiteStatus]) -> None:
        """Store the status of sites."""
        self._expect_node()
        await self._writer.do(self._report, SiteReport(statuses, sum(1 for _ in self._leases)))


def _learn(transaction: WriteTransaction, requests: list[dict[str, str]]) -> list[None]:
    for sites in requests:
        transaction.db.executemany(
            "INSERT INTO zsmtp_site (key, site) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET site = excluded.site "
            "WHERE site <> excluded.site",
            list(sites.items()),
        )
    return [None] * len(requests)

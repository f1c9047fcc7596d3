"""Leases, claims, marks, results and arrivals of a queue in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from zsmtp.errors import QueueError
from zsmtp.queue import settling
from zsmtp.queue.leases import Holding, check_shed
from zsmtp.queue.limits import (
    CHUNK,
)
from zsmtp.queue.memory.base import MemoryBase, News
from zsmtp.queue.memory.data import Mark
from zsmtp.queue.operators import (
    SiteStatus,
)
from zsmtp.queue.slots import has
from zsmtp.queue.states import (
    AttemptKey,
    Position,
    SubQueue,
    milliseconds,
    seconds,
)
from zsmtp.queue.store import (
    Arrivals,
    Claimed,
    Head,
    Lease,
    Settlement,
)


class MemoryDelivery(MemoryBase):
    """The delivery operations of a store, for a process that has joined as a node."""

    def wake(self) -> None:
        """End a wait for arrivals. No process submits to this store in its own transaction."""
        if self._node in self._shared.news:
            self._shared.news[self._node].there.set()

    # ---------------------------------------------------------------- delivery

    async def join(self, node: str) -> None:
        """Become a node."""
        self._begin("join")
        self._data.flush()  # it is a commit like any other
        self._node = node
        self._shared.leases.join(node, self._monotonic())
        self._shared.seen[node] = self._shared.restarts
        self._shared.news[node] = News()
        self._shared.nodes[node] = self._clock()

    def beat(self) -> None:
        """Record that the event loop runs."""
        self._shared.leases.beat(self._node, self._monotonic())
        self._shared.write_again(self._node)

    async def agenda(self) -> dict[str, float]:
        """The queue keys with recipients that are not held, and the due time of the first of each."""
        self._begin("agenda")
        return self._data.agenda()

    async def take(self, keys: Collection[str], *, limit: int) -> list[Lease]:
        """Lease sites without owner."""
        self._begin("take")
        for lapsed in self._shared.leases.lapse(self._monotonic()):
            self._shared.drop(lapsed)
        leases = self._shared.leases
        orphans = self._data.doubted(lambda key, message: leases.owner(key, message) is not None)
        sites: dict[str, list[str]] = {}
        for key in [*keys, *sorted(orphans)]:
            sites.setdefault(leases.site_of(key) or self._data.site_of(key), []).append(key)
        drains = self._node in self._shared.draining
        limit = 0 if drains else limit
        taken = []
        for site, requested in sites.items():
            holding = leases.of_node(site, self._node)
            if holding is not None:
                asks_again = not drains and not holding.keys.isdisjoint(requested)
                grown = asks_again and leases.grow(holding)
                if leases.extend(holding, requested) or grown:
                    taken.append(self._lease(holding))
            elif limit > 0 and leases.free(site):
                limit -= 1
                members = [*requested, *(key for key in self._data.agenda() if self._data.site_of(key) == site)]
                taken.append(self._lease(leases.take(site, members, self._node)))
                self._shared.forget_reports(site)
        return taken

    def _lease(self, holding: Holding) -> Lease:
        doubts = self._data.doubts(holding.part, holding.number)
        self._shared.doubts[holding.number] = {doubt.recipient.next_attempt for doubt in doubts}
        return Lease(holding.number, holding.site, tuple(sorted(holding.keys)), doubts, holding.slots)

    async def give_back(self, leases: Collection[Lease]) -> None:
        """Give leases back."""
        self._begin("give_back")
        numbers = {lease.number for lease in leases}
        if any(self._marked(number) for number in numbers):
            raise QueueError("a lease with marked attempts cannot be given back: settle them first")
        for holding in self._shared.leases.drop(numbers):
            self._data.in_hand.pop(holding.number, None)
            self._shared.drop(holding)

    def _marked(self, lease: int) -> set[AttemptKey]:
        """The attempts with a mark under a lease; none if it is over: those belong to the next owner."""
        if self._shared.leases.get(lease) is None:
            return set()
        marks = (*self._data.marks.items(), *self._shared.unwritten.items())
        return {attempt for attempt, mark in marks if mark.lease == lease}

    async def shed(self, lease: Lease, slots: int) -> Lease | None:
        """Give up some slots of a lease."""
        self._begin("shed")
        holding = self._shared.leases.get(lease.number)
        if holding is None:
            return None
        check_shed(holding.slots, slots, self._marked(holding.number))
        self._data.flush()
        self._shared.leases.shed(holding, slots)
        in_hand = self._data.in_hand.get(holding.number, set())
        self._data.in_hand[holding.number] = {one for one in in_hand if has(holding.slots, one.message)}
        return self._lease(holding)

    async def learn(self, sites: Mapping[str, str]) -> None:
        """Store the site of each queue key."""
        self._begin("learn")
        self._data.sites.update(sites)

    async def heads(self, leases: Collection[Lease]) -> list[Head]:
        """The sub-queues of the leases with work."""
        self._begin("heads")
        keys = set().union(*(self._part(lease).keys for lease in leases))
        return [Head(sub_queue, due) for sub_queue, due in self._data.heads(keys).items()]

    async def claim(
        self, lease: Lease, sub_queue: SubQueue, after: Position, now: float, *, limit: int, octets: int
    ) -> tuple[list[Claimed], float | None]:
        """Read due recipients; returns them and the due time of the next one."""
        self._begin("claim")
        keys, slots = self._part(lease)
        if sub_queue.key not in keys:
            return [], None
        doubts = self._shared.doubts.get(lease.number, set())
        claimed: list[Claimed] = []
        contents: set[int] = set()
        behind = [
            one for one in self._data.sub_queue(sub_queue, after, slots & lease.slots) if one.next_attempt not in doubts
        ]
        for place, one in enumerate(behind):
            size = self._data.messages[one.message].size
            small = size <= CHUNK
            costs = size if small and one.message not in contents else 0
            if place == limit or one.due > seconds(milliseconds(now)) or (costs and place and octets < costs):
                return claimed, one.due
            octets -= costs
            contents.add(one.message)
            content = self._data.contents[one.message] if small else None
            claimed.append(Claimed(one, self._data.messages[one.message], content))
        return claimed, None

    async def review(self, lease: Lease, after: tuple[int, int], *, limit: int) -> list[Claimed]:
        """Read recipients in order of their ids, due or not."""
        self._begin("review")
        doubts = self._shared.doubts.get(lease.number, set())
        keys, slots = self._part(lease)
        found = [
            Claimed(one, self._data.messages[one.message], None)
            for one in self._data.of_keys(keys, slots & lease.slots)
            if (one.message, one.number) > after and one.next_attempt not in doubts
        ]
        return sorted(found, key=lambda claimed: claimed.recipient.next_attempt)[:limit]

    async def content(self, message: int, size: int) -> AsyncIterator[bytes]:
        """The content of a message in chunks."""
        self._begin("content")
        content = self._data.contents.get(message)
        if content is None or message not in self._data.messages:
            raise QueueError(f"message {message} is not there")
        if len(content) != size:
            raise QueueError(f"message {message} has {len(content)} octets, not {size}")
        for start in range(0, size, CHUNK):
            yield content[start : start + CHUNK]

    async def mark(self, lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
        """Commit that these attempts may complete."""
        self._begin("mark")
        if not self._shared.leases.may_mark(lease.number, self._monotonic()):
            return False
        self._shared.write_again(self._node)
        part = self._part(lease)
        for message, number, attempt in attempts:
            one = self._data.recipients.get((message, number))
            if not settling.may_mark(attempt, one, owner=one is not None and part.has(one.key, message)):
                return False
        covered = self._data.in_hand.get(lease.number, set())
        for key in attempts:
            self._data.marks[key] = Mark(lease.number, durable=key not in covered)
        return True

    async def settle(
        self, lease: Lease, settlements: Sequence[Settlement], in_hand: Collection[AttemptKey]
    ) -> list[AttemptKey]:
        """Write results, and the list of attempts in hand after them."""
        self._begin("settle")
        part = self._part(lease)
        conflicts = []
        self._data.flush()  # the commit of results makes earlier marks durable
        for settlement in settlements:
            message, number, attempt = settling.attempt_of(settlement)
            one = self._data.recipients.get((message, number))
            owner = one is not None and part.has(one.key, message)
            if settling.applies(settlement, one, owner=owner, now=self._clock()):
                assert one is not None
                self._settle(settlement, one)
            else:
                conflicts.append(AttemptKey(message, number, attempt))
                if (entry := settling.late(settlement)) is not None:
                    self._data.write(entry)
        if self._shared.leases.get(lease.number) is not None:
            self._data.in_hand[lease.number] = {one for one in in_hand if has(part.slots, one.message)}
            doubts = self._shared.doubts.get(lease.number, set())
            doubts -= {AttemptKey(*settling.attempt_of(one)) for one in settlements}
        return conflicts

    async def arrivals(self, timeout: float) -> Arrivals:
        """Wait until something has changed."""
        self._begin("arrivals")
        news = self._shared.news.get(self._node)
        if news is None:
            raise QueueError("only a node can do this: join first")
        try:
            async with asyncio.timeout(timeout):
                await news.there.wait()
        except TimeoutError:
            pass
        self._shared.news[self._node] = News()
        drain = self._node in self._shared.draining
        return Arrivals(news.keys, frozenset(news.poked), news.rules, drain=drain, nodes=self._nodes())

    def _nodes(self) -> int:
        """The number of nodes that take leases."""
        lives, now = self._shared.leases.lives, self._monotonic()
        return max(sum(lives(node, now) for node in self._shared.news.keys() - self._shared.draining), 1)

    async def report(self, statuses: Sequence[SiteStatus]) -> None:
        """Store the status of sites."""
        self._begin("report")
        self._shared.statuses |= {(status.site, self._node): status for status in statuses}

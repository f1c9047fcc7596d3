"""The common base of a store in memory: the data, the clocks, injected failures, and the changes for each node."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from zsmtp.queue import intake, settling
from zsmtp.queue.leases import Holding, LeaseTable
from zsmtp.queue.limits import (
    HISTORY_KEPT,
)
from zsmtp.queue.memory.data import Data, Mark
from zsmtp.queue.operators import (
    SiteStatus,
)
from zsmtp.queue.settling import NoticeRule
from zsmtp.queue.slots import ALL, NO_PART, SitePart
from zsmtp.queue.states import (
    AttemptKey,
    OwedNotice,
    QueuedRecipient,
    milliseconds,
    seconds,
)
from zsmtp.queue.store import (
    Deferred,
    Lease,
    Settlement,
)
from zsmtp.records import replace


class Shared:
    """The state that the stores of one queue share: its data, the leases, and the unread changes of each node."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.leases = LeaseTable(max((mark.lease for mark in data.marks.values()), default=0))
        self.doubts: dict[int, set[AttemptKey]] = {}  # by lease: attempts to settle before their recipients are claimed
        self.news: dict[str, News] = {}
        self.nodes: dict[str, float] = {}  # since when
        self.draining: set[str] = set()
        self.statuses: dict[tuple[str, str], SiteStatus] = {}  # by site and node
        self.restarts = 0
        self.seen: dict[str, int] = {}  # by node: the restart after which it has written its marks again
        self.unwritten: dict[AttemptKey, Mark] = {}  # marks that a restart lost, which their nodes have in memory

    def restart(self) -> None:
        """Simulate a restart of the store's machine while the nodes live: marks that were not on the disk are lost."""
        self.restarts += 1
        lost = {attempt: mark for attempt, mark in self.data.marks.items() if not mark.durable}
        self.unwritten |= lost
        self.data.marks = {attempt: mark for attempt, mark in self.data.marks.items() if attempt not in lost}

    def write_again(self, node: str) -> None:
        """Write the marks of a node's leases again, durably, after it has detected a restart."""
        if self.seen.get(node) == self.restarts:
            return
        self.seen[node] = self.restarts
        for attempt, mark in tuple(self.unwritten.items()):
            holding = self.leases.get(mark.lease)
            if holding is not None and holding.node == node:
                self.data.marks[attempt] = mark._replace(durable=True)
                del self.unwritten[attempt]

    def drop(self, holding: Holding) -> None:
        """Delete an ended lease; its attempts in hand are in doubt if its node has not detected a restart."""
        self.doubts.pop(holding.number, None)
        in_hand = self.data.in_hand.pop(holding.number, set())
        if self.seen.get(holding.node) != self.restarts:
            self.data.lost |= in_hand
        self.unwritten = {attempt: mark for attempt, mark in self.unwritten.items() if mark.lease != holding.number}
        self.forget_reports(holding.site)

    def forget_reports(self, site: str) -> None:
        """Delete what nodes reported of a site that only others serve now."""
        leases = self.leases
        if leases.free(site) != ALL:
            gone = [one for one in self.statuses if one[0] == site and leases.of_node(*one) is None]
            for place in gone:
                del self.statuses[place]


class News:
    """The changes since the last call of a node."""

    def __init__(self) -> None:
        self.keys: dict[str, float] = {}
        self.poked: set[str] = set()
        self.rules = False
        self.there = asyncio.Event()


class MemoryBase:
    """A process that uses a queue in memory."""

    def __init__(
        self,
        *,
        shard: int = 0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        free_space: Callable[[], int] = lambda: -1,
        notice_rule: NoticeRule = settling.failure_notice,
        history_kept: float = HISTORY_KEPT,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._free_space = free_space
        self._notice_rule = notice_rule
        self._history_kept = history_kept
        self._shared = Shared(Data(shard))
        self._node = ""
        self._faults: defaultdict[str, deque[Exception]] = defaultdict(deque)

    @property
    def shard(self) -> int:
        """The shard its ids belong to."""
        return self._data.shard

    @property
    def _data(self) -> Data:
        return self._shared.data

    def _begin(self, operation: str) -> None:
        if self._faults[operation]:
            raise self._faults[operation].popleft()

    def _part(self, lease: Lease) -> SitePart:
        """The keys and slots that a lease has now."""
        holding = self._shared.leases.get(lease.number)
        return NO_PART if holding is None else holding.part

    # ----------------------------------------------------------------- results

    def _settle(self, settlement: Settlement, one: QueuedRecipient) -> None:
        data = self._data
        data.settled(one.next_attempt)
        self._shared.unwritten.pop(one.next_attempt, None)
        if settlement.notice is not None:
            owed = settlement.notice
            data.owed[owed.message, owed.number, owed.kind] = self._kept_notice(owed)
        if isinstance(settlement, Deferred):
            after = settling.deferred(replace(settlement, hold=data.hold(settlement.hold)), one)
            status, reason = intake.clean(after.status), intake.clean(after.reason)
            after = replace(after, due=seconds(milliseconds(after.due)), status=status, reason=reason)
            data.put(after)
            if settlement.entry is not None:
                data.write(settlement.entry)
            if after.key != one.key:
                self._tell_due(after)
            return
        if settling.repeats(settlement.entry, doubtful=one.doubtful, attempts=one.attempts):
            data.counters["repeated"] += 1
        data.write(settlement.entry)
        data.remove(one)
        data.forget(one.message)

    @staticmethod
    def _kept_notice(owed: OwedNotice) -> OwedNotice:
        at, expires, last = (seconds(milliseconds(time)) for time in (owed.at, owed.expires, owed.last_attempt))
        return replace(intake.kept_notice(owed), at=at, expires=expires, last_attempt=last)

    # ---------------------------------------------------------------- arrivals

    def _tell_due(self, one: QueuedRecipient) -> None:
        if not one.hold:
            for news in self._shared.news.values():
                news.keys[one.key] = min(news.keys.get(one.key, one.due), one.due)
                news.there.set()

    def _tell(self, *, poked: Iterable[str] = (), rules: bool = False) -> None:
        keys = set(poked)
        for news in self._shared.news.values():
            news.poked |= keys
            news.rules |= rules
            if keys or rules:
                news.there.set()

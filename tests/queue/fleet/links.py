"""What is between the processes of a fleet and their store: links that are slow, are cut, and are listened to.

A :class:`StoreLink` is the store as one process has it. A question takes a moment on its way there or back, so a
process may be stopped or die before it was asked, or after it was answered and before it knows. A link that is cut
answers nothing until the process has lost its patience; what was on its way back then is lost or late.

The :class:`Umpire` hears what the store answers, at the moment it does. It has an opinion of its own of who owns what,
made of the numbers of leases alone, and writes down each answer that it finds wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.ids import to_text
from zsmtp.queue.settling import attempt_of
from zsmtp.queue.slots import ALL, each_of, slot_of
from zsmtp.queue.states import AttemptKey, Outcome
from zsmtp.queue.store import Arrivals, Deferred, Ended, Lease, QueueStore, Settlement

TRAVEL = 0.1
"""Seconds that a question or an answer is on its way at most."""
PATIENCE = 10.0
"""Seconds that a process waits for an answer over a link that is cut."""


class Grant(NamedTuple):
    """That a node was allowed to complete an attempt."""

    node: str
    lease: int


class Umpire:
    """Who owns what, by what was said: the lease that each slot of a site was given to last.

    ``taken_over`` is called with the node that has just got a site with doubts, ``allowed`` with one that has just been
    allowed to send something; neither knows by then.
    """

    def __init__(self, taken_over: Callable[[str], None], allowed: Callable[[str], None]) -> None:
        self._taken_over = taken_over
        self._allowed = allowed
        self.faults: list[str] = []
        """What must not have happened."""
        self.counts: Counter[str] = Counter()
        """How often what happened that was meant to be refused, and the like."""
        self.granted: dict[AttemptKey, Grant] = {}
        self.doubted: set[AttemptKey] = set()
        self._owner: dict[tuple[str, int], int] = {}  # lease numbers by site and slot
        self._newest: dict[str, int] = {}  # lease numbers by site
        self._over: dict[int, int] = {}  # leases that ended, and which one had a slot of theirs first

    def took(self, node: str, leases: Collection[Lease]) -> None:
        """Leases were given out, or have more keys or slots."""
        for lease in leases:
            number, site = lease.number, lease.site
            newest = self._newest.get(site, 0)
            known = number in self._owner.values()
            if number in self._over or (number < newest and not known):
                after = self._over.get(number, newest)
                self.faults.append(f"lease {number} of {site} was given to {node} after {after}")
            self.counts["leases"] += number > newest
            self.counts["leases of parts"] += number > newest and lease.slots != ALL
            self.counts["taken over with doubts"] += bool(lease.doubts)
            self._newest[site] = max(number, newest)
            for slot in each_of(lease.slots):
                before = self._owner.get((site, slot), number)
                if before != number:  # its node is dead, so all of it is over
                    self._over[before] = number
                    self.counts["slots taken over"] += known
                self._owner[site, slot] = number
        if any(lease.doubts for lease in leases):
            self._taken_over(node)

    def gave_back(self, leases: Collection[Lease]) -> None:
        """Leases were given up."""
        for lease in leases:
            self._over.setdefault(lease.number, lease.number)
            self.shed(lease, ALL)

    def shed(self, lease: Lease, slots: int) -> None:
        """Slots were given up."""
        for slot in each_of(slots):
            if self._owner.get((lease.site, slot)) == lease.number:
                del self._owner[lease.site, slot]
                self.counts["slots given up"] += slots != ALL

    def owns(self, lease: Lease, message: int) -> bool:
        """Whether nobody else has had the slot of a message since."""
        return self._owner.get((lease.site, slot_of(message))) == lease.number

    def marked(self, node: str, lease: Lease, attempts: Sequence[AttemptKey], *, allowed: bool) -> None:
        """A mark was asked for."""
        if not allowed:
            self.counts["marks refused"] += 1
            return
        for attempt in attempts:
            if not self.owns(lease, attempt.message):
                self.faults.append(f"{_name(attempt)}: {node} was allowed to send it under the lease of the past")
            before = self.granted.get(attempt)
            if before is not None and before.lease != lease.number:
                self.faults.append(f"{_name(attempt)}: {node} was allowed to send it after {before.node}")
            self.granted[attempt] = Grant(node, lease.number)
        self._allowed(node)

    def settled(
        self, node: str, lease: Lease, settlements: Sequence[Settlement], conflicts: Sequence[AttemptKey]
    ) -> None:
        """Results were written, but for the conflicts."""
        refused = Counter(conflicts)
        self.counts["results refused"] += len(conflicts)
        for settlement in settlements:
            attempt = AttemptKey(*attempt_of(settlement))
            if refused[attempt]:
                refused[attempt] -= 1
                continue
            late_word = isinstance(settlement, Ended) and attempt in self.doubted
            if late_word:
                self.counts["doubts ended by a late word"] += 1
            elif not self.owns(lease, attempt.message):
                self.faults.append(f"{_name(attempt)}: a result of {node} counts, which has lost the site")
            if isinstance(settlement, Deferred) and settlement.doubtful:
                self.doubted.add(attempt)
            entry = settlement.entry
            if entry is None:
                self.granted.pop(attempt, None)  # nothing was sent: it may be made again
            elif entry.outcome is Outcome.DELIVERED:
                grant = self.granted.get(attempt)
                if grant is None or grant.node != node:
                    self.faults.append(f"{_name(attempt)}: {node} says it delivered it, and was not allowed to")


def _name(attempt: AttemptKey) -> str:
    return f"{to_text(attempt.message)} recipient {attempt.number} attempt {attempt.attempt}"


class StoreLink:
    """The store as one process of a fleet has it; ``node`` is the name of that process.

    ``down`` tells whether the store itself is down.
    """

    def __init__(
        self, store: QueueStore, umpire: Umpire, node: str, chance: random.Random, down: Callable[[], bool]
    ) -> None:
        self.store = store
        self.node = node
        self.dead = False
        """The process is: nothing of it arrives any more."""
        self._umpire = umpire
        self._chance = chance
        self._down = down
        self._cut_until = 0.0
        self._cuts = 0
        self._refuses = False  # connections are refused while it is cut, so nobody waits for an answer
        self._strays: list[Lease] = []  # taken, and the answer was lost
        self._known: set[int] = set()  # leases that an answer named
        self._missed: Arrivals | None = None  # what was new when the answer was lost

    @property
    def shard(self) -> int:
        return self.store.shard

    def cut(self, seconds: float, *, refuses: bool) -> None:
        """Cut it for a while."""
        now = asyncio.get_running_loop().time()
        self._cut_until = max(self._cut_until, now + seconds)
        self._cuts += 1
        self._refuses = refuses

    def break_off(self) -> None:
        """Answers that are on their way are lost, as when the store dies."""
        self._cuts += 1

    def mend(self) -> None:
        """Let it work again."""
        self._cut_until = 0.0

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through."""
        return self.dead or self._down() or asyncio.get_running_loop().time() < self._cut_until

    # ------------------------------------------------------------ what is asked

    def beat(self) -> None:
        """Say that the loop turns."""
        if not self.is_cut:
            self.store.beat()

    def wake(self) -> None:
        """Have arrivals looked for."""
        if not self.dead:
            self.store.wake()

    async def join(self, node: str) -> None:
        """Become a node."""
        await self._ask(lambda: self.store.join(node))

    async def take(self, keys: Collection[str], *, limit: int) -> list[Lease]:
        """Lease sites. What was taken and not heard of is given back first: whoever took it does not know.

        A lease that was known before, and has more slots, is answered once more: it is in use.
        """

        async def ask() -> list[Lease]:
            known = {lease.number: lease for lease in self._strays if lease.number in self._known}
            strays = [lease for lease in self._strays if lease.number not in self._known]
            self._strays = []
            if strays:
                await self.store.give_back(strays)
                self._umpire.gave_back(strays)
            leases = await self.store.take(keys, limit=limit)
            self._umpire.took(self.node, leases)
            return list((known | {lease.number: lease for lease in leases}).values())

        leases: list[Lease] = await self._ask(ask, lambda leases: self._strays.extend(leases))
        self._known.update(lease.number for lease in leases)
        return leases

    def _has_answer(self, leases: Collection[Lease]) -> None:
        """What was not heard of leases is out of date."""
        numbers = {lease.number for lease in leases}
        self._strays = [lease for lease in self._strays if lease.number not in numbers]

    async def give_back(self, leases: Collection[Lease]) -> None:
        """Give leases up."""

        async def ask() -> None:
            await self.store.give_back(leases)
            self._umpire.gave_back(leases)
            self._has_answer(leases)

        await self._ask(ask)

    async def shed(self, lease: Lease, slots: int) -> Lease | None:
        """Give slots up. Whoever does not hear the answer asks again."""

        async def ask() -> Lease | None:
            left = await self.store.shed(lease, slots)
            if left is not None:
                self._umpire.shed(lease, slots)
            return left

        answer: Lease | None = await self._ask(ask)
        self._has_answer([lease])
        return answer

    async def mark(self, lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
        """Ask for leave. An answer that is held up comes late: the node that has it must have been fenced."""

        async def ask() -> bool:
            allowed = await self.store.mark(lease, attempts)
            self._umpire.marked(self.node, lease, attempts, allowed=allowed)
            return allowed

        return await self._ask(ask, comes_late=True)

    async def settle(
        self, lease: Lease, settlements: Sequence[Settlement], in_hand: Collection[AttemptKey]
    ) -> list[AttemptKey]:
        """Write results."""

        async def ask() -> list[AttemptKey]:
            conflicts = await self.store.settle(lease, settlements, in_hand)
            self._umpire.settled(self.node, lease, settlements, conflicts)
            return conflicts

        return await self._ask(ask)

    async def arrivals(self, timeout: float) -> Arrivals:
        """Wait for news; a link that was cut meanwhile gives none."""
        if self.is_cut:
            await self._lose_patience()
        cuts = self._cuts
        found = await self.store.arrivals(timeout)
        if self._missed is not None:
            both = self._missed.keys, found.keys
            keys = {key: min(keys[key] for keys in both if key in keys) for key in {**both[0], **both[1]}}
            poked = self._missed.poked | found.poked
            rules, self._missed = self._missed.rules or found.rules, None
            found = found._replace(keys=keys, poked=poked, rules=rules)
        if cuts != self._cuts:
            self._missed = found  # who asks again is told
            raise self._unavailable()
        return found

    async def content(self, message: int, size: int) -> AsyncIterator[bytes]:
        """Read a content."""
        async for chunk in self.store.content(message, size):
            yield await self._ask(lambda chunk=chunk: _value(chunk))

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Everything else is asked as it is."""
        method = getattr(self.store, name)

        async def ask(*arguments: Any, **named: Any) -> Any:
            return await self._ask(lambda: method(*arguments, **named))

        setattr(self, name, ask)
        return ask

    # --------------------------------------------------------------- on its way

    async def _ask(
        self,
        question: Callable[[], Awaitable[Any]],
        lost: Callable[[Any], None] = lambda answer: None,
        *,
        comes_late: bool = False,
    ) -> Any:
        """Ask; ``lost`` is given an answer that got lost, unless it ``comes_late`` instead."""
        travel = TRAVEL * self._chance.random()
        way = self._chance.random()
        if way < 0.1:
            await asyncio.sleep(travel)
        if self.is_cut:
            await self._lose_patience()
        cuts = self._cuts
        answer = await question()
        if way > 0.8:
            await asyncio.sleep(travel)
            if cuts != self._cuts or self.dead:
                if not comes_late:
                    lost(answer)
                    self._umpire.counts["answers lost"] += 1
                    raise self._unavailable()
                self._umpire.counts["marks that came late"] += 1
                now = asyncio.get_running_loop().time()
                await asyncio.sleep(max(self._cut_until - now, 0.0))
        return answer

    async def _lose_patience(self) -> None:
        """Wait for an answer that does not come; raises QueueUnavailable."""
        if not self._refuses and not self.dead:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(min(max(self._cut_until - now, 0.0), PATIENCE))
        raise self._unavailable()

    def _unavailable(self) -> QueueUnavailable:
        return QueueUnavailable("the store cannot be reached")


async def _value(chunk: bytes) -> bytes:
    return chunk

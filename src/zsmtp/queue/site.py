"""The work of one queue key in memory: what was read and not begun, and what is to be read next. No clock, no I/O.

A :class:`KeyQueue` has a reader's position in each sub-queue (key, tenant, rank) and a buffer of messages that were
read. :meth:`KeyQueue.next` hands them out: tenants take turns by weight, within a tenant the lowest rank goes first,
then the earliest due time. :meth:`KeyQueue.to_read` names the sub-queues whose buffers run low, so that reading
goes on while messages are sent. A position is kept between reads: what was read is not read again; where something
appears before it (a release, ``now``, a late commit), reading begins anew and passes over what is in hand.

Recipients of one message and key that are read together are one delivery, unless each has a reverse-path of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from zsmtp.queue.fairness import RoundRobin
from zsmtp.queue.states import START, Position, QueuedMessage, QueuedRecipient, SubQueue
from zsmtp.queue.store import Claimed

MAX_GROUP = 100  # recipients of one delivery
LOW_WATER = 50  # messages in a buffer under which more are read


@dataclass(slots=True, eq=False)
class Group:
    """One delivery: recipients of one message at one key. ``content``: octets or an open file; None, not loaded."""

    message: QueuedMessage
    recipients: list[QueuedRecipient]
    content: bytes | BinaryIO | None
    sender: bytes | None = None
    """The reverse-path it is sent with, if that is another one than the message's."""


@dataclass(slots=True)
class _Sub:
    """One sub-queue. ``due`` is when its first recipient behind ``position`` is due, as far as known."""

    position: Position = START
    buffer: deque[Group] = field(default_factory=deque)
    due: float | None = None  # None: nothing is known to be behind the position
    reading: bool = False
    learned: float | None = None  # the earliest work that was learned of since the read began, which may not see it

    def runs_low(self, now: float) -> bool:
        """Whether more is to be read: the buffer runs low, something is due, and no read is under way."""
        return not self.reading and self.due is not None and self.due <= now and len(self.buffer) < LOW_WATER


class KeyQueue:
    """The sub-queues of one queue key."""

    def __init__(
        self,
        key: str,
        weight: Callable[[str], float] = lambda _: 1.0,
        alone: Callable[[QueuedMessage], bool] = lambda _: False,
    ) -> None:
        self.key = key
        self._alone = alone
        self._subs: dict[SubQueue, _Sub] = {}
        self._ranks: dict[str, list[SubQueue]] = {}  # by tenant, the lowest rank first
        self._turns: RoundRobin[str] = RoundRobin(weight)
        self._in_hand: dict[tuple[int, int], QueuedRecipient] = {}  # by message and number: read, and not done with
        self._left: set[tuple[int, int]] = set()  # done with since a read began, which may show them as they were
        self.ready = 0  # messages in the buffers
        self.generation = 0  # of positions: what was asked for before it changed is of no use

    # ------------------------------------------------------------------- reading

    def learn(self, sub_queue: SubQueue, due: float) -> None:
        """There is work in a sub-queue, due at ``due`` or later."""
        sub = self._sub(sub_queue)
        if sub.reading and (sub.learned is None or due < sub.learned):
            sub.learned = due
        if sub.due is None or due < sub.due:
            sub.due = due
        if due < sub.position.due:
            self._rewind(sub)

    def to_read(self, now: float) -> list[tuple[SubQueue, Position]]:
        """The sub-queues to be read now, and from where; they count as being read until :meth:`add`."""
        wanted = []
        for sub_queue, sub in self._subs.items():
            if sub.runs_low(now):
                sub.reading, sub.learned = True, None
                wanted.append((sub_queue, sub.position))
        return wanted

    def add(
        self,
        sub_queue: SubQueue,
        claimed: Sequence[Claimed],
        next_due: float | None,
        generation: int,
        usable: Callable[[Claimed], bool] = lambda _: True,
    ) -> bool:
        """Take what was read; ``next_due`` is when there is more behind it. False if it came too late to be used.

        What is not ``usable`` is read past until the key is forgotten; whoever settles it says so (:meth:`hold_back`).
        """
        sub = self._sub(sub_queue)
        sub.reading = False
        if generation != self.generation:
            return False
        sub.due = next_due
        if claimed:
            sub.position = claimed[-1].recipient.position
        if sub.learned is not None:  # what came while this was read may be missing in it
            self.learn(sub_queue, sub.learned)
        if claimed:
            known = self._in_hand.keys() | self._left if self._left else self._in_hand.keys()
            fresh = [one for one in claimed if (one.recipient.message, one.recipient.number) not in known]
            wanted = [one for one in fresh if usable(one)]
            self._in_hand.update(((one.recipient.message, one.recipient.number), one.recipient) for one in wanted)
            groups = list(grouped(wanted, self._alone))
            sub.buffer.extend(groups)
            self.ready += len(groups)
            if sub.buffer:
                self._turns.add(sub_queue.tenant)
        if self._left and not self.reading:
            self._left.clear()
        return True

    def failed_to_read(self, sub_queue: SubQueue) -> None:
        """The store could not be read: it is asked again later."""
        self._sub(sub_queue).reading = False

    def forget(self) -> None:
        """Begin all positions anew: what was read and not begun may not be so any more."""
        self.generation += 1
        for group in self.buffered():
            for recipient in group.recipients:
                self.done(recipient.message, recipient.number)
        for sub in self._subs.values():
            sub.position, sub.reading = START, False
            sub.due = 0.0
            sub.buffer.clear()
        self.ready = 0
        self._left.clear()
        for tenant in self._ranks:
            self._turns.remove(tenant)

    def withdraw(self, message: int, number: int) -> bool:
        """Take a recipient out that was read and not begun; False if it is none, or its delivery is under way."""
        for sub_queue, sub in self._subs.items():
            for place, group in enumerate(sub.buffer):
                kept = [one for one in group.recipients if (one.message, one.number) != (message, number)]
                if len(kept) == len(group.recipients):
                    continue
                group.recipients[:] = kept
                if not kept:
                    del sub.buffer[place]
                    self.ready -= 1
                    self._rest(sub_queue.tenant)
                self.done(message, number)
                return True
        return False

    def _rest(self, tenant: str) -> None:
        """A tenant of whom nothing is at hand has no turn."""
        if not any(self._subs[one].buffer for one in self._ranks[tenant]):
            self._turns.remove(tenant)

    def nothing_left(self) -> None:
        """There is nothing to be read any more, until something is learned of."""
        for sub in self._subs.values():
            sub.due = None

    @property
    def next_due(self) -> float | None:
        """When there is something to read; None if nothing is known to wait."""
        return min((sub.due for sub in self._subs.values() if sub.due is not None), default=None)

    @property
    def reading(self) -> bool:
        """Whether a read is under way."""
        return any(sub.reading for sub in self._subs.values())

    def wants_reading(self, now: float) -> bool:
        """Whether there is something :meth:`to_read`."""
        return any(sub.runs_low(now) for sub in self._subs.values())

    # ------------------------------------------------------------------- giving

    def next(self, usable: Callable[[Group], bool] = lambda _: True) -> Group | None:
        """The next delivery, None if none is at hand that is ``usable``; who is passed over keeps its place."""
        for _ in range(len(self._turns)):
            tenant = self._turns.turn()
            if tenant is None:
                return None
            group = self._of_tenant(tenant, usable)
            if group is not None:
                self._turns.spent(tenant, len(group.recipients))
                self._rest(tenant)
                self.ready -= 1
                return group
            self._turns.passed(tenant)
        return None

    def _of_tenant(self, tenant: str, usable: Callable[[Group], bool]) -> Group | None:
        for sub_queue in self._ranks[tenant]:
            buffer = self._subs[sub_queue].buffer
            for number, group in enumerate(buffer):
                if usable(group):
                    del buffer[number]
                    return group
        return None

    def put_back(self, group: Group) -> None:
        """A delivery that was handed out and not begun is the first of its sub-queue again."""
        sub_queue = group.recipients[0].sub_queue
        self._sub(sub_queue).buffer.appendleft(group)
        self._turns.add(sub_queue.tenant)
        self.ready += 1

    def hold_back(self, recipient: QueuedRecipient) -> None:
        """A recipient is about to be settled without being delivered: it is in hand until :meth:`done`."""
        self._in_hand[recipient.message, recipient.number] = recipient

    def done(self, message: int, number: int) -> QueuedRecipient | None:
        """A recipient has its result in the store, or will not be begun: its row may be read again.

        Returns it as it was read, None if it was not in hand.
        """
        if self.reading:
            self._left.add((message, number))
        return self._in_hand.pop((message, number), None)

    def holds(self, message: int, number: int) -> bool:
        """Whether a recipient was read and is not done with."""
        return (message, number) in self._in_hand

    @property
    def in_hand(self) -> Collection[QueuedRecipient]:
        """The recipients that were read and are not done with."""
        return self._in_hand.values()

    def buffered(self) -> Iterable[Group]:
        """What was read and not begun."""
        for sub in self._subs.values():
            yield from sub.buffer

    # ------------------------------------------------------------------ internal

    def _sub(self, sub_queue: SubQueue) -> _Sub:
        sub = self._subs.get(sub_queue)
        if sub is None:
            sub = self._subs[sub_queue] = _Sub()
            ranks = self._ranks.setdefault(sub_queue.tenant, [])
            ranks.append(sub_queue)
            ranks.sort(key=lambda one: one.rank)
        return sub

    def _rewind(self, sub: _Sub) -> None:
        """Something is due before what was read: read from the beginning. What is in hand is skipped by its owner."""
        sub.position = START


def grouped(claimed: Iterable[Claimed], alone: Callable[[QueuedMessage], bool]) -> Iterable[Group]:
    """Recipients of one message that follow each other, as one delivery each, of 100 at most.

    Those of a message that goes to one at a time (``alone``) have a delivery each.
    """
    group: Group | None = None
    for one in claimed:
        recipient = one.recipient
        most = 1 if alone(one.message) else MAX_GROUP
        if group is not None and group.message.id == recipient.message and len(group.recipients) < most:
            group.recipients.append(recipient)
            continue
        if group is not None:
            yield group
        group = Group(one.message, [recipient], one.content)
    if group is not None:
        yield group

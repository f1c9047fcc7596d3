"""The work of one queue key in memory: recipients read and not begun, and positions to read from. No clock, no I/O.

A :class:`KeyQueue` has a read position in each sub-queue (key, tenant, rank) and a buffer of the messages read.
:meth:`KeyQueue.next` returns them in order: tenants take turns by weight, within a tenant the lowest rank goes first,
then the earliest due time. :meth:`KeyQueue.to_read` names the sub-queues whose buffers run low, so that reading
continues while messages are sent. A position is kept between reads, so no recipient is read twice; if one appears
before it (a release, ``now``, a late commit), reading starts over and skips the recipients in hand.

Recipients of one message and key that are read together are one delivery, unless each has its own reverse-path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from zsmtp.queue.fairness import RoundRobin
from zsmtp.queue.slots import has, slot_of
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
    """The reverse-path to send, if it differs from the message's."""


@dataclass(slots=True)
class _Sub:
    """One sub-queue. ``due`` is the known due time of its first recipient after ``position``."""

    position: Position = START
    buffer: deque[Group] = field(default_factory=deque)
    due: float | None = None  # None: no recipient is known after the position
    reading: bool = False
    learned: float | None = None  # the earliest work reported since the read began, which may miss it

    def runs_low(self, now: float) -> bool:
        """Whether to read more: the buffer runs low, a recipient is due, and no read is in progress."""
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
        self._left: set[tuple[int, int]] = set()  # done with since a read began, which may return them as they were
        self.ready = 0  # messages in the buffers
        self.generation = 0  # of positions: reads that began under an earlier one are discarded

    # ------------------------------------------------------------------- reading

    def learn(self, sub_queue: SubQueue, due: float) -> None:
        """Record that a sub-queue has work, due at ``due`` or later."""
        sub = self._sub(sub_queue)
        if sub.reading and (sub.learned is None or due < sub.learned):
            sub.learned = due
        if sub.due is None or due < sub.due:
            sub.due = due
        if due < sub.position.due:
            self._rewind(sub)

    def to_read(self, now: float) -> list[tuple[SubQueue, Position]]:
        """The sub-queues to read now, and the positions; they count as being read until :meth:`add`."""
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
        """Add recipients that were read; ``next_due`` is the due time of the next one. False if they came too late.

        Recipients that are not ``usable`` are skipped until :meth:`forget`; settle them after :meth:`hold_back`.
        """
        if generation != self.generation:
            return False  # the read that counts began after :meth:`forget`, and may be in progress
        sub = self._sub(sub_queue)
        sub.reading = False
        sub.due = next_due
        if claimed:
            sub.position = claimed[-1].recipient.position
        if sub.learned is not None:  # work that came during the read may be missing in it
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

    def failed_to_read(self, sub_queue: SubQueue, generation: int) -> None:
        """Record that the store could not be read, so that the sub-queue is read again later."""
        if generation == self.generation:
            self._sub(sub_queue).reading = False

    def forget(self) -> None:
        """Reset all positions and buffers: recipients that were read and not begun may have changed."""
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

    def release(self, slots: int) -> None:
        """Drop the recipients in slots that were read and not begun."""
        for sub_queue, sub in self._subs.items():
            dropped = [group for group in sub.buffer if has(slots, group.message.id)]
            if dropped:
                sub.buffer = deque(group for group in sub.buffer if not has(slots, group.message.id))
                self.ready -= len(dropped)
                self._end_turns(sub_queue.tenant)
            for group in dropped:
                for recipient in group.recipients:
                    self.done(recipient.message, recipient.number)

    def withdraw(self, message: int, number: int) -> bool:
        """Remove a recipient that was read and not begun; False if it was not read, or its delivery runs."""
        for sub_queue, sub in self._subs.items():
            for place, group in enumerate(sub.buffer):
                kept = [one for one in group.recipients if (one.message, one.number) != (message, number)]
                if len(kept) == len(group.recipients):
                    continue
                group.recipients[:] = kept
                if not kept:
                    del sub.buffer[place]
                    self.ready -= 1
                    self._end_turns(sub_queue.tenant)
                self.done(message, number)
                return True
        return False

    def _end_turns(self, tenant: str) -> None:
        """Remove a tenant with empty buffers from the turns."""
        if not any(self._subs[one].buffer for one in self._ranks[tenant]):
            self._turns.remove(tenant)

    def nothing_left(self) -> None:
        """Record that there is no work to read until the next :meth:`learn`."""
        for sub in self._subs.values():
            sub.due = None

    @property
    def next_due(self) -> float | None:
        """When there is work to read; None if none is known."""
        return min((sub.due for sub in self._subs.values() if sub.due is not None), default=None)

    @property
    def reading(self) -> bool:
        """Whether a read is in progress."""
        return any(sub.reading for sub in self._subs.values())

    def wants_reading(self, now: float) -> bool:
        """Whether :meth:`to_read` would return sub-queues."""
        return any(sub.runs_low(now) for sub in self._subs.values())

    # ------------------------------------------------------------------- giving

    def next(self, usable: Callable[[Group], bool] = lambda _: True) -> Group | None:
        """The next ``usable`` delivery in the buffers, None if there is none; those passed over keep their places."""
        for _ in range(len(self._turns)):
            tenant = self._turns.turn()
            if tenant is None:
                return None
            group = self._of_tenant(tenant, usable)
            if group is not None:
                self._turns.spent(tenant, len(group.recipients))
                self._end_turns(tenant)
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
        """Put a delivery that was not begun back as the first of its sub-queue."""
        sub_queue = group.recipients[0].sub_queue
        self._sub(sub_queue).buffer.appendleft(group)
        self._turns.add(sub_queue.tenant)
        self.ready += 1

    def hold_back(self, recipient: QueuedRecipient) -> None:
        """Mark a recipient that is about to be settled without an attempt as in hand until :meth:`done`."""
        self._in_hand[recipient.message, recipient.number] = recipient

    def done(self, message: int, number: int) -> QueuedRecipient | None:
        """Release a recipient whose result is in the store, or that will not be begun: its row may be read again.

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

    @property
    def busy_slots(self) -> int:
        """The slots with recipients in hand, as a mask."""
        return sum(1 << slot for slot in {slot_of(message) for message, _ in self._in_hand})

    def buffered(self) -> Iterable[Group]:
        """The deliveries that were read and not begun."""
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
        """Read from the beginning, since a recipient is due before those read. Its owner skips those in hand."""
        sub.position = START


def grouped(claimed: Iterable[Claimed], alone: Callable[[QueuedMessage], bool]) -> Iterable[Group]:
    """Groups consecutive recipients of one message into deliveries of 100 at most.

    Those of a message that goes to one recipient at a time (``alone``) have a delivery each.
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

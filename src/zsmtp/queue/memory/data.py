"""The data of a queue in memory, as dictionaries in place of a disk, and the queries on it.

:class:`Data` is one queue. :meth:`Data.after_death` decides which data survives a crash; everything else here is
lookups and counts, in the order of the contract.
"""

from __future__ import annotations

import copy
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from zsmtp.queue import settling
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import first_id, next_id
from zsmtp.queue.intake import kept_entry
from zsmtp.queue.limits import BY_COMMAND
from zsmtp.queue.moves import Move, TakenIn, is_apart
from zsmtp.queue.operators import (
    Row,
    Rule,
)
from zsmtp.queue.slots import ALL, SitePart, has
from zsmtp.queue.states import (
    ENDS,
    AttemptKey,
    HistoryEntry,
    NoticeKind,
    OwedNotice,
    Position,
    QueuedMessage,
    QueuedRecipient,
    State,
    SubQueue,
    milliseconds,
    seconds,
)
from zsmtp.queue.store import (
    Doubt,
    NewMessage,
    NewRecipient,
)
from zsmtp.queue.suppression import Suppression
from zsmtp.records import replace


class Mark(NamedTuple):
    """The mark of an attempt: the lease it was made under, and whether it is on the disk already."""

    lease: int
    durable: bool


class Pending:
    """An upload before its acceptance."""

    def __init__(self, message: NewMessage, touched: float) -> None:
        self.message = message
        self.content = [message.content] if message.content else []
        self.recipients: list[NewRecipient] = list(message.recipients)
        self.touched = touched


@dataclass
class Data:
    """One queue: everything that transactions change."""

    shard: int
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    last_id: int = 0
    messages: dict[int, QueuedMessage] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    recipients: dict[tuple[int, int], QueuedRecipient] = field(default_factory=dict)
    """Only :meth:`put` and :meth:`remove` change it."""
    by_key: dict[str, dict[tuple[int, int], QueuedRecipient]] = field(default_factory=dict)
    """The same by queue key."""
    of_message: Counter[int] = field(default_factory=Counter)
    """The number of queued recipients of a message."""
    uploads: dict[int, Pending] = field(default_factory=dict)
    history: dict[int, HistoryEntry] = field(default_factory=dict)
    last_entry: int = 0
    owed: dict[tuple[int, int, NoticeKind], OwedNotice] = field(default_factory=dict)
    rules: dict[int, Rule] = field(default_factory=dict)
    last_rule: int = 0
    sites: dict[str, str] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], tuple[bytes, int]] = field(default_factory=dict)
    suppressions: dict[tuple[str, bytes], Suppression] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    marks: dict[AttemptKey, Mark] = field(default_factory=dict)
    in_hand: dict[int, set[AttemptKey]] = field(default_factory=dict)
    lost: set[AttemptKey] = field(default_factory=set)
    """Attempts that were in hand when the machine died, and are in doubt since."""
    moves: dict[int, Move] = field(default_factory=dict)
    last_move: int = 0
    taken_in: dict[tuple[str, TakenIn], float | None] = field(default_factory=dict)
    """Notes on recipients taken in, by the uid of their source, and when they were known to have departed there."""

    def after_death(self, *, machine: bool) -> Data:
        """A copy with the data that survives; the death of the machine loses the marks that are not on the disk yet."""
        data = copy.deepcopy(self)
        if machine:
            data.marks = {attempt: mark for attempt, mark in data.marks.items() if mark.durable}
            data.lost |= set().union(*data.in_hand.values())
        data.in_hand.clear()
        return data

    def flush(self) -> None:
        """Make all marks durable."""
        for attempt, mark in self.marks.items():
            if not mark.durable:
                self.marks[attempt] = mark._replace(durable=True)

    def draw(self, now: float) -> int:
        """A new id."""
        self.last_id = next_id(self.last_id, now)
        return self.last_id

    def draw_for(self, wanted: int, now: float) -> int:
        """The id of a message from another queue: the one it has there, or the next free one."""
        if wanted >= first_id(now):
            return self.draw(now)
        known = self.messages.keys() | self.uploads.keys()
        while wanted in known or self._remembers(wanted):
            wanted += 1
        self.last_id = max(self.last_id, wanted)
        return wanted

    def _remembers(self, message: int) -> bool:
        return any(entry.message == message for entry in self.history.values()) or any(
            of == message for _, of in self.idempotency.values()
        )

    def site_of(self, key: str) -> str:
        """The site of a queue key."""
        return self.sites.get(key, key)

    def hold(self, number: int) -> int:
        """The hold for the number of a rule: 0 if there is no such rule."""
        return number if number < 0 or number == BY_COMMAND or number in self.rules else 0

    # ------------------------------------------------------------- recipients

    def put(self, one: QueuedRecipient) -> None:
        """Add a recipient, or replace its earlier value."""
        place = one.message, one.number
        if place in self.recipients:
            self.remove(self.recipients[place])
        self.recipients[place] = one
        self.by_key.setdefault(one.key, {})[place] = one
        self.of_message[one.message] += 1

    def remove(self, one: QueuedRecipient) -> None:
        """Remove a recipient."""
        place = one.message, one.number
        del self.recipients[place]
        del self.by_key[one.key][place]
        if not self.by_key[one.key]:
            del self.by_key[one.key]
        self.of_message[one.message] -= 1
        if not self.of_message[one.message]:
            del self.of_message[one.message]

    def of_keys(self, keys: Collection[str], slots: int = ALL) -> Iterator[QueuedRecipient]:
        """The recipients of queue keys and slots that are not held."""
        found = (one for key in keys for one in self.by_key.get(key, {}).values() if not one.hold)
        return found if slots == ALL else (one for one in found if has(slots, one.message))

    def heads(self, keys: Collection[str]) -> dict[SubQueue, float]:
        """The due time of the first recipient of each sub-queue."""
        heads: dict[tuple[str, str, int], float] = {}
        for one in self.of_keys(keys):
            sub_queue = one.key, one.tenant, one.rank
            heads[sub_queue] = min(heads.get(sub_queue, one.due), one.due)
        return {SubQueue(*sub_queue): due for sub_queue, due in sorted(heads.items())}

    def agenda(self) -> dict[str, float]:
        """The queue keys with recipients that are not held, and the due time of the first of each."""
        agenda: dict[str, float] = {}
        for one in self.recipients.values():
            if not one.hold:
                agenda[one.key] = min(agenda.get(one.key, one.due), one.due)
        return agenda

    def sub_queue(self, wanted: SubQueue, after: Position, slots: int) -> list[QueuedRecipient]:
        """The recipients of a sub-queue and of slots after a position, in order."""
        found = [
            ((one.due, one.message, one.number), one)
            for one in self.of_keys((wanted.key,), slots)
            if one.tenant == wanted.tenant and one.rank == wanted.rank
        ]
        return [one for _, one in sorted(one for one in found if one[0] > after)]

    def present(self, message: int) -> bool:
        """Whether a message has recipients without an end, or owed notices."""
        return message in self.of_message or any(key[0] == message for key in self.owed)

    def forget(self, message: int) -> None:
        """Delete a message that is not needed any more."""
        if not self.present(message):
            self.messages.pop(message, None)
            self.contents.pop(message, None)

    # ----------------------------------------------------------------- doubts

    def settled(self, attempt: AttemptKey) -> None:
        """Delete the mark of an attempt, and remove it from those in hand."""
        self.marks.pop(attempt, None)
        self.lost.discard(attempt)

    def doubts(self, part: SitePart, lease: int) -> tuple[Doubt, ...]:
        """Attempts of earlier owners of these keys and slots with unknown results."""
        marked = {attempt for attempt, mark in self.marks.items() if mark.lease != lease}
        return tuple(
            Doubt(one, self.messages[one.message], machine=attempt not in marked)
            for attempt in sorted(marked | self.lost)
            if (one := self._open(attempt)) is not None and part.has(one.key, one.message)
        )

    def doubted(self, owned: Callable[[str, int], bool]) -> set[str]:
        """The queue keys with attempts in doubt; ``owned`` returns whether a key and a message belong to a lease."""
        there = (self._open(attempt) for attempt in (*self.lost, *self.marks))
        return {one.key for one in there if one is not None and not owned(one.key, one.message)}

    def _open(self, attempt: AttemptKey) -> QueuedRecipient | None:
        """The recipient of an attempt that may have been made; one set apart had no mark, and got none since."""
        one = self.recipients.get(attempt[:2])
        return one if one is not None and one.next_attempt == attempt and not is_apart(one.hold) else None

    def marked(self, recipient: QueuedRecipient) -> bool:
        """Whether a server may have the message by now."""
        return recipient.next_attempt in self.marks

    # ---------------------------------------------------------------- history

    def write(self, entry: HistoryEntry) -> None:
        """Append to the history, and count."""
        self.last_entry += 1
        self.history[self.last_entry] = replace(kept_entry(entry), at=_kept(entry.at), seconds=_kept(entry.seconds))
        for name in settling.counters(entry.outcome, made=entry.attempt > 0):
            self.counters[name] += 1

    # -------------------------------------------------------------- selection

    def rows(self, state_of: Callable[[QueuedRecipient], State]) -> Iterator[Row]:
        """All recipients, in order of their ids."""
        for key in sorted(self.recipients):
            recipient = self.recipients[key]
            yield Row(recipient, self.messages[recipient.message], state_of(recipient))

    def matching(self, wanted: Filter, rows: Iterable[Row], now: float) -> Iterator[Row]:
        """The rows that a filter matches."""
        for row in rows:
            site = self.site_of(row.recipient.key)
            if wanted.matches(row.recipient, row.message, row.state, now, site=site, shard=self.shard):
                yield row

    # ------------------------------------------------------------------ check

    def findings(self) -> Iterator[str]:
        """Inconsistencies, a sentence each."""
        for (message, number), recipient in self.recipients.items():
            if message not in self.messages:
                yield f"recipient {number} of message {message} has no message"
            if (recipient.message, recipient.number) != (message, number):
                yield f"recipient {number} of message {message} stands in the wrong place"
        for message in self.messages:
            if message not in self.contents:
                yield f"message {message} has no content"
            if not self.present(message):
                yield f"message {message} has neither recipients nor notices that are owed"
        for message in self.contents.keys() - self.messages.keys():
            yield f"content {message} has no message"
        for message, number, _ in self.owed:
            if message not in self.messages:
                yield f"a notice is owed for recipient {number} of message {message}, which does not exist"
        ends = sum(self.counters[end] for end in ENDS)
        if self.counters["accepted"] != ends + len(self.recipients):
            yield (
                f"{self.counters['accepted']} recipients were accepted, but {ends} have ends and "
                f"{len(self.recipients)} are there"
            )


def _kept(time: float) -> float:
    return seconds(milliseconds(time))

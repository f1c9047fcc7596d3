"""Turns results and operators' changes into columns to write, for the stores in databases.

:class:`Changes` gets the current recipients, under a lock that excludes other writers, and settlements; the store
writes what it collects in the same transaction. The rules are those of ``zsmtp.queue.settling``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from zsmtp.queue import settling
from zsmtp.queue.intake import clean
from zsmtp.queue.operators import Change
from zsmtp.queue.settlement import suppressed
from zsmtp.queue.settling import NoticeRule
from zsmtp.queue.slots import SitePart
from zsmtp.queue.sql import RECIPIENT, entry_values, message_from, recipient_from
from zsmtp.queue.states import AttemptKey, HistoryEntry, OwedNotice, QueuedRecipient, milliseconds
from zsmtp.queue.store import Deferred, Settlement
from zsmtp.queue.suppression import InsertedRecipient, Suppression, folded, holds, is_subject

DEFERRED = ("key", "due", "attempts", "hold", "warned", "doubtful", "status", "reason", "message", "number")
"""The columns of a recipient that a deferral writes; the last two identify it."""

Place = tuple[int, int]  # message and number: a recipient
Suppressible = tuple[str, bytes]  # tenant and address: the key of a suppression


class Current(NamedTuple):
    """The values of a recipient that are read before it is changed."""

    key: str
    attempts: int
    due: float
    expires: float
    hold: int
    doubtful: bool
    warned: bool

    @classmethod
    def of(cls, recipient: QueuedRecipient) -> Current:
        """These values of a recipient that was read whole."""
        return cls(
            recipient.key,
            recipient.attempts,
            recipient.due,
            recipient.expires,
            recipient.hold,
            recipient.doubtful,
            recipient.warned,
        )


class SettledAttempt(NamedTuple):
    """An attempt that is neither marked nor in hand any more; ``counted``: it is not its recipient's next one."""

    attempt: AttemptKey
    counted: bool


class Changes:
    """Collects the changes by settlements, or by an operator, to write them together.

    ``there`` are the current recipients, None for one that has an end. ``holds`` gives the hold for the number of a
    rule: 0 if there is no such rule.
    """

    def __init__(self, there: dict[Place, Current | None], holds: Callable[[int], int]) -> None:
        self.there = there
        self._holds = holds
        self.ended: list[Place] = []
        """Recipients that came to their end."""
        self.deferred: dict[Place, tuple[object, ...]] = {}
        """Columns of those that did not: :data:`DEFERRED`."""
        self.history: list[tuple[object, ...]] = []
        """Columns of history entries."""
        self.owed: list[OwedNotice] = []
        self.counted: dict[str, int] = {}
        """What is added to counters."""
        self.moved: list[tuple[str, int]] = []
        """Queue keys that recipients were moved to, and when they are due, in milliseconds."""

    def record(self, entry: HistoryEntry) -> None:
        """Append to the history, and count."""
        self.history.append(entry_values(entry))
        for name in settling.counters(entry.outcome, made=entry.attempt > 0):
            self._count(name)

    def _count(self, name: str) -> None:
        self.counted[name] = self.counted.get(name, 0) + 1

    def apply(
        self, settlements: Sequence[Settlement], part: SitePart, now: float
    ) -> tuple[list[AttemptKey], list[SettledAttempt]]:
        """Apply settlements; returns the conflicts, and the attempts that are over.

        ``part`` is that of the lease that the settlements were made under, empty if it has another owner now.
        """
        conflicts: list[AttemptKey] = []
        over: list[SettledAttempt] = []
        for settlement in settlements:
            attempt = settling.attempt_of(settlement)
            place = attempt[:2]
            one = self.there.get(place)
            counted = settlement.entry is not None
            if one is not None and settling.applies(settlement, one, owner=part.has(one.key, place[0]), now=now):
                over.append(SettledAttempt(AttemptKey(*place, one.attempts + 1), counted))
                self.settle(place, one, settlement)
                continue
            conflicts.append(attempt)
            if one is None or one.attempts >= attempt.attempt:
                over.append(SettledAttempt(attempt, counted))
            if (entry := settling.late(settlement)) is not None:
                self.record(entry)
        return conflicts, over

    def end_suppressed(
        self, rows: Iterable[Sequence[Any]], suppressions: Mapping[Place, Suppression], now: float
    ) -> int:
        """End recipients whose addresses are suppressed (:func:`suppressed_places`); returns how many.

        ``rows`` have the columns of each of them, then those of its message, which may override suppressions.
        """
        before = len(self.ended)
        for row in rows:
            recipient, message = recipient_from(row), message_from(row[len(RECIPIENT) :])
            if is_subject(message.origin, message.options):
                place = recipient.message, recipient.number
                self.settle(place, Current.of(recipient), suppressed(recipient, message, suppressions[place], now))
        return len(self.ended) - before

    def end(self, change: Change, rows: Iterable[Sequence[Any]], now: float, notice_rule: NoticeRule) -> None:
        """End recipients by an operator's change; ``rows`` have their columns, then those of their messages."""
        for row in rows:
            recipient, message = recipient_from(row), message_from(row[len(RECIPIENT) :])
            settlement = settling.ended(change, recipient, message, now, notice_rule)
            self.settle((recipient.message, recipient.number), Current.of(recipient), settlement)

    def settle(self, place: Place, one: Current, settlement: Settlement) -> None:
        """Apply a settlement that :func:`~zsmtp.queue.settling.applies`."""
        if settlement.notice is not None:
            self.owed.append(settlement.notice)
        if isinstance(settlement, Deferred):
            self._defer(place, one, settlement)
            return
        entry = settlement.entry
        if settling.repeats(entry, doubtful=one.doubtful, attempts=one.attempts):
            self._count("repeated")
        self.record(entry)
        self.ended.append(place)
        self.deferred.pop(place, None)
        self.there[place] = None

    def _defer(self, place: Place, one: Current, settlement: Deferred) -> None:
        entry = settlement.entry
        if entry is not None:
            self.record(entry)
        key = one.key if settlement.key is None else settlement.key
        due = milliseconds(settlement.due)
        hold = (settlement.hold and self._holds(settlement.hold)) or one.hold
        after = Current(
            key,
            one.attempts + (entry is not None),
            due / 1000,
            one.expires,
            hold,
            settlement.doubtful,
            one.warned or settlement.notice is not None,
        )
        words = clean(settlement.status), clean(settlement.reason)
        self.deferred[place] = (key, due, after.attempts, hold, after.warned, after.doubtful, *words, *place)
        self.there[place] = after
        if key != one.key and not hold:
            self.moved.append((key, due))


def suppressed_places(
    inserted: Iterable[InsertedRecipient],
    find: Callable[[Sequence[Suppressible]], Mapping[Suppressible, Suppression]],
    now: float,
) -> dict[Place, Suppression]:
    """Those of the inserted recipients that are suppressed at a time, with their suppressions.

    ``find`` returns the stored suppressions of tenants and addresses, including ended ones.
    """
    places: dict[Suppressible, list[Place]] = {}
    for message, number, address, tenant in inserted:
        places.setdefault((tenant, folded(address.encode())), []).append((message, number))
    found = find(list(places))
    return {place: one for key, one in found.items() if holds(one, now) for place in places[key]}

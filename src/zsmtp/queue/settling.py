"""Applies settlements, marks and operators' changes to a recipient: the rules that all stores share.

A settlement was made from a recipient as it was read; it applies if the recipient has not changed in a way that matters
since (:func:`applies`). The recipient is then :func:`deferred`, or has an end. A recipient whose message a server may
have by now is neither ended nor moved by an operator (:func:`may_change`).

Stores read the recipient and write the result in one transaction, under a lock that excludes other writers.
"""

from __future__ import annotations

from typing import Protocol

from zsmtp.errors import QueueError
from zsmtp.queue.intake import check_time, check_word
from zsmtp.queue.moves import Departure, is_apart
from zsmtp.queue.operators import Change
from zsmtp.queue.states import (
    AttemptKey,
    HistoryEntry,
    NoticeKind,
    Outcome,
    OwedNotice,
    QueuedMessage,
    QueuedRecipient,
)
from zsmtp.queue.store import (
    Deferred,
    Ended,
    Settlement,
)
from zsmtp.records import replace


class StandingRecipient(Protocol):
    """The values of a queued recipient that the rules read."""

    @property
    def key(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def due(self) -> float: ...
    @property
    def expires(self) -> float: ...
    @property
    def hold(self) -> int: ...
    @property
    def doubtful(self) -> bool: ...


class NoticeRule(Protocol):
    """Decides which notice is owed at the end of a recipient, None for none."""

    def __call__(
        self,
        recipient: QueuedRecipient,
        message: QueuedMessage,
        outcome: Outcome,
        at: float,
        /,
        *,
        status: str,
        reason: str,
    ) -> OwedNotice | None: ...


def attempt_of(settlement: Settlement) -> AttemptKey:
    """The attempt of a settlement; attempt 0 if none was made."""
    if isinstance(settlement, Ended):
        entry = settlement.entry
        return AttemptKey(entry.message, entry.number, entry.attempt)
    return settlement.attempt


def applies(settlement: Settlement, current: StandingRecipient | None, *, owner: bool, now: float) -> bool:
    """Whether a settlement applies. ``owner``: it was made under the lease that the recipient's key has now."""
    if current is None or is_apart(current.hold):
        return False
    if not isinstance(settlement, Ended):
        return owner and settlement.attempt.attempt == current.attempts + 1
    attempt = settlement.entry.attempt
    if 0 < attempt == current.attempts and current.doubtful:
        return now < current.due  # the result of an attempt that was settled as in doubt, without a later attempt
    if attempt == 0 and settlement.entry.outcome is Outcome.EXPIRED:
        return owner and not current.hold and current.expires <= settlement.entry.at
    return owner and attempt in (0, current.attempts + 1)


def may_mark(attempt: int, current: StandingRecipient | None, *, owner: bool) -> bool:
    """Whether an attempt is the next one of its recipient, and the recipient is not held."""
    return current is not None and owner and attempt == current.attempts + 1 and not current.hold


def late(settlement: Settlement) -> HistoryEntry | None:
    """The history entry of a settlement that does not apply, None if it has no entry."""
    entry = settlement.entry
    if entry is None or entry.outcome is Outcome.LATE:
        return entry
    words = f"{entry.outcome.value}: {entry.reason}" if entry.reason else entry.outcome.value
    return replace(entry, outcome=Outcome.LATE, reason=words)


def counters(outcome: Outcome, *, made: bool) -> tuple[str, ...]:
    """The counters that a history entry adds to; ``made``: an attempt was made."""
    if outcome is Outcome.LATE:
        return ("late",)
    name = _NAMES.get(outcome, outcome.value)
    return ("attempts", name) if made else (name,)


_NAMES = {Outcome.IN_DOUBT: "doubtful"}


def repeats(entry: HistoryEntry, *, doubtful: bool, attempts: int) -> bool:
    """Whether an end is a delivery after an attempt in doubt, so that the message may have been delivered twice."""
    return entry.outcome is Outcome.DELIVERED and doubtful and entry.attempt > attempts


def deferred(settlement: Deferred, recipient: QueuedRecipient) -> QueuedRecipient:
    """The recipient after a deferral that applies."""
    attempts = recipient.attempts + (settlement.entry is not None)
    return replace(
        recipient,
        due=settlement.due,
        attempts=attempts,
        status=settlement.status,
        reason=settlement.reason,
        doubtful=settlement.doubtful,
        warned=recipient.warned or settlement.notice is not None,
        hold=settlement.hold or recipient.hold,
        key=recipient.key if settlement.key is None else settlement.key,
    )


def check_change(change: Change) -> None:
    """Raise QueueError if a change is empty, is several at once, or has a value that cannot be stored."""
    fields = (change.due, change.hold, change.key, change.rank, change.expires, change.end, change.move)
    if sum(field is not None for field in fields) != 1:
        raise QueueError("a change is exactly one of due, hold, key, rank, expires, end and move")
    if change.end not in (None, Outcome.FAILED.value, Outcome.DROPPED.value):
        raise QueueError(f"end {change.end!r} is none that can be given: failed, dropped")
    if change.move is not None and change.move < 1:
        raise QueueError(f"move {change.move} is the number of no move")
    if change.hold is not None and change.hold < 0:
        raise QueueError(f"hold {change.hold} is the number of no rule")
    for time in (change.due, change.expires):
        if time is not None:
            check_time(time)
    if change.key is not None:
        check_word("queue key", change.key)


def may_change(change: Change, recipient: StandingRecipient, *, perhaps_sent: bool, now: float) -> bool:
    """Whether a change may be made to a recipient.

    ``perhaps_sent``: a server may have its message by an attempt without a result, which has a mark, or may have had
    one that was lost with the machine. Such a recipient is neither ended nor moved. A recipient also cannot move while
    a late result may still come, because the other queue would not get it; one that is set apart is not changed at all.
    """
    if is_apart(recipient.hold):
        return False
    if change.move is not None and recipient.doubtful and now < recipient.due:
        return False
    return not perhaps_sent or (change.end is None and change.key is None and change.move is None)


def changed(change: Change, recipient: QueuedRecipient) -> QueuedRecipient:
    """The recipient after a change that does not end it."""
    return replace(
        recipient,
        due=recipient.due if change.due is None else change.due,
        hold=recipient.hold if change.hold is None else change.hold,
        key=recipient.key if change.key is None else change.key,
        rank=recipient.rank if change.rank is None else change.rank,
        expires=recipient.expires if change.expires is None else change.expires,
    )


def ended(
    change: Change, recipient: QueuedRecipient, message: QueuedMessage, at: float, notice_rule: NoticeRule
) -> Ended:
    """The end of a recipient by an operator's change."""
    assert change.end is not None
    outcome = Outcome(change.end)
    entry = _end_of(recipient, message, outcome, at, status=change.status, reason=change.reason, by=change.by)
    notice = None
    if change.notify:
        notice = notice_rule(recipient, message, outcome, at, status=change.status, reason=change.reason)
    return Ended(entry, notice)


def departed(departure: Departure, recipient: QueuedRecipient, message: QueuedMessage, at: float, by: str) -> Ended:
    """The end of a recipient that has moved to another queue."""
    return Ended(_end_of(recipient, message, Outcome.MOVED, at, reason=departure.to, by=by))


def _end_of(
    recipient: QueuedRecipient,
    message: QueuedMessage,
    outcome: Outcome,
    at: float,
    *,
    status: str = "",
    reason: str,
    by: str,
) -> HistoryEntry:
    """The history entry of an end without an attempt."""
    return HistoryEntry(
        at=at,
        message=recipient.message,
        number=recipient.number,
        attempt=0,
        outcome=outcome,
        address=recipient.address,
        sender=message.sender,
        key=recipient.key,
        tenant=recipient.tenant,
        status=status,
        reason=reason,
        by=by,
    )


def failure_notice(
    recipient: QueuedRecipient, message: QueuedMessage, outcome: Outcome, at: float, /, *, status: str, reason: str
) -> OwedNotice | None:
    """The notice of a failure, for every message that has a sender, regardless of NOTIFY."""
    if message.null_sender:
        return None
    return OwedNotice(
        message=recipient.message,
        number=recipient.number,
        kind=NoticeKind.FAILED,
        at=at,
        address=recipient.address,
        orcpt=recipient.orcpt,
        status=status,
        reason=reason,
    )

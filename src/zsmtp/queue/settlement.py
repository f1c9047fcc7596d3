"""Computes a settlement from the verdict of an attempt: an end or a deferral of the recipient, with the owed notice.

Pure: the time and the random number for the jitter are arguments. ``zsmtp.delivery.outcome`` classifies failures,
``zsmtp.queue.schedule`` schedules retries, ``zsmtp.queue.notices`` decides about notices; this module combines them for
one recipient, for every way in which a node can be done with it:

- :func:`after_attempt`: the engine has a verdict;
- :func:`after_loss`: the process or machine that made the attempt died, and the result is unknown;
- :func:`suppressed`: no attempt is made, because its address is suppressed;
- :func:`expiry` and :func:`warning`: no attempt was made, but its time is over, or its delay warning is due;
- :func:`put_off`: no attempt was made, because the content cannot be read now;
- :func:`unchanged`: no attempt was made, and it stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from zsmtp.delivery.outcome import Disposition, Peer, Verdict, dsn_action
from zsmtp.delivery.reasons import reason_of
from zsmtp.escape import shortened
from zsmtp.proto.reply import printable
from zsmtp.queue.limits import HELD_FOR_DOUBT
from zsmtp.queue.notices import owed
from zsmtp.queue.schedule import FailureClass, RetryPolicy, after_doubt, classify, expired, next_attempt, warning_due
from zsmtp.queue.states import MAX_REASON, HistoryEntry, Outcome, OwedNotice, QueuedMessage, QueuedRecipient
from zsmtp.queue.store import Deferred, Ended, Rule, Settlement
from zsmtp.queue.suppression import Suppression


class InDoubt(Enum):
    """The policy for a recipient whose server may have the message already."""

    RETRY = "retry"
    """It is tried again by the schedule: it may come twice."""
    HOLD = "hold"
    """It is held until an operator releases it."""
    DELIVERED = "delivered"
    """It counts as delivered: it may be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementPolicy:
    """The policies that apply to a recipient besides the verdict."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    in_doubt: InDoubt = InDoubt.RETRY


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientWork:
    """A recipient in hand with the values that an attempt for it starts from."""

    recipient: QueuedRecipient
    message: QueuedMessage
    since: float
    """When it could first be tried: its submission, or the later time it was submitted for."""

    @classmethod
    def of(cls, recipient: QueuedRecipient, message: QueuedMessage) -> RecipientWork:
        """The work for a recipient that was read."""
        not_before = (message.options or {}).get("not_before")
        since = float(not_before) if isinstance(not_before, int | float) else message.submitted
        return cls(recipient=recipient, message=message, since=max(since, message.submitted))


def after_attempt(
    work: RecipientWork,
    verdict: Verdict,
    policy: SettlementPolicy,
    *,
    started: float,
    now: float,
    chance: float,
    node: str = "",
    lmtp: bool = False,
) -> Settlement:
    """The settlement for the verdict of an attempt that ran from ``started`` to ``now``."""
    recipient = work.recipient
    reason, code = words_of(verdict)
    attempt = recipient.attempts + 1
    entry = _entry(
        work,
        _OUTCOMES[verdict.fate],
        now,
        attempt=attempt,
        seconds=now - started,
        status=str(verdict.status),
        code=code,
        reason=reason,
        server=_server(verdict.peer),
        tls=_tls(verdict.peer),
        node=node,
    )
    if verdict.fate is Disposition.DELIVERED:
        action = dsn_action(verdict, success_requested=_success_requested(recipient), lmtp=lmtp)
        return Ended(entry, _owed(work, entry, action=action))
    if verdict.fate is Disposition.FAILED:
        return Ended(entry, _owed(work, entry))
    if verdict.in_doubt:
        due = next_attempt(policy.retry, FailureClass.IN_DOUBT, attempt, now, recipient.expires, chance)
        return _doubtful(work, entry, policy.in_doubt, due)
    failure = classify(entry.status, code, reason, verdict.level, attempt)
    return _again(work, entry, policy.retry, failure, now, chance)


def after_loss(
    work: RecipientWork, policy: SettlementPolicy, *, machine: bool, now: float, chance: float, node: str = ""
) -> Settlement:
    """The settlement for an attempt that was marked, or in hand, when its node died before the result was written."""
    died = "the machine or the database" if machine else "the process"
    entry = _entry(
        work,
        Outcome.IN_DOUBT,
        now,
        attempt=work.recipient.attempts + 1,
        status="4.4.2",
        reason=f"{died} that delivered it died before the result was written: the server may have it",
        node=node,
    )
    return _doubtful(work, entry, policy.in_doubt, after_doubt(policy.retry, now, work.recipient.expires, chance))


def expiry(work: RecipientWork, now: float, node: str = "", held_back: str = "") -> Ended | None:
    """Its end if its time is over, None otherwise; ``held_back`` is the reason why its mail is kept back now."""
    recipient = work.recipient
    if not expired(recipient, now):
        return None
    days = (now - work.since) / 86400
    why = held_back or recipient.reason or "it was never tried: its destination was held back all the time"
    entry = _entry(
        work,
        Outcome.EXPIRED,
        now,
        status=recipient.status or "4.4.7",
        reason=shortened(f"given up after {days:.1f} days; the last reason: {why}", MAX_REASON),
        node=node,
    )
    return Ended(entry, _owed(work, entry))


def warning(work: RecipientWork, policy: RetryPolicy, now: float) -> Deferred | None:
    """The delay warning that is due without an attempt, None if none is; the recipient itself is unchanged."""
    recipient = work.recipient
    if not warning_due(policy, recipient, work.since, now):
        return None
    entry = _entry(work, Outcome.DEFERRED, now, status=recipient.status, reason=recipient.reason)
    notice = _owed(work, entry, warn=True)
    if notice is None:
        return None
    return unchanged(recipient, notice=notice)


def put_off(recipient: QueuedRecipient, due: float, reason: str) -> Deferred:
    """The settlement without an attempt, by which it is due later, at its expiry at the latest."""
    return Deferred(
        recipient.next_attempt,
        min(due, recipient.expires),
        None,
        "4.3.0",
        shortened(reason, MAX_REASON),
        doubtful=recipient.doubtful,
    )


def unchanged(
    recipient: QueuedRecipient, *, hold: int = 0, key: str | None = None, notice: OwedNotice | None = None
) -> Deferred:
    """The settlement without an attempt: none is counted, a mark for the next one is removed, the rest is unchanged.

    A doubt about the last attempt stays, too: its result may still come.
    """
    return Deferred(
        recipient.next_attempt,
        recipient.due,
        None,
        recipient.status,
        recipient.reason,
        doubtful=recipient.doubtful,
        hold=hold,
        notice=notice,
        key=key,
    )


def failed_by_rule(work: RecipientWork, rule: Rule, now: float) -> Ended:
    """The end by a rule with the action ``fail`` or ``drop``; the sender gets no notice of a drop."""
    drop = rule.action == "drop"
    entry = _entry(
        work,
        Outcome.DROPPED if drop else Outcome.FAILED,
        now,
        status="" if drop else "5.7.1",
        reason=rule.argument or rule.reason or "refused by the operator of this system",
        by=f"rule {rule.number} of {rule.by}" if rule.by else f"rule {rule.number}",
    )
    return Ended(entry, None if drop else _owed(work, entry))


def suppressed(recipient: QueuedRecipient, message: QueuedMessage, suppression: Suppression, now: float) -> Ended:
    """The end of a recipient that was submitted to a suppressed address."""
    work = RecipientWork.of(recipient, message)
    entry = _entry(
        work,
        Outcome.FAILED,
        now,
        status="5.7.1",
        reason=shortened(suppression.words, MAX_REASON),
        by=f"suppression by {suppression.source}" if suppression.source else "suppression",
    )
    return Ended(entry, _owed(work, entry))


# ----------------------------------------------------------------------- parts

_OUTCOMES = {
    Disposition.DELIVERED: Outcome.DELIVERED,
    Disposition.FAILED: Outcome.FAILED,
    Disposition.DEFERRED: Outcome.DEFERRED,
}


def _again(
    work: RecipientWork, entry: HistoryEntry, policy: RetryPolicy, failure: FailureClass, now: float, chance: float
) -> Settlement:
    recipient = work.recipient
    if expired(recipient, now):
        ended = _replaced(entry, Outcome.EXPIRED)
        return Ended(ended, _owed(work, ended))
    due = next_attempt(policy, failure, recipient.attempts + 1, now, recipient.expires, chance)
    warn = warning_due(policy, recipient, work.since, now)
    notice = _owed(work, entry, warn=warn)
    return Deferred(recipient.next_attempt, due, entry, entry.status, entry.reason, notice=notice)


def _doubtful(work: RecipientWork, entry: HistoryEntry, in_doubt: InDoubt, due: float) -> Settlement:
    if in_doubt is InDoubt.DELIVERED:
        return Ended(_replaced(entry, Outcome.DELIVERED, by="in-doubt = delivered"))
    entry = _replaced(entry, Outcome.IN_DOUBT)
    hold = HELD_FOR_DOUBT if in_doubt is InDoubt.HOLD else 0
    return Deferred(work.recipient.next_attempt, due, entry, entry.status, entry.reason, doubtful=True, hold=hold)


def _owed(work: RecipientWork, entry: HistoryEntry, *, action: str = "", warn: bool = False) -> OwedNotice | None:
    return owed(
        work.recipient,
        work.message,
        entry.outcome,
        entry.at,
        action=action,
        warn=warn,
        status=entry.status,
        code=entry.code,
        reason=entry.reason,
        server=entry.server.partition(" ")[0],
        last_attempt=entry.at if entry.attempt else 0.0,
    )


def _entry(work: RecipientWork, outcome: Outcome, now: float, **facts: object) -> HistoryEntry:
    recipient, message = work.recipient, work.message
    make: Callable[..., HistoryEntry] = HistoryEntry
    return make(
        at=now,
        message=recipient.message,
        number=recipient.number,
        outcome=outcome,
        address=recipient.address,
        sender=message.sender,
        key=recipient.key,
        tenant=recipient.tenant,
        **{"attempt": 0, **facts},
    )


def _replaced(entry: HistoryEntry, outcome: Outcome, by: str = "") -> HistoryEntry:
    return replace(entry, outcome=outcome, by=by)


def words_of(verdict: Verdict) -> tuple[str, int]:
    """The decisive reply, or the reason, on one line; and the reply code (0 if there was no reply)."""
    if verdict.reply is not None:
        return printable(b" ".join(verdict.reply.lines), MAX_REASON), verdict.reply.code
    return shortened(reason_of(verdict), MAX_REASON), 0


def _success_requested(recipient: QueuedRecipient) -> bool:
    return recipient.notify is not None and b"SUCCESS" in recipient.notify.upper()


def _server(peer: Peer | None) -> str:
    if peer is None:
        return ""
    endpoint = peer.endpoint
    return f"{endpoint.host} [{endpoint.address}]:{endpoint.port}" if endpoint.port else endpoint.address


def _tls(peer: Peer | None) -> str:
    protection = peer.protection if peer is not None else None
    if protection is None:
        return ""
    return f"{protection.facts.protocol} {protection.judgement.text}".strip()

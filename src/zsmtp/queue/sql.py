"""The columns of the stores in databases, and the conversion of rows to values.

The tables of all databases have these columns, in this order; texts are texts, times are milliseconds since 1970.
``zsmtp.queue.conditions`` makes conditions over them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from zsmtp.queue.intake import clean, kept_entry, kept_notice
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.operators import Row, Rule, SiteStatus
from zsmtp.queue.states import (
    ENDS,
    AttemptKey,
    HistoryEntry,
    NoticeKind,
    Outcome,
    OwedNotice,
    QueuedMessage,
    QueuedRecipient,
    State,
    milliseconds,
)
from zsmtp.queue.suppression import Suppression

RECIPIENT = (
    "message",
    "number",
    "address",
    "key",
    "tenant",
    "rank",
    "due",
    "expires",
    "attempts",
    "notify",
    "orcpt",
    "hold",
    "warned",
    "doubtful",
    "status",
    "reason",
)
MESSAGE = (
    "id",
    "tenant",
    "sender",
    "submitted",
    "size",
    "recipients",
    "priority",
    "ret",
    "envid",
    "name",
    "origin",
    "options",
)
RULE = ("number", "action", "filter", "argument", "until", "by_whom", "reason", "created")
HISTORY = (
    "at",
    "message",
    "number",
    "attempt",
    "outcome",
    "address",
    "sender",
    "key",
    "tenant",
    "seconds",
    "status",
    "code",
    "reason",
    "server",
    "tls",
    "node",
    "by_whom",
)
OWED = (
    "message",
    "number",
    "kind",
    "at",
    "address",
    "orcpt",
    "status",
    "code",
    "reason",
    "server",
    "expires",
    "last_attempt",
)
SUPPRESSION = ("tenant", "address", "reason", "source", "at", "until")

STATUS = (
    "site",
    "node",
    "updated",
    "window",
    "busy",
    "ready",
    "dead_until",
    "dead_reason",
    "rate_until",
    "rate",
    "no_slot",
    "no_route",
    "slots",
)

ARRIVING = -(1 << 40)
"""The hold of recipients of a large upload: they are due once it is accepted, and claimed once they are released."""

ENDED = f"({', '.join(repr(end) for end in ENDS)})"
"""The outcomes that are ends, for ``IN``."""
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_KINDS = {kind.value: kind for kind in NoticeKind}


def columns(names: Sequence[str], table: str = "") -> str:
    """The names of columns for a statement."""
    prefix = f"{table}." if table else ""
    return ", ".join(prefix + name for name in names)


class ClaimBounds(NamedTuple):
    """What a claim may return: recipients of these slots and not in doubt, within limits of number and content."""

    limit: int
    octets: int
    slots: int
    doubts: Collection[AttemptKey]


# ------------------------------------------------------------ rows and values


def recipient_from(row: Sequence[Any]) -> QueuedRecipient:
    """A recipient from its columns."""
    (message, place, address, key, tenant, rank, due, expires, attempts) = row[:9]
    (notify, orcpt, hold, warned, doubtful, status, reason) = row[9:16]
    return QueuedRecipient(
        message=message,
        number=place,
        address=address.encode(),
        key=key,
        tenant=tenant,
        rank=rank,
        due=due / 1000,
        expires=expires / 1000,
        attempts=attempts,
        notify=notify if notify is None else notify.encode(),
        orcpt=orcpt if orcpt is None else orcpt.encode(),
        hold=hold if hold != ARRIVING else 0,
        warned=warned == 1,
        doubtful=doubtful == 1,
        status=status,
        reason=reason,
    )


def message_from(row: Sequence[Any]) -> QueuedMessage:
    """A message from its columns."""
    (message, tenant, sender, submitted, size, recipients, priority, ret, envid, name, origin, options) = row
    return QueuedMessage(
        id=message,
        tenant=tenant,
        sender=sender.encode(),
        submitted=submitted / 1000,
        size=size,
        recipients=recipients,
        priority=priority,
        ret=ret if ret is None else ret.encode(),
        envid=envid if envid is None else envid.encode(),
        name=name,
        origin=origin,
        options=options if options is None else json.loads(options),
    )


def within(rows: Sequence[Sequence[Any]], octets: int) -> tuple[dict[int, QueuedMessage], list[int], int]:
    """From rows of recipients with their messages: the messages, the small ones, and how many rows a claim may have.

    A content counts once, one of more than CHUNK octets not at all; there is at least one row.
    """
    messages: dict[int, QueuedMessage] = {}
    small: list[int] = []
    for count, row in enumerate(rows):
        message = row[0]
        if message in messages:
            continue
        queued = message_from(row[len(RECIPIENT) :])
        if queued.size <= CHUNK:
            if count and queued.size > max(octets, 0):
                return messages, small, count
            octets -= queued.size
            small.append(message)
        messages[message] = queued
    return messages, small, len(rows)


def listed(row: Sequence[Any], in_hand: Collection[AttemptKey]) -> Row:
    """A recipient with its message, as a row for operators; ``in_hand`` are the attempts that nodes have in hand."""
    recipient = recipient_from(row)
    state = State.HELD if recipient.hold else State.LEASED if recipient.next_attempt in in_hand else State.DUE
    return Row(recipient, message_from(row[len(RECIPIENT) :]), state)


def rule_from(row: Sequence[Any]) -> Rule:
    """A standing rule from its columns."""
    number, action, text, argument, until, by, reason, created = row
    return Rule(
        number=number,
        action=action,
        filter=text,
        argument=argument,
        until=None if until is None else until / 1000,
        by=by,
        reason=reason,
        created=created / 1000,
    )


def entry_from(row: Sequence[Any]) -> HistoryEntry:
    """A history entry from its columns."""
    (at, message, place, attempt, outcome, address, sender, key, tenant, seconds) = row[:10]
    (status, code, reason, server, tls, node, by) = row[10:]
    return HistoryEntry(
        at=at / 1000,
        message=message,
        number=place,
        attempt=attempt,
        outcome=_OUTCOMES[outcome],
        address=address.encode(),
        sender=sender.encode(),
        key=key,
        tenant=tenant,
        seconds=seconds / 1000,
        status=status,
        code=code,
        reason=reason,
        server=server,
        tls=tls,
        node=node,
        by=by,
    )


def entry_values(entry: HistoryEntry) -> tuple[object, ...]:
    """The columns of a history entry."""
    entry = kept_entry(entry)
    return (
        round(entry.at * 1000),
        entry.message,
        entry.number,
        entry.attempt,
        entry.outcome.value,
        entry.address.decode(),
        entry.sender.decode(),
        entry.key,
        entry.tenant,
        round(entry.seconds * 1000),
        entry.status,
        entry.code,
        entry.reason,
        entry.server,
        entry.tls,
        entry.node,
        entry.by,
    )


def owed_from(row: Sequence[Any]) -> OwedNotice:
    """An owed notice from its columns."""
    (message, place, kind, at, address, orcpt, status, code, reason, server, expires, last_attempt) = row
    return OwedNotice(
        message=message,
        number=place,
        kind=_KINDS[kind],
        at=at / 1000,
        address=address.encode(),
        orcpt=orcpt if orcpt is None else orcpt.encode(),
        status=status,
        code=code,
        reason=reason,
        server=server,
        expires=expires / 1000,
        last_attempt=last_attempt / 1000,
    )


def owed_values(owed: OwedNotice) -> tuple[object, ...]:
    """The columns of an owed notice."""
    owed = kept_notice(owed)
    return (
        owed.message,
        owed.number,
        owed.kind.value,
        milliseconds(owed.at),
        owed.address.decode(),
        owed.orcpt if owed.orcpt is None else owed.orcpt.decode(),
        owed.status,
        owed.code,
        owed.reason,
        owed.server,
        milliseconds(owed.expires),
        milliseconds(owed.last_attempt),
    )


def suppression_from(row: Sequence[Any]) -> Suppression:
    """A suppression from its columns."""
    tenant, address, reason, source, at, until = row
    return Suppression(
        tenant=tenant,
        address=address.encode(),
        reason=reason,
        source=source,
        at=at / 1000,
        until=None if until is None else until / 1000,
    )


def suppression_values(one: Suppression) -> tuple[object, ...]:
    """The columns of a valid suppression."""
    until = None if one.until is None else milliseconds(one.until)
    return one.tenant, one.address.decode(), one.reason, one.source, milliseconds(one.at), until


def status_text(status: SiteStatus) -> str:
    """The status of a site as JSON."""
    values = {name: getattr(status, name) for name in STATUS}
    return json.dumps({name: clean(value) if isinstance(value, str) else value for name, value in values.items()})


def status_from(text: str) -> SiteStatus:
    """The status of a site from JSON; additions of a later program are ignored."""
    values = json.loads(text)
    return SiteStatus(**{name: values[name] for name in STATUS if name in values})


def padded(values: Collection[Any], sizes: Sequence[int]) -> list[Any]:
    """Values for an ``IN`` list, repeated up to the next of ``sizes``, so that few statements serve all lengths."""
    found = list(values)
    size = next((one for one in sizes if one >= len(found)), len(found))
    return found + found[-1:] * (size - len(found))

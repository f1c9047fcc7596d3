"""Validates new messages and makes queued ones: the rules of submission that all stores share.

A message has at least one recipient; its octets (addresses, RFC 3461 parameters) are UTF-8 without NUL (RFC 6531 3.3),
which every database can store as text and compare. Characters that cannot be stored are removed from texts of other
systems (names, reasons).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from zsmtp.errors import Conflict, QueueError, QueueFull
from zsmtp.escape import shortened
from zsmtp.queue.ids import to_text
from zsmtp.queue.limits import HELD_FOR_DOUBT, SPARE_OCTETS
from zsmtp.queue.moves import Provenance, TakenIn
from zsmtp.queue.states import (
    MAX_REASON,
    HistoryEntry,
    OwedNotice,
    QueuedMessage,
    QueuedRecipient,
    milliseconds,
    seconds,
)
from zsmtp.queue.store import (
    NewMessage,
    NewRecipient,
)
from zsmtp.queue.suppression import Suppression, folded
from zsmtp.records import replace

_LOST = re.compile("[\0\ud800-\udfff]")
_FARTHEST = 1 << 53  # milliseconds; exact in a float
_LARGEST = 1 << 31  # of a rule's number, a priority


def clean(text: str, limit: int = MAX_REASON) -> str:
    """A text as it can be stored: at most ``limit`` characters, without NUL and lone surrogates."""
    text = shortened(text, limit)
    if text.isascii() and "\0" not in text:
        return text
    return _LOST.sub("\ufffd", text)


def kept_entry(entry: HistoryEntry) -> HistoryEntry:
    """A history entry with texts that can be stored."""
    words = f"{entry.reason}{entry.server}{entry.status}{entry.tls}{entry.node}{entry.by}"
    if words.isascii() and "\0" not in words and len(words) <= MAX_REASON:
        return entry
    return replace(
        entry,
        reason=clean(entry.reason),
        server=clean(entry.server),
        status=clean(entry.status),
        tls=clean(entry.tls),
        node=clean(entry.node),
        by=clean(entry.by),
    )


def kept_notice(owed: OwedNotice) -> OwedNotice:
    """An owed notice with texts that can be stored."""
    return replace(owed, reason=clean(owed.reason), server=clean(owed.server), status=clean(owed.status))


def text_of(octets: bytes) -> str:
    """Octets as text for storage; raises QueueError."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise QueueError(f"{octets[:80]!r} is no UTF-8 and cannot be queued") from None
    if "\0" in text:
        raise QueueError(f"{octets[:80]!r} has a NUL and cannot be queued")
    return text


def options_text(message: NewMessage) -> str | None:
    """The options of a message as JSON; raises QueueError."""
    if not message.options:
        return None
    try:
        return json.dumps(dict(message.options), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise QueueError(f"the options of a message cannot be kept: {error}") from None


def check_message(message: NewMessage, recipients: int) -> None:
    """Raise QueueError for a message that no store can keep; ``recipients`` is their total number."""
    if not recipients:
        raise QueueError("a message without recipients cannot be queued")
    for octets in (message.sender, message.ret or b"", message.envid or b""):
        text_of(octets)
    for name, text in (("tenant", message.tenant), ("idempotency key", message.idempotency_key)):
        check_word(name, text)
    for time in (message.due, message.expires):
        check_time(time)
    if not -_LARGEST < message.priority < _LARGEST:
        raise QueueError(f"priority {message.priority} cannot be queued")
    options_text(message)


def check_recipient(recipient: NewRecipient) -> None:
    """Raise QueueError for a recipient that no store can keep."""
    for octets in (recipient.address, recipient.notify or b"", recipient.orcpt or b""):
        text_of(octets)
    check_word("queue key", recipient.key)
    least = 0 if recipient.standing is None else HELD_FOR_DOUBT
    if not least <= recipient.hold < _LARGEST:
        raise QueueError(f"hold {recipient.hold} is the number of no rule")


def check_word(name: str, text: str) -> None:
    """Raise QueueError for a text that cannot be stored unchanged."""
    if _LOST.search(text):
        raise QueueError(f"{name} {text[:80]!r} cannot be queued: it is no text")


def check_time(time: float) -> None:
    """Raise QueueError for an invalid time."""
    if not 0 <= time * 1000 < _FARTHEST:
        raise QueueError(f"{time!r} is no time in seconds since 1970 that can be queued")


def message_of(new: NewMessage, message: int, now: float, *, size: int, recipients: int) -> QueuedMessage:
    """The queued message from a new one."""
    options = options_text(new)
    return QueuedMessage(
        id=message,
        tenant=new.tenant,
        sender=new.sender,
        submitted=seconds(milliseconds(now if new.moved is None else new.moved.submitted)),
        size=size,
        recipients=recipients,
        priority=new.priority,
        ret=new.ret,
        envid=new.envid,
        name=clean(new.name),
        origin=clean(new.origin),
        options=None if options is None else json.loads(options),
    )


def recipient_of(new: NewMessage, recipient: NewRecipient, message: int, number: int, *, hold: int) -> QueuedRecipient:
    """The queued recipient from a new one."""
    one = QueuedRecipient(
        message=message,
        number=number,
        address=recipient.address,
        key=recipient.key,
        tenant=new.tenant,
        rank=-new.priority,
        due=seconds(milliseconds(new.due)),
        expires=seconds(milliseconds(new.expires)),
        notify=recipient.notify,
        orcpt=recipient.orcpt,
        hold=hold,
    )
    stood = recipient.standing
    if stood is None:
        return one
    return replace(
        one,
        rank=stood.rank,
        due=seconds(milliseconds(stood.due)),
        expires=seconds(milliseconds(stood.expires)),
        attempts=stood.attempts,
        warned=stood.warned,
        doubtful=stood.doubtful,
        status=clean(stood.status),
        reason=clean(stood.reason),
    )


def check_not_taken_in(moved: Provenance, notes: Iterable[TakenIn], others: Iterable[Provenance] = ()) -> None:
    """Raise Conflict if recipients of a message from another queue were taken in before.

    ``notes`` are those of the message; ``others`` are taken in by the same transaction.
    """
    taken = {number for note in notes if note.move == moved.move for number in note.numbers}
    for one in others:
        if (one.queue, one.move, one.message) == (moved.queue, moved.move, moved.message):
            taken.update(one.numbers)
    if not taken.isdisjoint(moved.numbers):
        raise Conflict(f"recipients of message {moved.message} of queue {moved.queue} are here already")


def check_room(free: int, octets: int, where: str = "on the disk of the queue") -> None:
    """Raise QueueFull if the disk has too little room for that many more octets; ``free`` is negative if unknown."""
    if 0 <= free < 2 * octets + SPARE_OCTETS:
        raise QueueFull(
            f"intake has stopped: {free >> 20} MiB are free {where}, "
            f"{(2 * octets + SPARE_OCTETS) >> 20} MiB are needed for a message of {octets} octets"
        )


def check_digest(new: NewMessage, digest: bytes, message: int, shard: int) -> None:
    """Raise Conflict if the idempotency key of a message was used for another one."""
    if digest != new.digest:
        raise Conflict(
            f"idempotency key {new.idempotency_key[:80]!r} was used for another message, {to_text(message, shard)}"
        )


def kept_suppression(one: Suppression) -> Suppression:
    """A suppression as stored; raises QueueError for an address or tenant that cannot be stored."""
    text_of(one.address)
    if not one.address:
        raise QueueError("an address is expected; the null reverse-path is none")
    check_word("tenant", one.tenant)
    for time in (one.at, one.until):
        if time is not None:
            check_time(time)
    return replace(
        one,
        address=folded(one.address),
        reason=clean(one.reason),
        source=clean(one.source),
        at=seconds(milliseconds(one.at)),
        until=None if one.until is None else seconds(milliseconds(one.until)),
    )

"""Decides which delivery status notifications the sender of a message is owed.

:func:`owed` decides about one recipient when its state changes; its result is written in the same transaction, so there
is no end without its notice. :mod:`zsmtp.queue.composer` makes one notice from all that are owed for a message::

    notice = owed(recipient, message, Outcome.FAILED, now, status="5.1.1", code=550, reason=reply, server=name)

NOTIFY decides (RFC 3461 4.1); without it there are notices of failure and of delay. Two things prevent loops: a notice
has the null sender (RFC 5321 4.5.5), which is owed none, and the field ``Auto-Submitted: auto-replied`` (RFC 3834 5),
which identifies it even after a change of its sender in transit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from zsmtp.body.fields import describe, field_values, outside_quotes, parameter, parameters
from zsmtp.queue.states import NoticeKind, Outcome, OwedNotice, QueuedMessage, QueuedRecipient

AUTOMATIC = "automatic"
"""The key in the options of a message for its kind of automatic mail."""
ORIGIN = "notice"
"""The origin of a message that is a notice."""


class Automatic(Enum):
    """The kind of automatic mail, by the header. The value is stored in the options of the message."""

    NO = ""
    """A person wrote it: no sign of automatic mail."""
    BULK = "bulk"
    """Bulk mail (``List-Id``, ``Precedence: bulk``): its sender gets no delay warnings, unless NOTIFY requests them."""
    GENERATED = "auto-generated"
    """A program wrote it (RFC 3834 5): its sender gets only the notices that NOTIFY requests."""
    REPLIED = "auto-replied"
    """It answers another message, or is a notice: there are never notices about it."""


_FIELDS_ASKED = (b"auto-submitted", b"precedence", b"list-id", b"content-type")
_SIGNS = (b"auto-submitted", b"precedence", b"list-id", b"report")
"""Every header with a sign of automatic mail contains one of these words."""
_ANSWERS = (b"delivery-status", b"disposition-notification")
_BULK = (b"bulk", b"list", b"junk")


def automatic(header: bytes) -> Automatic:
    """The kind of automatic mail of a message with this header block. Call it at submission."""
    folded = header.lower()
    if not any(word in folded for word in _SIGNS):  # true for most messages; the rest costs ten times as much
        return Automatic.NO
    values: dict[bytes, bytes] = {}
    for spelling, value in field_values(header):
        name = spelling.lower()
        if name in _FIELDS_ASKED:
            values.setdefault(name, value)
    word = outside_quotes(values.get(b"auto-submitted", b"")).partition(b";")[0].strip().lower()
    report = parameter(parameters(values.get(b"content-type", b"")), b"report-type").lower()
    is_report = b"content-type" in values and describe(header)[:2] == (b"multipart", b"report")
    if word.startswith(b"auto-replied") or (is_report and report in _ANSWERS):
        return Automatic.REPLIED
    if word not in (b"", b"no"):
        return Automatic.GENERATED
    precedence = outside_quotes(values.get(b"precedence", b"")).strip().lower()
    return Automatic.BULK if b"list-id" in values or precedence in _BULK else Automatic.NO


_REPLY = re.compile(r"([45]\d\d)[ -]")
_WORDS = {
    NoticeKind.FAILED: b"FAILURE",
    NoticeKind.DELAYED: b"DELAY",
    NoticeKind.DELIVERED: b"SUCCESS",
    NoticeKind.RELAYED: b"SUCCESS",
    NoticeKind.EXPANDED: b"SUCCESS",
}


def owed(
    recipient: QueuedRecipient,
    message: QueuedMessage,
    outcome: Outcome,
    at: float,
    *,
    action: str = "",
    warn: bool = False,
    status: str = "",
    code: int = 0,
    reason: str = "",
    server: str = "",
    last_attempt: float = 0.0,
) -> OwedNotice | None:
    """The notice that is owed for this ``outcome`` of a recipient, or None.

    For a success, ``action`` is that of the engine (:func:`zsmtp.delivery.outcome.dsn_action`): ``delivered``,
    ``relayed``, or "" if the next server notifies; ``expanded`` is for an address that stands for others. For a
    deferral, ``warn`` means that a warning is due (:func:`zsmtp.queue.schedule.warning_due`). The others are values of
    the notice; for an expired recipient, the default status and reason are those of its last attempt.
    """
    kind = _kind(outcome, action, warn=warn and not recipient.warned)
    if kind is None or not permitted(kind, recipient.notify, message):
        return None
    if outcome is Outcome.EXPIRED:
        status = status or recipient.status or "4.4.7"
        reason = reason or recipient.reason
        code = code or _reply_code(reason)
    return OwedNotice(
        message=message.id,
        number=recipient.number,
        kind=kind,
        at=at,
        address=recipient.address,
        orcpt=recipient.orcpt,
        status=status,
        code=code,
        reason=reason,
        server=server,
        expires=recipient.expires,
        last_attempt=last_attempt,
    )


def _kind(outcome: Outcome, action: str, *, warn: bool) -> NoticeKind | None:
    if outcome in (Outcome.FAILED, Outcome.EXPIRED):
        return NoticeKind.FAILED
    if outcome is Outcome.DEFERRED:
        return NoticeKind.DELAYED if warn else None
    if outcome is Outcome.DELIVERED and action:
        return NoticeKind(action)
    return None


def _reply_code(reason: str) -> int:
    """The code of the reply in a recipient's reason; 0 if the reason is no reply."""
    match = _REPLY.match(reason)
    return int(match[1]) if match is not None else 0


def permitted(kind: NoticeKind, notify: bytes | None, message: QueuedMessage) -> bool:
    """Whether the sender may get this kind of notice: by NOTIFY (RFC 3461 4.1), and never about automatic replies."""
    if message.null_sender or message.origin == ORIGIN:
        return False
    mail = _kept(message.options)
    if mail is Automatic.REPLIED:
        return False
    if notify is not None:
        words = notify.upper().split(b",")
        return b"NEVER" not in words and _WORDS[kind] in words
    if kind is NoticeKind.FAILED:
        return mail is not Automatic.GENERATED
    return kind is NoticeKind.DELAYED and mail is Automatic.NO


def _kept(options: Mapping[str, object] | None) -> Automatic:
    word = (options or {}).get(AUTOMATIC, "")
    return next((one for one in Automatic if one.value == word), Automatic.NO)

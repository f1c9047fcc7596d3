"""The values of the queue, and the state of a recipient, which is always derived and never stored.

A *message* is an envelope with content; a *recipient* is one address of one message and the unit that has an end. A
recipient is always in exactly one state, by this order of precedence:

========  ==========================================================================================
ended     it has an end: delivered, failed, expired, dropped or moved; only its history is left
held      an operator or a rule keeps it back; its due time stays, and it does not expire
leased    a live node has it in hand, by the list that it wrote with its last results
due       everything else: it is tried at its due time, or as soon after as a node can
========  ==========================================================================================

Recipients carry the *queue key* that decides where they go (a domain, or the name of a relay) and share a *sub-queue*
with those of the same key, tenant and rank. Times are seconds since 1970 (UTC); stores keep them in whole milliseconds.
Octets (addresses, RFC 3461 parameters) are UTF-8 without NUL: stores refuse others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from zsmtp.records import dataclass  # hundreds are made for each claim: half the cost of the standard ones

DEFAULT_TENANT = ""
MAX_REASON = 500  # characters of a server's text that are stored with a recipient and in its history


def milliseconds(at: float) -> int:
    """A time as stored: whole milliseconds."""
    return round(at * 1000)


def seconds(at: int) -> float:
    """A stored time in seconds."""
    return at / 1000


class State(Enum):
    """The state of a recipient without an end, or ENDED."""

    DUE = "due"
    """It is tried at its due time."""
    LEASED = "leased"
    """A node has it in hand."""
    HELD = "held"
    """An operator or a rule keeps it back."""
    ENDED = "ended"
    """It has an end."""


class End(Enum):
    """How a recipient ended."""

    DELIVERED = "delivered"
    """A server took responsibility for the message."""
    FAILED = "failed"
    """Refused for good, or failed by an operator or a rule."""
    EXPIRED = "expired"
    """Its time was over before a server took the message."""
    DROPPED = "dropped"
    """Removed by an operator, without a notice."""
    MOVED = "moved"
    """Moved to another queue, which delivers it."""


class Outcome(Enum):
    """The kind of a history entry of a recipient."""

    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    DROPPED = "dropped"
    MOVED = "moved"
    DEFERRED = "deferred"
    """An attempt that is made again."""
    IN_DOUBT = "in doubt"
    """An attempt whose result was lost: the server may have the message."""
    LATE = "late"
    """A result that came after the recipient had another owner or attempt: it changed nothing."""
    BOUNCED = "bounced"
    """Another system reported, after the end, that it could not deliver the message: it changed nothing."""
    COMPLAINED = "complained"
    """The recipient, or the mailbox provider, complained of the message: it changed nothing."""

    @property
    def end(self) -> End | None:
        """The end it is, or None while the recipient goes on."""
        return _ENDS.get(self)


_ENDS = {
    Outcome.DELIVERED: End.DELIVERED,
    Outcome.FAILED: End.FAILED,
    Outcome.EXPIRED: End.EXPIRED,
    Outcome.DROPPED: End.DROPPED,
    Outcome.MOVED: End.MOVED,
}
ENDS = tuple(end.value for end in End)
"""The names of all ends, and of their counters."""


class SubQueue(NamedTuple):
    """Recipients that are tried in the order of their due times; ``rank`` is the negative priority."""

    key: str
    tenant: str
    rank: int


class Position(NamedTuple):
    """A position in a sub-queue: claims continue after it."""

    due: float
    message: int
    number: int


START = Position(0.0, 0, -1)  # before everything


class AttemptKey(NamedTuple):
    """One attempt for one recipient. ``attempt`` is 1 for the first one.

    Every change of a recipient is conditional on it: a row with another attempt since is not changed.
    """

    message: int
    number: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRecipient:
    """A recipient that has no end yet."""

    message: int
    """The id of its message."""
    number: int
    """Its index among the message's recipients, from 0."""
    address: bytes
    """The forward-path, as sent to the server."""
    key: str
    """The queue key: a domain in A-labels and lower case, or ``relay:NAME``."""
    tenant: str = DEFAULT_TENANT
    """Whose mail it is."""
    rank: int = 0
    """The negative priority."""
    due: float
    """When it is tried next."""
    expires: float
    """When it is given up."""
    attempts: int = 0
    """The number of counted attempts. Delays of this side do not count."""
    notify: bytes | None = None
    """NOTIFY= as submitted (RFC 3461 4.1), None if absent."""
    orcpt: bytes | None = None
    """ORCPT= as submitted (RFC 3461 4.2)."""
    hold: int = 0
    """The cause of its hold: the number of a rule, or of commands (``limits.BY_COMMAND``); negative: this program.

    0: not held. The program holds recipients in doubt (``limits.HELD_FOR_DOUBT``) and moving ones (``moves.is_apart``).
    """
    warned: bool = False
    """Whether the sender was warned of the delay."""
    doubtful: bool = False
    """Whether the last attempt's result was lost: the server may have the message already."""
    status: str = ""
    """The enhanced status of the last attempt or delay (``4.7.1``)."""
    reason: str = ""
    """Why it is still queued, as text: the server's reply, or the reason of a delay of this side."""

    @property
    def sub_queue(self) -> SubQueue:
        """The sub-queue it is in."""
        return SubQueue(self.key, self.tenant, self.rank)

    @property
    def position(self) -> Position:
        """Its position in its sub-queue."""
        return Position(self.due, self.message, self.number)

    @property
    def next_attempt(self) -> AttemptKey:
        """The attempt that would be made now."""
        return AttemptKey(self.message, self.number, self.attempts + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMessage:
    """A message as it was accepted. It is written once."""

    id: int
    """See ``zsmtp.queue.ids``."""
    tenant: str = DEFAULT_TENANT
    """Whose mail it is."""
    sender: bytes
    """The reverse-path; empty: the null one, which gets no notices."""
    submitted: float
    """When it was accepted."""
    size: int
    """Octets of the content as stored."""
    recipients: int
    """The number of recipients at acceptance."""
    priority: int = 0
    """Higher priorities are tried earlier (RFC 6710: -9 to 9)."""
    ret: bytes | None = None
    """RET= (RFC 3461 4.3)."""
    envid: bytes | None = None
    """ENVID= (RFC 3461 4.4)."""
    name: str = ""
    """Its Message-ID, for display and logs."""
    origin: str = ""
    """How it came in: ``library``, ``smtp 192.0.2.1 login ann``, ``sendmail uid 1000``, ``notice`` ..."""
    options: Mapping[str, object] | None = None
    """All other requested options, as plain values for JSON: ``require_tls``, ``deliver_by`` ..."""

    @property
    def null_sender(self) -> bool:
        """Whether the reverse-path is null, so that no notices are sent (RFC 5321 4.5.5)."""
        return not self.sender


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of a recipient's history: an attempt, an end, or both. It is written once and dropped by age."""

    at: float
    """When the attempt was over, or the end was written."""
    message: int
    number: int
    attempt: int
    """The number of the attempt, 0 if none was made (expired, failed by an operator)."""
    outcome: Outcome
    address: bytes
    """The forward-path; the row of the recipient is deleted at its end."""
    sender: bytes
    key: str
    tenant: str = DEFAULT_TENANT
    seconds: float = 0.0
    """The duration of the attempt."""
    status: str = ""
    """The enhanced status (RFC 3463)."""
    code: int = 0
    """The reply code that decided, 0 if no reply did."""
    reason: str = ""
    """The text of the reply, or of the reason."""
    server: str = ""
    """The server of the attempt: ``mx.example.net [192.0.2.1]:25``."""
    tls: str = ""
    """The TLS of the session: ``TLSv1.3 verified``, "" for none."""
    node: str = ""
    """The node that made the attempt."""
    by: str = ""
    """The operator or rule that caused it, "" if none did."""


class NoticeKind(Enum):
    """The kind of a notice: the value of the Action field (RFC 3464 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedNotice:
    """A notice that the sender is owed for one recipient; written in the transaction of the change that causes it."""

    message: int
    number: int
    kind: NoticeKind
    at: float
    address: bytes
    orcpt: bytes | None = None
    status: str = ""
    code: int = 0
    reason: str = ""
    """The server's reply, or why this side gave up."""
    server: str = ""
    """The name of the server of that reply, "" if there is none."""
    expires: float = 0.0
    """For a delay: the time until which it is tried."""
    last_attempt: float = 0.0
    """The time of the last attempt, 0 if there was none."""

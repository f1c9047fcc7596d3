"""The events that all layers report to observers.

Each layer calls an :data:`Observer` with one of the small values below, at the moment of the event; logs, metrics,
traces and progress displays are adapters (``zsmtp.observers``, ``zsmtp.zmailer.logs``) that turn them into lines.
Events have no time: the observer has a clock. An observer must not raise and must not block. :func:`ignore` is the
observer that discards events; for it no event is made.

The events of one delivery, in the order they come::

    DeliveryStarted
      LookupStarted LookupDone ... FetchStarted FetchDone  PlanMade    the candidates, and their requirements
      Connecting ConnectFailed ...  Connected                    the candidate that accepts
      (LineSent ... Answered)  HandshakeStarted HandshakeDone Secured    the session: greeting, EHLO, STARTTLS, AUTH
      SessionOpened, or SessionRefused and the next candidate
      TransactionStarted (LineSent ... Answered) ContentStarted ContentProgress ContentSent Answered TransactionEnded
      Settled                                                    once for each recipient
    (LineSent QUIT, Answered) Closed, or SessionLost Closed      now, or after the deliveries that follow

Transactions are pipelined and sessions outlive deliveries, so events of a transaction name it. Lines of dialogue may
contain hostile text: escape them with ``zsmtp.escape`` before showing them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from zsmtp.records import dataclass, field

if TYPE_CHECKING:
    from zsmtp.delivery.deliveryplan import DeliveryPlan
    from zsmtp.delivery.envelope import Delivery
    from zsmtp.delivery.outcome import Verdict
    from zsmtp.dns.answer import Answer, Query
    from zsmtp.dns.candidates import Endpoint
    from zsmtp.proto.capabilities import Capabilities
    from zsmtp.proto.phase import Phase
    from zsmtp.proto.plan import Envelope, Transaction
    from zsmtp.proto.reply import Reply
    from zsmtp.tls.facts import TLSFacts
    from zsmtp.tls.judgement import Judgement


class About(Enum):
    """The subject of a remark or a decision; the value is the package concerned."""

    ROUTE = "dns"
    CONNECTION = "net"
    SECURITY = "tls"
    DIALOGUE = "proto"
    CONTENT = "body"
    DELIVERY = "delivery"


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


# ------------------------------------------------------------------------------------------------------------ words


@dataclass(frozen=True, slots=True)
class Remark(Event):
    """A decision with its reason, or an oddity for logs. ``envelope`` is that of the message concerned."""

    text: str
    about: About = field(default=About.DIALOGUE, compare=False)
    envelope: Envelope | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Detail(Event):
    """Like :class:`Remark`, for verbose and debug logs."""

    text: str
    about: About = field(default=About.DIALOGUE, compare=False)


@dataclass(frozen=True, slots=True)
class Decision(Event):
    """A decision with its reason that no other event implies: for traces. It concerns ``delivery`` alone, if given."""

    about: About
    text: str
    delivery: Delivery | None = None


# -------------------------------------------------------------------------------------------------------- deliveries


@dataclass(frozen=True, slots=True)
class DeliveryStarted(Event):
    """A delivery begins; ``destination`` is its destination as requested."""

    delivery: Delivery
    destination: str


@dataclass(frozen=True, slots=True)
class DeliveryReturned(Event):
    """A delivery is taken back undecided, and will be started again: by another connection, or on a new one."""

    delivery: Delivery
    reason: str


@dataclass(frozen=True, slots=True)
class Settled(Event):
    """One recipient (an index into the envelope's) has got its verdict."""

    delivery: Delivery
    recipient: int
    verdict: Verdict


# ------------------------------------------------------------------------------------------------------------- route


@dataclass(frozen=True, slots=True)
class LookupStarted(Event):
    """A DNS lookup starts."""

    query: Query


@dataclass(frozen=True, slots=True)
class LookupDone(Event):
    """The answer to the last lookup: records, or the failure."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class FetchStarted(Event):
    """A policy is fetched from ``host`` over HTTPS (RFC 8461 3.3)."""

    host: str


@dataclass(frozen=True, slots=True)
class FetchDone(Event):
    """The last fetch ended: with so many octets, or with ``problem``, the reason of a failure."""

    octets: int
    problem: str


@dataclass(frozen=True, slots=True)
class PlanMade(Event):
    """The plan of a delivery is made; the same object is executed, and gets requirements as candidates are tried."""

    plan: DeliveryPlan


# -------------------------------------------------------------------------------------------------------- connection


@dataclass(frozen=True, slots=True)
class Connecting(Event):
    """A connection attempt starts."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ConnectFailed(Event):
    """A connection attempt ended without a connection."""

    endpoint: Endpoint
    reason: str


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """A connection is established, the other attempts end. ``local`` is this side's ``(address, port)``; None: UNIX."""

    endpoint: Endpoint
    local: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class HandshakeStarted(Event):
    """A TLS handshake starts; ``server_name`` is the name sent (SNI)."""

    server_name: str


@dataclass(frozen=True, slots=True)
class HandshakeDone(Event):
    """A handshake ended: its ``facts``, or None and the ``error`` in words. :class:`Secured` has the verdict."""

    facts: TLSFacts | None
    error: str


@dataclass(frozen=True, slots=True)
class Secured(Event):
    """A TLS handshake was judged: its facts and the verdict, before anything is sent over it."""

    endpoint: Endpoint
    facts: TLSFacts
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """A session is open for messages. ``capabilities`` are those that are used."""

    endpoint: Endpoint
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class SessionRefused(Event):
    """A connection was given up because no session was opened on it; ``verdict`` has the reason."""

    endpoint: Endpoint
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SessionLost(Event):
    """A session broke; ``phase`` is the phase that awaited its reply, if any."""

    reason: str
    phase: Phase | None


@dataclass(frozen=True, slots=True)
class Closed(Event):
    """The connection was closed by this side or lost; ``reason`` says which and why."""

    reason: str


# ---------------------------------------------------------------------------------------------------------- dialogue


@dataclass(frozen=True, slots=True)
class LineSent(Event):
    """One command line, without its line end; secrets are masked."""

    line: bytes
    phase: Phase | None = field(default=None, compare=False)
    transaction: Transaction | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LineReceived(Event):
    """One line of a reply, without its line end, unchanged: escape it before showing it."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """The reply to the oldest unanswered command of its phase; its lines were reported before.

    ``recipient`` is an index into the transaction's (RCPT, and LMTP's final replies), else -1.
    """

    phase: Phase
    reply: Reply
    transaction: Transaction | None
    recipient: int


@dataclass(frozen=True, slots=True)
class TransactionStarted(Event):
    """A transaction is queued in the session. ``recipients`` are indexes into the delivery's envelope.

    ``riding``: it is pipelined behind another one whose replies are still due.
    """

    delivery: Delivery
    transaction: Transaction
    recipients: tuple[int, ...]
    riding: bool


@dataclass(frozen=True, slots=True)
class TransactionEnded(Event):
    """All replies to a transaction are in, or no more will come."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class ContentStarted(Event):
    """The transfer of one message's content, of so many octets, starts."""

    octets: int
    transaction: Transaction | None


@dataclass(frozen=True, slots=True)
class ContentProgress(Event):
    """Progress of a content: octets given to the transport so far, of ``total``."""

    octets: int
    total: int


@dataclass(frozen=True, slots=True)
class ContentSent(Event):
    """The content of one message is sent to its last octet; ``recipients`` are those not refused by then."""

    octets: int
    header_octets: int
    recipients: int
    envelope_seconds: float
    content_seconds: float
    transaction: Transaction | None = field(default=None, compare=False)


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that discards all events."""


def combine(*observers: Observer) -> Observer:
    """One observer that passes events to all of ``observers``, in this order."""
    receivers = tuple(observer for observer in observers if observer is not ignore)
    if not receivers:
        return ignore
    if len(receivers) == 1:
        return receivers[0]

    def pass_to_all(event: Event) -> None:
        for receiver in receivers:
            receiver(event)

    return pass_to_all


def is_observed(observer: Observer) -> bool:
    """Whether ``observer`` uses events now; if not, callers need not build them.

    An observer that is active only at times has an attribute ``listening``: whether it is active now.
    """
    return observer is not ignore and getattr(observer, "listening", True)

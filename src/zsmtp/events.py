"""What every layer can report, and the observer that hears it.

Each layer that has something to tell calls an :data:`Observer` with one of the small values below, at the moment it
happens; logs, metrics, traces and progress displays are adapters (``zsmtp.observers``, ``zsmtp.zmailer.logs``) that
turn them into lines. Events carry no time: whoever hears them has a clock. An observer must not raise and must not
block. :func:`ignore` is the observer of those who do not want to hear; for it no event is made.

The events of one delivery, in the order they come::

    DeliveryStarted
      LookupStarted LookupDone ... FetchStarted FetchDone  PlanMade    where it can go, and what it must be
      Connecting ConnectFailed ...  Connected                    who takes the connection
      (LineSent ... Answered)  HandshakeStarted HandshakeDone Secured    the session: greeting, EHLO, STARTTLS, AUTH
      SessionOpened, or SessionRefused and the next candidate
      TransactionStarted (LineSent ... Answered) ContentStarted ContentProgress ContentSent Answered TransactionEnded
      Settled                                                    once for each recipient
    (LineSent QUIT, Answered) Closed, or SessionLost Closed      now, or after the deliveries that follow

Transactions ride on one another and sessions outlive deliveries, so what belongs to a transaction names it. Lines of
dialogue may hold what a hostile peer chose: they are fit for people after ``zsmtp.escape`` only.
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
    """What a remark or a decision is about; the value is the room that knows more of it."""

    ROUTE = "dns"
    CONNECTION = "net"
    SECURITY = "tls"
    DIALOGUE = "proto"
    CONTENT = "body"
    DELIVERY = "delivery"


@dataclass(frozen=True, slots=True)
class Event:
    """Base of everything that can be observed."""


# ------------------------------------------------------------------------------------------------------------ words


@dataclass(frozen=True, slots=True)
class Remark(Event):
    """A decision with its reason, or an oddity worth a line in a log. ``envelope`` is the message's it concerns."""

    text: str
    about: About = field(default=About.DIALOGUE, compare=False)
    envelope: Envelope | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Detail(Event):
    """As :class:`Remark`, for those who asked for more (verbose and debug logs)."""

    text: str
    about: About = field(default=About.DIALOGUE, compare=False)


@dataclass(frozen=True, slots=True)
class Decision(Event):
    """A decision with its reason that other events do not imply: for traces. It concerns ``delivery`` alone, if any."""

    about: About
    text: str
    delivery: Delivery | None = None


# -------------------------------------------------------------------------------------------------------- deliveries


@dataclass(frozen=True, slots=True)
class DeliveryStarted(Event):
    """A delivery is taken to hand; ``destination`` is where it goes, as it was asked for."""

    delivery: Delivery
    destination: str


@dataclass(frozen=True, slots=True)
class DeliveryReturned(Event):
    """A delivery is taken back undecided, and will be started again: by another connection, or on a new one."""

    delivery: Delivery
    reason: str


@dataclass(frozen=True, slots=True)
class Settled(Event):
    """One recipient (an index into the envelope's) has its verdict."""

    delivery: Delivery
    recipient: int
    verdict: Verdict


# ------------------------------------------------------------------------------------------------------------- route


@dataclass(frozen=True, slots=True)
class LookupStarted(Event):
    """A DNS question is asked."""

    query: Query


@dataclass(frozen=True, slots=True)
class LookupDone(Event):
    """The answer to the last question: records, or how the lookup failed."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class FetchStarted(Event):
    """A policy is fetched from ``host`` over HTTPS (RFC 8461 3.3)."""

    host: str


@dataclass(frozen=True, slots=True)
class FetchDone(Event):
    """The last fetch ended: so many octets, or ``problem`` says why there are none."""

    octets: int
    problem: str


@dataclass(frozen=True, slots=True)
class PlanMade(Event):
    """Where a delivery can go is known; the plan is what is executed, and fills as candidates come."""

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
    """A connection stands, the others are given up. ``local`` is this side's ``(address, port)``, or None (UNIX)."""

    endpoint: Endpoint
    local: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class HandshakeStarted(Event):
    """A TLS handshake starts; ``server_name`` is the name asked for (SNI)."""

    server_name: str


@dataclass(frozen=True, slots=True)
class HandshakeDone(Event):
    """A handshake ended: its ``facts``, or None and the ``error`` in words. :class:`Secured` tells the verdict."""

    facts: TLSFacts | None
    error: str


@dataclass(frozen=True, slots=True)
class Secured(Event):
    """A TLS handshake was done: what it agreed on and whom it met, and the verdict, before anything is said over it."""

    endpoint: Endpoint
    facts: TLSFacts
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """A session stands, messages can go. ``capabilities`` are those that are used."""

    endpoint: Endpoint
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class SessionRefused(Event):
    """A connection was given up because no session came about on it; ``verdict`` says why."""

    endpoint: Endpoint
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SessionLost(Event):
    """A session broke; ``phase`` is what was waited for, if anything was."""

    reason: str
    phase: Phase | None


@dataclass(frozen=True, slots=True)
class Closed(Event):
    """The connection was given up by this side or lost; ``reason`` says which and why."""

    reason: str


# ---------------------------------------------------------------------------------------------------------- dialogue


@dataclass(frozen=True, slots=True)
class LineSent(Event):
    """One command line, without its line end; secrets are already replaced."""

    line: bytes
    phase: Phase | None = field(default=None, compare=False)
    transaction: Transaction | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LineReceived(Event):
    """One line of a reply, without its line end, as it came: not fit for a terminal before it is escaped."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """The reply to the oldest command of its phase not yet answered; its lines were told before.

    ``recipient`` is an index into the transaction's (RCPT, and LMTP's final replies), else -1.
    """

    phase: Phase
    reply: Reply
    transaction: Transaction | None
    recipient: int


@dataclass(frozen=True, slots=True)
class TransactionStarted(Event):
    """A transaction is handed to the session. ``recipients`` are indexes into the delivery's envelope.

    ``riding`` tells that replies to another one before it are still due.
    """

    delivery: Delivery
    transaction: Transaction
    recipients: tuple[int, ...]
    riding: bool


@dataclass(frozen=True, slots=True)
class TransactionEnded(Event):
    """All replies to a transaction are in, or none will come any more."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class ContentStarted(Event):
    """The content of one message starts to be given to the transport: so many octets."""

    octets: int
    transaction: Transaction | None


@dataclass(frozen=True, slots=True)
class ContentProgress(Event):
    """Message content on its way: octets handed to the transport so far, of ``total``."""

    octets: int
    total: int


@dataclass(frozen=True, slots=True)
class ContentSent(Event):
    """The content of one message is on the wire to its last octet; ``recipients`` are those not refused by then."""

    octets: int
    header_octets: int
    recipients: int
    envelope_seconds: float
    content_seconds: float
    transaction: Transaction | None = field(default=None, compare=False)


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that hears nothing."""


def combine(*observers: Observer) -> Observer:
    """One observer that tells all of ``observers``, in this order."""
    listeners = tuple(observer for observer in observers if observer is not ignore)
    if not listeners:
        return ignore
    if len(listeners) == 1:
        return listeners[0]

    def tell_all(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell_all


def heard(observer: Observer) -> bool:
    """Whether anybody hears what ``observer`` is told now: what would be lost on nobody need not be put into words.

    An observer whose listeners come and go says so in an attribute ``listening``.
    """
    return observer is not ignore and getattr(observer, "listening", True)

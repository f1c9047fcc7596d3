"""What a trace says: one delivery with everything that happened on its way, as values.

A :class:`Trace` is made by ``zsmtp.observers.trace``, written and read as JSON by ``zsmtp.observers.codec``, drawn by
``zsmtp.observers.waterfall`` and ``zsmtp.observers.page``. Its items are in the order of their start.

All times are seconds from the start of the delivery. They are below 0 for what a connection saw before: connections
outlive deliveries, and a trace tells of the whole connection its delivery used. Such items, and the connection itself,
are marked ``shared`` as soon as another delivery used the same connection. ``end`` is None for what was not over
when the trace was written.

Every text is printable (``zsmtp.escape``) and of bounded length; secrets are masked; mail addresses are clear, or each
is a keyed hash before its domain (``~3f9a0c5e1b@example.org``), the key forgotten when the trace was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsmtp.delivery.deliveryplan import DeliveryPlan

SCHEMA = "zsmtp.trace/1"

MAX_ITEMS = 4000
"""Items of one trace; what would come after them is only counted."""
MAX_RECIPIENTS = 1000
"""Recipients whose address and verdict are kept; the verdicts of the others are counted."""
MAX_TEXT = 1000
"""Characters of one text."""
MAX_LINES = 20
"""Lines of one reply, records of one answer, capabilities of one session."""


class Addresses(Enum):
    """How mail addresses are shown."""

    CLEAR = "clear"
    HASHED = "hashed"


class Safety(Enum):
    """What DNSSEC says of an answer, as far as the resolver can be trusted."""

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that happened. ``connection`` is the number of the connection it belongs to, 0 for none."""

    start: float
    end: float | None = None
    connection: int = 0
    shared: bool = False

    @property
    def seconds(self) -> float:
        """How long it took; 0 for what has no end."""
        return 0.0 if self.end is None else max(self.end - self.start, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupItem(Item):
    """A DNS question and its answer; ``source`` says who answered, ``problem`` what went wrong."""

    name: str
    record_type: str
    status: str = ""
    records: tuple[str, ...] = ()
    ttl: int = 0
    safety: Safety = Safety.INSECURE
    source: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchItem(Item):
    """An MTA-STS policy fetched from ``host`` (RFC 8461 3.3); ``problem`` says why it was not, if so."""

    host: str
    octets: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectItem(Item):
    """A connection attempt; ``failed`` says why it brought no connection, "" if it did."""

    host: str
    address: str
    port: int
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeItem(Item):
    """A TLS handshake and what it brought, or ``error``; ``peer`` tells of the certificate, unverified."""

    server_name: str
    session: str = ""
    peer: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeItem(Item):
    """One command and its reply, or the reply alone (greeting, further replies of LMTP).

    ``phase`` is a word of ``zsmtp.proto.phase``; ``code`` is 0 and ``reply`` empty if none came. ``recipient`` is an
    index into the trace's recipients, -1 if it concerns no single one. ``transaction`` counts from 1, 0 for none.
    """

    phase: str
    sent: str = ""
    code: int = 0
    reply: tuple[str, ...] = ()
    recipient: int = -1
    transaction: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentItem(Item):
    """The content on its way, from its first octet to its last."""

    octets: int
    header_octets: int = 0
    recipients: int = 0
    transaction: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionItem(Item):
    """A decision with its reason, or an oddity; ``about`` is the room that knows more (dns, tls, delivery, ...)."""

    about: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenItem(Item):
    """A session that ended before its time; ``phase`` is what was waited for."""

    reason: str
    phase: str = ""


AnyItem = LookupItem | FetchItem | ConnectItem | HandshakeItem | ExchangeItem | ContentItem | DecisionItem | BrokenItem


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedConnection:
    """One connection that stood. ``deliveries`` have used it so far; with more than one it is shared.

    ``closed`` is None if it was left open for deliveries to come. ``reason`` says why it was closed, ``refused`` why
    no session came about on it ("" if one did).
    """

    number: int
    host: str
    address: str
    port: int
    local: str = ""
    opened: float
    closed: float | None = None
    reason: str = ""
    refused: str = ""
    deliveries: int = 1
    capabilities: tuple[str, ...] = ()
    tls: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRecipient:
    """A recipient and its verdict, None of it if there is none yet. ``at`` is when it fell."""

    address: str
    at: float | None = None
    fate: str = ""
    status: str = ""
    diagnostic: str = ""
    text: str = ""
    host: str = ""
    in_doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fates:
    """How many recipients there are, and what became of them."""

    recipients: int
    delivered: int = 0
    failed: int = 0
    deferred: int = 0
    in_doubt: int = 0  # counted as deferred too


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One delivery. ``started`` is UTC as ISO 8601; ``seconds`` is how long it took; ``name`` is the message's.

    ``plan`` is what the delivery executed, None if it never came to a plan of its own. ``left_out`` counts the items
    that there was no room for, beside those of ``recipients`` beyond their limit.
    """

    program: str
    started: str
    seconds: float
    name: str
    destination: str
    sender: str
    addresses: Addresses
    fates: Fates
    recipients: tuple[TracedRecipient, ...]
    connections: tuple[TracedConnection, ...]
    items: tuple[AnyItem, ...]
    left_out: int = 0
    plan: DeliveryPlan | None = None

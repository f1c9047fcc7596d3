"""The values of a trace: one delivery with all its events.

``zsmtp.observers.trace`` makes a :class:`Trace`, ``zsmtp.observers.codec`` converts it to JSON and back,
``zsmtp.observers.waterfall`` and ``zsmtp.observers.page`` draw it. Its items are in the order of their start.

All times are seconds from the start of the delivery. They are negative for earlier events of a connection: connections
outlive deliveries, and a trace contains the whole connection that its delivery used. Such items, and the connection
itself, are marked ``shared`` as soon as another delivery used the same connection. ``end`` is None for items that were
unfinished when the trace was written.

Every text is printable (``zsmtp.escape``) and of bounded length; secrets are masked; mail addresses are clear, or each
is a keyed hash before its domain (``~3f9a0c5e1b@example.org``), whose key is discarded when the trace is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsmtp.delivery.deliveryplan import DeliveryPlan

SCHEMA = "zsmtp.trace/1"

MAX_ITEMS = 4000
"""Items of one trace; further ones are only counted."""
MAX_RECIPIENTS = 1000
"""Recipients whose address and verdict are kept; the verdicts of the others are counted."""
MAX_TEXT = 1000
"""Characters of one text."""
MAX_LINES = 20
"""Lines of one reply, records of one answer, capabilities of one session."""


class Addresses(Enum):
    """How mail addresses are displayed."""

    CLEAR = "clear"
    HASHED = "hashed"


class Safety(Enum):
    """The DNSSEC status of an answer, as far as the resolver is trusted."""

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One event. ``connection`` is the number of its connection, 0 for none."""

    start: float
    end: float | None = None
    connection: int = 0
    shared: bool = False

    @property
    def seconds(self) -> float:
        """How long it took; 0 for an item without an end."""
        return 0.0 if self.end is None else max(self.end - self.start, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupItem(Item):
    """A DNS question and its answer; ``source`` names the answering server, ``problem`` the error."""

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
    """An MTA-STS policy fetched from ``host`` (RFC 8461 3.3); ``problem`` is the reason of a failure."""

    host: str
    octets: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectItem(Item):
    """A connection attempt; ``failed`` is the reason of a failure, "" after a success."""

    host: str
    address: str
    port: int
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeItem(Item):
    """A TLS handshake and its facts, or ``error``; ``peer`` describes the certificate, unverified."""

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
    """The transfer of the content, from its first octet to its last."""

    octets: int
    header_octets: int = 0
    recipients: int = 0
    transaction: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionItem(Item):
    """A decision with its reason, or an oddity; ``about`` is the package concerned (dns, tls, delivery, ...)."""

    about: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenItem(Item):
    """A session that broke; ``phase`` is the phase that awaited its reply."""

    reason: str
    phase: str = ""


AnyItem = LookupItem | FetchItem | ConnectItem | HandshakeItem | ExchangeItem | ContentItem | DecisionItem | BrokenItem


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedConnection:
    """One established connection. ``deliveries`` have used it so far; with more than one it is shared.

    ``closed`` is None if it was left open for further deliveries. ``reason`` is why it was closed, ``refused`` why no
    session was opened on it ("" if one was).
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
    """A recipient and its verdict, with empty fields if there is none yet. ``at`` is the time of the verdict."""

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
    """The number of recipients, by result."""

    recipients: int
    delivered: int = 0
    failed: int = 0
    deferred: int = 0
    in_doubt: int = 0  # counted as deferred too


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One delivery. ``started`` is UTC as ISO 8601; ``seconds`` is how long it took; ``name`` is the message's.

    ``plan`` is the plan that the delivery executed, None if it made none. ``left_out`` counts the items beyond the
    limits; ``recipients`` beyond their limit come in addition.
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

"""DNS questions and answers as values (RFC 1035, RFC 4033).

A :class:`Query` is an effect: rules await it and get an :class:`Answer`. A failed lookup is an answer too, and the
failures are distinguished because mail treats them differently: NXDOMAIN is final (RFC 7504 and RFC 5321 5.1), a
timeout or SERVFAIL means "later", and a bogus answer must never be taken for "no such record".
"""

from __future__ import annotations

from enum import Enum

from zsmtp.effects import Effect
from zsmtp.records import dataclass, field


class RecordType(Enum):
    """The record types that mail delivery asks for; the value is the mnemonic."""

    A = "A"
    AAAA = "AAAA"
    MX = "MX"
    PTR = "PTR"
    TXT = "TXT"
    TLSA = "TLSA"
    WKS = "WKS"

    __hash__ = object.__hash__  # queries are keys, and the hash of Enum is a Python function


class Status(Enum):
    """How a lookup ended."""

    OK = "ok"  # there are records
    NODATA = "no data"  # the name exists, without records of this type
    NXDOMAIN = "no such domain"
    SERVFAIL = "server failure"  # SERVFAIL, REFUSED and every other failure that a server reports
    TIMEOUT = "no answer in time"  # or no server could be asked
    BOGUS = "bogus"  # DNSSEC validation failed


SERVFAIL_ALONE = "SERVFAIL"
"""The problem of an answer whose server reports a failure without a reason."""
TEMPORARY = frozenset({Status.SERVFAIL, Status.TIMEOUT, Status.BOGUS})


@dataclass(frozen=True, slots=True)
class Query(Effect["Answer"]):
    """One question: ``name`` is a host name without final dot, in A-labels.

    Without ``validated`` the name server answers without DNSSEC validation (CD bit, RFC 4035 3.2.2): to explain why
    another query failed, never for delivery.
    """

    name: str
    type: RecordType
    validated: bool = True


@dataclass(frozen=True, slots=True)
class AskAhead(Effect[None]):
    """Queries that will be awaited later: a driver that can wait for several at once sends them now.

    It only saves time; a driver may ignore it.
    """

    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class MX:
    """One mail exchanger; ``exchange`` is "" for the root (null MX, RFC 7505), else without final dot."""

    preference: int
    exchange: str


@dataclass(frozen=True, slots=True)
class WKS:
    """The TCP or UDP services of one address (RFC 1035 3.4.2); ``protocol`` is the IP protocol number (6 is TCP)."""

    address: str
    protocol: int
    ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class TLSA:
    """Certificate association (RFC 6698 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes


Record = str | MX | WKS | TLSA | tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a lookup.

    ``records`` holds ``str`` for A and AAAA (canonical text of the address) and PTR (a name), :class:`MX`,
    :class:`WKS`, :class:`TLSA`, or a tuple of octet strings for TXT; it is empty unless ``status`` is OK.
    ``canonical`` is the name at the end of the CNAME chain (the query's own name where there was none).
    ``ttl`` is the least TTL seen, in seconds. ``secure`` is true only if the resolver is trusted and set the AD bit.
    ``problem`` is a text for people where the status alone is not enough; ``source`` names the answering server.
    """

    query: Query
    status: Status
    records: tuple[Record, ...] = ()
    canonical: str = ""
    ttl: int = 0
    secure: bool = False
    problem: str = ""
    source: str = field(default="", compare=False)

    @property
    def temporary(self) -> bool:
        """Whether a later lookup may give another result."""
        return self.status in TEMPORARY

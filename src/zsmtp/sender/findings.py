"""The values that checks of a sender take and return: the known facts, and the findings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from zsmtp.dns.answer import MX, Answer
from zsmtp.escape import escape
from zsmtp.records import dataclass, field
from zsmtp.signing.signature import Algorithm


class Grade(Enum):
    """The grade of a finding."""

    GOOD = "good"
    NOTE = "note"  # no fault
    UNKNOWN = "unknown"  # a lookup failed
    WEAK = "weak"  # some receiver may count it against the mail
    REFUSED = "refused"  # some receiver refuses or discards the mail


@dataclass(frozen=True, slots=True)
class SenderFinding:
    """The result of one check."""

    topic: str
    """The subject: ``SPF``, ``DKIM``, ``DMARC``, ``reverse name``, ..."""
    grade: Grade
    text: str
    """The finding, as text for people."""
    looked_up: tuple[str, ...] = ()
    """The lookups it is based on, with their results."""
    receivers: tuple[str, ...] = ()
    """The receivers that ask for it."""
    publish: str = ""
    """A DNS record that would correct the fault, in zone file syntax."""


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A signing key: where its record belongs, and the public key in DER (``p=``)."""

    domain: str
    selector: str
    algorithm: Algorithm
    public_key: bytes
    bits: int
    identity: str = ""
    """The domain in ``i=`` of its signatures, in A-labels; "" for the one in ``d=``."""
    active_from: float = 0.0
    """The start of its use in seconds since 1970; 0: always."""

    @property
    def name(self) -> str:
        """The name of the record."""
        return f"{self.selector}._domainkey.{self.domain}"


@dataclass(frozen=True, slots=True)
class SenderFacts:
    """The known facts about a sender."""

    address: str
    """The reverse-path, and the address in From if ``author`` is not given."""
    addresses: tuple[str, ...]
    """The source IP addresses of its mail, in canonical text."""
    helo: str
    """The HELO name of this side."""
    author: str = ""
    """The domain in From, in A-labels; "" for that of ``address``."""
    keys: tuple[PublishedKey, ...] = ()
    """Keys that sign its mail."""
    next_keys: tuple[PublishedKey, ...] = ()
    """Keys that become active later, and replace one of these."""
    unsigned: str = ""
    """The reason why there are no ``keys``, if known: a clause for people."""
    header: bytes = b""
    """The header of a message to check, too."""
    adds_missing: bool = False
    """Date and Message-ID are added if missing."""
    uses_tls: bool = True
    """Connections to mail exchangers are encrypted if the server offers it."""
    now: float = 0.0
    """Seconds since 1970."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """The facts about this machine that could not be determined, by topic, with the reason."""

    @property
    def domain(self) -> str:
        """The domain of the reverse-path."""
        return self.address.rpartition("@")[2].lower()

    @property
    def author_domain(self) -> str:
        """The domain in From."""
        return (self.author or self.domain).lower()


def finding_document(one: SenderFinding) -> dict[str, object]:
    """A finding as a JSON object."""
    return {
        "topic": one.topic,
        "grade": one.grade.value,
        "text": one.text,
        "looked_up": list(one.looked_up),
        "receivers": list(one.receivers),
        "publish": one.publish,
    }


def text_of(record: object) -> bytes:
    """The text of a TXT record, b"" for any other record."""
    return b"".join(record) if isinstance(record, tuple) else b""


def shown(answer: Answer) -> str:
    """A lookup with its result, as text for people."""
    words = []
    for one in answer.records[:10]:
        if isinstance(one, MX):
            words.append(f"{one.preference} {one.exchange or '.'}")
        elif isinstance(one, tuple):
            words.append(escape(b"".join(one)[:200]))
        else:
            words.append(escape(str(one)))
    return f"{answer.query.type.value} {answer.query.name}: {', '.join(words) or answer.status.value}"

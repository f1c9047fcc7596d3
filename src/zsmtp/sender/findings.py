"""What is known of a sender beforehand, and what was found: the values that checks take and give."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from zsmtp.dns.answer import MX, Answer
from zsmtp.escape import escape
from zsmtp.records import dataclass, field
from zsmtp.signing.signature import Algorithm


class Grade(Enum):
    """How good something is."""

    GOOD = "good"
    NOTE = "note"  # it is no fault
    UNKNOWN = "unknown"  # it could not be found out now
    WEAK = "weak"  # it may be held against the mail
    REFUSED = "refused"  # mail is refused, or thrown away, by somebody


@dataclass(frozen=True, slots=True)
class SenderFinding:
    """One thing that was looked at."""

    topic: str
    """What it is about: ``SPF``, ``DKIM``, ``DMARC``, ``reverse name``, ..."""
    grade: Grade
    text: str
    """What is so, for people."""
    looked_up: tuple[str, ...] = ()
    """The lookups it rests on, with what they brought."""
    receivers: tuple[str, ...] = ()
    """Who asks for it."""
    publish: str = ""
    """A DNS record that would put it right, as a zone file has it."""


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A key that mail is signed with: where its record belongs, and the public key in DER (``p=``)."""

    domain: str
    selector: str
    algorithm: Algorithm
    public_key: bytes
    bits: int
    identity: str = ""
    """The domain in ``i=`` of its signatures, in A-labels; "" for the one in ``d=``."""
    active_from: float = 0.0
    """Seconds since 1970 from which on it signs; 0: always."""

    @property
    def name(self) -> str:
        """The name of the record."""
        return f"{self.selector}._domainkey.{self.domain}"


@dataclass(frozen=True, slots=True)
class SenderFacts:
    """What is known of a sender beforehand."""

    address: str
    """The reverse-path, and the address in From if ``author`` is not given."""
    addresses: tuple[str, ...]
    """IP addresses that its mail comes from, in canonical text."""
    helo: str
    """The name that this side greets with."""
    author: str = ""
    """The domain in From, in A-labels; "" for that of ``address``."""
    keys: tuple[PublishedKey, ...] = ()
    """Keys that its mail is signed with."""
    next_keys: tuple[PublishedKey, ...] = ()
    """Keys that become active later, and take the place of one of these."""
    unsigned: str = ""
    """Why there are no ``keys``, if something is known of that: a clause for people."""
    header: bytes = b""
    """The header of a message, to be looked at, too."""
    adds_missing: bool = False
    """Date and Message-ID are added where they are missing."""
    uses_tls: bool = True
    """Connections to mail exchangers are encrypted where that is offered."""
    now: float = 0.0
    """Seconds since 1970."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """What could not be found out about this machine, by topic."""

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
    """A lookup with what it brought, for people."""
    words = []
    for one in answer.records[:10]:
        if isinstance(one, MX):
            words.append(f"{one.preference} {one.exchange or '.'}")
        elif isinstance(one, tuple):
            words.append(escape(b"".join(one)[:200]))
        else:
            words.append(escape(str(one)))
    return f"{answer.query.type.value} {answer.query.name}: {', '.join(words) or answer.status.value}"

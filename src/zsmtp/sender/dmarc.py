"""DMARC (RFC 9989): finds the policy of a domain in From, and checks which domains are aligned with it.

A receiver finds the record of the domain in From or, by a walk up the tree of the DNS, that of its organisational
domain (4.10). Mail passes if SPF or DKIM passes for an *aligned* domain: the same one (strict), or one of the same
organisation (relaxed). The functions await lookups (``zsmtp.dns.answer.Query``)::

    policy = await find_policy("news.example.org")
    policy.action, policy.record
    await organisational_domain("news.example.org")      # "example.org"
"""

from __future__ import annotations

from enum import Enum

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.escape import escape
from zsmtp.records import dataclass
from zsmtp.signing.tags import parse_tags, shown

MAX_WALK = 8
"""The most names queried in one walk (4.10)."""


class Action(Enum):
    """The domain's request for mail that does not pass; the value is the word of the record."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class Belongs(Enum):
    """The meaning of ``psd`` for a domain; the value is the word of the record."""

    YES = "y"  # others register names below it
    NO = "n"  # it is an organisational domain
    UNKNOWN = "u"


@dataclass(frozen=True, slots=True)
class DMARCRecord:
    """One record."""

    text: str
    """The record as published."""
    action: Action
    """For the domain itself (``p``)."""
    below: Action
    """For domains below it (``sp``)."""
    missing: Action
    """For domains below it that do not exist (``np``)."""
    strict_spf: bool = False
    strict_dkim: bool = False
    public_suffix: Belongs = Belongs.UNKNOWN
    testing: bool = False
    """The domain asks for the next milder action (``t=y``)."""
    reports: tuple[str, ...] = ()
    """Destinations of aggregate reports (``rua``)."""


@dataclass(frozen=True, slots=True)
class DMARCPolicy:
    """The policy for a domain. ``record`` is None without one; ``problem`` is the reason, or the fault."""

    domain: str
    record: DMARCRecord | None = None
    found_at: str = ""
    """The domain that has the record."""
    action: Action = Action.NONE
    problem: str = ""
    temporary: bool = False
    """A lookup failed: there may be a policy."""


def parse_record(text: bytes) -> DMARCRecord:
    """Read a record (4.7). Raises ValueError with the reason if it is none."""
    tags = parse_tags(text)
    if next(iter(tags), b"") != b"v" or tags[b"v"] != b"DMARC1":
        raise ValueError("v=DMARC1 is not the first tag")
    reports = tuple([one.strip().decode("latin-1") for one in tags.get(b"rua", b"").split(b",") if one.strip()])
    action = _action(tags.get(b"p", b""))
    if action is None:
        if not reports:
            raise ValueError("p= is missing, or is not none, quarantine or reject")
        action = Action.NONE
    below = _action(tags.get(b"sp", b"")) or action
    for name in (b"adkim", b"aspf"):
        if tags.get(name, b"r") not in (b"r", b"s"):
            raise ValueError(f"{name.decode()}= is neither r nor s: {shown(tags[name])}")
    known = {one.value.encode(): one for one in Belongs}
    return DMARCRecord(
        text.decode("latin-1"),
        action,
        below,
        _action(tags.get(b"np", b"")) or below,
        strict_spf=tags.get(b"aspf") == b"s",
        strict_dkim=tags.get(b"adkim") == b"s",
        public_suffix=known.get(tags.get(b"psd", b"u"), Belongs.UNKNOWN),
        testing=tags.get(b"t") == b"y",
        reports=reports,
    )


def _action(word: bytes) -> Action | None:
    return next((one for one in Action if one.value.encode() == word.lower()), None)


@dataclass(frozen=True, slots=True)
class _Step:
    """One name of a walk."""

    domain: str
    record: DMARCRecord | None
    problem: str
    temporary: bool


def _record_in(answer: Answer) -> tuple[DMARCRecord | None, str]:
    """The record of an answer, or None and the fault."""
    if answer.temporary:
        return None, f"cannot be looked up now: {escape(answer.problem or answer.status.value)}"
    texts = [b"".join(record) for record in answer.records if isinstance(record, tuple)]
    candidates = [text for text in texts if text.replace(b" ", b"").startswith(b"v=DMARC1")]
    if len(candidates) > 1:
        return None, f"{len(candidates)} records, where one is allowed: none counts"
    try:
        return (parse_record(candidates[0]), "") if candidates else (None, "")
    except ValueError as error:
        return None, f"the record cannot be used: {error}"


async def _step(domain: str) -> _Step:
    answer = await Query(f"_dmarc.{domain}", RecordType.TXT)
    record, problem = _record_in(answer)
    return _Step(domain, record, problem, answer.temporary)


def _names(domain: str) -> list[str]:
    """The names of a walk: the domain, then upwards from the seventh label (4.10)."""
    labels = domain.lower().split(".")
    above = labels[1:] if len(labels) <= MAX_WALK else labels[-(MAX_WALK - 1) :]
    return [domain.lower(), *(".".join(above[place:]) for place in range(len(above)))]


async def _walk(domain: str) -> list[_Step]:
    """The steps upwards from a domain, until a record marks the top of an organisation or a public suffix."""
    steps = []
    for name in _names(domain):
        step = await _step(name)
        steps.append(step)
        if step.record is not None and step.record.public_suffix is not Belongs.UNKNOWN:
            break
    return steps


async def organisational_domain(domain: str) -> str:
    """The organisational domain of a domain (4.10.2); the domain itself if no record names another."""
    return _organisational(domain, await _walk(domain))


def _organisational(domain: str, steps: list[_Step]) -> str:
    own = domain.lower()
    for step in steps:
        if step.record is None:
            continue
        if step.record.public_suffix is Belongs.NO:
            return step.domain
        if step.record.public_suffix is Belongs.YES and step.domain != own:
            labels = own.split(".")
            return ".".join(labels[-(len(step.domain.split(".")) + 1) :])
    found = [step.domain for step in steps if step.record is not None]
    return min(found, key=lambda name: name.count("."), default=own)


async def find_policy(domain: str, *, exists: bool = True) -> DMARCPolicy:
    """The policy for mail with ``domain`` (A-labels) in From; ``exists``: whether the domain exists in the DNS."""
    steps = await _walk(domain)
    first = steps[0]
    problem = next((f"_dmarc.{step.domain}: {step.problem}" for step in steps if step.problem), "")
    temporary = any(step.temporary for step in steps)
    if first.record is not None:
        return DMARCPolicy(domain, first.record, first.domain, first.record.action)
    above = _organisational(domain, steps)
    found = next((step for step in steps if step.domain == above and step.record is not None), None)
    if found is None:  # the record of a public suffix, if there is one
        found = next((step for step in reversed(steps) if step.record is not None), None)
    if found is None or found.record is None:
        return DMARCPolicy(domain, problem=problem, temporary=temporary)
    action = found.record.below if exists else found.record.missing
    return DMARCPolicy(domain, found.record, found.domain, action, problem, temporary)


async def is_aligned(identifier: str, author: str, *, strict: bool) -> bool:
    """Whether a domain authenticated by SPF or DKIM is aligned with the one in From (4.4)."""
    if identifier.lower() == author.lower():
        return True
    if strict:
        return False
    return await organisational_domain(identifier) == await organisational_domain(author)


async def domain_exists(domain: str) -> bool:
    """Whether a domain exists: not if A, AAAA and MX give NXDOMAIN (RFC 9989 4.10); true if a lookup fails."""
    for kind in (RecordType.MX, RecordType.A, RecordType.AAAA):
        answer = await Query(domain, kind)
        if answer.status is not Status.NXDOMAIN:
            return True
    return False

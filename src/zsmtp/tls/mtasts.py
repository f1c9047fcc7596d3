"""MTA-STS: a domain's word, fetched over HTTPS, that its exchangers have TLS and true certificates (RFC 8461).

The domain says with a TXT record at ``_mta-sts.`` that there is a policy, and under which id (3.1); the policy itself
is a small text at ``https://mta-sts.<domain>/.well-known/mta-sts.txt`` (3.2, 3.3). It is kept for ``max_age`` seconds,
because that is what protects: who can keep the record or the text from being read today must not undo what was learned
yesterday. So every failure keeps the policy that is known, and only its age ends it.

:func:`find_policy` awaits effects: ``Query`` for lookups and ``FetchPolicy`` for the one GET. It takes what is cached
as an argument and returns what applies and what is to be cached. The clock is an argument. :func:`policy_of` is the
same around a cache: it awaits ``RecallPolicy`` before and ``KeepPolicy`` after.
Whether an exchanger may be used is :meth:`STSPolicy.matches`; what follows from a mode is for ``zsmtp.tls.policy``.
DANE goes first where both are there (RFC 8461 2).
"""

from __future__ import annotations

import re
from enum import Enum

from zsmtp.dns.answer import Query, RecordType, Status
from zsmtp.effects import FetchPolicy, KeepPolicy, ReadStop, RecallPolicy
from zsmtp.escape import escape
from zsmtp.records import dataclass, replace
from zsmtp.tls.policy import STSFinding, STSMode
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import AppliedPolicy, PolicyType

MAX_POLICY = 64 * 1024  # octets of a policy text
MAX_RECORD = 4096  # octets of a TXT record
MAX_AGE = 31_557_600  # seconds; what a policy may ask for at most
MAX_PATTERNS = 500  # of exchangers in a policy
MAX_ADDRESSES = 4  # of the policy host that are tried
RETRY = 300  # seconds between attempts to fetch after one failed (5.1 asks for five minutes)
REFRESH = 86400  # seconds after which a policy is fetched again although its id is the same

_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_VALUE = re.compile(r"[\x21-\x3a\x3c\x3e-\x7e]+")
_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\.?")
_SECONDS = re.compile(r"[0-9]{1,10}")


class PolicyMode(Enum):
    """How a policy is to be applied (5)."""

    ENFORCE = "enforce"  # no delivery to an exchanger that fails it
    TESTING = "testing"  # failures are reported and nothing else
    NONE = "none"  # the domain has given MTA-STS up


@dataclass(frozen=True, slots=True)
class STSPolicy:
    """A policy: its mode, how long it holds from the time it was fetched (seconds), and the patterns of exchangers.

    Patterns are in lower case without final dot.
    """

    mode: PolicyMode
    max_age: int
    mx: tuple[str, ...] = ()

    def matches(self, host: str) -> bool:
        """Whether the exchanger ``host`` is one of the domain's: ``*.`` stands for exactly one label (4.1)."""
        name = host.lower().removesuffix(".")
        parent = name.partition(".")[2]
        return any(pattern == name or (parent and pattern == f"*.{parent}") for pattern in self.mx)

    @property
    def strings(self) -> tuple[str, ...]:
        """The policy's lines, as reports show them (RFC 8460 4.5)."""
        mx = (f"mx: {pattern}" for pattern in self.mx)
        return ("version: STSv1", f"mode: {self.mode.value}", *mx, f"max_age: {self.max_age}")


def parse_policy(text: bytes) -> STSPolicy:
    """Read a policy text (3.2). Raises ValueError with the reason if it is none.

    Of a field that stands twice the first counts, except ``mx``; unknown fields mean nothing.
    """
    if len(text) > MAX_POLICY:
        raise ValueError(f"longer than {MAX_POLICY} octets")
    try:
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    fields: dict[str, str] = {}
    patterns: list[str] = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            continue
        name, colon, value = line.partition(":")
        name, value = name.rstrip(" \t"), value.strip(" \t")
        if not colon or not _NAME.fullmatch(name):
            raise ValueError(f"line {number} is not name: value")
        if not fields and name != "version":
            raise ValueError("the first field is not version")
        if name == "mx":
            patterns.append(_pattern(value))
        fields.setdefault(name, value)
    if fields.get("version") != "STSv1":
        raise ValueError("the version is not STSv1")
    if fields.get("mode") not in ("enforce", "testing", "none"):
        raise ValueError("there is no mode of enforce, testing or none")
    mode = PolicyMode(fields["mode"])
    if not _SECONDS.fullmatch(fields.get("max_age", "")):
        raise ValueError("there is no max_age in seconds")
    if mode is not PolicyMode.NONE and not patterns:
        raise ValueError("there is no mx")
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"more than {MAX_PATTERNS} exchangers")
    return STSPolicy(mode, min(int(fields["max_age"]), MAX_AGE), tuple(dict.fromkeys(patterns)))


def _pattern(text: str) -> str:
    pattern = text.lower()
    if len(pattern) > 255 or not _PATTERN.fullmatch(pattern):
        raise ValueError(f"not a host or *.domain: {escape(text[:80])}")
    return pattern.removesuffix(".")


def parse_record(records: tuple[tuple[bytes, ...], ...]) -> str | None:
    """The policy id in the TXT records of ``_mta-sts.domain``; None unless exactly one of them is a good one (3.1)."""
    found = []
    for record in records:
        octets = b"".join(record)
        if len(octets) > MAX_RECORD:
            continue
        version, *fields = [part.strip(" \t") for part in octets.decode("ascii", "replace").split(";")]
        if version == "v=STSv1":
            found.append(_id_of(fields))
    return found[0] if len(found) == 1 else None


def _id_of(fields: list[str]) -> str | None:
    ids: list[str] = []
    for number, field in enumerate(fields, 1):
        if not field and number == len(fields):
            break  # the record may end with its delimiter
        name, equals, value = field.partition("=")
        name, value = name.rstrip(" \t"), value.lstrip(" \t")
        if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return None
        if name == "id":
            ids.append(value)
    return ids[0] if len(ids) == 1 and _ID.fullmatch(ids[0]) else None


# ------------------------------------------------------------ answers to effects


@dataclass(frozen=True, slots=True)
class FetchedPolicy:
    """The answer to ``FetchPolicy``: the text that came, or what kept it away (``problem`` says it in words)."""

    body: bytes = b""
    failure: TLSProblem | None = None
    problem: str = ""
    own: bool = False
    """What kept it away is trouble of this side: it says nothing of the host, and is neither kept nor reported."""


@dataclass(frozen=True, slots=True)
class RecalledPolicy:
    """The answer to ``RecallPolicy``: what is remembered, None if nothing is, and the time (seconds since 1970)."""

    entry: CachedPolicy | None
    now: float


# ------------------------------------------------------------------- the rules


@dataclass(frozen=True, slots=True)
class CachedPolicy:
    """What is known of a domain: the policy ``text`` with its ``id`` as of ``fetched`` (b"" and 0 if there is none).

    ``failed`` is when an attempt to fetch the id ``failed_id`` went wrong (0: none did). Times in seconds since 1970.
    """

    domain: str
    id: str = ""
    text: bytes = b""
    fetched: float = 0.0
    failed_id: str = ""
    failed: float = 0.0

    def policy(self, now: float) -> STSPolicy | None:
        """The policy, unless there is none or its time is over."""
        if not self.text:
            return None
        try:
            policy = parse_policy(self.text)
        except ValueError:
            return None
        return policy if now < self.fetched + policy.max_age else None


@dataclass(frozen=True, slots=True)
class PolicyLookup:
    """What applies to a domain. ``policy`` is None where there is none; one of mode ``none`` asks for nothing either.

    ``store`` is what the cache is to hold from now on (None: what it holds). ``failure`` is what TLSRPT should tell
    the domain of; ``note`` says how the policy was come by, for logs.
    """

    domain: str
    policy: STSPolicy | None
    note: str
    store: CachedPolicy | None = None
    failure: TLSProblem | None = None

    def finding(self, host: str) -> STSFinding | None:
        """What the policy says of the exchanger ``host``; None if it asks for nothing."""
        if self.policy is None or self.policy.mode is PolicyMode.NONE:
            return None
        return STSFinding(mode=STSMode(self.policy.mode.value), listed=self.policy.matches(host))

    @property
    def applied(self) -> AppliedPolicy | None:
        """The policy as reports show it (RFC 8460 4.4); None if there is nothing to report about one.

        A policy that could not be had is one too: the domain should hear of it.
        """
        if self.policy is not None and self.policy.mode is not PolicyMode.NONE:
            return AppliedPolicy(PolicyType.STS, self.domain, self.policy.strings, self.policy.mx)
        return AppliedPolicy(PolicyType.STS, self.domain) if self.failure is not None else None


async def find_policy(domain: str, cached: CachedPolicy | None, now: float) -> PolicyLookup:
    """The policy for mail to ``domain`` (a host name in A-labels); ``cached`` is what the cache holds of it.

    One lookup if nothing has changed; a new id, a policy a day old or half through its time means a fetch. Nothing that
    fails on the way takes away a policy that still holds (5.1, 10.2).
    """
    known = cached if cached is not None else CachedPolicy(domain)
    held = known.policy(now)
    answer = await Query(f"_mta-sts.{domain}", RecordType.TXT)
    policy_id = parse_record(tuple(record for record in answer.records if isinstance(record, tuple)))
    if policy_id is None:
        why = "no record" if answer.status in (Status.OK, Status.NODATA, Status.NXDOMAIN) else answer.status.value
        return PolicyLookup(domain, held, f"{_described(held)} ({why} at _mta-sts.{domain})")
    if held is not None and policy_id == known.id and known.fetched <= now < _refresh_time(known, held):
        return PolicyLookup(domain, held, f"{_described(held)} (cached)")
    if policy_id == known.failed_id and 0 <= now - known.failed < RETRY:
        return PolicyLookup(domain, held, f"{_described(held)} (a fetch failed {now - known.failed:.0f} s ago)")
    fetched = await _fetch(f"mta-sts.{domain}", policy_id)
    problem, failure = fetched.problem, fetched.failure
    if fetched.own:
        return PolicyLookup(domain, held, f"{_described(held)} (not fetched: {problem})")
    if failure is None:
        try:
            policy = parse_policy(fetched.body)
        except ValueError as error:
            problem, failure = str(error), TLSProblem.STS_POLICY_INVALID
        else:
            store = CachedPolicy(domain, policy_id, fetched.body, now)
            return PolicyLookup(domain, policy, f"{_described(policy)} (fetched)", store)
    store = replace(known, domain=domain, failed_id=policy_id, failed=now)
    note = f"{_described(held)} (fetch failed: {problem})"
    return PolicyLookup(domain, held, note, store, failure)


async def policy_of(domain: str) -> PolicyLookup:
    """The policy for mail to ``domain``, with the help of what is remembered; what was learned is remembered."""
    recalled = await RecallPolicy(domain)
    lookup = await find_policy(domain, recalled.entry, recalled.now)
    if lookup.failure is not None and await ReadStop():
        return replace(lookup, store=None, failure=None)  # what this side broke off is nobody's failure
    if lookup.store is not None:
        await KeepPolicy(lookup.store)
    return lookup


def _refresh_time(known: CachedPolicy, policy: STSPolicy) -> float:
    return known.fetched + min(REFRESH, policy.max_age / 2)


def _described(policy: STSPolicy | None) -> str:
    return "no MTA-STS policy" if policy is None else f"MTA-STS policy, mode {policy.mode.value}"


async def _fetch(host: str, policy_id: str) -> FetchedPolicy:
    """The addresses of the policy host, then the policy."""
    addresses: list[str] = []
    problems: list[str] = []
    for record_type in (RecordType.A, RecordType.AAAA):
        answer = await Query(host, record_type)
        addresses += [record for record in answer.records if isinstance(record, str)][: MAX_ADDRESSES // 2]
        if answer.temporary:
            problems.append(answer.status.value)
    if not addresses:
        problem = f"{host} has no address ({', '.join(dict.fromkeys(problems)) or 'no record'})"
        return FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem=problem)
    return await FetchPolicy(host, tuple(addresses), policy_id)

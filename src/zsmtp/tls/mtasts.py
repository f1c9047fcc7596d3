"""MTA-STS: a domain's policy, fetched over HTTPS, that its exchangers have TLS and valid certificates (RFC 8461).

A TXT record at ``_mta-sts.`` of the domain announces the policy and its id (3.1); the policy itself is a small text at
``https://mta-sts.<domain>/.well-known/mta-sts.txt`` (3.2, 3.3). It is cached for ``max_age`` seconds, which is the
protection: an attacker who blocks the record or the text today must not disable the policy fetched yesterday. So a
cached policy survives every failure, and only its age ends it.

:func:`find_policy` awaits effects: ``Query`` for lookups and ``FetchPolicy`` for the one GET. It takes the cache entry
as an argument and returns the policy that applies and the new cache entry. The clock is an argument. :func:`policy_of`
adds the cache: it awaits ``RecallPolicy`` before and ``KeepPolicy`` after. :meth:`STSPolicy.matches` decides whether an
exchanger may be used; ``zsmtp.tls.policy`` applies the mode. DANE takes precedence over MTA-STS (RFC 8461 2).
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
MAX_AGE = 31_557_600  # seconds; the largest max_age of a policy
MAX_PATTERNS = 500  # of exchangers in a policy
MAX_ADDRESSES = 4  # of the policy host that are tried
RETRY = 300  # seconds to the next fetch after a failed one (5.1 asks for five minutes)
REFRESH = 86400  # seconds after which a policy is fetched again although its id is the same

_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_VALUE = re.compile(r"[\x21-\x3a\x3c\x3e-\x7e]+")
_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\.?")
_SECONDS = re.compile(r"[0-9]{1,10}")


class PolicyMode(Enum):
    """How to apply a policy (5)."""

    ENFORCE = "enforce"  # no delivery to an exchanger that fails it
    TESTING = "testing"  # failures are reported and nothing else
    NONE = "none"  # the domain has ended MTA-STS


@dataclass(frozen=True, slots=True)
class STSPolicy:
    """A policy: its mode, its validity in seconds from the fetch on, and the patterns of exchangers.

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
        """The policy's lines in the form for reports (RFC 8460 4.5)."""
        mx = (f"mx: {pattern}" for pattern in self.mx)
        return ("version: STSv1", f"mode: {self.mode.value}", *mx, f"max_age: {self.max_age}")


def parse_policy(text: bytes) -> STSPolicy:
    """Parse a policy text (3.2). Raises ValueError with the reason if it is invalid.

    Of a repeated field the first counts, except for ``mx``; unknown fields are ignored.
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
    """The policy id in the TXT records of ``_mta-sts.domain``; None unless exactly one of them is valid (3.1)."""
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
    """The answer to ``FetchPolicy``: the text, or the failure (``problem`` describes it)."""

    body: bytes = b""
    failure: TLSProblem | None = None
    problem: str = ""
    own: bool = False
    """What kept it away is trouble of this side: it says nothing of the host, and is neither kept nor reported."""


@dataclass(frozen=True, slots=True)
class RecalledPolicy:
    """The answer to ``RecallPolicy``: the cache entry, None without one, and the time (seconds since 1970)."""

    entry: CachedPolicy | None
    now: float


# ------------------------------------------------------------------- the rules


@dataclass(frozen=True, slots=True)
class CachedPolicy:
    """A domain's cache entry: the policy ``text`` with its ``id``, fetched at ``fetched`` (b"" and 0 without one).

    ``failed`` is the time of a failed fetch of the id ``failed_id`` (0: none failed). Times in seconds since 1970.
    """

    domain: str
    id: str = ""
    text: bytes = b""
    fetched: float = 0.0
    failed_id: str = ""
    failed: float = 0.0

    def policy(self, now: float) -> STSPolicy | None:
        """The policy; None without one, or if it has expired."""
        if not self.text:
            return None
        try:
            policy = parse_policy(self.text)
        except ValueError:
            return None
        return policy if now < self.fetched + policy.max_age else None


@dataclass(frozen=True, slots=True)
class PolicyLookup:
    """The policy that applies to a domain. ``policy`` is None without one; mode ``none`` requires nothing either.

    ``store`` is the new cache entry (None: unchanged). ``failure`` is the failure to report to the domain by TLSRPT;
    ``note`` describes for logs how the policy was found.
    """

    domain: str
    policy: STSPolicy | None
    note: str
    store: CachedPolicy | None = None
    failure: TLSProblem | None = None

    def finding(self, host: str) -> STSFinding | None:
        """The policy's rule for the exchanger ``host``; None if it requires nothing."""
        if self.policy is None or self.policy.mode is PolicyMode.NONE:
            return None
        return STSFinding(mode=STSMode(self.policy.mode.value), listed=self.policy.matches(host))

    @property
    def applied(self) -> AppliedPolicy | None:
        """The policy in the form for reports (RFC 8460 4.4); None if there is none to report.

        A policy that could not be fetched counts as one: the report informs the domain about it.
        """
        if self.policy is not None and self.policy.mode is not PolicyMode.NONE:
            return AppliedPolicy(PolicyType.STS, self.domain, self.policy.strings, self.policy.mx)
        return AppliedPolicy(PolicyType.STS, self.domain) if self.failure is not None else None


async def find_policy(domain: str, cached: CachedPolicy | None, now: float) -> PolicyLookup:
    """The policy for mail to ``domain`` (a host name in A-labels); ``cached`` is its cache entry.

    One lookup if nothing has changed; a new id, or a policy that is a day old or past half its validity, means a fetch.
    No failure removes a policy that is still valid (5.1, 10.2).
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
    """The policy for mail to ``domain``; reads the cache and updates it."""
    recalled = await RecallPolicy(domain)
    lookup = await find_policy(domain, recalled.entry, recalled.now)
    if lookup.failure is not None and await ReadStop():
        return replace(lookup, store=None, failure=None)  # a lookup that this side stopped is no failure
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

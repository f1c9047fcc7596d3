"""Sender Policy Framework (RFC 7208): may this address send mail as this domain?

A domain lists its senders in a TXT record. :func:`check_host` is the function of that name (4): it awaits lookups
(``zsmtp.dns.answer.Query``) and returns the result with its reason. All limits of 4.6.4 hold: ten terms that cause
lookups, two void lookups, ten names of an MX or PTR lookup. A whole record is parsed before any of it is evaluated, so
that a syntax error anywhere is a permerror (4.6)::

    check = await check_host("192.0.2.1", "example.org", b"ann@example.org", helo="mail.example.org")
    check.result, check.reason
"""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

from zsmtp.dns.answer import MX, Answer, Query, RecordType, Status
from zsmtp.dns.literal import domain_problem
from zsmtp.escape import escape
from zsmtp.records import NamedTuple, dataclass

MAX_LOOKUPS = 10
"""Terms that cause lookups, in all records together (4.6.4)."""
MAX_VOID = 2
"""Void lookups: those without records in the answer (4.6.4)."""
MAX_NAMES = 10
"""Names of one MX or PTR lookup that are themselves looked up (4.6.4)."""
MAX_RECORD = 4096
"""The longest record that is parsed, in octets."""

Address = IPv4Address | IPv6Address


class SPFResult(Enum):
    """The result of a check; the value is the word of RFC 7208 2.6."""

    NONE = "none"  # there is no record
    NEUTRAL = "neutral"  # the domain makes no statement about this address
    PASS = "pass"  # noqa: S105 - a word of the standard
    FAIL = "fail"  # the address is not authorised to send for the domain
    SOFTFAIL = "softfail"  # it is probably not authorised
    TEMPERROR = "temperror"  # a lookup failed
    PERMERROR = "permerror"  # the record is invalid


@dataclass(frozen=True, slots=True)
class SPFCheck:
    """The result of a check."""

    result: SPFResult
    reason: str
    """The reason of the result, as text for people."""
    record: str = ""
    """The record of the domain, "" if there is none."""
    lookups: int = 0
    """Terms that caused lookups."""


class SPFTerm(NamedTuple):
    """A directive or modifier: ``name`` in lower case, its qualifier, domain-spec or network, and prefix lengths."""

    name: str
    qualifier: str = "+"
    argument: str = ""
    length4: int = 32
    length6: int = 128
    text: str = ""
    """The term as it stands in the record."""


class RecordError(ValueError):
    """An invalid record; the text is the fault."""


class _Ended(Exception):
    """The check ends early."""

    def __init__(self, result: SPFResult, reason: str) -> None:
        self.result = result
        self.reason = reason
        super().__init__(reason)


_RESULTS = {"+": SPFResult.PASS, "-": SPFResult.FAIL, "~": SPFResult.SOFTFAIL, "?": SPFResult.NEUTRAL}
_LOOKING_UP = frozenset(("include", "a", "mx", "ptr", "exists", "redirect"))
_TERM = re.compile(r"(?P<qualifier>[-+?~]?)(?P<name>[A-Za-z][A-Za-z0-9_.-]*)(?P<sign>[:=/]?)(?P<rest>.*)")
_LENGTHS = re.compile(r"(?P<spec>.*?)(?:/(?P<four>[0-9]{1,2}))?(?://(?P<six>[0-9]{1,3}))?")
_MACRO = re.compile(r"%(?:%|_|-|\{([slodiphcrtvSLODIPHCRTV])([0-9]{0,3})(r?)([-.+,/_=]*)\})")
_LITERAL = re.compile(r"(?:[\x21-\x24\x26-\x7e]|%(?:%|_|-|\{[slodiphcrtvSLODIPHCRTV][0-9]{0,3}r?[-.+,/_=]*\}))*")
_END = re.compile(r".*(?:\.[A-Za-z0-9-]*[A-Za-z-][A-Za-z0-9-]*\.?|%\{[^}]*\})")


def records_in(answer: Answer) -> list[str]:
    """The SPF records in the answer to a TXT query (4.5)."""
    texts = [b"".join(record).decode("latin-1") for record in answer.records if isinstance(record, tuple)]
    return [text for text in texts if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]


def parse_record(text: str) -> tuple[SPFTerm, ...]:
    """The terms of a record. Raises RecordError with the fault if it is invalid."""
    if len(text) > MAX_RECORD:
        raise RecordError(f"longer than {MAX_RECORD} octets")
    terms = tuple([_term(word) for word in text.split(" ")[1:] if word])
    for name in ("redirect", "exp"):
        if sum(one.name == f"{name}=" for one in terms) > 1:
            raise RecordError(f"{name}= occurs twice")
    return terms


def _term(word: str) -> SPFTerm:
    found = _TERM.fullmatch(word)
    shown = escape(word[:80])
    if found is None:
        raise RecordError(f"{shown}: no directive and no modifier")
    name, qualifier, sign, rest = found["name"].lower(), found["qualifier"], found["sign"], found["rest"]
    if sign == "=":
        if qualifier:
            raise RecordError(f"{shown}: a modifier has no qualifier")
        if not _LITERAL.fullmatch(rest) or (name in ("redirect", "exp") and not _END.fullmatch(rest)):
            raise RecordError(f"{shown}: no domain, or a macro that is none")
        return SPFTerm(f"{name}=", argument=rest, text=word)
    if rest and not sign:
        raise RecordError(f"{shown}: no directive and no modifier")
    qualifier = qualifier or "+"
    if name in ("ip4", "ip6"):
        return _network(name, qualifier, sign, rest, word)
    if name == "all":
        if sign:
            raise RecordError(f"{shown}: all has no argument")
        return SPFTerm(name, qualifier, text=word)
    if name not in ("include", "a", "mx", "ptr", "exists"):
        raise RecordError(f"{shown}: there is no mechanism {escape(name[:40])}")
    spec = rest if sign == ":" else ""
    lengths = _LENGTHS.fullmatch(rest if sign == ":" else f"/{rest}" if sign == "/" else "")
    four, six = 32, 128
    if name in ("a", "mx") and lengths is not None:
        spec = lengths["spec"]
        four, six = int(lengths["four"] or 32), int(lengths["six"] or 128)
    elif sign == "/":
        raise RecordError(f"{shown}: {name} has no prefix length")
    if four > 32 or six > 128 or (sign == "/" and spec):
        raise RecordError(f"{shown}: a prefix length that is none")
    if (sign == ":" and not spec) or (not spec and name in ("include", "exists")):
        raise RecordError(f"{shown}: the domain is missing")
    if spec and (not _LITERAL.fullmatch(spec) or not _END.fullmatch(spec)):
        raise RecordError(f"{shown}: no domain, or a macro that is none")
    return SPFTerm(name, qualifier, spec, four, six, word)


def _network(name: str, qualifier: str, sign: str, rest: str, word: str) -> SPFTerm:
    kind = IPv4Network if name == "ip4" else IPv6Network
    try:
        if sign != ":" or "%" in rest:
            raise ValueError
        network = ip_network(rest, strict=False)
        if not isinstance(network, kind):
            raise ValueError
    except ValueError:
        raise RecordError(f"{escape(word[:80])}: no {'IPv4' if name == 'ip4' else 'IPv6'} network") from None
    return SPFTerm(name, qualifier, str(network), text=word)


async def check_host(ip: str, domain: str, sender: bytes, *, helo: str) -> SPFCheck:
    """Check mail from ``sender`` that comes from ``ip`` against the record of ``domain``.

    ``domain`` is in A-labels; a null sender is given as ``postmaster@`` the HELO name (2.4). ``ip`` is an address in
    canonical text.
    """
    return await _Check(ip, sender, helo).run(domain)


class _Check:
    """One check, with all records that it includes."""

    def __init__(self, ip: str, sender: bytes, helo: str) -> None:
        address = ip_address(ip.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        self.ip: Address = mapped or address
        local, at, sender_domain = sender.decode("utf-8", "replace").rpartition("@")
        self.local = local if at else "postmaster"
        self.sender_domain = sender_domain
        self.helo = helo
        self.lookups = 0
        self.void = 0

    async def run(self, domain: str) -> SPFCheck:
        """The check of the first domain."""
        record = ""
        try:
            records = await self._records(domain)
            record = records[0] if records else ""
            result, reason = await self._evaluate(domain, records)
        except _Ended as end:
            result, reason = end.result, end.reason
        return SPFCheck(result, reason, record, self.lookups)

    async def _records(self, domain: str) -> list[str]:
        if domain_problem(domain) is not None or "." not in domain:
            return []
        answer = await Query(domain, RecordType.TXT)
        if answer.temporary:
            problem = answer.problem or answer.status.value
            raise _Ended(SPFResult.TEMPERROR, f"the TXT records of {domain} cannot be looked up now: {escape(problem)}")
        return records_in(answer)

    async def _evaluate(self, domain: str, records: list[str]) -> tuple[SPFResult, str]:
        if not records:
            return SPFResult.NONE, f"{domain} has no SPF record"
        if len(records) > 1:
            raise _Ended(SPFResult.PERMERROR, f"{domain} has {len(records)} SPF records, where one is allowed")
        try:
            terms = parse_record(records[0])
        except RecordError as error:
            raise _Ended(SPFResult.PERMERROR, f"the SPF record of {domain} cannot be used: {error}") from None
        for term in terms:
            if not term.name.endswith("=") and await self._matches(term, domain):
                return _RESULTS[term.qualifier], f"{escape(term.text[:120])} of {domain} matches {self.ip}"
        redirect = next((term for term in terms if term.name == "redirect="), None)
        if redirect is None:
            return SPFResult.NEUTRAL, f"nothing in the record of {domain} matches {self.ip}"
        self._count(redirect, domain)
        target = await self._expand(redirect.argument, domain)
        found = await self._records(target)
        if not found:
            raise _Ended(SPFResult.PERMERROR, f"redirect={target} of {domain} leads to no SPF record")
        return await self._evaluate(target, found)

    def _count(self, term: SPFTerm, domain: str) -> None:
        self.lookups += 1
        if self.lookups > MAX_LOOKUPS:
            where = f"{escape(term.text[:80])} of {domain}"
            raise _Ended(SPFResult.PERMERROR, f"more than {MAX_LOOKUPS} terms that look something up: {where}")

    async def _lookup(self, name: str, kind: RecordType) -> Answer:
        """A lookup within a term; void lookups are counted."""
        answer = await Query(name, kind)
        if answer.temporary:
            problem = answer.problem or answer.status.value
            reason = f"the {kind.value} records of {name} cannot be looked up now: {escape(problem)}"
            raise _Ended(SPFResult.TEMPERROR, reason)
        return answer

    def _count_void(self, *answers: Answer) -> None:
        if all(answer.status is not Status.OK for answer in answers):
            self.void += 1
            if self.void > MAX_VOID:
                name = answers[0].query.name
                raise _Ended(SPFResult.PERMERROR, f"more than {MAX_VOID} lookups that bring nothing: {name}")

    async def _matches(self, term: SPFTerm, domain: str) -> bool:
        if term.name == "all":
            return True
        if term.name in ("ip4", "ip6"):
            network = ip_network(term.argument)
            return self.ip.version == network.version and self.ip in network
        self._count(term, domain)
        target = await self._expand(term.argument, domain) if term.argument else domain
        if term.name == "include":
            return await self._includes(term, target, domain)
        if term.name == "exists":
            answer = await self._lookup(target, RecordType.A)
            self._count_void(answer)
            return answer.status is Status.OK
        if term.name == "a":
            return await self._is_address_of(target, term, count=True)
        if term.name == "mx":
            return await self._is_exchanger_of(target, term)
        wanted = target.lower()
        return any(name == wanted or name.endswith(f".{wanted}") for name in await self._validated_names())

    async def _includes(self, term: SPFTerm, target: str, domain: str) -> bool:
        records = await self._records(target)
        if not records:
            reason = f"{escape(term.text[:80])} of {domain} leads to no SPF record"
            raise _Ended(SPFResult.PERMERROR, reason)
        result, _ = await self._evaluate(target, records)
        return result is SPFResult.PASS

    async def _is_address_of(self, name: str, term: SPFTerm, *, count: bool) -> bool:
        answer = await self._lookup(name, RecordType.A if self.ip.version == 4 else RecordType.AAAA)
        if count:
            self._count_void(answer)
        length = term.length4 if self.ip.version == 4 else term.length6
        for record in answer.records:
            if isinstance(record, str) and self.ip in ip_network(f"{record}/{length}", strict=False):
                return True
        return False

    async def _is_exchanger_of(self, name: str, term: SPFTerm) -> bool:
        answer = await self._lookup(name, RecordType.MX)
        self._count_void(answer)
        exchangers = sorted((one for one in answer.records if isinstance(one, MX)), key=lambda one: one.preference)
        if len(exchangers) > MAX_NAMES:
            reason = f"{escape(term.text[:80])}: {name} has more than {MAX_NAMES} mail exchangers"
            raise _Ended(SPFResult.PERMERROR, reason)
        for exchanger in exchangers:
            if exchanger.exchange and await self._is_address_of(exchanger.exchange, term, count=False):
                return True
        return False

    async def _validated_names(self) -> list[str]:
        """The names of the address that resolve back to it (5.5). Failed lookups are skipped there."""
        answer = await Query(self.ip.reverse_pointer, RecordType.PTR)
        self._count_void(answer)
        kind = RecordType.A if self.ip.version == 4 else RecordType.AAAA
        found = []
        for name in [one for one in answer.records if isinstance(one, str)][:MAX_NAMES]:
            forward = await Query(name, kind)
            if any(isinstance(record, str) and ip_address(record) == self.ip for record in forward.records):
                found.append(name.lower().removesuffix("."))
        return found

    # ------------------------------------------------------------------ macros

    async def _expand(self, text: str, domain: str) -> str:
        """A domain-spec with its macros expanded (7)."""
        parts: list[str] = []
        place = 0
        for found in _MACRO.finditer(text):
            parts.append(text[place : found.start()])
            place = found.end()
            if found[1] is None:
                parts.append({"%%": "%", "%_": " ", "%-": "%20"}[found[0]])
                continue
            parts.append(await self._macro(found[1], found[2], found[3], found[4], domain))
        name = ("".join(parts) + text[place:]).removesuffix(".")
        while len(name) > 253 and "." in name:
            name = name.partition(".")[2]
        if domain_problem(name) is not None and not re.fullmatch(r"[!-~]+", name):
            raise _Ended(SPFResult.PERMERROR, f"{escape(text[:80])} of {domain} is no name after expansion")
        return name

    async def _macro(self, letter: str, digits: str, reverse: str, delimiters: str, domain: str) -> str:
        value = await self._value(letter.lower(), domain)
        if digits or reverse or delimiters:
            parts = re.split(f"[{re.escape(delimiters or '.')}]", value)
            if reverse:
                parts.reverse()
            if digits and int(digits):
                parts = parts[-int(digits) :]
            value = ".".join(parts)
        return quote(value, safe="") if letter.isupper() else value

    async def _value(self, letter: str, domain: str) -> str:
        if letter == "p":
            names = await self._validated_names()
            same = [name for name in names if name == domain]
            below = [name for name in names if name.endswith(f".{domain}")]
            return next(iter((*same, *below, *names)), "unknown")
        if letter == "i":
            if isinstance(self.ip, IPv4Address):
                return str(self.ip)
            return ".".join(self.ip.exploded.replace(":", ""))
        values = {
            "s": f"{self.local}@{self.sender_domain}",
            "l": self.local,
            "o": self.sender_domain,
            "d": domain,
            "h": self.helo,
            "v": "in-addr" if self.ip.version == 4 else "ip6",
            "c": str(self.ip),
            "r": "unknown",
            "t": "0",
        }
        return values[letter]

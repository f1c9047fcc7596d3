"""What receivers will think of mail from a sender: one finding for each thing they look at.

:func:`check_sender` awaits lookups and is given everything else: the sender, the addresses its mail comes from, the
name it greets with, the keys it signs with, and perhaps a message. A finding says what is so, how bad that is, what was
looked up, who will hold it against the mail, and what to publish instead, ready to paste::

    sender = SenderFacts("ann@example.org", addresses=("192.0.2.1",), helo="mail.example.org")
    for finding in await check_sender(sender):
        print(finding.topic, finding.grade.value, finding.text)

``REFUSED`` means that some receiver refuses the mail or throws it away; ``WEAK`` that it may count against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from zsmtp.body.fields import field_values
from zsmtp.body.lines import unified_header
from zsmtp.dns.answer import MX, Answer, Query, RecordType, Status
from zsmtp.dns.heloname import check_helo
from zsmtp.dns.ip import canonical_ip
from zsmtp.dns.literal import domain_problem
from zsmtp.escape import escape
from zsmtp.records import dataclass, field
from zsmtp.sender import dmarc, spf
from zsmtp.sender.receivers import SenderRequirement, asking
from zsmtp.sender.spf import SPFCheck, SPFResult
from zsmtp.signing.record import NoRecord, key_record, record_in, zone_entry
from zsmtp.signing.signature import Algorithm
from zsmtp.signing.tags import parse_tags
from zsmtp.tls.mtasts import PolicyLookup, PolicyMode, find_policy
from zsmtp.tls.tlsrpt import report_addresses

MIN_BITS = 1024
"""Bits of an RSA key below which signatures do not count (RFC 8301 3.2)."""


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
    header: bytes = b""
    """The header of a message, to be looked at, too."""
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


async def check_sender(sender: SenderFacts) -> list[SenderFinding]:
    """All findings, in the order in which a receiver would come to them."""
    findings = [*await _names(sender), *await _bounces(sender)]
    source = sender.address.encode()
    checks = [await spf.check_host(ip, sender.domain, source, helo=sender.helo) for ip in sender.addresses]
    findings += _spf(sender, checks)
    findings += await _spf_of_helo(sender)
    valid: list[PublishedKey] = []
    for key in sender.keys:
        finding = await _key(key)
        findings.append(finding)
        if finding.grade in (Grade.GOOD, Grade.WEAK):
            valid.append(key)
    if not sender.keys:
        findings.append(_unsigned(checks))
    findings += await _dmarc(sender, checks, valid)
    findings += await _policies(sender)
    if sender.header:
        findings += _message(sender)
    return findings


# ------------------------------------------------------------------------ names


async def _names(sender: SenderFacts) -> list[SenderFinding]:
    """Reverse and forward names of the addresses, and the name of the greeting."""
    found = []
    if not sender.addresses:
        text = sender.problems.get("addresses", "no address is known that mail comes from")
        found.append(SenderFinding("address", Grade.UNKNOWN, text))
    for address in sender.addresses:
        check = await check_helo(sender.helo, address)
        looked_up = (f"PTR of {address}: {', '.join(check.reverse) or 'none'}",)
        askers = asking(SenderRequirement.REVERSE)
        if check.problem:
            found.append(SenderFinding("reverse name", Grade.UNKNOWN, f"{address}: {check.problem}", looked_up))
            continue
        confirmed = [name for name in check.reverse if await _leads_to(name, address)]
        if not check.reverse:
            text = f"{address} has no reverse name; whoever the address belongs to can set one: {sender.helo}"
            found.append(SenderFinding("reverse name", Grade.REFUSED, text, looked_up, askers))
        elif not confirmed:
            text = f"{', '.join(check.reverse)} does not lead back to {address}"
            publish = f"{check.reverse[0]}. IN {_kind(address).value} {address}\n"
            found.append(SenderFinding("reverse name", Grade.REFUSED, text, looked_up, askers, publish))
        else:
            text = f"{address} is {', '.join(confirmed)}, which leads back to it"
            found.append(SenderFinding("reverse name", Grade.GOOD, text, looked_up))
        found.append(_greeting(sender.helo, address, confirmed=check.confirmed))
    return found


def _greeting(name: str, address: str, *, confirmed: bool) -> SenderFinding:
    if domain_problem(name) is not None and not name.startswith("["):
        text = f"{escape(name[:120])} is no host name (RFC 5321 4.1.1.1)"
        return SenderFinding("greeting", Grade.REFUSED, text, receivers=("many",))
    if confirmed:
        return SenderFinding("greeting", Grade.GOOD, f"{name} is a name of {address}")
    text = f"{name}, which this side greets with, is no name of {address}"
    return SenderFinding("greeting", Grade.WEAK, text, publish=f"{name}. IN {_kind(address).value} {address}\n")


def _kind(address: str) -> RecordType:
    return RecordType.AAAA if ":" in address else RecordType.A


async def _leads_to(name: str, address: str) -> bool:
    answer = await Query(name, _kind(address))
    return any(isinstance(one, str) and canonical_ip(one) == address for one in answer.records)


# ---------------------------------------------------------------------- bounces


async def _bounces(sender: SenderFacts) -> list[SenderFinding]:
    """Whether the sender's domain takes mail, as far as the DNS says: receivers look at that, and bounces go there."""
    domain = sender.domain
    answer = await Query(domain, RecordType.MX)
    looked_up = (_shown(answer),)
    if answer.temporary:
        return [SenderFinding("MX", Grade.UNKNOWN, f"the MX records of {domain} cannot be looked up now", looked_up)]
    exchangers = [one for one in answer.records if isinstance(one, MX)]
    if any(not one.exchange for one in exchangers):
        text = f"{domain} says that it takes no mail (null MX): mail from it is refused (RFC 7505 4.2)"
        return [SenderFinding("MX", Grade.REFUSED, text, looked_up, ("many",))]
    if not exchangers:
        addresses = [await Query(domain, kind) for kind in (RecordType.A, RecordType.AAAA)]
        if any(one.status is Status.OK for one in addresses):
            text = f"{domain} has no MX record; bounces go to its own address (RFC 5321 5.1)"
            return [SenderFinding("MX", Grade.NOTE, text, looked_up)]
        text = f"{domain} does not exist, or has neither MX nor address: mail from it is refused"
        return [SenderFinding("MX", Grade.REFUSED, text, looked_up, ("nearly all",))]
    problems = [problem for one in exchangers if (problem := await _exchanger_problem(one.exchange))]
    if len(problems) == len(exchangers):
        return [SenderFinding("MX", Grade.REFUSED, "; ".join(problems), looked_up, ("some",))]
    if problems:
        return [SenderFinding("MX", Grade.WEAK, "; ".join(problems), looked_up)]
    return [
        SenderFinding("MX", Grade.GOOD, f"bounces go to {', '.join(one.exchange for one in exchangers)}", looked_up)
    ]


async def _exchanger_problem(host: str) -> str:
    """What is wrong with the name of a mail exchanger."""
    if canonical_ip(host) is not None:
        return f"the MX {host} is an address, where a name is wanted (RFC 5321 5.1)"
    answers = [await Query(host, kind) for kind in (RecordType.A, RecordType.AAAA)]
    if any(one.temporary for one in answers):
        return ""
    if all(one.status is not Status.OK for one in answers):
        return f"the MX {host} has no address"
    alias = next((one.canonical for one in answers if one.canonical.lower() not in ("", host.lower())), "")
    return f"the MX {host} is an alias (CNAME) of {alias}, which RFC 2181 10.3 forbids" if alias else ""


# -------------------------------------------------------------------------- SPF


def _spf(sender: SenderFacts, checks: Sequence[SPFCheck]) -> list[SenderFinding]:
    """SPF of the reverse-path, for each address."""
    found = []
    for address, check in zip(sender.addresses, checks, strict=True):
        looked_up = (f"TXT {sender.domain}: {_record(check)}",)
        network = f"ip{6 if ':' in address else 4}:{address}"
        publish = ""
        if check.result is SPFResult.PASS:
            lookups = f"{check.lookups} of {spf.MAX_LOOKUPS} lookups"
            grade, text = Grade.GOOD, f"{address} may send: {check.reason} ({lookups})"
        elif check.result is SPFResult.TEMPERROR:
            grade, text = Grade.UNKNOWN, check.reason
        else:
            refused = check.result in (SPFResult.FAIL, SPFResult.PERMERROR, SPFResult.NONE)
            grade, text = Grade.REFUSED if refused else Grade.WEAK, f"{check.result.value}: {check.reason}"
            if check.result is SPFResult.NONE:
                publish = zone_entry(sender.domain, f"v=spf1 {network} -all")
            elif check.result is not SPFResult.PERMERROR:
                publish = zone_entry(sender.domain, f"v=spf1 {network}{check.record[len('v=spf1') :]}")
        receivers = () if grade is Grade.GOOD else asking(SenderRequirement.SPF, SenderRequirement.SPF_OR_DKIM)
        found.append(SenderFinding("SPF", grade, text, looked_up, receivers, publish))
    return found


async def _spf_of_helo(sender: SenderFacts) -> list[SenderFinding]:
    """SPF of the greeting, which counts for mail with the null reverse-path: bounces and notices (RFC 7208 2.3)."""
    if not sender.addresses or domain_problem(sender.helo) is not None or sender.helo.lower() == sender.domain:
        return []
    address = sender.addresses[0]
    check = await spf.check_host(address, sender.helo, f"postmaster@{sender.helo}".encode(), helo=sender.helo)
    looked_up = (f"TXT {sender.helo}: {_record(check)}",)
    if check.result is SPFResult.PASS:
        return [SenderFinding("SPF of the greeting", Grade.GOOD, f"{address} may send as {sender.helo}", looked_up)]
    if check.result in (SPFResult.FAIL, SPFResult.PERMERROR):
        text = f"{check.result.value}: {check.reason}; notices, whose sender is null, are refused"
        return [SenderFinding("SPF of the greeting", Grade.REFUSED, text, looked_up, ("some",))]
    publish = zone_entry(sender.helo, "v=spf1 a -all") if check.result is SPFResult.NONE else ""
    text = f"{check.result.value}: {check.reason}"
    return [SenderFinding("SPF of the greeting", Grade.NOTE, text, looked_up, publish=publish)]


def _record(check: SPFCheck) -> str:
    """A record for people."""
    if check.record:
        return escape(check.record[:400])
    return "not known" if check.result is SPFResult.TEMPERROR else "no SPF record"


# ------------------------------------------------------------------------- DKIM


async def _key(key: PublishedKey) -> SenderFinding:
    """Whether receivers find the key that mail is signed with."""
    answer = await Query(key.name, RecordType.TXT)
    looked_up = (f"TXT {key.name}: {answer.status.value}",)
    publish = zone_entry(key.name, key_record(key.algorithm, key.public_key))
    receivers = asking(SenderRequirement.DKIM, SenderRequirement.SPF_OR_DKIM)
    try:
        record = record_in(answer)
    except NoRecord as error:
        if error.temporary:
            return SenderFinding("DKIM", Grade.UNKNOWN, str(error), looked_up)
        return SenderFinding("DKIM", Grade.REFUSED, str(error), looked_up, receivers, publish)
    if not record.public_key:
        return SenderFinding(
            "DKIM", Grade.REFUSED, f"the key at {key.name} was revoked (p=)", looked_up, receivers, publish
        )
    if record.algorithm is not key.algorithm or record.public_key != key.public_key:
        text = f"the key at {key.name} is not that of the private key: no signature is valid"
        return SenderFinding("DKIM", Grade.REFUSED, text, looked_up, receivers, publish)
    if key.algorithm is Algorithm.RSA_SHA256 and key.bits < MIN_BITS:
        text = f"the key at {key.name} has {key.bits} bits; below {MIN_BITS} no signature counts (RFC 8301 3.2)"
        return SenderFinding("DKIM", Grade.REFUSED, text, looked_up, receivers)
    if record.testing:
        text = f"the key at {key.name} is published for tests (t=y): signatures may count as none"
        return SenderFinding("DKIM", Grade.WEAK, text, looked_up, receivers, publish)
    if key.algorithm is Algorithm.RSA_SHA256 and key.bits < 2048:
        text = f"the key at {key.name} has {key.bits} bits; 2048 are advised (RFC 8301 3.2)"
        return SenderFinding("DKIM", Grade.WEAK, text, looked_up)
    return SenderFinding("DKIM", Grade.GOOD, f"the key at {key.name} is published, {key.bits} bits", looked_up)


def _unsigned(checks: Sequence[SPFCheck]) -> SenderFinding:
    enough = any(check.result is SPFResult.PASS for check in checks)
    wanted = (SenderRequirement.DKIM,) if enough else (SenderRequirement.DKIM, SenderRequirement.SPF_OR_DKIM)
    text = "no key is configured: mail is not signed; zsmtp dkim key DOMAIN SELECTOR makes one"
    return SenderFinding("DKIM", Grade.WEAK if enough else Grade.REFUSED, text, receivers=asking(*wanted))


# ------------------------------------------------------------------------ DMARC


async def _dmarc(sender: SenderFacts, checks: Sequence[SPFCheck], keys: Sequence[PublishedKey]) -> list[SenderFinding]:
    """Whether mail passes DMARC, by SPF or by one of these keys, and what the domain asks for mail that does not."""
    author = sender.author_domain
    policy = await dmarc.find_policy(author, exists=await dmarc.domain_exists(author))
    where = policy.found_at or author
    looked_up = (f"TXT _dmarc.{where}: {escape(policy.record.text[:400]) if policy.record else 'none'}",)
    found = []
    if policy.problem and policy.temporary:
        found.append(SenderFinding("DMARC", Grade.UNKNOWN, policy.problem, looked_up))
    elif policy.record is None:
        text = policy.problem or f"{author} has no DMARC record"
        publish = zone_entry(f"_dmarc.{author}", "v=DMARC1; p=none")
        found.append(SenderFinding("DMARC", Grade.WEAK, text, looked_up, asking(SenderRequirement.DMARC), publish))
    else:
        text = f"the policy of {where} asks to {_WISHES[policy.action]} mail of {author} that does not pass"
        found.append(SenderFinding("DMARC", Grade.GOOD, text, looked_up))
    record = policy.record
    strict_spf, strict_dkim = bool(record and record.strict_spf), bool(record and record.strict_dkim)
    by_spf = bool(checks) and all(check.result is SPFResult.PASS for check in checks)
    by_spf = by_spf and await dmarc.is_aligned(sender.domain, author, strict=strict_spf)
    by_key = False
    for key in keys:
        by_key = by_key or await dmarc.is_aligned(key.domain, author, strict=strict_dkim)
    if by_spf or by_key:
        ways = " and ".join(word for word, passes in (("SPF", by_spf), ("DKIM", by_key)) if passes)
        found.append(SenderFinding("alignment", Grade.GOOD, f"mail with {author} in From passes by {ways}"))
        return found
    if not checks and not sender.keys:
        found.append(SenderFinding("alignment", Grade.UNKNOWN, "neither an address nor a key is known to judge by"))
        return found
    if policy.temporary or any(check.result is SPFResult.TEMPERROR for check in checks):
        found.append(SenderFinding("alignment", Grade.UNKNOWN, "what it depends on could not be looked up"))
        return found
    enforced = policy.action is not dmarc.Action.NONE
    text = f"nothing that passes is aligned with {author} in From: neither SPF ({sender.domain}) nor a signature"
    receivers = asking(SenderRequirement.ALIGNMENT)
    if enforced:
        text += f"; all receivers that know DMARC {_WISHES[policy.action]} the mail"
        receivers = ("all that know DMARC",)
    found.append(SenderFinding("alignment", Grade.REFUSED if enforced else Grade.WEAK, text, receivers=receivers))
    return found


_WISHES = {
    dmarc.Action.NONE: "do nothing about",
    dmarc.Action.QUARANTINE: "set aside",
    dmarc.Action.REJECT: "refuse",
}


# -------------------------------------------------- what protects mail to the sender


async def _policies(sender: SenderFacts) -> list[SenderFinding]:
    """MTA-STS, TLS reports and BIMI of the sender's own domain."""
    domain = sender.domain
    lookup = await find_policy(domain, None, sender.now)
    found = []
    if lookup.failure is not None:
        found.append(SenderFinding("MTA-STS", Grade.WEAK, lookup.note))
    elif lookup.policy is not None and lookup.policy.mode is not PolicyMode.NONE:
        found.append(await _sts(domain, lookup))
        answer = await Query(f"_smtp._tls.{domain}", RecordType.TXT)
        if not any(report_addresses(_text(one).decode("latin-1")) for one in answer.records):
            text = "there is MTA-STS, and no address for reports of failures (RFC 8460)"
            publish = zone_entry(f"_smtp._tls.{domain}", f"v=TLSRPTv1; rua=mailto:postmaster@{domain}")
            found.append(SenderFinding("TLS reports", Grade.NOTE, text, (_shown(answer),), publish=publish))
    answer = await Query(f"default._bimi.{domain}", RecordType.TXT)
    if answer.status is Status.OK:
        found.append(_bimi(answer))
    return found


async def _sts(domain: str, lookup: PolicyLookup) -> SenderFinding:
    assert lookup.policy is not None
    answer = await Query(domain, RecordType.MX)
    hosts = [one.exchange for one in answer.records if isinstance(one, MX) and one.exchange]
    missing = [host for host in hosts if not lookup.policy.matches(host)]
    looked_up = (lookup.note, _shown(answer))
    if missing:
        text = f"the policy does not list {', '.join(missing)}: mail to {domain}, bounces too, does not go there"
        return SenderFinding("MTA-STS", Grade.WEAK, text, looked_up)
    return SenderFinding(
        "MTA-STS", Grade.GOOD, f"mode {lookup.policy.mode.value}; all mail exchangers are listed", looked_up
    )


def _bimi(answer: Answer) -> SenderFinding:
    """The syntax of a BIMI record: a list of tags, with an https location that may be empty."""
    text = _text(answer.records[0])
    try:
        tags = parse_tags(text)
        if tags.get(b"v") != b"BIMI1" or next(iter(tags)) != b"v":
            raise ValueError("v=BIMI1 is not the first tag")
        for name in (b"l", b"a"):
            location = tags.get(name, b"")
            if location and location != b"self" and not location.lower().startswith(b"https://"):
                raise ValueError(f"{name.decode()}= is no https address")
        if b"l" not in tags:
            raise ValueError("l= is missing")
    except ValueError as error:
        return SenderFinding("BIMI", Grade.WEAK, f"the record cannot be used: {error}", (_shown(answer),))
    return SenderFinding("BIMI", Grade.GOOD, "there is a record", (_shown(answer),))


# ---------------------------------------------------------------------- message


def _message(sender: SenderFacts) -> list[SenderFinding]:
    """What stands in the header of a message: fields that must be there, and how to unsubscribe (RFC 8058)."""
    header = unified_header(sender.header)[0]
    fields: dict[bytes, list[bytes]] = {}
    for name, value in field_values(header):
        fields.setdefault(name.lower(), []).append(value)
    found = []
    for name in (b"from", b"date", b"message-id"):
        number = len(fields.get(name, ()))
        if number != 1:
            word = name.decode().title()
            text = f"the field {word} is missing" if not number else f"{number} fields {word}, where one is allowed"
            found.append(SenderFinding("header", Grade.REFUSED, text, receivers=asking(SenderRequirement.HEADER)))
    links = b"".join(fields.get(b"list-unsubscribe", ()))
    one_click = b"".join(fields.get(b"list-unsubscribe-post", ())).strip().lower() == b"list-unsubscribe=one-click"
    if b"<https:" in links.lower() and one_click:
        found.append(SenderFinding("unsubscribe", Grade.GOOD, "by one click (RFC 8058)"))
    elif links or one_click or b"list-id" in fields:
        text = "no one-click unsubscribe: List-Unsubscribe with an https address and List-Unsubscribe-Post (RFC 8058)"
        found.append(SenderFinding("unsubscribe", Grade.WEAK, text, receivers=asking(SenderRequirement.ONE_CLICK)))
    return found


def _text(record: object) -> bytes:
    return b"".join(record) if isinstance(record, tuple) else b""


def _shown(answer: Answer) -> str:
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

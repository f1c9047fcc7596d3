"""Judges mail from a sender as receivers do: one finding for each fact that they check.

:func:`check_sender` awaits lookups; the other facts are arguments: the sender, the source addresses of its mail, its
HELO name, its signing keys, and perhaps a message. A finding has a text, a grade, the lookups it is based on, the
receivers that count the fault against the mail, and a record to publish instead, ready to paste::

    sender = SenderFacts("ann@example.org", addresses=("192.0.2.1",), helo="mail.example.org")
    for finding in await check_sender(sender):
        print(finding.topic, finding.grade.value, finding.text)

``REFUSED`` means that some receiver refuses or discards the mail; ``WEAK`` that it may count against the mail.
"""

from __future__ import annotations

from zsmtp.body.fields import field_values
from zsmtp.body.lines import unified_header
from zsmtp.dns.answer import MX, Answer, Query, RecordType, Status
from zsmtp.dns.heloname import check_helo
from zsmtp.dns.ip import canonical_ip
from zsmtp.dns.literal import domain_problem
from zsmtp.escape import escape
from zsmtp.sender import dmarc, spf
from zsmtp.sender.authentication import check_authentication, record_text
from zsmtp.sender.findings import Grade, SenderFacts, SenderFinding, shown, text_of
from zsmtp.sender.receivers import SenderRequirement, asking
from zsmtp.sender.spf import SPFResult
from zsmtp.signing.record import zone_entry
from zsmtp.signing.signature import parse_signature
from zsmtp.signing.tags import parse_tags
from zsmtp.tls.mtasts import PolicyLookup, PolicyMode, find_policy
from zsmtp.tls.tlsrpt import report_addresses

MAX_EXCHANGERS = 10
"""The most mail exchangers of a domain whose addresses are looked up."""
ONCE = (
    b"date", b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"message-id", b"in-reply-to", b"references",
    b"subject",
)  # fmt: skip
"""Names of fields that a message has at most once (RFC 5322 3.6)."""


async def check_sender(sender: SenderFacts) -> list[SenderFinding]:
    """All findings, in the order in which a receiver makes its checks."""
    findings = await check_acceptance(sender) + await _policies(sender)
    return findings + _message(sender) if sender.header else findings


async def check_acceptance(sender: SenderFacts) -> list[SenderFinding]:
    """The findings that decide about acceptance; only the DNS is queried."""
    findings = [*await _names(sender), *await _spf_of_helo(sender), *await _takes_mail(sender.domain, "bounces go")]
    if sender.author_domain != sender.domain:
        findings += await _takes_mail(sender.author_domain, "answers go")
    if not sender.uses_tls:
        text = "connections are not encrypted where that is offered (level none)"
        findings.append(SenderFinding("TLS", Grade.REFUSED, text, receivers=asking(SenderRequirement.TLS)))
    return findings + await check_authentication(sender)


# ------------------------------------------------------------------------ names


async def _names(sender: SenderFacts) -> list[SenderFinding]:
    """The findings on reverse and forward names of the addresses, and on the HELO name."""
    found = []
    for address in sender.addresses:
        check = await check_helo(sender.helo, address)
        looked_up = (f"PTR of {address}: {', '.join(check.reverse) or 'none'}",)
        askers = asking(SenderRequirement.REVERSE)
        if check.problem:
            found.append(SenderFinding("reverse name", Grade.UNKNOWN, f"{address}: {check.problem}", looked_up))
            continue
        answers = [await Query(name, _kind(address)) for name in check.reverse]
        confirmed = [answer.query.name for answer in answers if _has(answer, address)]
        if not check.reverse:
            text = f"{address} has no reverse name; the owner of the address can set one: {sender.helo}"
            found.append(SenderFinding("reverse name", Grade.REFUSED, text, looked_up, askers))
        elif not confirmed and any(answer.temporary for answer in answers):
            text = f"{address}: the addresses of {', '.join(check.reverse)} cannot be looked up now"
            found.append(SenderFinding("reverse name", Grade.UNKNOWN, text, looked_up))
        elif not confirmed:
            text = f"{', '.join(check.reverse)} does not resolve to {address}"
            publish = f"{check.reverse[0]}. IN {_kind(address).value} {address}\n"
            found.append(SenderFinding("reverse name", Grade.REFUSED, text, looked_up, askers, publish))
        else:
            text = f"{address} is {', '.join(confirmed)}, which resolves to it"
            found.append(SenderFinding("reverse name", Grade.GOOD, text, looked_up))
        found.append(await _greeting(sender.helo, address, confirmed=check.confirmed))
    return found


async def _greeting(name: str, address: str, *, confirmed: bool) -> SenderFinding:
    """The finding on the HELO name; ``confirmed``: it resolves to the address."""
    if confirmed:
        return SenderFinding("greeting", Grade.GOOD, f"{name} is a name of {address}")
    if domain_problem(name) is not None:
        text = f"{escape(name[:120])} is neither a host name nor the address (RFC 5321 4.1.1.1)"
        return SenderFinding("greeting", Grade.REFUSED, text, receivers=("many",))
    publish = f"{name}. IN {_kind(address).value} {address}\n"
    answers = [await Query(name, kind) for kind in (RecordType.A, RecordType.AAAA)]
    looked_up = tuple([shown(answer) for answer in answers])
    if any(answer.temporary for answer in answers):
        text = f"the addresses of {name}, which this side greets with, cannot be looked up now"
        return SenderFinding("greeting", Grade.UNKNOWN, text, looked_up)
    if all(answer.status is not Status.OK for answer in answers):
        text = f"{name}, which this side greets with, has no address"
        return SenderFinding("greeting", Grade.REFUSED, text, looked_up, ("some",), publish)
    text = f"{name}, which this side greets with, is no name of {address}"
    return SenderFinding("greeting", Grade.WEAK, text, looked_up, publish=publish)


def _kind(address: str) -> RecordType:
    return RecordType.AAAA if ":" in address else RecordType.A


def _has(answer: Answer, address: str) -> bool:
    return any(isinstance(one, str) and canonical_ip(one) == address for one in answer.records)


# -------------------------------------------------------------------- exchangers


async def _takes_mail(domain: str, purpose: str) -> list[SenderFinding]:
    """The findings on whether a domain shown in mail accepts mail, by the DNS; ``purpose``: the mail that goes there.

    Receivers check the domain of the reverse-path and that of From (RFC 7505 4.2).
    """
    answer = await Query(domain, RecordType.MX)
    looked_up = (shown(answer),)
    if answer.temporary:
        return [SenderFinding("MX", Grade.UNKNOWN, f"the MX records of {domain} cannot be looked up now", looked_up)]
    exchangers = [one for one in answer.records if isinstance(one, MX)]
    if any(not one.exchange for one in exchangers):
        text = f"{domain} says that it takes no mail (null MX): mail from it is refused (RFC 7505 4.2)"
        return [SenderFinding("MX", Grade.REFUSED, text, looked_up, ("many",))]
    if not exchangers:
        addresses = [await Query(domain, kind) for kind in (RecordType.A, RecordType.AAAA)]
        if any(one.status is Status.OK for one in addresses):
            text = f"{domain} has no MX record; {purpose} to its own address (RFC 5321 5.1)"
            return [SenderFinding("MX", Grade.NOTE, text, looked_up)]
        text = f"{domain} does not exist, or has neither MX nor address: mail from it is refused"
        return [SenderFinding("MX", Grade.REFUSED, text, looked_up, ("nearly all",))]
    exchangers = sorted(exchangers, key=lambda one: one.preference)[:MAX_EXCHANGERS]
    problems = [problem for one in exchangers if (problem := await _exchanger_problem(one.exchange))]
    if len(problems) == len(exchangers):
        return [SenderFinding("MX", Grade.REFUSED, "; ".join(problems), looked_up, ("some",))]
    if problems:
        return [SenderFinding("MX", Grade.WEAK, "; ".join(problems), looked_up)]
    text = f"{purpose} to {', '.join(one.exchange for one in exchangers)}"
    return [SenderFinding("MX", Grade.GOOD, text, looked_up)]


async def _exchanger_problem(host: str) -> str:
    """The fault of the name of a mail exchanger."""
    if canonical_ip(host) is not None:
        return f"the MX {host} is an address, where a name is expected (RFC 5321 5.1)"
    answers = [await Query(host, kind) for kind in (RecordType.A, RecordType.AAAA)]
    if any(one.temporary for one in answers):
        return ""
    if all(one.status is not Status.OK for one in answers):
        return f"the MX {host} has no address"
    alias = next((one.canonical for one in answers if one.canonical.lower() not in ("", host.lower())), "")
    return f"the MX {host} is an alias (CNAME) of {alias}, which RFC 2181 10.3 forbids" if alias else ""


async def _spf_of_helo(sender: SenderFacts) -> list[SenderFinding]:
    """SPF of the HELO name, which applies to mail with the null reverse-path: bounces and notices (RFC 7208 2.3)."""
    if not sender.addresses or domain_problem(sender.helo) is not None or sender.helo.lower() == sender.domain:
        return []
    address = sender.addresses[0]
    check = await spf.check_host(address, sender.helo, f"postmaster@{sender.helo}".encode(), helo=sender.helo)
    looked_up = (f"TXT {sender.helo}: {record_text(check)}",)
    if check.result is SPFResult.PASS:
        return [SenderFinding("SPF of the greeting", Grade.GOOD, f"{address} may send as {sender.helo}", looked_up)]
    if check.result in (SPFResult.FAIL, SPFResult.PERMERROR):
        text = f"{check.result.value}: {check.reason}; notices, whose sender is null, are refused"
        return [SenderFinding("SPF of the greeting", Grade.REFUSED, text, looked_up, ("some",))]
    publish = zone_entry(sender.helo, "v=spf1 a -all") if check.result is SPFResult.NONE else ""
    text = f"{check.result.value}: {check.reason}"
    return [SenderFinding("SPF of the greeting", Grade.NOTE, text, looked_up, publish=publish)]


# -------------------------------------------------- what protects mail to the sender


async def _policies(sender: SenderFacts) -> list[SenderFinding]:
    """MTA-STS and TLS reports of the domains that receive bounces and replies; BIMI of the one in From."""
    found = []
    for domain in dict.fromkeys((sender.domain, sender.author_domain)):
        found += await _transport_policy(domain, sender.now)
    return found + await _bimi(sender.author_domain)


async def _transport_policy(domain: str, now: float) -> list[SenderFinding]:
    """The findings on MTA-STS, and on reports of failures."""
    lookup = await find_policy(domain, None, now)
    if lookup.failure is not None:
        return [SenderFinding("MTA-STS", Grade.WEAK, lookup.note)]
    if lookup.policy is None or lookup.policy.mode is PolicyMode.NONE:
        return []
    found = [await _sts(domain, lookup)]
    answer = await Query(f"_smtp._tls.{domain}", RecordType.TXT)
    if not any(report_addresses(text_of(one).decode("latin-1")) for one in answer.records):
        text = "there is MTA-STS, and no address for reports of failures (RFC 8460)"
        publish = zone_entry(f"_smtp._tls.{domain}", f"v=TLSRPTv1; rua=mailto:postmaster@{domain}")
        found.append(SenderFinding("TLS reports", Grade.NOTE, text, (shown(answer),), publish=publish))
    return found


async def _sts(domain: str, lookup: PolicyLookup) -> SenderFinding:
    assert lookup.policy is not None
    answer = await Query(domain, RecordType.MX)
    hosts = [one.exchange for one in answer.records if isinstance(one, MX) and one.exchange]
    missing = [host for host in hosts if not lookup.policy.matches(host)]
    looked_up = (lookup.note, shown(answer))
    if missing:
        text = f"the policy does not list {', '.join(missing)}: mail to {domain}, bounces too, does not go there"
        return SenderFinding("MTA-STS", Grade.WEAK, text, looked_up)
    return SenderFinding(
        "MTA-STS", Grade.GOOD, f"mode {lookup.policy.mode.value}; all mail exchangers are listed", looked_up
    )


async def _bimi(author: str) -> list[SenderFinding]:
    """The BIMI record of a domain or its organisational domain: its syntax, and the conditions for its use."""
    for domain in dict.fromkeys((author, await dmarc.organisational_domain(author))):
        answer = await Query(f"default._bimi.{domain}", RecordType.TXT)
        records = [text for one in answer.records if (text := text_of(one)).lower().lstrip().startswith(b"v=bimi")]
        if records:
            return [await _bimi_record(author, answer, records)]
    return []


async def _bimi_record(author: str, answer: Answer, records: list[bytes]) -> SenderFinding:
    problem = f"{len(records)} records, where one is allowed" if len(records) > 1 else _bimi_problem(records[0])
    if problem:
        return SenderFinding("BIMI", Grade.WEAK, f"the record cannot be used: {problem}", (shown(answer),))
    policy = await dmarc.find_policy(author, exists=await dmarc.domain_exists(author))
    if policy.record is not None and policy.action is dmarc.Action.NONE:
        text = "there is a record, which counts only if DMARC asks to set aside or to refuse (p=quarantine, p=reject)"
        return SenderFinding("BIMI", Grade.NOTE, text, (shown(answer),))
    return SenderFinding("BIMI", Grade.GOOD, "there is a record", (shown(answer),))


def _bimi_problem(text: bytes) -> str:
    """The fault of a BIMI record: a list of tags, with an https location that may be empty."""
    try:
        tags = parse_tags(text)
    except ValueError as error:
        return str(error)
    if tags.get(b"v") != b"BIMI1" or next(iter(tags)) != b"v":
        return "v=BIMI1 is not the first tag"
    for name in (b"l", b"a"):
        location = tags.get(name, b"")
        if location and location != b"self" and not location.lower().startswith(b"https://"):
            return f"{name.decode()}= is no https address"
    return "" if b"l" in tags else "l= is missing"


# ---------------------------------------------------------------------- message


def _message(sender: SenderFacts) -> list[SenderFinding]:
    """The findings on the header of a message: required fields, and one-click unsubscription."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in field_values(unified_header(sender.header)[0]):
        fields.setdefault(name.lower(), []).append(value)
    found = [*_missing(sender, fields), *_repeated(fields)]
    return found + _unsubscribe(sender, fields)


def _missing(sender: SenderFacts, fields: dict[bytes, list[bytes]]) -> list[SenderFinding]:
    """The findings on missing fields that are required (RFC 5322 3.6)."""
    found = []
    for name in (b"from", b"date", b"message-id"):
        if name in fields:
            continue
        text = f"the field {_shown_name(name)} is missing"
        if sender.adds_missing and name != b"from":
            found.append(SenderFinding("header", Grade.NOTE, f"{text}, and is added"))
        else:
            found.append(SenderFinding("header", Grade.REFUSED, text, receivers=asking(SenderRequirement.HEADER)))
    return found


def _repeated(fields: dict[bytes, list[bytes]]) -> list[SenderFinding]:
    """The findings on repeated fields of which one is allowed (RFC 5322 3.6)."""
    found = []
    for name in ONCE:
        number = len(fields.get(name, ()))
        if number > 1:
            text = f"{number} fields {_shown_name(name)}, where one is allowed"
            found.append(SenderFinding("header", Grade.REFUSED, text, receivers=asking(SenderRequirement.HEADER)))
    return found


def _unsubscribe(sender: SenderFacts, fields: dict[bytes, list[bytes]]) -> list[SenderFinding]:
    """The findings on one-click unsubscription, which counts if a signature covers both fields (RFC 8058 4)."""
    links, post = fields.get(b"list-unsubscribe", []), fields.get(b"list-unsubscribe-post", [])
    receivers = asking(SenderRequirement.ONE_CLICK)
    one_click = [value.strip().lower() for value in post] == [b"list-unsubscribe=one-click"]
    if not (one_click and len(links) == 1 and b"<https:" in links[0].lower()):
        if not (links or post or b"list-id" in fields):
            return []  # it is no list mail
        text = "no one-click unsubscribe: List-Unsubscribe with an https address and List-Unsubscribe-Post (RFC 8058)"
        return [SenderFinding("unsubscribe", Grade.WEAK, text, receivers=receivers)]
    signatures = fields.get(b"dkim-signature", [])
    if any(_covers(value, b"list-unsubscribe", b"list-unsubscribe-post") for value in signatures):
        return [SenderFinding("unsubscribe", Grade.GOOD, "by one click (RFC 8058), covered by the signature")]
    if sender.keys and not signatures:  # a signed message gets no further signature
        return [SenderFinding("unsubscribe", Grade.GOOD, "by one click (RFC 8058), to be covered by a signature")]
    text = "one-click unsubscribe counts for nothing: no signature covers both of its fields (RFC 8058 4)"
    return [SenderFinding("unsubscribe", Grade.WEAK, text, receivers=receivers)]


def _covers(value: bytes, *names: bytes) -> bool:
    """Whether a DKIM-Signature covers these fields."""
    try:
        return set(names) <= set(parse_signature(value).signed)
    except ValueError:
        return False


def _shown_name(name: bytes) -> str:
    return {b"message-id": "Message-ID"}.get(name, name.decode().title())

"""Authentication of a sender as receivers check it: SPF, DKIM, DMARC, and which domains are aligned.

:func:`check_authentication` awaits lookups. It is the part of ``zsmtp.sender.checks`` that depends on the signing keys
and the source addresses of mail, and ``zsmtp explain`` shows its findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from zsmtp.dns.answer import Query, RecordType
from zsmtp.escape import escape
from zsmtp.records import replace
from zsmtp.sender import dmarc, spf
from zsmtp.sender.findings import Grade, PublishedKey, SenderFacts, SenderFinding, shown
from zsmtp.sender.receivers import SenderRequirement, asking
from zsmtp.sender.spf import SPFCheck, SPFResult
from zsmtp.signing.record import NoRecord, key_record, record_in, zone_entry
from zsmtp.signing.signature import Algorithm

MIN_BITS = 1024
"""Bits of an RSA key: verifiers ignore signatures of a shorter one (RFC 8301 3.2)."""


async def check_authentication(sender: SenderFacts) -> list[SenderFinding]:
    """The findings on SPF for each address, the signing keys, DMARC, and the alignment of the domains that pass."""
    findings = [] if sender.addresses else [no_address(sender)]
    source = sender.address.encode()
    checks = [await spf.check_host(ip, sender.domain, source, helo=sender.helo) for ip in sender.addresses]
    findings += _spf(sender, checks)
    valid: list[PublishedKey] = []
    for key in sender.keys:
        finding = await _key(key)
        findings.append(finding)
        if finding.grade in (Grade.GOOD, Grade.WEAK):
            valid.append(key)
    for key in sender.next_keys:
        findings += await _next_key(key)
    if not sender.keys:
        findings.append(_unsigned(sender, checks))
    return findings + await _dmarc(sender, checks, valid)


def no_address(sender: SenderFacts) -> SenderFinding:
    """The finding that no source address is known, with the reason."""
    text = sender.problems.get("addresses", "no address is known that mail comes from")
    return SenderFinding("address", Grade.UNKNOWN, text)


# -------------------------------------------------------------------------- SPF


def _spf(sender: SenderFacts, checks: Sequence[SPFCheck]) -> list[SenderFinding]:
    """The findings on SPF of the reverse-path, for each address."""
    found = []
    lacking = (SPFResult.NONE, SPFResult.FAIL, SPFResult.SOFTFAIL, SPFResult.NEUTRAL)
    missing = [ip for ip, check in zip(sender.addresses, checks, strict=True) if check.result in lacking]
    for address, check in zip(sender.addresses, checks, strict=True):
        looked_up = (f"TXT {sender.domain}: {record_text(check)}",)
        publish = ""
        if check.result is SPFResult.PASS:
            lookups = f"{check.lookups} of {spf.MAX_LOOKUPS} lookups"
            grade, text = Grade.GOOD, f"{address} may send: {check.reason} ({lookups})"
        elif check.result is SPFResult.TEMPERROR:
            grade, text = Grade.UNKNOWN, check.reason
        else:
            refused = check.result in (SPFResult.FAIL, SPFResult.PERMERROR, SPFResult.NONE)
            grade, text = Grade.REFUSED if refused else Grade.WEAK, f"{check.result.value}: {check.reason}"
            if check.result is not SPFResult.PERMERROR:
                publish = zone_entry(sender.domain, _record_with(missing, check))
        receivers = () if grade is Grade.GOOD else asking(SenderRequirement.SPF, SenderRequirement.SPF_OR_DKIM)
        found.append(SenderFinding("SPF", grade, text, looked_up, receivers, publish))
    return found


def _record_with(addresses: Sequence[str], check: SPFCheck) -> str:
    """The record of a domain with these addresses added: only one record is allowed."""
    networks = " ".join(f"ip{6 if ':' in address else 4}:{address}" for address in addresses)
    return f"v=spf1 {networks}{check.record[len('v=spf1') :] or ' -all'}"


def record_text(check: SPFCheck) -> str:
    """The SPF record of a check, as text for people."""
    if check.record:
        return escape(check.record[:400])
    return "not known" if check.result is SPFResult.TEMPERROR else "no SPF record"


# ------------------------------------------------------------------------- DKIM


async def _key(key: PublishedKey) -> SenderFinding:
    """The finding on the published record of a signing key."""
    answer = await Query(key.name, RecordType.TXT)
    looked_up = (shown(answer),)
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
    if record.strict and key.identity not in ("", key.domain):
        text = (
            f"the key at {key.name} is for {key.domain} only (t=s), and i= names {key.identity}: no signature is valid"
        )
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
    text = f"the key at {key.name} is published: {key.algorithm.value}, {key.bits} bits"
    return SenderFinding("DKIM", Grade.GOOD, text, looked_up)


async def _next_key(key: PublishedKey) -> list[SenderFinding]:
    """The finding on a missing record of a key that signs later; none if it is published."""
    finding = await _key(key)
    if finding.grade is Grade.GOOD:
        return []
    begins = datetime.fromtimestamp(key.active_from, UTC).strftime("%Y-%m-%d %H:%M UTC")
    grade = Grade.WEAK if finding.grade is Grade.REFUSED else finding.grade
    return [replace(finding, grade=grade, text=f"the next key, which signs from {begins}: {finding.text}")]


def _unsigned(sender: SenderFacts, checks: Sequence[SPFCheck]) -> SenderFinding:
    """The finding that mail is not signed: it is refused if SPF does not pass either."""
    passed = [check.result is SPFResult.PASS for check in checks]
    enough = all(passed) or any(check.result is SPFResult.TEMPERROR for check in checks)
    wanted = (SenderRequirement.DKIM,) if enough else (SenderRequirement.DKIM, SenderRequirement.SPF_OR_DKIM)
    text = f"{sender.unsigned or 'no key is configured'}: mail is not signed; zsmtp dkim key DOMAIN SELECTOR makes one"
    return SenderFinding("DKIM", Grade.WEAK if enough else Grade.REFUSED, text, receivers=asking(*wanted))


# ------------------------------------------------------------------------ DMARC


async def _dmarc(sender: SenderFacts, checks: Sequence[SPFCheck], keys: Sequence[PublishedKey]) -> list[SenderFinding]:
    """The finding on DMARC, passed by SPF or by one of these keys, and the domain's policy for mail that fails."""
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
    if not checks:
        text = "no signature passes, and whether SPF does depends on an address that is not known"
        found.append(SenderFinding("alignment", Grade.UNKNOWN, text))
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

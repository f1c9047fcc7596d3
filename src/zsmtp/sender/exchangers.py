"""Judges a sender's own mail exchangers as other servers meet them: do they accept bounces, does DANE match (RFC 7672)?

:func:`check_exchanger` takes the result of a connection to one of them, and awaits the lookup of its TLSA records. It
compares these with the certificate even if the zone is unsigned or this side does not validate, because other senders
may. As soon as they do, a record for an old certificate keeps mail out.
"""

from __future__ import annotations

from datetime import UTC, datetime

from zsmtp.dns.answer import TLSA, Query, RecordType
from zsmtp.escape import escape
from zsmtp.records import dataclass
from zsmtp.sender.findings import Grade, SenderFinding
from zsmtp.tls.certificate import Certificate
from zsmtp.tls.dane import DANE_EE, anchors, described, end_entity_match, matches, record_for, usable

ROLLOVER = 14 * 86400.0
"""Seconds before the end of a certificate from which on the finding mentions its TLSA records."""
_SHOWN = 200  # characters of a reply


@dataclass(frozen=True, slots=True)
class TriedExchanger:
    """The result of a connection to one address of a mail exchanger."""

    host: str
    address: str
    port: int
    problem: str = ""
    """The reason why no session was opened, "" if one was."""
    session: str = ""
    """The protection of the session, as text for people."""
    leaf: Certificate | None = None
    """Its certificate; None if it sent none."""
    chain: tuple[bytes, ...] = ()
    """All certificates that it sent, in DER, its own first."""
    bounce: str = ""
    """The reply that refused a bounce to the sender; "" if none was tried, or it was accepted."""
    refused: bool = False
    """The bounce was refused permanently."""


async def check_exchanger(tried: TriedExchanger, now: float) -> list[SenderFinding]:
    """The findings on one address of an exchanger; ``now`` in seconds since 1970."""
    where = f"{tried.host} [{tried.address}]"
    if tried.problem:
        found = [SenderFinding("exchanger", Grade.WEAK, f"{where}: {escape(tried.problem[:_SHOWN])}")]
    else:
        found = [SenderFinding("exchanger", Grade.GOOD, f"{where} takes mail, {tried.session}")]
    if tried.bounce:
        grade = Grade.REFUSED if tried.refused else Grade.WEAK
        text = f"{where} does not take a bounce: {escape(tried.bounce[:_SHOWN])}"
        receivers = ("those that verify the sender's address",) if tried.refused else ()
        found.append(SenderFinding("bounce", grade, text, receivers=receivers))
    if tried.leaf is not None:
        found += await _tlsa(tried, tried.leaf, now)
    return found


async def _tlsa(tried: TriedExchanger, leaf: Certificate, now: float) -> list[SenderFinding]:
    """The finding on whether the TLSA records of a host match its certificate, and for how long."""
    name = f"_{tried.port}._tcp.{tried.host}"
    answer = await Query(name, RecordType.TLSA)
    records = usable(answer.records)
    if not records:
        return []
    looked_up = (f"TLSA {name}: {', '.join(described(record) for record in records)}",)
    own = end_entity_match(records, leaf)
    authorities = anchors(records, tried.chain)
    publish = _zone_entry(name, record_for(leaf))
    if own is None and not authorities:
        text = f"no TLSA record at {name} matches the certificate of {tried.host}: senders with DANE send no mail there"
        return [SenderFinding("TLSA", Grade.WEAK, text, looked_up, publish=publish)]
    others = [record for record in records if record.usage == DANE_EE and not matches(record, leaf)]
    ends = datetime.fromtimestamp(leaf.not_after, UTC).strftime("%Y-%m-%d")
    if own is not None and not others and not authorities and leaf.not_after < now + ROLLOVER:
        text = (
            f"the certificate of {tried.host} expires on {ends}, and all TLSA records match only it: publish the "
            "record of the next key before that key is in use (RFC 7671 8.1)"
        )
        return [SenderFinding("TLSA", Grade.NOTE, text, looked_up)]
    text = f"a TLSA record at {name} matches the certificate of {tried.host}"
    return [SenderFinding("TLSA", Grade.GOOD, text, looked_up)]


def _zone_entry(name: str, record: TLSA) -> str:
    return f"{name}. IN TLSA {record.usage} {record.selector} {record.matching} {record.data.hex()}\n"

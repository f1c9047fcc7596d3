"""Texts of traces for records, DNSSEC status of answers, and transactions."""

from __future__ import annotations

from zsmtp import events
from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Status
from zsmtp.escape import escape
from zsmtp.observers.document import MAX_LINES, Safety


def transaction_text(event: events.TransactionStarted) -> str:
    """A description of one transaction."""
    transaction, count = event.transaction, len(event.recipients)
    form = transaction.content.body
    words = [
        f"{count} recipient{'s' if count != 1 else ''} in one transaction",
        f"{transaction.content.size} octets" + (f" of {form.decode('ascii', 'replace')}" if form else ""),
    ]
    if event.riding:
        words.append(transaction.flow.value)
    return ", ".join(words)


def safety_of(answer: Answer) -> Safety:
    """The DNSSEC status of an answer."""
    if answer.status is Status.BOGUS:
        return Safety.BOGUS
    return Safety.SECURE if answer.secure else Safety.INSECURE


def record_text(record: object) -> str:
    """A record in a form close to zone files."""
    match record:
        case MX(preference, exchange):
            return f"{preference} {exchange}."
        case TLSA(usage, selector, matching, data):
            return f"{usage} {selector} {matching} {data.hex()}"
        case WKS(address, protocol, ports):
            return f"{address} {protocol} {' '.join(map(str, sorted(ports)[:MAX_LINES]))}"
        case tuple():
            return " ".join(f'"{escape(part)}"' for part in record)
    return str(record)

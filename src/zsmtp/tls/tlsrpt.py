"""TLSRPT: reports to a domain about the TLS sessions with its mail exchangers (RFC 8460).

A domain asks for reports with a TXT record at ``_smtp._tls.`` (:func:`find_record`). Every session to which a TLS
policy applies gives a :class:`SessionResult`: the policy, and the failure if it was not met. Many processes have
sessions, so each result becomes a line of a file (:func:`encode_result`); once a day is over :func:`build_reports`
counts the lines and makes one JSON report per domain, compressed, with its name (5.1), ready for the POST of an
``https:`` address or as the mail that :func:`report_mail` wraps it in (5.3).

Sites that run a report collector send it each result at once instead: :func:`collector_datagram` is the datagram that
libtlsrpt, as used by Postfix, sends to tlsrpt-collectd (version 1 of that format).

Nothing here reads a clock or a file: times are arguments, in seconds since 1970.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from urllib.parse import unquote_to_bytes

from zsmtp.dns.answer import Query, RecordType
from zsmtp.escape import escape
from zsmtp.records import dataclass, field
from zsmtp.tls.problem import TLSProblem

MAX_RECORD = 4096  # octets of a TXT record that is parsed
MAX_LINE = 64 * 1024  # octets of one encoded result; a longer one omits the text of its policy
MAX_DOMAIN = 255  # characters
MAX_TEXT = 1000  # characters of any text in a report
MAX_STRINGS = 100  # policy strings or mx patterns kept
MAX_DETAILS = 1000  # failure details of one policy; further ones only count in the sums

_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,255}")


class PolicyType(Enum):
    """The kind of policy applied to a session (4.4)."""

    TLSA = "tlsa"
    STS = "sts"
    NONE = "no-policy-found"


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """A policy in the form for reports (4.5).

    ``domain`` is the domain that published it. ``strings`` are its lines (sts) or the records in presentation form
    (tlsa), ``mx_hosts`` the patterns of an sts policy.
    """

    type: PolicyType
    domain: str
    strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a session did not meet its policy; unknown texts are "".

    ``sending_ip`` and ``receiving_ip`` are addresses, ``mx_host`` the exchanger's name, ``mx_helo`` the name it greeted
    with, ``information`` a URI with details, ``reason`` a short text such as ``X509_V_ERR_CERT_REVOKED``.
    """

    problem: TLSProblem
    sending_ip: str = ""
    mx_host: str = ""
    mx_helo: str = ""
    receiving_ip: str = ""
    information: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SessionResult:
    """The result of a session for mail to ``domain``, which requests reports with ``record``, under ``policy``."""

    domain: str
    record: str
    policy: AppliedPolicy
    failure: Failure | None = None


# -------------------------------------------------------------- the TXT record


async def find_record(domain: str) -> str | None:
    """The record with which ``domain`` requests reports, or None; awaits one lookup (RFC 8460 3)."""
    answer = await Query(f"_smtp._tls.{domain}", RecordType.TXT)
    texts = [_joined(record) for record in answer.records if isinstance(record, tuple)]
    found = [text for text in texts if text is not None and report_addresses(text)]
    return found[0] if len(found) == 1 else None


def _joined(strings: tuple[bytes, ...]) -> str | None:
    octets = b"".join(strings)
    if len(octets) > MAX_RECORD or not octets.isascii():
        return None
    text = octets.decode()
    return text if text.isprintable() else None


def report_addresses(record: str) -> tuple[str, ...]:
    """The ``mailto:`` and ``https:`` addresses of a ``v=TLSRPTv1`` record; empty for anything else."""
    fields = [part.strip(" \t") for part in record.split(";")]
    if fields[0] != "v=TLSRPTv1":
        return ()
    for name, separator, value in (part.partition("=") for part in fields[1:]):
        if name.strip() == "rua" and separator:
            addresses = (address.strip() for address in value.split(","))
            return tuple(a for a in addresses if a.lower().startswith(("mailto:", "https:")))
    return ()


def mail_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """The mailboxes behind ``mailto:`` addresses (RFC 6068); others are skipped."""
    found = []
    for address in addresses:
        scheme, _, rest = address.partition(":")
        mailbox = unquote_to_bytes(rest.partition("?")[0]).decode("ascii", "replace")
        if scheme.lower() == "mailto" and is_plain_mailbox(mailbox):
            found.append(mailbox)
    return tuple(dict.fromkeys(found))


def is_plain_mailbox(text: str) -> bool:
    """Whether a text is ``local-part@domain`` without quotes, comments or other characters special in a header."""
    return _MAILBOX.fullmatch(text) is not None


# ---------------------------------------------------- one result as a line or datagram

_BEGINNING = b'{"at":'  # of each line
_FAILURE_KEYS = {
    "sending_ip": "sending-mta-ip",
    "mx_host": "receiving-mx-hostname",
    "mx_helo": "receiving-mx-helo",
    "receiving_ip": "receiving-ip",
    "information": "additional-information",
    "reason": "failure-reason-code",
}


def encode_result(result: SessionResult, at: float) -> bytes:
    """A line, ended with LF, for :func:`decode_result`; ``at`` is the time of the session."""
    words: dict[str, Any] = {
        "at": int(at),
        "domain": _short(result.domain),
        "record": result.record[:MAX_RECORD],
        "policy": _policy_words(result.policy),
    }
    if result.failure is not None:
        words["failure"] = _failure_words(result.failure)
    return _compact(words, words["policy"]) + b"\n"


def _compact(words: dict[str, Any], policy: dict[str, Any]) -> bytes:
    octets = json.dumps(words, separators=(",", ":")).encode()
    if len(octets) >= MAX_LINE:
        policy.pop("policy-string", None)
        policy.pop("mx-host", None)
        octets = json.dumps(words, separators=(",", ":")).encode()
    return octets


def decode_result(line: bytes) -> tuple[SessionResult, int]:
    """The result in a line, and its time. Raises ValueError for an invalid line, such as one cut off by a crash."""
    if len(line) > MAX_LINE:
        raise ValueError("line too long")
    try:
        words = json.loads(line)
        policy, failure = words["policy"], words.get("failure")
        applied = AppliedPolicy(
            PolicyType(policy["policy-type"]),
            _text(policy["policy-domain"]),
            tuple(_text(text) for text in policy.get("policy-string", ())),
            tuple(_text(text) for text in policy.get("mx-host", ())),
        )
        found = None
        if failure is not None:
            texts = {name: _text(failure.get(key, "")) for name, key in _FAILURE_KEYS.items()}
            found = Failure(TLSProblem(failure["result-type"]), **texts)
        at = words["at"]
        if not isinstance(at, int) or not 0 <= at < 1 << 40:
            raise ValueError("not a time")
        domain = _text(words["domain"])
        if not 1 <= len(domain) <= MAX_DOMAIN:
            raise ValueError("not a domain")
        return SessionResult(domain, _text(words["record"]), applied, found), at
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a session result: {error}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def _short(text: str) -> str:
    return escape(text)[:MAX_TEXT]


def _policy_words(policy: AppliedPolicy) -> dict[str, Any]:
    words: dict[str, Any] = {"policy-type": policy.type.value, "policy-domain": _short(policy.domain)}
    if policy.strings:
        words["policy-string"] = [_short(text) for text in policy.strings[:MAX_STRINGS]]
    if policy.mx_hosts:
        words["mx-host"] = [_short(text) for text in policy.mx_hosts[:MAX_STRINGS]]
    return words


def _failure_words(failure: Failure) -> dict[str, Any]:
    words = {"result-type": failure.problem.value}
    for name, key in _FAILURE_KEYS.items():
        text = getattr(failure, name)
        if text:
            words[key] = _short(text)
    return words


# Numbers and one-letter keys of the collector's format.
_COLLECTOR_POLICIES = {PolicyType.TLSA: 1, PolicyType.STS: 2, PolicyType.NONE: 9}
_COLLECTOR_PROBLEMS = {
    TLSProblem.STARTTLS_NOT_SUPPORTED: 201,
    TLSProblem.CERTIFICATE_HOST_MISMATCH: 202,
    TLSProblem.CERTIFICATE_NOT_TRUSTED: 203,
    TLSProblem.CERTIFICATE_EXPIRED: 204,
    TLSProblem.VALIDATION_FAILURE: 205,
    TLSProblem.STS_POLICY_FETCH_ERROR: 301,
    TLSProblem.STS_POLICY_INVALID: 302,
    TLSProblem.STS_WEBPKI_INVALID: 303,
    TLSProblem.TLSA_INVALID: 304,
    TLSProblem.DNSSEC_INVALID: 305,
    TLSProblem.DANE_REQUIRED: 306,
}
_COLLECTOR_KEYS = {
    "sending_ip": "s",
    "mx_host": "n",
    "mx_helo": "h",
    "receiving_ip": "r",
    "information": "a",
    "reason": "f",
}


def collector_datagram(result: SessionResult) -> bytes:
    """The result as one datagram for the socket of a report collector (tlsrpt-collectd)."""
    policy = _policy_words(result.policy)
    policy["policy-type"] = _COLLECTOR_POLICIES[result.policy.type]
    failure = result.failure
    if failure is not None:
        details: dict[str, Any] = {"c": _COLLECTOR_PROBLEMS[failure.problem]}
        details |= {
            key: _short(getattr(failure, name)) for name, key in _COLLECTOR_KEYS.items() if getattr(failure, name)
        }
        policy["failure-details"] = [details]
    policy["t"] = policy["f"] = (
        0 if failure is None else 1
    )  # failures listed, and whether the session failed in the end
    words = {"dpv": "1", "d": _short(result.domain), "pr": result.record[:MAX_RECORD], "policies": [policy]}
    return _compact(words, policy)


# ------------------------------------------------------------------ the reports


@dataclass(slots=True)
class _Count:
    """The sums of a day for one policy."""

    succeeded: int = 0
    failed: int = 0
    details: dict[Failure, int] = field(default_factory=dict)

    def add(self, failure: Failure | None) -> None:
        if failure is None:
            self.succeeded += 1
            return
        self.failed += 1
        if failure in self.details or len(self.details) < MAX_DETAILS:
            self.details[failure] = self.details.get(failure, 0) + 1


@dataclass(frozen=True, slots=True)
class ReportingOrganization:
    """The reporter: ``organization`` and ``contact`` (an address) for people, ``domain`` of the report's sender."""

    organization: str
    contact: str
    domain: str


@dataclass(frozen=True, slots=True)
class TLSReport:
    """One domain's report of one day. ``body`` is gzip over JSON (application/tlsrpt+gzip) for all ``addresses``."""

    id: str
    domain: str
    filename: str
    body: bytes
    addresses: tuple[str, ...]

    def json(self) -> bytes:
        """The report uncompressed (application/tlsrpt+json)."""
        return zlib.decompress(self.body, 31)


@dataclass(frozen=True, slots=True)
class DayReports:
    """The reports of a day; ``skipped`` counts invalid lines, and those of other days."""

    reports: tuple[TLSReport, ...]
    skipped: int


def _apart(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines; separates a line cut off by a full disk from the next one."""
    for line in lines:
        start = max(line.rfind(_BEGINNING), 0)  # no JSON string contains it: quotes in one have backslashes
        if start:
            yield line[:start]
        yield line[start:]


def build_reports(lines: Iterable[bytes], day: str, reporter: ReportingOrganization, unique: str) -> DayReports:
    """The reports of ``day`` (``2026-01-31``, in UTC) from encoded results, one for each domain that requests them.

    ``unique`` makes report ids differ from those of other runs (letters and digits). Raises ValueError for an invalid
    day.
    """
    start = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    begin = int(start.timestamp())
    counts: dict[str, dict[AppliedPolicy, _Count]] = {}
    records: dict[str, str] = {}
    skipped = 0
    for line in _apart(lines):
        try:
            result, at = decode_result(line)
        except ValueError:
            skipped += 1
            continue
        if not begin <= at < begin + 86400:
            skipped += 1
            continue
        domain = result.domain.lower()
        records[domain] = result.record
        counts.setdefault(domain, {}).setdefault(result.policy, _Count()).add(result.failure)
    reports = (
        _report(domain, policies, records[domain], start, reporter, f"{start:%Y%m%d}.{number}.{unique}")
        for number, (domain, policies) in enumerate(sorted(counts.items()), 1)
    )
    return DayReports(tuple(report for report in reports if report.addresses), skipped)


def _report(
    domain: str,
    policies: dict[AppliedPolicy, _Count],
    record: str,
    start: datetime,
    reporter: ReportingOrganization,
    number: str,
) -> TLSReport:
    """The JSON of 4.4, under the file name of 5.1."""
    end = start + timedelta(days=1, seconds=-1)
    report_id = f"{number}.{domain}@{reporter.domain}"
    words = {
        "organization-name": reporter.organization,
        "date-range": {"start-datetime": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end-datetime": f"{end:%Y-%m-%dT%H:%M:%SZ}"},
        "contact-info": reporter.contact,
        "report-id": report_id,
        "policies": [_policy_report(policy, count) for policy, count in policies.items()],
    }
    text = json.dumps(words, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    compressor = zlib.compressobj(level=9, wbits=31)  # 31: with the header and trailer of gzip
    begin = int(start.timestamp())
    stamps = f"{begin}!{begin + 86399}!{number.replace('.', '-')}"
    return TLSReport(
        report_id,
        domain,
        f"{reporter.domain}!{domain}!{stamps}.json.gz".replace("/", "_"),
        compressor.compress(text) + compressor.flush(),
        report_addresses(record),
    )


def _policy_report(policy: AppliedPolicy, count: _Count) -> dict[str, Any]:
    words: dict[str, Any] = {
        "policy": _policy_words(policy),
        "summary": {"total-successful-session-count": count.succeeded, "total-failure-session-count": count.failed},
    }
    if count.details:
        words["failure-details"] = [
            _failure_words(failure) | {"failed-session-count": number} for failure, number in count.details.items()
        ]
    return words


def report_mail(
    report: TLSReport, reporter: ReportingOrganization, *, sender: str, recipients: Sequence[str], now: float
) -> bytes:
    """The mail that carries a report (5.3), lines ended with CRLF. The caller must sign it with DKIM.

    It has ``TLS-Required: No`` (RFC 8689 5), since it may report a failure of the domain's own policies.

    ``sender`` and ``recipients`` are addresses (what follows ``mailto:``). Raises ValueError if a text holds line ends
    or other characters that are not allowed in a header.
    """
    for text in (sender, *recipients, report.domain, report.id, report.filename, reporter.domain):
        if not text.isascii() or not text.isprintable():
            raise ValueError(f"not fit for a message header: {text!a}")
    boundary = f"=_{report.id.partition('@')[0]}"
    submitter, date = reporter.domain, datetime.fromtimestamp(now, UTC)
    weekday = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[date.weekday()]
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    body = b64encode(report.body).decode()
    lines = [
        f"From: {sender}",
        "To: " + ",\r\n ".join(recipients),
        f"Date: {weekday}, {date.day} {months[date.month - 1]} {date:%Y %H:%M:%S} +0000",
        f"Message-ID: <{report.id}>",
        f"Subject: Report Domain: {report.domain}",
        f" Submitter: {submitter}",
        f" Report-ID: <{report.id}>",
        f"TLS-Report-Domain: {report.domain}",
        f"TLS-Report-Submitter: {submitter}",
        "TLS-Required: No",
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type="tlsrpt";',
        f' boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"This is an aggregate TLS report of {submitter}",
        f"about sessions with the mail exchangers of {report.domain}.",
        "",
        f"--{boundary}",
        "Content-Type: application/tlsrpt+gzip",
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: attachment;",
        f' filename="{report.filename}"',
        "",
        *(body[start : start + 76] for start in range(0, len(body), 76)),
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")

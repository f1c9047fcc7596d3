"""TLSRPT: results as lines and datagrams, a day's lines as reports, a report as mail."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.answer import Query
from zsmtp.dns.static import StaticResolver
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import (
    AppliedPolicy,
    Failure,
    PolicyType,
    ReportingOrganization,
    SessionResult,
    TLSReport,
    build_reports,
    collector_datagram,
    decode_result,
    encode_result,
    find_record,
    report_addresses,
    report_mail,
)

NOON = 1_769_817_600 + 43200  # 2026-01-31, 12:00 UTC
RECORD = "v=TLSRPTv1; rua=mailto:tls@example.org,https://reports.example.org/v1"
STS = AppliedPolicy(PolicyType.STS, "example.org", ("version: STSv1", "mode: enforce"), ("mx.example.org",))
TLSA = AppliedPolicy(PolicyType.TLSA, "mx.example.org", ("3 1 1 AB01",))
EXPIRED = Failure(TLSProblem.CERTIFICATE_EXPIRED, "192.0.2.7", "mx.example.org", "mx", "192.0.2.1", reason="expired")
REPORTER = ReportingOrganization("Example Net", "postmaster@example.net", "example.net")


def result(policy: AppliedPolicy = STS, failure: Failure | None = None, domain: str = "example.org") -> SessionResult:
    return SessionResult(domain, RECORD, policy, failure)


# ----------------------------------------------------------------- the record


@pytest.mark.parametrize(
    ("texts", "record"),
    [
        (["v=TLSRPTv1;rua=mailto:a@b.example"], "v=TLSRPTv1;rua=mailto:a@b.example"),
        (["v=TLSRPTv1; rua=https://x.example/", "v=spf1"], "v=TLSRPTv1; rua=https://x.example/"),
        (["v=spf1 -all"], None),
        (["v=TLSRPTv1"], None),
        (["v=TLSRPTv1; rua="], None),
        (["v=TLSRPTv1; rua=ftp://x.example/"], None),
        (["v=TLSRPTv2; rua=mailto:a@b.example"], None),
        (["v=TLSRPTv1; rua=mailto:a@b.example"] * 2, None),
        (["v=TLSRPTv1; rua=mailto:a@b.example; x=" + "y" * 5000], None),
    ],
)
def test_who_asks_for_reports(texts: list[str], record: str | None) -> None:
    resolver = StaticResolver("")
    work = find_record("example.org")
    query = work.send(None)
    assert query.name == "_smtp._tls.example.org"
    answer = resolver.lookup(Query("example.org", query.type), 0.0)
    records = tuple((text[:200].encode(), text[200:].encode()) for text in texts)
    with pytest.raises(StopIteration) as end:
        work.send(type(answer)(query, answer.status, records))
    assert end.value.value == record


def test_control_characters_are_no_record() -> None:
    work = find_record("example.org")
    query = work.send(None)
    answer = StaticResolver("").lookup(query, 0.0)
    with pytest.raises(StopIteration) as end:
        work.send(type(answer)(query, answer.status, ((b"v=TLSRPTv1; rua=mailto:a\r\n@b.example",),)))
    assert end.value.value is None


def test_addresses() -> None:
    assert report_addresses(RECORD) == ("mailto:tls@example.org", "https://reports.example.org/v1")
    assert report_addresses("v=TLSRPTv1; x=y; rua = MAILTO:a@b , http://c") == ("MAILTO:a@b",)


# ------------------------------------------------------------------- one result


@pytest.mark.parametrize(
    "session", [result(), result(TLSA, EXPIRED), result(AppliedPolicy(PolicyType.NONE, "example.org"))]
)
def test_a_line_is_read_back(session: SessionResult) -> None:
    line = encode_result(session, NOON + 0.5)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_result(line) == (session, NOON)


@given(st.text(max_size=50), st.sampled_from(TLSProblem))
def test_hostile_texts_stay_inside_their_line(text: str, kind: TLSProblem) -> None:
    line = encode_result(result(failure=Failure(kind, mx_helo=text, reason=text)), NOON)
    assert line.count(b"\n") == 1
    found, _ = decode_result(line)
    assert found.failure is not None
    assert found.failure.problem is kind
    assert found.failure.mx_helo.isprintable()


def test_a_line_has_a_limit() -> None:
    long = AppliedPolicy(PolicyType.STS, "example.org", ("\u00e9" * 1000,) * 100, ("a" * 1000,) * 100)
    line = encode_result(result(long, EXPIRED), NOON)
    assert len(line) <= 65536
    assert decode_result(line)[0].failure == EXPIRED
    assert len(collector_datagram(result(long))) <= 65536


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'{"at":1}',
        encode_result(result(), NOON)[:-20],
        encode_result(result(), NOON).replace(b'"sts"', b'"other"'),
        encode_result(result(), NOON).replace(b'"domain":"example.org"', b'"domain":5'),
        encode_result(result(), NOON).replace(b'"domain":"example.org"', b'"domain":""'),
        encode_result(result(), NOON).replace(str(NOON).encode(), b'"x"'),
        encode_result(result(), NOON).replace(str(NOON).encode(), b"-1"),
        encode_result(result(), NOON).replace(b'["mx.example.org"]', b"7"),
        encode_result(result(), NOON).replace(b'"policy":{', b'"policy":5,"p":{'),
        b"[" * 40000,
        b"x" * 70000,
    ],
)
def test_a_line_that_is_none(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_result(line)


@given(st.binary(max_size=100))
def test_any_octets_are_a_line_or_a_value_error(octets: bytes) -> None:
    with pytest.raises(ValueError):
        decode_result(octets)


# ---------------------------------------------------------------- the collector


def test_a_success_as_datagram() -> None:
    assert json.loads(collector_datagram(result())) == {
        "dpv": "1",
        "d": "example.org",
        "pr": RECORD,
        "policies": [
            {
                "policy-type": 2,
                "policy-domain": "example.org",
                "policy-string": ["version: STSv1", "mode: enforce"],
                "mx-host": ["mx.example.org"],
                "t": 0,
                "f": 0,
            }
        ],
    }


def test_a_failure_as_datagram() -> None:
    (policy,) = json.loads(collector_datagram(result(TLSA, EXPIRED)))["policies"]
    assert policy["policy-type"] == 1
    assert (policy["t"], policy["f"]) == (1, 1)
    assert policy["failure-details"] == [
        {"c": 204, "s": "192.0.2.7", "n": "mx.example.org", "h": "mx", "r": "192.0.2.1", "f": "expired"}
    ]


@pytest.mark.parametrize("kind", TLSProblem)
def test_every_result_has_a_number(kind: TLSProblem) -> None:
    (policy,) = json.loads(collector_datagram(result(failure=Failure(kind))))["policies"]
    assert 201 <= policy["failure-details"][0]["c"] <= 306


# ------------------------------------------------------------------ the reports


def lines(*sessions: SessionResult, at: float = NOON) -> list[bytes]:
    return [encode_result(session, at) for session in sessions]


def one_report(*sessions: SessionResult) -> TLSReport:
    (report,) = build_reports(lines(*sessions), "2026-01-31", REPORTER, "a1").reports
    return report


def words(report: TLSReport) -> Any:
    return json.loads(gzip.decompress(report.body))


def test_a_day_of_one_domain() -> None:
    other = Failure(TLSProblem.STARTTLS_NOT_SUPPORTED, mx_host="mx.example.org")
    report = one_report(result(), result(), result(failure=EXPIRED), result(failure=other), result(failure=EXPIRED))
    assert words(report) == {
        "organization-name": "Example Net",
        "date-range": {"start-datetime": "2026-01-31T00:00:00Z", "end-datetime": "2026-01-31T23:59:59Z"},
        "contact-info": "postmaster@example.net",
        "report-id": "20260131.1.a1.example.org@example.net",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": ["version: STSv1", "mode: enforce"],
                    "policy-domain": "example.org",
                    "mx-host": ["mx.example.org"],
                },
                "summary": {"total-successful-session-count": 2, "total-failure-session-count": 3},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "192.0.2.7",
                        "receiving-mx-hostname": "mx.example.org",
                        "receiving-mx-helo": "mx",
                        "receiving-ip": "192.0.2.1",
                        "failure-reason-code": "expired",
                        "failed-session-count": 2,
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "receiving-mx-hostname": "mx.example.org",
                        "failed-session-count": 1,
                    },
                ],
            }
        ],
    }
    assert json.loads(report.json()) == words(report)
    assert report.filename == "example.net!example.org!1769817600!1769903999!20260131-1-a1.json.gz"
    assert report.addresses == ("mailto:tls@example.org", "https://reports.example.org/v1")


def test_policies_are_counted_apart_and_domains_have_reports_of_their_own() -> None:
    day = build_reports(
        lines(result(), result(TLSA), result(domain="Example.COM"), result(domain="example.com")),
        "2026-01-31",
        REPORTER,
        "a1",
    )
    com, org = day.reports
    assert (com.domain, org.domain) == ("example.com", "example.org")
    assert words(com)["policies"][0]["summary"]["total-successful-session-count"] == 2
    assert [policy["policy"]["policy-type"] for policy in words(org)["policies"]] == ["sts", "tlsa"]
    assert "failure-details" not in words(com)["policies"][0]


def test_other_days_and_spoilt_lines_are_counted_and_left_out() -> None:
    midnight = NOON + 43200
    data = [
        *lines(result(), at=midnight),
        *lines(result(), at=midnight - 1),
        *lines(result(), at=midnight - 86400),
        *lines(result(), at=midnight - 86401),
        b"cut o",
    ]
    day = build_reports(data, "2026-01-31", REPORTER, "a1")
    assert day.skipped == 3
    assert words(day.reports[0])["policies"][0]["summary"]["total-successful-session-count"] == 2


@given(st.integers(0, len(encode_result(result(), NOON)) - 1))
def test_a_line_cut_off_by_a_full_disk_costs_nobody_else_a_result(length: int) -> None:
    """The next writer does not know of it and writes behind what is there."""
    (whole,) = lines(result(failure=Failure(TLSProblem.VALIDATION_FAILURE, reason=' {"at":1')))
    day = build_reports([whole, lines(result())[0][:length] + whole, whole], "2026-01-31", REPORTER, "a1")
    assert words(day.reports[0])["policies"][0]["summary"]["total-failure-session-count"] == 3
    assert day.skipped == (0 < length < len(lines(result())[0]) - 1), "all but its end is a result"


def test_who_asks_for_no_report_gets_none() -> None:
    silent = SessionResult("example.org", "", STS)
    assert build_reports(lines(silent), "2026-01-31", REPORTER, "a1").reports == ()


def test_details_have_a_limit_and_sums_do_not() -> None:
    sessions = [result(failure=Failure(TLSProblem.VALIDATION_FAILURE, reason=str(i))) for i in range(1100)]
    policy = words(one_report(*sessions))["policies"][0]
    assert len(policy["failure-details"]) == 1000
    assert policy["summary"]["total-failure-session-count"] == 1100


def test_a_day_must_be_one() -> None:
    with pytest.raises(ValueError):
        build_reports([], "yesterday", REPORTER, "a1")


# ---------------------------------------------------------------------- as mail


def test_a_report_as_mail() -> None:
    report = one_report(result(failure=EXPIRED))
    octets = report_mail(
        report, REPORTER, sender="tlsrpt@example.net", recipients=["tls@example.org", "b@example.org"], now=NOON
    )
    assert octets.count(b"\n") == octets.count(b"\r\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    message = email.message_from_bytes(octets, policy=email.policy.default)
    assert message["Subject"] == f"Report Domain: example.org Submitter: example.net Report-ID: <{report.id}>"
    assert message["To"] == "tls@example.org, b@example.org"
    assert message["Date"].datetime.timestamp() == NOON
    assert message["Message-ID"] == f"<{report.id}>"
    assert (message["TLS-Report-Domain"], message["TLS-Report-Submitter"]) == ("example.org", "example.net")
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"
    text, attachment = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert attachment.get_content_type() == "application/tlsrpt+gzip"
    assert attachment.get_filename() == report.filename
    assert json.loads(gzip.decompress(attachment.get_content())) == words(report)


@pytest.mark.parametrize("recipient", ["a@b\r\nBcc: c@d", "\u00e4@b.example", "a\0b"])
def test_nothing_slips_into_the_header(recipient: str) -> None:
    with pytest.raises(ValueError):
        report_mail(one_report(result()), REPORTER, sender="a@b", recipients=[recipient], now=NOON)

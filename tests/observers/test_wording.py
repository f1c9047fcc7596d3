"""Words for records, as zone files have them."""

from __future__ import annotations

import pytest

from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Query, Record, RecordType, Status
from zsmtp.observers.document import Safety
from zsmtp.observers.wording import record_text, safety_of


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (MX(10, "mx.example.org"), "10 mx.example.org."),
        (MX(0, ""), "0 ."),
        (TLSA(3, 1, 1, b"\xab\xcd"), "3 1 1 abcd"),
        (WKS("192.0.2.1", 6, frozenset({25, 7})), "192.0.2.1 6 7 25"),
        ((b"v=STSv1;", b" id=\x1b"), '"v=STSv1;" " id=\\x1b"'),
    ],
)
def test_records(record: Record, text: str) -> None:
    assert record_text(record) == text


@pytest.mark.parametrize(
    ("status", "secure", "safety"),
    [
        (Status.OK, True, Safety.SECURE),
        (Status.NXDOMAIN, False, Safety.INSECURE),
        (Status.BOGUS, False, Safety.BOGUS),
    ],
)
def test_safety(status: Status, safety: Safety, *, secure: bool) -> None:
    assert safety_of(Answer(Query("example.org", RecordType.A), status, secure=secure)) is safety

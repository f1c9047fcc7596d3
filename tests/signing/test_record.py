"""Key records: read strictly, found in answers, and made to be published."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.signing.record import (
    MAX_RECORD,
    KeyRecord,
    NoRecord,
    key_record,
    parse_record,
    record_in,
    strings_of,
    zone_entry,
)
from zsmtp.signing.signature import Algorithm

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256
QUERY = Query("a._domainkey.example.org", RecordType.TXT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"p=AAEC", KeyRecord(RSA, b"\0\1\2")),
        (b"v=DKIM1; k=ed25519; p=AAEC;", KeyRecord(ED25519, b"\0\1\2")),
        (
            b"v=DKIM1; h=sha1:sha256; s=*; t=y : s; n=a note; p=AA EC",
            KeyRecord(RSA, b"\0\1\2", testing=True, strict=True),
        ),
        (b"s=tlsrpt:email; p=AAEC; x=unknown", KeyRecord(RSA, b"\0\1\2")),
        (b"v=DKIM1; p=", KeyRecord(RSA, b"")),
    ],
)
def test_records(text: bytes, expected: KeyRecord) -> None:
    assert parse_record(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"v=spf1 -all", "v= is not DKIM1"),
        (b"k=rsa; v=DKIM1; p=AAEC", "is not the first tag"),
        (b"v=dkim1; p=AAEC", "v= is not DKIM1"),
        (b"v=DKIM1; k=rsa", "p= is missing"),
        (b"k=ecdsa; p=AAEC", "key type ecdsa is not known"),
        (b"h=sha1; p=AAEC", "h= does not allow sha256"),
        (b"s=tlsrpt; p=AAEC", "s= does not allow email"),
        (b"p=A-B_", "p= is not base64"),
        (b"p=A;p=A", "p= occurs twice"),
        (b"p=" + b"A" * MAX_RECORD, "longer than"),
        (b"", "p= is missing"),
    ],
)
def test_what_is_none(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_record(text)


@given(st.lists(st.sampled_from(["v=DKIM1", "p=", "AAEC", "k=rsa", ";", " ", "=", "t=s:y", "ä", "\0", "h=sha256"])))
def test_nothing_but_value_errors(pieces: list[str]) -> None:
    reason = ""
    try:
        parse_record("".join(pieces).encode())
    except ValueError as error:
        reason = str(error)
    assert reason.isprintable()


def answer(*texts: bytes | tuple[bytes, ...], status: Status = Status.OK, problem: str = "") -> Answer:
    records = tuple(text if isinstance(text, tuple) else (text,) for text in texts)
    return Answer(QUERY, status, records, problem=problem)


def test_the_one_record_of_an_answer() -> None:
    assert record_in(answer((b"v=DKIM1; p=A", b"AEC"))) == KeyRecord(RSA, b"\0\1\2")
    assert record_in(answer(b"v=spf1 -all", b"p=AAEC")) == KeyRecord(RSA, b"\0\1\2")


@pytest.mark.parametrize(
    ("found", "temporary", "reason"),
    [
        (answer(status=Status.NXDOMAIN), False, "no key at a._domainkey.example.org: no such domain"),
        (answer(status=Status.NODATA), False, "no key at a._domainkey.example.org: no data"),
        (answer(status=Status.TIMEOUT, problem="silence\x1b"), True, r"cannot be looked up now: silence\\x1b"),
        (answer(status=Status.SERVFAIL), True, "cannot be looked up now: server failure"),
        (answer(status=Status.BOGUS), True, "cannot be looked up now: bogus"),
        (answer(b"p=AAEC", b"p=AAED"), False, "2 keys at a._domainkey.example.org, where one is allowed"),
        (answer(b"v=spf1 -all"), False, "is no key: v= is not DKIM1"),
    ],
)
def test_why_there_is_none(found: Answer, temporary: bool, reason: str) -> None:
    with pytest.raises(NoRecord, match=reason) as failed:
        record_in(found)
    assert failed.value.temporary is temporary


@given(st.sampled_from(Algorithm), st.binary(min_size=1, max_size=600))
def test_what_is_published_is_read_again(algorithm: Algorithm, public_key: bytes) -> None:
    text = key_record(algorithm, public_key)
    strings = strings_of(text)
    assert all(len(string) <= 255 for string in strings)
    entry = zone_entry("a._domainkey.example.org", text)
    assert tuple(re.findall(r'"([^"]*)"', entry)) == strings
    assert entry.count("(") == entry.count(")") == (len(strings) > 1)
    assert record_in(answer(tuple(string.encode() for string in strings))) == KeyRecord(algorithm, public_key)


@pytest.mark.parametrize("text", [key_record(RSA, bytes(600)), 'v=spf1 exists:a"b\\c.example ' + '"' * 300])
def test_a_zone_entry_is_read_by_others(text: str) -> None:
    import dns.zone

    zone = dns.zone.from_text(
        "$TTL 300\n" + zone_entry("a._domainkey.example.org", text), "example.org", check_origin=False, relativize=False
    )
    (found,) = zone.get_rdataset("a._domainkey.example.org.", "TXT") or ()
    assert b"".join(found.strings).decode() == text

"""Facts and edits of header blocks; every edit leaves signed blocks alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.body.headers import add_for_clause, expand_tabs, is_signed

RECEIVED = (
    b"Received: from submit.example.org ([192.0.2.7]) by ta.example.org with ESMTP\n"
    b"\tid S1001AbC; Sun, 1 Jan 2023 12:00:00 +0000\n"
)
REST = b"From: Sender <sender@example.org>\nSubject:\ta tab\n"
SIGNATURE = b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=x;\n\th=from; bh=; b=\n"

WORDS = [b"Received:", b"received :", b"by x", b" for ", b"From: a@b", b"Content-Type:", b"multipart/", b"signed"]
MARKS = [b" ", b"\t", b"\n", b"\r", b"\r\n", b";", b"(", b")", b'"', b"\\", b"\xe4", b"\0"]
TEXT = st.lists(st.sampled_from(WORDS + MARKS), max_size=30).map(b"".join)


@pytest.mark.parametrize(
    "header",
    [
        SIGNATURE,
        REST + SIGNATURE,
        b"dkim-signature : v=1\n",
        b"ARC-Message-Signature: i=1\n",
        b"ARC-Seal: i=1\n",
        b"DomainKey-Signature: a=rsa-sha1\n",
        b"Content-Type: multipart/signed; protocol=x\n",
        b"Content-Type:\n\tMULTIPART/Signed;\n\tboundary=x\n",
        b"CONTENT-TYPE: (not (quite) plain) multipart (so) / (far)\n signed\n",
        b"Content-Type: multipart/encrypted\n",
        b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n",
        b"Content-Type: application/x-pkcs7-mime\n",
        b"Content-Type: application/pgp; format=text\n",
        b"Content-Conversion: (please) Prohibited\n",
    ],
)
def test_signed(header: bytes) -> None:
    assert is_signed(header)
    assert expand_tabs(header + REST) == header + REST
    assert add_for_clause(RECEIVED + header, b"a@example.net") == RECEIVED + header


@pytest.mark.parametrize(
    "header",
    [
        b"",
        REST,
        b"X-DKIM-Signature: v=1\n",
        b"Subject: on\n DKIM-Signature: v=1\n",
        b"Subject: DKIM-Signature: v=1\n",
        b"Content-Type: multipart/mixed; x=multipart/signed\n",
        b"Content-Type: multipart/signed-not\n",
        b"Content-Type: text/plain (multipart/signed)\n",
        b"Content-Type:\n",
        b"Content-Conversion: forced-qp\n",
    ],
)
def test_not_signed(header: bytes) -> None:
    assert not is_signed(header)


def test_tabs_become_blanks_up_to_the_next_eighth_column() -> None:
    assert expand_tabs(b"Subject:\ta\tb\n\tc\n") == b"Subject:        a       b\n        c\n"


def test_for_clause_stands_before_the_date() -> None:
    assert (
        add_for_clause(RECEIVED + REST, b"rcpt1@example.com")
        == (
            b"Received: from submit.example.org ([192.0.2.7]) by ta.example.org with ESMTP\n"
            b"\tid S1001AbC for <rcpt1@example.com>; Sun, 1 Jan 2023 12:00:00 +0000\n"
        )
        + REST
    )


def test_for_clause_folds_at_the_date_when_the_line_gets_long() -> None:
    edited = add_for_clause(RECEIVED, b"a.rather.long.name@department.example.com")
    assert edited.splitlines()[1:] == [
        b"\tid S1001AbC for <a.rather.long.name@department.example.com>;",
        b"\tSun, 1 Jan 2023 12:00:00 +0000",
    ]


def test_for_clause_folds_before_itself_when_that_is_not_enough() -> None:
    header = b"Received: by a-host-with-a-long-name.example.org with ESMTP id S1001; Sun, 1 Jan 2023 12:00:00 +0000\n"
    assert add_for_clause(header, b"rcpt1@example.com").splitlines() == [
        b"Received: by a-host-with-a-long-name.example.org with ESMTP id S1001",
        b"\tfor <rcpt1@example.com>;",
        b"\tSun, 1 Jan 2023 12:00:00 +0000",
    ]


def test_for_clause_with_the_date_on_its_own_line() -> None:
    header = b"Received: by a.example\n\tid S1\n\t; Sun, 1 Jan 2023 12:00:00 +0000\n"
    assert add_for_clause(header, b"b@c.example") == (
        b"Received: by a.example\n\tid S1 for <b@c.example>; Sun, 1 Jan 2023 12:00:00 +0000\n"
    )


def test_for_clause_only_in_the_first_received() -> None:
    assert add_for_clause(RECEIVED * 2, b"b@c.example").count(b"for <b@c.example>") == 1
    assert add_for_clause(RECEIVED * 2, b"b@c.example").endswith(RECEIVED)


def test_semicolons_in_comments_and_strings_are_not_the_date() -> None:
    header = b'Received: from a (TLS; "x) by b id "p;q" (c (d;) \\);); Sun, 1 Jan 2023 (a;b)\n'
    assert b"(c (d;) \\);) for <b@c.example>; Sun" in add_for_clause(header, b"b@c.example").replace(b"\n\t", b" ")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        REST,
        b"Received: by a.example with SMTP\n",
        b"Received: by a.example (;)\n",
        b"Received: by a.example FOR <x@example.net>; Sun, 1 Jan 2023 12:00:00 +0000\n",
        b"Received: by a.example\n\tfor\n <x@example.net>; Sun, 1 Jan 2023 12:00:00 +0000\n",
        b"X-Received: by a.example; Sun, 1 Jan 2023 12:00:00 +0000\n",
    ],
)
def test_no_place_for_a_for_clause(header: bytes) -> None:
    assert add_for_clause(header, b"b@c.example") == header


def test_for_in_a_comment_is_no_for_clause() -> None:
    header = b"Received: by a.example (waiting for you); Sun, 1 Jan 2023 12:00:00 +0000\n"
    assert b"you) for <b@c.example>;" in add_for_clause(header, b"b@c.example")


@pytest.mark.parametrize("recipient", [b"", b"a@b\r\nX: y", b"a\0@b", b"a\x7f@b", "ä@b".encode()])
def test_address_that_does_not_belong_in_a_header(recipient: bytes) -> None:
    assert add_for_clause(RECEIVED, recipient) == RECEIVED


@given(TEXT)
def test_edits_change_only_what_they_are_for(header: bytes) -> None:
    edited = add_for_clause(header, b"b@c.example")
    if edited != header:
        assert b"".join(edited.split()).replace(b"for<b@c.example>", b"", 1) == b"".join(header.split())
        assert not is_signed(header)
        assert add_for_clause(edited, b"d@e.example") == edited, "never twice"
    expanded = expand_tabs(header)
    assert expanded == header or (b"\t" not in expanded and expanded.split() == header.split())


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: x" + b"\n " * 500_000,
        b"Content-Type: " + b"(" * 1_000_000,
        b"Content-Type: " + b"(" * 500_000 + b")" * 500_000,
        b"Content-Type: (" + b"\\(" * 500_000,
        b"Received: " + b"\n\t" * 500_000 + b"; x",
        b"Received: " + b'";(' * 300_000,
        b"Content-Type" + b" " * 1_000_000,
    ],
    ids=lambda header: repr(header[:18] + header[-4:]),
)
@pytest.mark.timeout(60)
def test_hostile_blocks_of_a_megabyte_cost_no_more_than_others(header: bytes) -> None:
    assert not is_signed(header)
    assert len(add_for_clause(header, b"b@c.example")) <= len(header) + 40

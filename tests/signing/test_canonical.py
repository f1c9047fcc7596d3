"""Canonical forms, against a reading of RFC 6376 3.4 that goes line by line."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.body.test_lines import CUTS, cut

from zsmtp.body.fields import split_fields
from zsmtp.signing.canonical import (
    BodyHash,
    Canonicalization,
    HeaderFields,
    canonical_field,
    single_blanks,
    wire_blocks,
)

SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED
PIECES = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"  ", b"a", b"\0", b"\xe4", b"word", b" " * 40]
TEXT = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)
WIRE = TEXT.map(lambda text: b"".join(wire_blocks([text])))


def slow_body(body: bytes, form: Canonicalization) -> bytes:
    """A body of the wire in canonical form, line by line (3.4.3, 3.4.4)."""
    lines = body.split(b"\r\n")[:-1]
    if form is RELAXED:
        lines = [re.sub(rb"[ \t]+", b" ", line).removesuffix(b" ") for line in lines]
    while lines and not lines[-1]:
        del lines[-1]
    if form is SIMPLE and not lines:
        return b"\r\n"
    return b"".join(line + b"\r\n" for line in lines)


def hashed(blocks: list[bytes], form: Canonicalization, limit: int | None = None) -> tuple[bytes, int]:
    body = BodyHash(form, limit)
    for block in blocks:
        body.feed(block)
    return body.finish(), body.octets


@pytest.mark.parametrize("form", Canonicalization)
@given(body=WIRE, places=CUTS, limit=st.none() | st.integers(0, 60))
@example(body=b"a \r\n", places=[2], limit=None)
@example(body=b"a \r\n", places=[3], limit=None)
@example(body=b"a\r\n\r\n\r\nb\r\n", places=[4, 5, 6], limit=None)
@example(body=b"a\r\r\r\n\r\n", places=[2, 3, 4], limit=None)
def test_any_body_in_any_blocks(form: Canonicalization, body: bytes, places: list[int], limit: int | None) -> None:
    expected = slow_body(body, form)
    assert hashed(cut(body, places), form, limit) == (sha256(expected[:limit]).digest(), len(expected))


@given(WIRE)
def test_the_relaxed_form_is_its_own_relaxed_form(body: bytes) -> None:
    once = slow_body(body, RELAXED)
    assert hashed([once], RELAXED) == hashed([body], RELAXED)
    assert slow_body(once, RELAXED) == once


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        (RELAXED, b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),  # RFC 6376 3.4.5
        (SIMPLE, b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n"),
        (RELAXED, b"", b""),  # 3.4.4
        (SIMPLE, b"", b"\r\n"),  # 3.4.3
        (RELAXED, b"\r\n \r\n\t\r\n", b""),
        (SIMPLE, b"\r\n\r\n", b"\r\n"),
        (SIMPLE, b"a", b"a\r\n"),
        (RELAXED, b"a ", b"a\r\n"),
        (RELAXED, b"a \r", b"a \r\r\n"),
        (SIMPLE, b"\r\r\n\r\n", b"\r\r\n"),
        (SIMPLE, b"a\r\r", b"a\r\r\r\n"),
        (SIMPLE, b"a\n\r\n\r\n", b"a\n\r\n"),  # no form of the wire: an LF alone is an octet like others
        (RELAXED, b"a\n\n\r\n", b"a\n\n\r\n"),
    ],
)
def test_bodies(form: Canonicalization, body: bytes, expected: bytes) -> None:
    for places in ([], list(range(len(body)))):
        assert hashed(cut(body, places), form) == (sha256(expected).digest(), len(expected))


def test_a_body_of_nothing_but_line_ends_takes_no_memory() -> None:
    body = BodyHash(SIMPLE)
    for _ in range(100):
        body.feed(b"\r\n" * 100_000)
    assert body._held == b""
    body.feed(b"x")
    assert body.finish() == sha256(b"\r\n" * 10_000_000 + b"x\r\n").digest()


@given(st.lists(st.sampled_from([b" ", b"\t", b"a", b"\n", b" " * 15, b" " * 16, b" " * 17, b" " * 300])).map(b"".join))
def test_single_blanks(text: bytes) -> None:
    assert single_blanks(text) == re.sub(rb"[ \t]+", b" ", text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "block",
    [b" " * 1_000_000, b" \t" * 500_000, b"a  " * 300_000, b" \r" * 500_000, b"\r" * 1_000_000, b"\n\r" * 500_000],
    ids=repr,
)
def test_hostile_blocks_cost_no_more_than_others(block: bytes) -> None:
    for form in Canonicalization:
        hashed([block, block], form)


# ---------------------------------------------------------------------- line ends


@given(TEXT, CUTS)
@example(b"a\r\nb\n\rc", [2, 3, 5])
def test_the_form_of_the_wire(text: bytes, places: list[int]) -> None:
    made = b"".join(wire_blocks(cut(text, places)))
    assert not re.search(rb"(?<!\r)\n", made)
    expected = re.sub(rb"\r?\n", b"\r\n", text)
    assert made == expected + (b"" if expected.endswith(b"\r\n") or not expected else b"\r\n")


# ------------------------------------------------------------------------- fields

HEADER_PIECES = [
    *(b"From:", b"to :", b"TO\t:", b"Subject", b":", b"x", b" ", b"\t", b"  ", b"\n", b"\n ", b"\n\t", b"\n \n", b"\r"),
    *(b"\n\n", b"\nFrom: a\n", b"\nCc\n : x\n", b"\xc3\xa4", b"\xff", b"\0"),
]
HEADERS = st.lists(st.sampled_from(HEADER_PIECES), max_size=30).map(b"".join)
NAMES = [b"from", b"to", b"subject", b"cc"]


def slow_relaxed(field: bytes) -> bytes:
    """One field relaxed, step by step (3.4.2)."""
    name, _, value = field.partition(b":")
    value = re.sub(rb"\n(?=[ \t])", b"", value.removesuffix(b"\n"))
    value = re.sub(rb"[ \t]+", b" ", value).strip(b" ")
    return name.rstrip(b" \t").lower() + b":" + value + b"\r\n"


@given(HEADERS)
@example(b"Cc\n : no field\nFrom: a\n")
@example(b" From: no field\nFrom: a\n \n b")
def test_fields_of_any_block(block: bytes) -> None:
    fields = HeaderFields(block)
    found = [(name, block[start:end]) for name, start, _, end in split_fields(block)]
    for name in NAMES:
        mine = [field for one, field in found if one == name]
        assert fields.stored(name) == mine
        assert fields.count(name) == len(mine)
        assert fields.form(RELAXED).get(name, []) == list(map(slow_relaxed, mine))
        simple = [field.removesuffix(b"\n").replace(b"\n", b"\r\n") + b"\r\n" for field in mine]
        assert fields.form(SIMPLE).get(name, []) == simple


@given(HEADERS)
def test_a_relaxed_field_is_its_own_relaxed_form(block: bytes) -> None:
    relaxed = HeaderFields(block).form(RELAXED)
    for name in NAMES:
        for field in relaxed.get(name, []):
            again = HeaderFields(field.replace(b"\r\n", b"\n")).form(RELAXED)
            assert again == {name: [field]}
            assert canonical_field(field.replace(b"\r\n", b"\n"), RELAXED) + b"\r\n" == field


def test_fields_of_the_standard() -> None:
    fields = HeaderFields(b"A: X\nB : Y\t\n\tZ  \n")
    assert fields.form(RELAXED) == {b"a": [b"a:X\r\n"], b"b": [b"b:Y Z\r\n"]}
    assert fields.form(SIMPLE) == {b"a": [b"A: X\r\n"], b"b": [b"B : Y\t\r\n\tZ  \r\n"]}


@pytest.mark.parametrize(
    ("block", "expected"),
    [(b"From: a\n", False), (b"Subject: \xc3\xa4\n", True), (b"Subject: \xe4\n", False)],
)
def test_internationalised_is_utf8(block: bytes, expected: bool) -> None:
    assert HeaderFields(block).internationalised is expected


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "block",
    [b"From:" + b"\n " * 500_000, b"a\n :" * 200_000, b"a\n" * 500_000, b"a:\n" * 300_000],
    ids=lambda b: repr(b[:9]),
)
def test_hostile_headers_cost_no_more_than_others(block: bytes) -> None:
    fields = HeaderFields(block)
    fields.form(RELAXED)
    fields.form(SIMPLE)

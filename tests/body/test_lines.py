"""Line ends, against a reading of RFC 5321 2.3.8 that goes octet by octet."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.body.lines import LineConverter, LineSurvey, canonical, canonical_blocks, canonical_header, has_long_line

# Octets that matter and a few that do not, so that line ends in every order are common.
TEXT = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\0", b"\xe4", b"word"]), max_size=40).map(
    b"".join
)


def slow_canonical(data: bytes) -> tuple[bytes, int]:
    """The canonical form and the number of bare CRs, one octet at a time."""
    out = bytearray()
    bare_cr = 0
    at = 0
    while at < len(data):
        octet = data[at : at + 1]
        if octet == b"\r":
            if data[at + 1 : at + 2] == b"\n":
                at += 1
            else:
                bare_cr += 1
            out += b"\r\n"
        elif octet == b"\n":
            out += b"\r\n"
        else:
            out += octet
        at += 1
    if out and not out.endswith(b"\r\n"):
        out += b"\r\n"
    return bytes(out), bare_cr


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in blocks cut at ``places`` (modulo its length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


CUTS = st.lists(st.integers(0, 200), max_size=8)


@given(TEXT, CUTS)
@example(b"a\r\n", [2])
@example(b"a\r\nb\r\n", [2, 3])
@example(b"\r\r\n", [1, 2])
@example(b"\ra\n", [1, 2])
def test_any_text_in_any_blocks(data: bytes, places: list[int]) -> None:
    lines = LineConverter()
    blocks = list(canonical_blocks(cut(data, places), lines))
    assert (b"".join(blocks), lines.bare_cr) == canonical(data) == slow_canonical(data)
    assert all(blocks), "no block is empty"
    assert not any(block.endswith(b"\r") for block in blocks), "no block ends inside a line end"


@given(st.binary(max_size=200), CUTS)
def test_no_bare_cr_or_lf_ever(data: bytes, places: list[int]) -> None:
    wire = b"".join(canonical_blocks(cut(data, places), LineConverter()))
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    assert wire.translate(None, b"\r\n") == data.translate(None, b"\r\n"), "all else is kept"
    assert wire == b"" or wire.endswith(b"\r\n")


@given(TEXT, CUTS)
def test_canonical_text_stays(data: bytes, places: list[int]) -> None:
    canonical, _ = slow_canonical(data)
    lines = LineConverter()
    assert b"".join(canonical_blocks(cut(canonical, places), lines)) == canonical
    assert lines.bare_cr == 0


@pytest.mark.parametrize(
    ("stored", "wire", "bare_cr"),
    [
        (b"", b"", 0),
        (b"\n", b"\r\n", 0),
        (b"a", b"a\r\n", 0),
        (b"a\nb\n", b"a\r\nb\r\n", 0),
        (b"a\r\nb\r\n", b"a\r\nb\r\n", 0),
        (b"a\r\nb\n", b"a\r\nb\r\n", 0),
        (b"a\rb\n", b"a\r\nb\r\n", 1),
        (b"a\r", b"a\r\n", 1),
        (b"a\r\r\n", b"a\r\n\r\n", 1),
        (b"a\n\rb", b"a\r\n\r\nb\r\n", 1),
        (b"a\n.\nMAIL", b"a\r\n.\r\nMAIL\r\n", 0),
        (b"a\r.\rMAIL", b"a\r\n.\r\nMAIL\r\n", 2),
        (b"a\n.\r\nMAIL", b"a\r\n.\r\nMAIL\r\n", 0),
    ],
)
def test_cases(stored: bytes, wire: bytes, bare_cr: int) -> None:
    lines = LineConverter()
    assert lines.convert(stored) + lines.finish() == wire
    assert lines.bare_cr == bare_cr


def survey_of(blocks: list[bytes]) -> LineSurvey:
    survey = LineSurvey()
    for block in blocks:
        survey.feed(block)
    survey.finish()
    return survey


@given(TEXT, CUTS)
def test_survey_tells_what_the_converter_does(data: bytes, places: list[int]) -> None:
    survey = survey_of(cut(data, places))
    canonical, bare_cr = slow_canonical(data)
    assert survey.octets == len(canonical)
    assert survey.bare_cr == bare_cr
    assert not survey.long_lines


LONG_LINES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 500, 996, 997, 998, 999, 1000, 1001, 2500]), st.sampled_from([b"\n", b"\r\n", b"\r"])
    ),
    max_size=8,
)


@given(LONG_LINES, st.lists(st.integers(0, 10_000), max_size=6), st.booleans())
@example([(998, b"\r\n")], [998], False)
@example([(998, b"\r\n")], [999], False)
@example([(999, b"\n")], [500], False)
@example([(500, b"\r\n"), (998, b"\r\n")], [501, 1000], False)
def test_long_lines_are_those_over_998(
    lines: list[tuple[int, bytes]], places: list[int], last_end_missing: bool
) -> None:
    data = b"".join(b"x" * length + end for length, end in lines)
    if last_end_missing:
        data = data.rstrip(b"\r\n")
    survey = survey_of(cut(data, places))
    text, _ = slow_canonical(data)
    assert survey.long_lines == has_long_line(text) == any(len(line) > 998 for line in text.split(b"\r\n"))
    assert survey.octets == len(text)


@pytest.mark.parametrize(
    ("stored", "wire", "bare_cr"),
    [
        (b"", b"", 0),
        (b"A: b\nC: d\n\te\n", b"A: b\r\nC: d\r\n\te\r\n", 0),
        (b"A: b\r\nC: d\r\n", b"A: b\r\nC: d\r\n", 0),
        (b"A: b", b"A: b\r\n", 0),
        (b"A: b\rBcc: c\n", b"A: b Bcc: c\r\n", 1),
        (b"A: b\r\r\nC: d\n", b"A: b \r\nC: d\r\n", 1),
        (b"A: b\r", b"A: b \r\n", 1),
        (b"A: b\r\n\r\nC: d\n", b"A: b\r\nC: d\r\n", 0),
        (b"\nA: b\n\n\nC: d\n\n", b"A: b\r\nC: d\r\n", 0),
        (b"\n", b"", 0),
    ],
)
def test_canonical_header(stored: bytes, wire: bytes, bare_cr: int) -> None:
    assert canonical_header(stored) == (wire, bare_cr)


@given(TEXT)
def test_canonical_header_ends_where_the_block_ends(stored: bytes) -> None:
    wire, _ = canonical_header(stored)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    assert b"\r\n\r\n" not in wire
    assert not wire.startswith(b"\r\n")
    assert wire == b"" or wire.endswith(b"\r\n")


@pytest.mark.parametrize("octet", [b"\n", b"\r", b"\r\n"])
def test_header_of_nothing_but_line_ends(octet: bytes) -> None:
    wire, bare_cr = canonical_header(octet * 1_000_000)
    assert wire.strip(b" ") in (b"", b"\r\n")
    assert bare_cr == (1_000_000 if octet == b"\r" else 0)

"""Tag lists as RFC 6376 3.2 has them, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.signing import tags
from zsmtp.signing.tags import parse_base64, parse_number, parse_quoted, parse_tags, quoted, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"v=1", {b"v": b"1"}),
        (b" v = 1 ;\n\ta_1=b c\n d ; ", {b"v": b"1", b"a_1": b"b c\n d"}),
        (b"a=;b=x=y", {b"a": b"", b"b": b"x=y"}),
        (b"a=1;A=2", {b"a": b"1", b"A": b"2"}),
        (b"", {}),
    ],
)
def test_lists(text: bytes, expected: dict[bytes, bytes]) -> None:
    assert parse_tags(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a=1;;b=2", "not name=value: $"),
        (b"a", "not name=value: a"),
        (b"1a=1", "not name=value: 1a=1"),
        (b"a b=1", "not name=value"),
        (b"=1", "not name=value"),
        (b"a=1;a=1", "a= occurs twice"),
        (b"a=\0", "a= has invalid characters"),
        (b"a=\xc3\xa4", "a= has invalid characters"),
        (b"\x1b[31m", r"not name=value: \\x1b\[31m"),
        (b"a=" + b"x" * tags.MAX_LIST, "longer than"),
        (b"".join(b"a%d=;" % number for number in range(tags.MAX_TAGS + 1)), "more than 100 tags"),
    ],
)
def test_what_is_none(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_tags(text)


def test_utf8_where_it_may_be() -> None:
    assert parse_tags(b"d=b\xc3\xbccher.example", utf8=True) == {b"d": "bücher.example".encode()}
    with pytest.raises(ValueError, match="d= has invalid characters"):
        parse_tags(b"d=b\xfccher.example", utf8=True)


@given(st.binary(max_size=200), st.booleans())
def test_nothing_but_value_errors(text: bytes, utf8: bool) -> None:
    found, reason = {}, ""
    try:
        found = parse_tags(text, utf8=utf8)
    except ValueError as error:
        reason = str(error)
    assert reason.isprintable()
    assert all(name.isascii() and b";" not in value for name, value in found.items())


@given(st.text(), st.booleans())
def test_quoted_text_comes_back(text: str, utf8: bool) -> None:
    octets = quoted(text, utf8=utf8)
    assert utf8 or octets.isascii()
    assert parse_quoted(octets) == text.encode()
    assert b"\n" not in octets
    assert parse_tags(b"i=" + octets, utf8=utf8) == {b"i": octets}


def test_values() -> None:
    assert parse_base64(b"AA\n A=", "b") == b"\0\0"
    assert parse_number(b"012", "t", 3) == 12
    for value in (b"AAA", b"A A A A !", b"AA-_"):
        with pytest.raises(ValueError, match="b= is not base64"):
            parse_base64(value, "b")
    for value in (b"", b"-1", b"1234", b"1 2", "١".encode()):
        with pytest.raises(ValueError, match="t= is not a number of at most 3 digits"):
            parse_number(value, "t", 3)
    assert parse_quoted(b"a=3Bb=3b=\n c") == b"a;b=3b=c"


def test_pieces_of_reasons_are_short_and_printable() -> None:
    assert shown(b"\x1b" + b"x" * 100) == "\\x1b" + "x" * 79 + "..."

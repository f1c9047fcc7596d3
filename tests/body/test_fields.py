"""What MIME fields say, in all the ways they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.body.fields import (
    TransferEncoding,
    describe,
    end_of_header,
    field_values,
    first_value,
    parameters,
    split_fields,
    stray_lines,
)

LINES = st.lists(
    st.sampled_from(
        [b"A: b", b"B :", b" c", b"\t", b"no field", b">From x", b"\xc3\xb6: x", b": x", b"\0: x", b"C:d:e"]
    )
).map(lambda lines: [line + b"\n" for line in lines])


def test_fields_with_their_places() -> None:
    block = b"A: one\n two\nno field\nB :\nsubject:x"
    fields = split_fields(block)
    assert [(field.name, block[field.value : field.end]) for field in fields] == [
        (b"a", b" one\n two\n"),
        (b"b", b"\n"),
        (b"subject", b"x"),
    ]
    assert b"".join(block[field.start : field.end] for field in fields) == b"A: one\n two\nB :\nsubject:x"


@given(LINES)
def test_every_octet_of_a_block_is_in_one_field_or_in_one_stray_line(lines: list[bytes]) -> None:
    block = b"".join(lines)
    pieces = sorted([(field.start, field.end) for field in split_fields(block)] + [s[:2] for s in stray_lines(block)])
    assert b"".join(block[start:end] for start, end in pieces) == block
    assert all(block[end - 1 : end] == b"\n" for _, end in pieces)
    for start, end in pieces:
        assert not start or block[start : start + 1] not in (b" ", b"\t"), "what continues is no line of its own"
        assert all(line[:1] in (b" ", b"\t") for line in block[start:end].split(b"\n")[1:-1])


@given(LINES)
def test_both_readings_are_one(lines: list[bytes]) -> None:
    block = b"".join(lines)
    pairs = [(name.lower(), value) for name, value in field_values(block) if name]
    fields = split_fields(block)
    assert pairs == [(field.name, block[field.value : field.end].removesuffix(b"\n")) for field in fields]
    assert len(field_values(block)) == len(fields) + len(stray_lines(block))
    for name in (b"a", b"b", b"c", b"d"):
        assert first_value(block, name) == next((value for found, value in pairs if found == name), None)


def test_stray_lines_with_their_places() -> None:
    block = b" a\nA: one\n two\nno field\n with more\n>From x\nGr\xc3\xb6\xc3\x9fe: 5\n: x\nB\t:\n"
    assert [(block[stray.start : stray.end], stray.line) for stray in stray_lines(block)] == [
        (b" a\n", 1),
        (b"no field\n with more\n", 4),
        (b">From x\n", 6),
        (b"Gr\xc3\xb6\xc3\x9fe: 5\n", 7),
        (b": x\n", 8),
    ]
    assert stray_lines(b"A: b\n") == []
    assert stray_lines(b"") == []


@pytest.mark.parametrize(
    ("octets", "found"),
    [
        (b"A: b\n\nbody\n\n", (4, 6)),
        (b"A: b\r\n\r\nbody\n\n", (5, 8)),
        (b"A: b\n\r\nbody", (4, 7)),
        (b"A: b\r\n\nbody", (5, 7)),
        (b"A: b\r\n\r\n\nbody", (5, 8)),
        (b"A: b\n \n\r\r\nbody", None),
        (b"A: b\n", None),
    ],
)
def test_where_a_header_ends(octets: bytes, found: tuple[int, int] | None) -> None:
    assert end_of_header(octets) == found


@pytest.mark.parametrize(
    "value",
    [
        b'multipart/mixed; boundary="a;b"',
        b'MULTIPART/Mixed;\n\tBOUNDARY="a;b"',
        b'multipart / mixed (a comment; boundary=x) ; charset=x; boundary = "a;b" (more)',
        b'multipart/mixed; boundary="a\\;b"',
        b"multipart/mixed; boundary*=us-ascii'en'a%3Bb",
        b'multipart/mixed; boundary*0="a;"; boundary*1="b"',
        b"multipart/mixed; boundary*1*=%62; boundary*0*=''a%3B",
        b'multipart/mixed; boundary="a;b " ; boundary=c',
    ],
)
def test_boundary(value: bytes) -> None:
    description = describe(b"Content-Type: " + value + b"\n")
    assert description[:3] == (b"multipart", b"mixed", b"a;b")


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"", (b"text", b"plain", b"")),
        (b"Content-Type: text\n", (b"text", b"plain", b"")),
        (b"Content-Type: ; charset=utf-8\n", (b"text", b"plain", b"utf-8")),
        (b"Content-Type: text/HTML; CharSet=UTF-8\n", (b"text", b"html", b"utf-8")),
        (b"Content-Type: image/png\nContent-Type: text/html\n", (b"image", b"png", b"")),
    ],
)
def test_type_and_charset(block: bytes, expected: tuple[bytes, bytes, bytes]) -> None:
    description = describe(block)
    assert (description.maintype, description.subtype, description.charset) == expected


def test_default_type_in_a_digest() -> None:
    assert describe(b"", digest=True)[:2] == (b"message", b"rfc822")
    assert describe(b"Content-Type: text/plain\n", digest=True)[:2] == (b"text", b"plain")


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b" 8BIT", TransferEncoding.EIGHT_BIT),
        (b"\n 8bit (so to say)\n", TransferEncoding.EIGHT_BIT),
        (b' "quoted-printable"', TransferEncoding.QUOTED_PRINTABLE),
        (b" base64;", TransferEncoding.BASE64),
        (b" Binary", TransferEncoding.BINARY),
        (b" 7bit", TransferEncoding.SEVEN_BIT),
        (b" x-uuencode", TransferEncoding.OTHER),
        (b" absent", TransferEncoding.OTHER),
    ],
)
def test_transfer_encoding(value: bytes, encoding: TransferEncoding) -> None:
    assert describe(b"Content-Transfer-Encoding:" + value).encoding is encoding
    assert describe(b"").encoding is TransferEncoding.ABSENT


def test_parameter_places() -> None:
    value = b' text/plain; name="a (no comment)" (b; c=d); charset=utf-8'
    found = parameters(value)
    assert [(each.name, each.value) for each in found] == [(b"name", b"a (no comment)"), (b"charset", b"utf-8")]
    assert value[found[0].start : found[0].end] == b'name="a (no comment)"'


@pytest.mark.timeout(60)
def test_a_block_of_stray_lines_costs_no_more_than_others() -> None:
    assert stray_lines(b"x\n" * 200_000)[-1].line == 200_000
    assert first_value(b"a\nab: x\n" * 50_000, b"a") is None


@pytest.mark.parametrize(
    "block",
    [
        b"Content-Type: " + b"a" * 1_000_000,
        b"Content-Type: text/plain; " + b"a " * 500_000,
        b"Content-Type: text/plain; " + b'a="' * 300_000,
        b"Content-Type: text/plain; a=" + b'"\\' * 500_000,
        b"Content-Type" + b"\n " * 500_000,
        b"a" * 1_000_000,
    ],
    ids=lambda block: repr(block[-8:]),
)
@pytest.mark.timeout(60)
def test_hostile_blocks_cost_no_more_than_others(block: bytes) -> None:
    assert describe(block)[:2] == (b"text", b"plain")

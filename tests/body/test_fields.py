"""What MIME fields say, in all the ways they are written."""

from __future__ import annotations

import pytest

from zsmtp.body.fields import TransferEncoding, describe, parameters, split_fields


def test_fields_with_their_places() -> None:
    block = b"A: one\n two\nno field\nB :\nsubject:x"
    fields = split_fields(block)
    assert [(field.name, block[field.value : field.end]) for field in fields] == [
        (b"a", b" one\n two\n"),
        (b"b", b"\n"),
        (b"subject", b"x"),
    ]
    assert b"".join(block[field.start : field.end] for field in fields) == b"A: one\n two\nB :\nsubject:x"


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
@pytest.mark.timeout(20)
def test_hostile_blocks_cost_no_more_than_others(block: bytes) -> None:
    assert describe(block)[:2] == (b"text", b"plain")

"""Encoded words and extended parameters, judged by the standard library's decoder."""

from __future__ import annotations

import base64
import email
import re
from email.policy import compat32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.body.receiver import text

from zsmtp.body.words import encode_header

PIECES = ["größer", "plain", "日本語", "(so)", "é", "=?utf-8?q?=C3=B6?=", "a" * 90, "ж" * 40, "=", "?", "_", "\\", "𠮷"]
PHRASES = ["Jörg", "plain", "日本語", '"Ö, (x)"', '"a b"', "é.", "(Büro (ö) b)", "ж" * 40]
GAPS = [" ", "  ", "\n ", "\n\t", " \n "]


def gapped(pieces: list[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(st.sampled_from(pieces), st.sampled_from(GAPS))
    return st.lists(pair, min_size=1, max_size=10).map(lambda pairs: "".join(w + g for w, g in pairs).strip())


def encode(block: str | bytes, *, charset: bytes = b"UNKNOWN-8BIT", keep_utf8: bool = False) -> bytes:
    octets = block.encode() if isinstance(block, str) else block
    return encode_header(octets, default_charset=charset, keep_utf8=keep_utf8).block


def value(block: bytes) -> str:
    ((_, raw),) = email.message_from_bytes(block + b"\n").raw_items()
    return text(raw)


@given(gapped(PIECES))
@example("é =?utf-8?q?=C3=B6?= é é =?utf-8?q?=C3=B6?=")
def test_unstructured_text(subject: str) -> None:
    block = f"Subject: {subject}\n"
    encoded = encode(block)
    assert encoded.isascii()
    assert value(encoded) == value(block.encode())
    assert encoded.endswith(b"\n")
    assert_well_folded(encoded)


@given(st.lists(gapped(PHRASES), min_size=1, max_size=4))
def test_names_before_addresses(names: list[str]) -> None:
    addresses = [f"box{number}@example.org" for number in range(len(names))]
    block = "To: " + ", ".join(f"{name} <{box}>" for name, box in zip(names, addresses, strict=True)) + "\n"
    encoded = encode(block)
    assert encoded.isascii()
    assert [m.decode() for m in re.findall(rb"<(.*?)>", encoded)] == addresses
    # Right behind a bracket a fold may add a blank, which means nothing in a comment.
    assert value(encoded).replace("\\", "").replace("( ", "(") == value(block.encode()).replace("( ", "(")
    assert_well_folded(encoded)


def assert_well_folded(encoded: bytes) -> None:
    for line in encoded.rstrip(b"\n").split(b"\n"):
        assert line.strip(), "a line of blanks would end the header for some"
        for word in re.findall(rb"=\?[^?]*\?[QB]\?[^?\s]*\?=", line):
            assert len(word) <= 75
            assert len(line) <= 76 or len(line) - len(word) >= 76 or b"a" * 90 in line


@pytest.mark.parametrize(
    ("field", "encoded"),
    [
        ("Subject: plain\n", "Subject: plain\n"),
        ("Subject:ä\n", "Subject:=?UTF-8?Q?=C3=A4?=\n"),
        ("Subject: ä b ö\n", "Subject: =?UTF-8?Q?=C3=A4?= b =?UTF-8?Q?=C3=B6?=\n"),
        ("Subject: ä  ö \n", "Subject: =?UTF-8?Q?=C3=A4__=C3=B6?=\n"),
        ("X: =?utf-8?q?a?= ä\n", "X: =?utf-8?q?a?= =?UTF-8?Q?_=C3=A4?=\n"),
        ('From: "Ä, B" <a@b.example>\n', "From: =?UTF-8?Q?=C3=84=2C_B?= <a@b.example>\n"),
        ("From: Ä<a@b.example>\n", "From: =?UTF-8?Q?=C3=84?= <a@b.example>\n"),
        ("From: a@b.example (Ä (ö) c)\n", "From: a@b.example (=?UTF-8?Q?=C3=84?= (=?UTF-8?Q?=C3=B6?=) c)\n"),
        (
            "To: Ä: a@b.example, Ö <c@d.example>;\n",
            "To: =?UTF-8?Q?=C3=84?=: a@b.example, =?UTF-8?Q?=C3=96?= <c@d.example>;\n",
        ),
        ("To: a@exämple.org, <b@ä.example>\n", "To: a@xn--exmple-cua.org, <b@xn--4ca.example>\n"),
        ("To: a@ＭＸ。Ä.example, <b@ｘ．example>\n", "To: a@mx.xn--4ca.example, <b@x.example>\n"),
        ("Received: from x (ä) by y; z\n", "Received: from x (=?UTF-8?Q?=C3=A4?=) by y; z\n"),
        ("Keywords: ä, b\n", "Keywords: =?UTF-8?Q?=C3=A4?=, b\n"),
        ('Content-Type: a/b; name="ä "; c=d\n', "Content-Type: a/b;\n\tname*=UTF-8''%C3%A4%20; c=d\n"),
    ],
)
def test_places(field: str, encoded: str) -> None:
    assert encode(field).decode() == encoded


def test_other_fields_stay_octet_for_octet() -> None:
    assert encode(b"A:  b \n\tc\nno field\nSubject: \xe4\nZ :z\n") == (
        b"A:  b \n\tc\nno field\nSubject: =?UNKNOWN-8BIT?Q?=E4?=\nZ :z\n"
    )


@pytest.mark.parametrize(
    "block", [b"Message-ID: <\xe4@b>\n", b"Date: \xe4\n", b'Content-Type: a/b; boundary="\xe4"\n', b"To: \xe4@b\n"]
)
def test_structured_tokens_are_left(block: bytes) -> None:
    edited = encode_header(block, default_charset=b"ISO-8859-1", keep_utf8=False)
    assert edited.block == block
    assert edited.left
    assert not edited.needs_smtputf8


def test_local_part_without_ascii_form() -> None:
    for block in ("To: ä@b.example\n", "Cc: Ä <ä@b.example>\n"):
        assert encode_header(block.encode(), default_charset=b"X", keep_utf8=False).needs_smtputf8
        kept = encode_header(block.encode(), default_charset=b"X", keep_utf8=True)
        assert kept == (block.encode(), True, False)


def test_characters_are_never_torn() -> None:
    encoded = encode("Subject: " + "語" * 100 + "\n")
    words = re.findall(rb"=\?UTF-8\?B\?(.*?)\?=", encoded)
    assert len(words) > 4
    for word in words:
        base64.b64decode(word, validate=True).decode("utf-8")


def test_characters_of_a_named_charset_are_not_torn() -> None:
    encoded = encode(b"Subject: " + ("漢字" * 60).encode("gb18030") + b"\n", charset=b"GB18030")
    assert value(encoded) == "漢字" * 60


def test_long_file_name_in_sections() -> None:
    name = "Übersicht über die Geschäftsjahre " * 4 + ".pdf"
    encoded = encode(f'Content-Disposition: attachment; filename="{name}"\n')
    assert email.message_from_bytes(encoded + b"\n", policy=compat32).get_filename() == name
    assert all(len(line) <= 76 for line in encoded.split(b"\n"))


@pytest.mark.parametrize("piece", ["(", "ä(", '"', "\\", "<", ",", "=?", "ä ", "(ä", "@", ":", ";", "\t"])
@pytest.mark.parametrize("name", ["To", "Subject", "Received", "Content-Type"])
@pytest.mark.timeout(60)
def test_hostile_fields_cost_no_more_than_others(name: str, piece: str) -> None:
    encode_header(f"{name}: ä{piece * 20_000}\n".encode(), default_charset=b"X", keep_utf8=False)

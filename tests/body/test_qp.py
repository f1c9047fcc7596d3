"""Quoted-printable against the standard library's decoder, however the text is cut into blocks."""

from __future__ import annotations

import quopri
import re
from binascii import a2b_qp
from itertools import chain, repeat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.body.qp import SEGMENT, QuotedPrintableDecoder, QuotedPrintableEncoder, QuotedPrintableMender

ALL_BUT_LF = bytes(range(256)).replace(b"\n", b"")
PIECES = [
    b"\n",
    b" ",
    b"\t",
    b".",
    b"From ",
    b"--",
    b"=",
    b"\xe4",
    b"a",
    b"\0",
    b"x" * 73,
    b"\r",
    b"-",
    b"=E4",
    ALL_BUT_LF,
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
CUTS = st.lists(st.integers(1, 100), max_size=5)
Codec = QuotedPrintableEncoder | QuotedPrintableDecoder | QuotedPrintableMender


def run(codec: Codec, text: bytes, sizes: list[int]) -> bytes:
    done = []
    at = 0
    for size in chain(sizes, repeat(SEGMENT * 3)):
        if at >= len(text):
            break
        done.append(codec.feed(text[at : at + size]))
        at += size
    return b"".join(done) + codec.finish()


def encode(text: bytes, *sizes: int, in_multipart: bool = False) -> bytes:
    return run(QuotedPrintableEncoder(in_multipart=in_multipart), text, list(sizes))


@given(TEXT, CUTS, st.booleans())
@example(b"".join(b"." + b"x" * n + b"\n" for n in range(60, 82)), [30, 40], False)
@example(b"".join(b"From " + b"x" * n + b"\xe4\n" for n in range(60, 82)), [30, 40], False)
@example(b"x" * 74 + b" \n", [], False)
@example(b"x" * 75 + b"From \n", [], False)
@example(b"x" * 75 + b"--b\n", [], True)
@example((b"x" * 75 + b".\n"), [], False)
@example(ALL_BUT_LF + b" \n" + ALL_BUT_LF * 2 + b"--\n.", [], True)
@example(b"y" * (SEGMENT + 10) + b" \n" + b"z" * SEGMENT + b"\n.", [SEGMENT - 1], False)
@example(b"y" * SEGMENT + b"\n", [SEGMENT], False)
@example((b"a" * 50 + b"\n") * 4000, [100], True)
@example((b"." + b"=" * 30 + b"\n.\n" + b"." * 90 + b"\n") * 2000, [5000, 100], False)
@example((b"x" * 75 + b" \nFrom a\n" + b"x" * 71 + b"\xe4\t\n.b\n") * 30, [], False)
def test_encoder(text: bytes, sizes: list[int], in_multipart: bool) -> None:
    encoded = encode(text, in_multipart=in_multipart)
    assert encoded == encode(text, *sizes, in_multipart=in_multipart), "a cut shows"
    assert quopri.decodestring(encoded.replace(b"\r\n", b"\n")) == text
    for line in encoded.split(b"\r\n"):
        assert len(line) <= 76
        assert re.fullmatch(rb"(?:[\t\x20-\x3c\x3e-\x7e]|=[0-9A-F]{2})*=?", line)
        assert not line.endswith((b" ", b"\t"))
        assert line != b"."
        assert not line.startswith(b"From ")
        assert not (in_multipart and line.startswith(b"--"))


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        (b"", b""),
        (b"p\xe4iv\xe4\xe4 = good day\n", b"p=E4iv=E4=E4 =3D good day\r\n"),
        (b".dot line \xe5\n.\n", b"=2Edot line =E5\r\n=2E\r\n"),
        (b"From here\nFrom\nfrom me From you", b"=46rom here\r\nFrom\r\nfrom me From you"),
        (b"trailing space \nTab\tin line\t\n", b"trailing space=20\r\nTab\tin line=09\r\n"),
        (b"open ", b"open=20"),
        (b"a\rb\0\x7f", b"a=0Db=00=7F"),
        (b"-- \n", b"--=20\r\n"),
        (b"x" * 76 + b"\n", b"x" * 76 + b"\r\n"),
        (b"x" * 77, b"x" * 75 + b"=\r\nxx"),
    ],
)
def test_forms(text: bytes, encoded: bytes) -> None:
    assert encode(text) == encoded


def test_nothing_looks_like_a_boundary_in_a_multipart() -> None:
    assert encode(b"--b\n-- \n- -\n", in_multipart=True) == b"=2D-b\r\n=2D-=20\r\n- -\r\n"


@given(TEXT.map(lambda text: text.replace(b"\r", b"").replace(b"\0", b"")), CUTS)
def test_what_was_encoded_is_decoded(text: bytes, sizes: list[int]) -> None:
    encoded = encode(text).replace(b"\r\n", b"\n")
    decoder = QuotedPrintableDecoder()
    assert run(decoder, encoded, sizes) == text
    assert not decoder.unfit


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (b"so=\nft =  \nbreak", b"soft break"),
        (b"blanks \t \nat the end \n", b"blanks\nat the end\n"),
        (b"=e4=E4", b"\xe4\xe4"),
        (b"=ZZ =4 ==41 ===41 =", b"=ZZ =4 =A ==A "),
        (b"raw \xe4\n", b"raw \xe4\n"),
    ],
)
def test_robust_decoding(encoded: bytes, text: bytes) -> None:
    decoder = QuotedPrintableDecoder()
    assert run(decoder, encoded, []) == text
    assert not decoder.unfit


@pytest.mark.parametrize(
    "encoded", [b"a=0Ab", b"a=0d=0a", b"=00", b"x" * (SEGMENT + 1)], ids=["LF", "CRLF", "NUL", "long"]
)
def test_what_cannot_be_lines(encoded: bytes) -> None:
    decoder = QuotedPrintableDecoder()
    assert run(decoder, encoded, []) == b""
    assert decoder.unfit


@given(TEXT.map(lambda text: text.replace(b"\r", b"")), CUTS)
@example(b"x" * 74 + b"==From \0", [])
@example(b"=" * 9 + b"\xe4" + b"=" * 1, [])
@example(b"y" * SEGMENT + b"=E4" + b"y" * SEGMENT, [])
def test_mended_text_reads_the_same(text: bytes, sizes: list[int]) -> None:
    mended = run(QuotedPrintableMender(), text, sizes)
    assert a2b_qp(mended.replace(b"\r\n", b"\n")) == a2b_qp(text)
    assert mended.isascii()
    assert b"\0" not in mended
    assert all(len(line) <= 76 for line in mended.split(b"\r\n"))


def test_legal_text_is_not_mended() -> None:
    text = b"caf=C3=A9 so=\nft \n=\n"
    assert run(QuotedPrintableMender(), text, []) == text.replace(b"\n", b"\r\n")

"""The rules of conversion as one table: what is stored, what the server takes, what goes out."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.body.encode import MessageContent
from zsmtp.body.headers import is_signed
from zsmtp.body.source import Source
from zsmtp.body.stored import prepare
from zsmtp.body.target import ContentRefusal, Conversion, NonMime8Bit, Signed8Bit, Target

RECEIVED = b"Received: by a.example with ESMTP id 1; Sun, 1 Jan 2023 12:00:00 +0000\n"
AS_STORED = None


def mime(encoding: bytes, content_type: bytes = b"text/plain; charset=ISO-8859-1") -> bytes:
    return b"Content-Type: " + content_type + b"\nContent-Transfer-Encoding: " + encoding + b"\nMIME-Version: 1.0\n"


def convert(form: bytes) -> bytes:
    return b"Received: by a.example with ESMTP id 1 convert rfc822-to-%s;\n\tSun, 1 Jan 2023 12:00:00 +0000\n" % form


# Servers, each with the options of the agent.
PLAIN = Target()
EIGHT = Target(eight_bit_mime=True)
BINARY = Target(eight_bit_mime=True, binary_mime=True)
MINUS_7 = Target(eight_bit_mime=True, binary_mime=True, seven_bit=True)
MINUS_8 = Target(send_eight_bit=True)
MINUS_8_EIGHT = Target(eight_bit_mime=True, send_eight_bit=True)
MINUS_77_8 = Target(seven_bit=True, send_eight_bit=True)

# Stored: header fields (behind Received:), body.
ASCII = b"", b"plain text\n"
ASCII_8BIT = mime(b"8bit"), b"plain text\n"
ASCII_8BIT_KOI8 = mime(b"8bit", b"text/plain; charset=KOI8-R; format=flowed"), b"plain text\n"
ASCII_8BIT_HTML = mime(b"8bit", b"text/html; charset=utf-8"), b"<p>\n"
ASCII_8BIT_JP = mime(b"8bit", b"text/plain; charset=iso-2022-jp"), b"\x1b$B\x1b(B\n"
LATIN1 = mime(b"8BIT"), b"p\xe4iv\xe4\xe4 =\n.x\nFrom a \n"
LATIN1_QP = b"p=E4iv=E4=E4 =3D\n=2Ex\n=46rom a=20\n"
BARE_LATIN1 = b"Subject: x\n", b"p\xe4iv\xe4\xe4\n"
BARE_UTF8 = b"Subject: x\n", "päivää\n".encode()
QP = mime(b"quoted-printable"), b"p=E4iv=E4=E4 so=\nft\n"
QP_HTML = mime(b"quoted-printable", b"text/html; charset=iso-8859-1"), b"p=E4iv=E4=E4\n"
QP_LINE_END = mime(b"quoted-printable"), b"=E4=0A\n"
BASE64 = mime(b"base64", b"image/png"), b"QUJD\n"
MOSTLY_TEXT = mime(b"8bit", b"application/x-letters"), b"sixth\xe4"
MOSTLY_8BIT = mime(b"8bit", b"application/x-letters"), b"o\ner\xe4"
OCTETS = mime(b"binary", b"image/png"), b"\x89PNG\r\n\x1a\n\0"
NUL = mime(b"8bit", b"text/plain; charset=utf-8"), b"a\0b\n"
LONG_IF_DECODED = mime(b"quoted-printable"), (b"y" * 70 + b"=\n") * 15 + b"y\n"
LONG = mime(b"7bit", b"text/plain"), b"y" * 1000 + b"\n"
LONG_QP = b"y" * 75 + b"=\n" + (b"y" * 75 + b"=\n") * 12 + b"y" * 25 + b"\n"
PARTS = (
    mime(b"8bit", b"multipart/mixed; boundary=b"),
    b"--b\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\np\xe4iv\xe4\xe4\n"
    b"--b\nContent-Transfer-Encoding: 8bit\n\nplain\n--b\nContent-Type: message/rfc822\n\n"
    b"Subject: \xc3\xa4\n\n\xe4\n--b--\n",
)
PARTS_7 = (
    b"--b\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: QUOTED-PRINTABLE\n\np=E4iv=E4=E4\n"
    b"--b\nContent-Transfer-Encoding: 7BIT\n\nplain\n--b\nContent-Type: message/rfc822\n\nSubject: =?UTF-8?Q?=C3=A4?=\n"
    b"Content-Transfer-Encoding: QUOTED-PRINTABLE\nMIME-Version: 1.0\n\n=E4\n--b--\n"
)
SIGNED = b"DKIM-Signature: v=1; b=x\n" + mime(b"8bit"), b"p\xe4iv\xe4\xe4\n"
PART_SIGNED = (
    mime(b"8bit", b"multipart/mixed; boundary=b"),
    b"--b\nContent-Type: multipart/signed; boundary=s\n\n--s\n\n\xe4\n--s--\n--b--\n",
)
FORCED = b"Content-Conversion: forced-qp\n" + mime(b"8bit"), b"\xe4\n"
FORCED_OCTETS = b"Content-Conversion: forced-qp\n" + OCTETS[0], OCTETS[1]
FORCED_LONG = b"Content-Conversion: forced-qp\n" + LONG[0], LONG[1]
NAMED = b"Content-Disposition: attachment; filename=p\xe4.txt\n"
LONG_BESIDE_ASCII = (  # parts that say more of their octets than is true
    mime(b"8bit", b"multipart/mixed; boundary=b"),
    b"--b\nContent-Transfer-Encoding: 8bit\n\nplain\n"
    b"--b\nContent-Transfer-Encoding: binary\n\nplain, too\n"
    b"--b\n\n" + LONG[1] + b"--b--\n",
)
LONG_BESIDE_ASCII_SENT = (
    b"--b\nContent-Transfer-Encoding: 7BIT\n\nplain\n"
    b"--b\nContent-Transfer-Encoding: QUOTED-PRINTABLE\n\nplain, too\n"
    b"--b\nContent-Transfer-Encoding: QUOTED-PRINTABLE\n\n" + LONG_QP + b"--b--\n"
)
LONG_BESIDE_8BIT = (
    mime(b"binary", b"multipart/mixed; boundary=b"),
    b"--b\n" + NAMED + b"Content-Transfer-Encoding: 8bit\n\np\xe4iv\xe4\xe4\n"
    b"--b\n" + NAMED + b"\n" + LONG[1] + b"--b--\n",
)
LONG_BESIDE_8BIT_SENT = (
    b"--b\n" + NAMED + b"Content-Transfer-Encoding: 8bit\n\np\xe4iv\xe4\xe4\n"
    b"--b\n" + NAMED + b"Content-Transfer-Encoding: QUOTED-PRINTABLE\n\n" + LONG_QP + b"--b--\n"
)
WARNINGS = (
    b"X-Warning: Original message contained 8-bit characters, however during\n"
    b"\t   the SMTP transport session the receiving system did not announce\n"
    b"\t   capability of receiving 8-bit SMTP (RFC 1651-1653), and as this\n"
    b"\t   message does not have MIME headers (RFC 2045-2049) to enable\n"
    b"\t   encoding change, we had very little choice.\n"
    b"X-Warning: We ASSUME it is less harmful to add the MIME headers, and\n"
    b"\t   convert the text to Quoted-Printable, than not to do so,\n"
    b"\t   and to strip the message to 7-bits.. (RFC 1428 Appendix A)\n"
)
GUESSED = (
    b"X-Warning: We don't know what character set the user used, thus we had to\n"
    b"\t   write these MIME-headers with our local system default value.\n"
)
DEFAULT = Target(default_charset=b"ISO-8859-15")


def new_mime(charset: bytes) -> bytes:
    return (
        b"MIME-Version: 1.0\nContent-Transfer-Encoding: QUOTED-PRINTABLE\nContent-Type: TEXT/PLAIN; charset=%s\n"
        % charset
    )


class Case(NamedTuple):
    """A row: a message, a server, and header and body as sent (``AS_STORED``: as stored), with BODY= and cvt=."""

    stored: tuple[bytes, bytes]
    target: Target
    header: bytes | None = AS_STORED
    body: bytes | None = AS_STORED
    parameter: bytes | None = None
    conversion: Conversion = Conversion.NONE


QP_SENT = convert(b"quoted-printable") + mime(b"QUOTED-PRINTABLE")
BASE64_OCTETS = convert(b"base64") + mime(b"BASE64", b"image/png")
DECODED = convert(b"8bit") + mime(b"8BIT")
TABLE = {
    "7-bit, no MIME fields": Case(ASCII, PLAIN),
    "7-bit, called 8BIT": Case(ASCII_8BIT, PLAIN, RECEIVED + mime(b"7BIT", b"text/plain; charset=US-ASCII")),
    "7-bit, called 8BIT, 8BITMIME": Case(ASCII_8BIT, EIGHT, RECEIVED + mime(b"7BIT", b"text/plain; charset=US-ASCII")),
    "7-bit, called 8BIT and KOI8": Case(
        ASCII_8BIT_KOI8, EIGHT, RECEIVED + mime(b"7BIT", b"text/plain; charset=US-ASCII; format=flowed")
    ),
    "7-bit HTML, called 8BIT": Case(ASCII_8BIT_HTML, PLAIN, RECEIVED + mime(b"7BIT", b"text/html; charset=utf-8")),
    "7-bit, called 8BIT in a charset that is not ASCII": Case(ASCII_8BIT_JP, PLAIN),
    "8-bit, 8BITMIME": Case(LATIN1, EIGHT, parameter=b"8BITMIME"),
    "8-bit, -8": Case(LATIN1, MINUS_8),
    "8-bit, -8, 8BITMIME": Case(LATIN1, MINUS_8_EIGHT, parameter=b"8BITMIME"),
    "8-bit, -77 -8": Case(LATIN1, MINUS_77_8),
    "8-bit text": Case(LATIN1, PLAIN, QP_SENT, LATIN1_QP, conversion=Conversion.QP),
    "8-bit text, -7": Case(LATIN1, MINUS_7, QP_SENT, LATIN1_QP, conversion=Conversion.QP),
    "8-bit, not text, few 8-bit octets": Case(
        MOSTLY_TEXT,
        PLAIN,
        convert(b"quoted-printable") + mime(b"QUOTED-PRINTABLE", b"application/x-letters"),
        b"sixth=E4\n",
        conversion=Conversion.QP,
    ),
    "8-bit, not text, many 8-bit octets": Case(
        MOSTLY_8BIT,
        PLAIN,
        convert(b"base64") + mime(b"BASE64", b"application/x-letters"),
        b"bw0KZXLk\n",  # of the canonical line end
        conversion=Conversion.QP,
    ),
    "8-bit in parts": Case(PARTS, EIGHT, parameter=b"8BITMIME"),
    "8-bit in parts, no 8BITMIME": Case(
        PARTS,
        PLAIN,
        convert(b"quoted-printable") + mime(b"7BIT", b"multipart/mixed; boundary=b"),
        PARTS_7,
        conversion=Conversion.MULTIPART_QP,
    ),
    "8-bit, no MIME fields, 8BITMIME": Case(BARE_LATIN1, EIGHT, parameter=b"8BITMIME"),
    "8-bit, no MIME fields": Case(
        BARE_LATIN1,
        PLAIN,
        RECEIVED + WARNINGS + GUESSED + new_mime(b"UNKNOWN-8BIT") + BARE_LATIN1[0],
        b"p=E4iv=E4=E4\n",
        conversion=Conversion.QP,
    ),
    "8-bit, no MIME fields, DEFCHARSET": Case(
        BARE_LATIN1,
        DEFAULT,
        RECEIVED + WARNINGS + GUESSED + new_mime(b"ISO-8859-15") + BARE_LATIN1[0],
        b"p=E4iv=E4=E4\n",
        conversion=Conversion.QP,
    ),
    "8-bit, no MIME fields, UTF-8": Case(
        BARE_UTF8,
        DEFAULT,
        RECEIVED + WARNINGS + new_mime(b"UTF-8") + BARE_UTF8[0],
        b"p=C3=A4iv=C3=A4=C3=A4\n",
        conversion=Conversion.QP,
    ),
    "8-bit, no MIME fields, strip": Case(BARE_LATIN1, Target(nonmime_8bit=NonMime8Bit.STRIP), body=b"pdivdd\n"),
    "QP, -8": Case(QP, MINUS_8, DECODED, b"p\xe4iv\xe4\xe4 soft\n", conversion=Conversion.EIGHT_BIT),
    "QP, -77 -8": Case(QP, MINUS_77_8, DECODED, b"p\xe4iv\xe4\xe4 soft\n", conversion=Conversion.EIGHT_BIT),
    "QP, -8, 8BITMIME": Case(
        QP, MINUS_8_EIGHT, DECODED, b"p\xe4iv\xe4\xe4 soft\n", b"8BITMIME", conversion=Conversion.EIGHT_BIT
    ),
    "QP, 8BITMIME": Case(QP, EIGHT),
    "QP": Case(QP, PLAIN),
    "QP, not text/plain, -8": Case(QP_HTML, MINUS_8),
    "QP of a line end, -8": Case(QP_LINE_END, MINUS_8),
    "QP of a line that would be too long, -8": Case(LONG_IF_DECODED, MINUS_8),
    "binary, BINARYMIME": Case(OCTETS, BINARY, parameter=b"BINARYMIME"),
    "binary, 8BITMIME": Case(OCTETS, EIGHT, BASE64_OCTETS, b"iVBORw0KGgoA\n", conversion=Conversion.QP),
    "binary, -7": Case(OCTETS, MINUS_7, BASE64_OCTETS, b"iVBORw0KGgoA\n", conversion=Conversion.QP),
    "binary, -8": Case(OCTETS, MINUS_8, BASE64_OCTETS, b"iVBORw0KGgoA\n", conversion=Conversion.QP),
    "NUL, BINARYMIME": Case(NUL, BINARY, parameter=b"BINARYMIME"),
    "NUL": Case(
        NUL,
        EIGHT,
        convert(b"quoted-printable") + mime(b"QUOTED-PRINTABLE", b"text/plain; charset=utf-8"),
        b"a=00b\n",
        conversion=Conversion.QP,
    ),
    "long line, BINARYMIME": Case(LONG, BINARY, parameter=b"BINARYMIME"),
    "long line": Case(
        LONG,
        EIGHT,
        convert(b"quoted-printable") + mime(b"QUOTED-PRINTABLE", b"text/plain"),
        LONG_QP,
        conversion=Conversion.QP,
    ),
    "long line, no MIME fields": Case(
        (b"", LONG[1]), EIGHT, RECEIVED + new_mime(b"US-ASCII"), LONG_QP, conversion=Conversion.QP
    ),
    "base64": Case(BASE64, PLAIN),
    "signed": Case(SIGNED, PLAIN),
    "signed, 8BITMIME": Case(SIGNED, EIGHT, parameter=b"8BITMIME"),
    "signed, -7": Case(SIGNED, MINUS_7),
    "signed, to be converted": Case(
        SIGNED,
        Target(signed_8bit=Signed8Bit.CONVERT),
        convert(b"quoted-printable") + SIGNED[0].replace(b"8bit", b"QUOTED-PRINTABLE"),
        b"p=E4iv=E4=E4\n",
        conversion=Conversion.QP,
    ),
    "a part signed": Case(PART_SIGNED, PLAIN),
    "forced QP, 8BITMIME": Case(
        FORCED,
        EIGHT,
        convert(b"quoted-printable") + FORCED[0].replace(b"8bit", b"QUOTED-PRINTABLE"),
        b"=E4\n",
        conversion=Conversion.QP,
    ),
    "forced QP, -8": Case(FORCED, MINUS_8),
    "forced QP, binary, BINARYMIME": Case(
        FORCED_OCTETS,
        BINARY,
        convert(b"base64") + FORCED_OCTETS[0].replace(b"binary", b"BASE64"),
        b"iVBORw0KGgoA\n",
        conversion=Conversion.QP,
    ),
    "forced QP, long line, BINARYMIME": Case(
        FORCED_LONG,
        BINARY,
        convert(b"quoted-printable") + FORCED_LONG[0].replace(b"7bit", b"QUOTED-PRINTABLE"),
        LONG_QP,
        conversion=Conversion.QP,
    ),
    "7-bit parts called 8BIT and binary, beside a long line": Case(
        LONG_BESIDE_ASCII,
        EIGHT,
        convert(b"quoted-printable") + mime(b"7BIT", b"multipart/mixed; boundary=b"),
        LONG_BESIDE_ASCII_SENT,
        conversion=Conversion.MULTIPART_QP,
    ),
    "8-bit parts with 8-bit in their headers, beside a long line": Case(
        LONG_BESIDE_8BIT,
        EIGHT,
        convert(b"quoted-printable") + mime(b"8BIT", b"multipart/mixed; boundary=b"),
        LONG_BESIDE_8BIT_SENT,
        b"8BITMIME",
        conversion=Conversion.MULTIPART_QP,
    ),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_table(case: Case) -> None:
    header, body = RECEIVED + case.stored[0], case.stored[1]
    content = prepare(header, Source.from_bytes(body)).content(case.target)
    assert isinstance(content, MessageContent)
    sent = b"".join(content.chunk_blocks())
    wire_header, wire_body = sent[: content.header_size], sent[content.header_size :]
    expected = header if case.header is AS_STORED else case.header
    assert wire_header == expected.replace(b"\n", b"\r\n") + b"\r\n"
    if case.parameter == b"BINARYMIME" and case.stored == OCTETS:
        assert wire_body == body, "octets go as they are"
    else:
        assert wire_body == (body if case.body is AS_STORED else case.body).replace(b"\n", b"\r\n")
    assert (content.size, content.body_parameter, content.conversion) == (len(sent), case.parameter, case.conversion)


# ---------------------------------------------------------------------------- refusals, headers, remarks


def content_of(header: bytes, body: bytes, target: Target) -> MessageContent:
    content = prepare(header, Source.from_bytes(body)).content(target)
    assert isinstance(content, MessageContent)
    return content


def head_of(content: MessageContent) -> bytes:
    return b"".join(content.chunk_blocks())[: content.header_size].replace(b"\r\n", b"\n").removesuffix(b"\n")


@pytest.mark.parametrize("stored", [SIGNED, PART_SIGNED], ids=["by its header", "by a part"])
def test_signed_8_bit_content_is_refused_if_that_is_wanted(stored: tuple[bytes, bytes]) -> None:
    prepared = prepare(*(stored[0], Source.from_bytes(stored[1])))
    refusal = prepared.content(Target(signed_8bit=Signed8Bit.BOUNCE))
    assert isinstance(refusal, ContentRefusal)
    assert refusal.status == "5.6.3"
    assert isinstance(prepared.content(Target(signed_8bit=Signed8Bit.BOUNCE, eight_bit_mime=True)), MessageContent)


def test_signed_7_bit_content_with_long_lines_is_never_refused() -> None:
    content = content_of(SIGNED[0], b"x" * 1000 + b"\n", Target(signed_8bit=Signed8Bit.BOUNCE))
    assert "lines of over 998 octets go as they are" in content.remarks


UTF8_HEADER = "To: Jörg <j@example.net>\nSubject: größer\n".encode()


def test_header_is_encoded() -> None:
    header = head_of(content_of(UTF8_HEADER, b"x\n", EIGHT))
    assert header == b"To: =?UTF-8?Q?J=C3=B6rg?= <j@example.net>\nSubject: =?UTF-8?Q?gr=C3=B6=C3=9Fer?=\n"


def test_header_in_the_default_charset() -> None:
    content = content_of(b"Subject: p\xe4iv\xe4\xe4 all \xf6\n", b"x\n", Target(default_charset=b"ISO-8859-1"))
    assert head_of(content) == b"Subject: =?ISO-8859-1?Q?p=E4iv=E4=E4?= all =?ISO-8859-1?Q?=F6?=\n"


@pytest.mark.parametrize("named", [b"", b"no such\r\nX: y", b"?q?", "ä".encode()])
def test_default_charset_that_is_none(named: bytes) -> None:
    content = content_of(b"Subject: \xe4\n", b"x\n", Target(default_charset=named))
    assert head_of(content) == b"Subject: =?UNKNOWN-8BIT?Q?=E4?=\n"


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        ("X-Fäld: wörd\n", b"X-F=C3=A4ld: =?UTF-8?Q?w=C3=B6rd?=\n"),
        ("ä: b\nSubject: x\n", b"=C3=A4: b\nSubject: x\n"),
        ("Kopf-Zeile-Ö : x\n y\n", b"Kopf-Zeile-=C3=96 : x\n y\n"),
        ("kein Feld, ä\n", b"kein Feld, =C3=A4\n"),
        ("Message-ID: <ü@x>\n", b"Message-ID: <=C3=BC@x>\n"),
        ("Date: 1 Mär 2025 12:00:00 +0000\n", b"Date: 1 M=C3=A4r 2025 12:00:00 +0000\n"),
        ("To: <\udce4@b.example>\n", b"To: <=E4@b.example>\n"),
    ],
)
def test_no_8_bit_octet_of_a_header_reaches_a_server_of_seven_bits(stored: str, sent: bytes) -> None:
    header = stored.encode("utf-8", "surrogateescape")
    for target in (Target(), MINUS_7):
        content = content_of(header, b"x\n", target)
        assert head_of(content) == sent
        assert (content.facts.eight_bit, content.body_parameter) == (False, None)
    assert head_of(content_of(header, b"x\n", Target(convert_headers=False))) == header
    signed = b"DKIM-Signature: v=1; b=x\n" + header
    assert head_of(content_of(signed, b"x\n", Target())) == signed


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")), max_size=6))
def test_whatever_a_header_holds_seven_bits_stay_seven_bits(lines: list[bytes]) -> None:
    header = b"".join(line + b"\n" for line in lines if line.strip())
    if is_signed(header):
        return
    content = prepare(header, Source.from_bytes(b"\xe4\n")).content(Target())
    assert isinstance(content, ContentRefusal) or not content.facts.eight_bit


def test_the_header_of_a_part_has_seven_bits_like_its_content() -> None:
    part = "Content-Type: text/plain; charset=utf-8\nX-Größe: 1\n\nä\n".encode()
    body = b"--b\n" + part + b"--b--\n"
    content = content_of(mime(b"8bit", b"multipart/mixed; boundary=b"), body, Target())
    sent = b"".join(content.chunk_blocks())
    assert sent.isascii()
    assert b"\r\nX-Gr=C3=B6=C3=9Fe: 1\r\n" in sent


def test_header_is_not_encoded_with_minus_h() -> None:
    content = content_of(UTF8_HEADER, b"x\n", Target(convert_headers=False))
    assert head_of(content) == UTF8_HEADER
    assert "8-bit octets in the header block go as they are" in content.remarks


def test_header_is_not_encoded_with_smtputf8() -> None:
    content = content_of(UTF8_HEADER, b"x\n", Target(eight_bit_mime=True, smtputf8=True))
    assert head_of(content) == UTF8_HEADER
    assert content.needs_smtputf8
    assert content.remarks == ()


def test_smtputf8_is_not_asked_for_without_need() -> None:
    target = Target(eight_bit_mime=True, smtputf8=True)
    assert not content_of(b"Subject: x\n", b"x\n", target).needs_smtputf8
    assert not content_of(b"Subject: \xe4\n", b"x\n", target).needs_smtputf8, "not UTF-8"
    assert content_of(b"Subject: x\n", b"x\n", Target(smtputf8=True, internationalised=True)).needs_smtputf8


def test_what_is_not_utf8_is_encoded_with_smtputf8_too() -> None:
    target = Target(eight_bit_mime=True, smtputf8=True, internationalised=True)
    content = content_of(b"X: \xe4\nY: \xc3\xa4\n", b"x\n", target)
    assert head_of(content) == b"X: =?UNKNOWN-8BIT?Q?=E4?=\nY: \xc3\xa4\n"


def test_address_that_needs_smtputf8() -> None:
    header = "To: jörg@example.net\n".encode()
    refusal = prepare(header, Source.from_bytes(b"x\n")).content(EIGHT)
    assert isinstance(refusal, ContentRefusal)
    assert refusal.status == "5.6.7"
    assert head_of(content_of(header, b"x\n", Target(convert_headers=False))) == header
    assert head_of(content_of(header, b"x\n", Target(eight_bit_mime=True, smtputf8=True))) == header


def test_header_lines_that_are_too_long_are_folded() -> None:
    content = content_of(b"References: " + b"<abc@example.org> " * 80 + b"<z@example.org>\n", b"x\n", EIGHT)
    lines = head_of(content).split(b"\n")
    assert max(map(len, lines)) <= 998
    assert b"".join(lines).count(b"<abc@example.org>") == 80


LONG_TOKEN = b"References: <" + b"y" * 1000 + b"@example.org>\n"


@pytest.mark.parametrize("target", [PLAIN, EIGHT, BINARY, MINUS_8])
def test_a_header_line_that_cannot_be_folded_is_refused(target: Target) -> None:
    refusal = prepare(b"Subject: x\n" + LONG_TOKEN, Source.from_bytes(b"x\n")).content(target)
    assert refusal == ContentRefusal(
        "5.6.0", "the header field References has a line of over 998 octets that cannot be folded"
    )


def test_a_signed_header_is_never_folded() -> None:
    for long in (LONG_TOKEN, b"References: " + b"<abc@example.org> " * 80 + b"<z@example.org>\n"):
        content = content_of(SIGNED[0] + long, b"x\n", EIGHT)
        assert head_of(content) == SIGNED[0] + long
        assert "lines of over 998 octets go as they are" in content.remarks


def test_a_line_in_the_header_of_a_part_that_cannot_be_folded_is_refused() -> None:
    parts = b"--b\nX: y\n" + LONG_TOKEN + b"\nplain\n--b--\n"
    stored = prepare(mime(b"8bit", b"multipart/mixed; boundary=b"), Source.from_bytes(parts))
    assert isinstance(stored.content(EIGHT), ContentRefusal)
    folded = content_of(
        mime(b"7bit", b"multipart/mixed; boundary=b"), b"--b\nX:" + b" y" * 900 + b"\n\nz\n--b--\n", EIGHT
    )
    assert b"\r\n\r\nz\r\n" in b"".join(folded.chunk_blocks())
    assert max(map(len, b"".join(folded.chunk_blocks()).split(b"\r\n"))) <= 998


def test_too_many_parts_to_take_apart() -> None:
    body = b"\xe4\n" + b"--b\n\n" * 10_001
    content = content_of(mime(b"8bit", b"multipart/mixed; boundary=b"), body, PLAIN)
    assert content.conversion is Conversion.NONE
    assert "content is too intricate to be converted" in content.remarks


def test_stripping_makes_no_line_ends() -> None:
    content = content_of(b"", b"a\x8d\x8a.\x8d\x8ab\x80\xff\xa0\n", Target(nonmime_8bit=NonMime8Bit.STRIP))
    assert b"".join(content.chunk_blocks()) == b"\r\na??.??b?? \r\n"


def test_remarks_on_what_goes_as_it_is() -> None:
    assert any("8BITMIME" in remark for remark in content_of(*SIGNED, PLAIN).remarks)
    assert content_of(*SIGNED, EIGHT).remarks == ()
    assert content_of(*LATIN1, PLAIN).remarks == ()
    assert content_of(*OCTETS, BINARY).remarks == ()

"""The fields of a header block, and what the MIME ones among them say (RFC 5322 2.2, RFC 2045, RFC 2231).

A block is lines ended by LF, without the empty line after it. :func:`split_fields` gives each field with its place, so
that an edit can replace one and leave every other octet alone. :func:`describe` reads type, boundary, charset and
transfer encoding of a message or part as a forgiving receiver does: in any case, folded, with comments, with quoted
and with RFC 2231 parameters; what cannot be read counts as absent::

    description = describe(b"Content-Type: text/plain; charset=utf-8\\nContent-Transfer-Encoding: 8bit\\n")
    description.encoding is TransferEncoding.EIGHT_BIT

Nothing here trusts its input: every pattern works in time linear in the block.
"""

from __future__ import annotations

import re
from enum import Enum
from urllib.parse import unquote_to_bytes

from zsmtp.body.headers import outside_quotes
from zsmtp.records import NamedTuple

# Possessive repeats: a block of a million folded lines must cost neither memory nor time for ways back.
_FIELD = re.compile(rb"^([!-9;-~]++)[ \t]*+:((?:[^\n]*+\n[ \t])*+[^\n]*+)\n?", re.MULTILINE)
_PARAMETER = re.compile(rb"(?<![^\s=;\"()])([^\s=;\"()]++)\s*+=\s*+(\"(?:[^\"\\]|\\[\s\S])*+\"?|[^\s;\"()]*+)")
_QUOTED_PAIR = re.compile(rb"\\([\s\S])")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_TYPE = re.compile(rb"\s*+([^\s/;]++)\s*+/\s*+([^\s/;]++)\s*+(?:;|$)")
_SECTION = re.compile(rb"\*(\d{1,3})")


class TransferEncoding(Enum):
    """What Content-Transfer-Encoding says (RFC 2045 6)."""

    ABSENT = "absent"  # counts as 7bit
    SEVEN_BIT = "7bit"
    EIGHT_BIT = "8bit"
    BINARY = "binary"
    QUOTED_PRINTABLE = "quoted-printable"
    BASE64 = "base64"
    OTHER = "other"  # nothing RFC 2045 knows; receivers leave such content alone


_ENCODINGS = {encoding.value.encode("ascii"): encoding for encoding in TransferEncoding if encoding.value[0] != "a"}


class Field(NamedTuple):
    """One header field: ``block[start:end]``, its value from ``value`` on; ``name`` in lower case."""

    name: bytes
    start: int
    value: int
    end: int


class Parameter(NamedTuple):
    """``name=value`` at ``[start, end)`` of a field value; the value unquoted, not decoded."""

    name: bytes
    value: bytes
    start: int
    end: int


class Description(NamedTuple):
    """What the MIME fields of a block say. ``boundary`` is empty where there is none that could be used.

    ``is_mime`` tells whether there is any MIME field at all. ``maintype`` and ``subtype`` are in lower case and the
    default of RFC 2045 5.2 where the block names none; ``charset`` is in lower case, empty if not named.
    """

    maintype: bytes = b"text"
    subtype: bytes = b"plain"
    boundary: bytes = b""
    charset: bytes = b""
    encoding: TransferEncoding = TransferEncoding.ABSENT
    is_mime: bool = False
    has_version: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the type is text/*."""
        return self.maintype == b"text"


def split_fields(block: bytes) -> list[Field]:
    """The fields of ``block`` in order; lines that are none are skipped."""
    return [Field(m[1].lower(), m.start(), m.start(2), m.end()) for m in _FIELD.finditer(block)]


def describe(block: bytes, *, digest: bool = False) -> Description:
    """Read the MIME fields of ``block``; of a field that occurs twice the first counts.

    ``digest``: the block is of a part of multipart/digest, whose default type is message/rfc822 (RFC 2046 5.1.5).
    """
    values: dict[bytes, bytes] = {}
    for name, _, value, end in split_fields(block):
        if name in (b"content-type", b"content-transfer-encoding", b"mime-version"):
            values.setdefault(name, block[value:end])
    maintype, subtype = (b"message", b"rfc822") if digest else (b"text", b"plain")
    boundary = charset = b""
    content_type = values.get(b"content-type")
    if content_type is not None:
        known = _TYPE.match(outside_quotes(content_type))
        maintype, subtype = (known[1].lower(), known[2].lower()) if known else (b"text", b"plain")
        given = parameters(content_type)
        boundary = parameter(given, b"boundary").rstrip()
        charset = parameter(given, b"charset").strip().lower()
    return Description(
        maintype,
        subtype,
        boundary,
        charset,
        transfer_encoding(values.get(b"content-transfer-encoding")),
        is_mime=bool(values),
        has_version=b"mime-version" in values,
    )


def transfer_encoding(value: bytes | None) -> TransferEncoding:
    """The encoding a field value names; comments and quotes around the word are tolerated."""
    if value is None:
        return TransferEncoding.ABSENT
    word = outside_quotes(value).strip().lower() or value.strip().strip(b'"').lower()
    return _ENCODINGS.get(word.rstrip(b";").strip(), TransferEncoding.OTHER)


def parameters(value: bytes) -> list[Parameter]:
    """The parameters of a Content-Type or Content-Disposition value, with their places in it."""
    visible = outside_quotes(value, strings=False)
    found = []
    for match in _PARAMETER.finditer(visible, max(visible.find(b";"), 0)):
        raw = match[2]
        if raw.startswith(b'"'):
            raw = raw[1:-1] if len(raw) > 1 and raw.endswith(b'"') else raw[1:]
            raw = _QUOTED_PAIR.sub(rb"\1", _FOLD.sub(b"", raw))
        found.append(Parameter(match[1].lower(), raw, match.start(), match.end()))
    return found


def parameter(given: list[Parameter], name: bytes) -> bytes:
    """The value of one parameter, in whichever form of RFC 2231 it is given; empty if it is not."""
    sections: dict[int, bytes] = {}
    for each in given:
        if each.name == name:
            return each.value
        if not each.name.startswith(name + b"*"):
            continue
        rest = each.name[len(name) :]
        extended = rest.endswith(b"*")
        if rest == b"*":
            number = 0
        else:
            section = _SECTION.match(rest)
            if section is None:
                continue
            number = int(section[1])
        text = each.value
        if extended:
            if number == 0 and text.count(b"'") >= 2:
                text = text.split(b"'", 2)[2]
            text = unquote_to_bytes(text)
        sections.setdefault(number, text)
    return b"".join(sections[number] for number in range(len(sections)) if number in sections)

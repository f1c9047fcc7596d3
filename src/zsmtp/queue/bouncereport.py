"""Reads the reports that other systems return: delivery status notifications (RFC 3464, 6533), complaints (RFC 5965).

:func:`read_report` parses the beginning of an untrusted message and never raises: an unreadable message is no report.
It reads the parts of a ``multipart/report`` and nothing nested in them, in one pass and within bounds:
:data:`MAX_OCTETS` of the message, :data:`MAX_PARTS` parts, :data:`MAX_RECIPIENTS` recipients, texts of
:data:`MAX_WORDS` characters.

It accepts these deviations from the standards: status ``5.0.0`` beside a reply with ``5.1.1`` (the more specific one
counts), comments after a status, addresses in angle brackets, blank lines before the first field.
"""

from __future__ import annotations

import base64
import quopri
import re
from collections.abc import Iterator
from typing import NamedTuple

from zsmtp.body.fields import TransferEncoding, describe, end_of_header, field_values
from zsmtp.body.lines import unified_header
from zsmtp.proto.reply import printable
from zsmtp.queue.deliverystatus import original_address

MAX_OCTETS = 512 * 1024
"""Octets of a message that are read."""
MAX_HEADER = 64 * 1024
"""Octets of a header that is read, of the message or of a part; a longer header counts as none."""
MAX_PARTS = 10
MAX_RECIPIENTS = 100
MAX_WORDS = 400
_MAX_ADDRESS = 320
_STATUS_TYPES = (b"delivery-status", b"global-delivery-status")
_ORIGINAL_TYPES = (b"rfc822", b"rfc822-headers", b"global", b"global-headers")
_STATUS = re.compile(rb"\s*([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_STATUS_IN_WORDS = re.compile(rb"(?<![\d.])([45]\.\d{1,3}\.\d{1,3})(?![\d.])")
_CODE = re.compile(rb"(?<!\d)([245]\d\d)(?=[\s-])")


class ReportedRecipient(NamedTuple):
    """The fields of a delivery report about one recipient."""

    addresses: tuple[bytes, ...]
    """The original and the final address, those that are given."""
    action: str
    """``failed``, ``delayed``, ``delivered``, ``relayed`` or ``expanded`` (RFC 3464 2.3.3), in lower case."""
    status: str
    """The enhanced status, "" if none is given."""
    code: int
    """The reply code, 0 if none is given."""
    words: str
    """The diagnostic text of the server that refused it, on one line."""
    server: str
    """The name of that server, or of the reporting one."""


class DeliveryReport(NamedTuple):
    """A delivery status notification."""

    recipients: tuple[ReportedRecipient, ...]


class Complaint(NamedTuple):
    """A report of abuse."""

    kind: str
    """``abuse``, ``not-spam`` ... (RFC 5965 7.3), in lower case."""
    senders: tuple[bytes, ...]
    """The reverse-paths of the message, as the report names them."""
    addresses: tuple[bytes, ...]
    """The recipients, as the report names them."""
    words: str
    """The reporting system."""


def read_report(octets: bytes) -> DeliveryReport | Complaint | None:
    """The report in a message that begins with ``octets``; None if there is none that can be read."""
    header, body = _split(octets[:MAX_OCTETS])
    about = describe(header)
    if (about.maintype, about.subtype) != (b"multipart", b"report") or not about.boundary:
        return None
    originals: list[bytes] = []
    status = complaint = None
    for part in _parts(body, about.boundary):
        head, content = _split(part)
        kind = describe(head)
        subtype = kind.subtype if kind.maintype in (b"message", b"text") else b""
        if subtype in _STATUS_TYPES and status is None:
            status = _decoded(content, kind.encoding)
        elif subtype == b"feedback-report" and complaint is None:
            complaint = _decoded(content, kind.encoding)
        elif subtype in _ORIGINAL_TYPES and not originals:
            originals = _addresses(_split(_decoded(content, kind.encoding))[0], b"return-path")
    if complaint is not None:
        return _complaint(complaint, originals)
    return None if status is None else _delivery_report(status)


def addressed_to(octets: bytes) -> list[bytes]:
    """The addresses that a message was delivered to, by the header fields that delivering systems add."""
    block = _split(octets[:MAX_OCTETS])[0]
    found = [one for name in (b"delivered-to", b"x-original-to", b"to") for one in _addresses(block, name)]
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------------ parts


def _split(octets: bytes) -> tuple[bytes, bytes]:
    """Header with LF line ends, and body."""
    if octets.startswith((b"\n", b"\r\n")):
        return b"", octets.partition(b"\n")[2]
    end = end_of_header(octets)
    if (len(octets) if end is None else end[0]) > MAX_HEADER:
        return b"", b""
    if end is None:
        return unified_header(octets)[0], b""
    return unified_header(octets[: end[0] + 1])[0], octets[end[1] :]


def _parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """The parts of a multipart body, including a last one that is cut off; outer boundaries are ignored."""
    delimiter = re.compile(rb"(?:^|\n)--" + re.escape(boundary[:200]) + rb"(--)?[ \t]*\r?(?:\n|$)")
    found = delimiter.search(body)
    for _ in range(MAX_PARTS):
        if found is None or found[1]:
            return
        start = found.end()
        found = delimiter.search(body, start - 1)  # the line end before a delimiter may be that of the one before
        yield body[start : len(body) if found is None else max(found.start(), start)]


def _decoded(content: bytes, encoding: TransferEncoding) -> bytes:
    """A part without its transfer encoding; unchanged if it cannot be decoded."""
    try:
        if encoding is TransferEncoding.BASE64:
            return base64.b64decode(content)
        if encoding is TransferEncoding.QUOTED_PRINTABLE:
            return quopri.decodestring(content)
    except ValueError:
        return b""
    return content


# ----------------------------------------------------------------------- status


def _delivery_report(octets: bytes) -> DeliveryReport | None:
    """The fields of a delivery-status part: a group for the message, one for each recipient (RFC 3464 2.1)."""
    plain = octets.replace(b"\r\n", b"\n").lstrip(b"\n")
    groups = [field_values(group + b"\n") for group in re.split(rb"\n(?:[ \t]*\n)+", plain)[: MAX_RECIPIENTS + 1]]
    reporting = ""
    recipients = []
    for group in groups:
        values: dict[bytes, bytes] = {}
        for name, value in group:
            values.setdefault(name.lower(), value)
        if b"final-recipient" in values or b"original-recipient" in values:
            recipients.append(_recipient(values, reporting))
        else:
            reporting = reporting or _typed_words(values.get(b"reporting-mta", b""))
    return DeliveryReport(tuple(recipients)) if recipients else None


def _recipient(values: dict[bytes, bytes], reporting: str) -> ReportedRecipient:
    diagnostic = _unfolded(values.get(b"diagnostic-code", b""))
    words = diagnostic.partition(b";")[2].strip() if b";" in diagnostic[:40] else diagnostic
    found = _STATUS.match(values.get(b"status", b""))
    status = found[1] if found is not None else b""
    if not status or status.endswith(b".0.0"):
        closer = _STATUS_IN_WORDS.search(words)
        if closer is not None and (not status or closer[1][:1] == status[:1]):
            status = closer[1]
    code = _CODE.search(words + b" ")
    addresses = [_typed_address(values.get(name, b"")) for name in (b"original-recipient", b"final-recipient")]
    return ReportedRecipient(
        tuple(dict.fromkeys(one for one in addresses if one)),
        _unfolded(values.get(b"action", b"")).decode("latin-1").partition(" ")[0].lower()[:20],
        status.decode(),
        int(code[1]) if code is not None else 0,
        printable(words, MAX_WORDS),
        _typed_words(values.get(b"remote-mta", b"")) or reporting,
    )


def _unfolded(value: bytes) -> bytes:
    return b" ".join(value.split())


def _typed_address(value: bytes) -> bytes:
    """The address after ``rfc822;`` or ``utf-8;`` (RFC 3464 2.1.2), b"" if there is none."""
    kind, _, address = _unfolded(value).partition(b";")
    bare = _bare(address)
    decoded = original_address(b"%b;%b" % (kind.strip(), bare)) if b"\\" in bare or b"+" in bare else None
    return bare if decoded is None else decoded[1].encode("utf-8", "replace")


def _bare(address: bytes) -> bytes:
    """An address without blanks, angle brackets and trailing text."""
    bare = address.strip()
    if bare.startswith(b"<"):
        bare = bare[1:].partition(b">")[0]
    elif not bare.startswith(b'"'):
        bare = bare.partition(b" ")[0]
    return bare if 0 < len(bare) <= _MAX_ADDRESS and b"@" in bare else b""


def _typed_words(value: bytes) -> str:
    """The name after ``dns;``."""
    return printable(_unfolded(value).rpartition(b";")[2].strip(), 255)


# -------------------------------------------------------------------- complaint


def _complaint(octets: bytes, originals: list[bytes]) -> Complaint | None:
    block = unified_header(octets[:MAX_OCTETS].lstrip(b"\r\n"))[0]
    kind = _unfolded(_first(block, b"feedback-type")).decode("latin-1").lower()
    if not kind:
        return None
    return Complaint(
        kind[:40],
        tuple(dict.fromkeys([*_addresses(block, b"original-mail-from"), *originals])),
        tuple(dict.fromkeys(_addresses(block, b"original-rcpt-to"))),
        printable(_unfolded(_first(block, b"user-agent")), MAX_WORDS),
    )


def _first(block: bytes, name: bytes) -> bytes:
    return next((value for known, value in field_values(block) if known.lower() == name), b"")


def _addresses(block: bytes, name: bytes) -> list[bytes]:
    found = [_bare(value) for known, value in field_values(block) if known.lower() == name]
    return [one for one in found if one][:MAX_RECIPIENTS]

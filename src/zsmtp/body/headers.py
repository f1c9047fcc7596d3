"""The header block of a message: facts about it, and the edits that mail transports make by tradition (RFC 5322 2.2).

A block is kept as it is stored: lines ended by LF, without the empty line before the body. A field may have several
lines; those after its first start with a blank or a tab. Nothing here decodes or reformats: all other octets stay
unchanged.

A header with a signature, or with the content type of a signed or encrypted message, is never edited
(:func:`is_signed`): DKIM (RFC 6376) and ARC (RFC 8617) cover header fields octet by octet, and an edit that one
canonicalization tolerates breaks the other. Edits are functions from block to block::

    if options.received_for and len(recipients) == 1:
        header = add_for_clause(header, recipients[0])
    if options.expand_tabs:
        header = expand_tabs(header)
"""

from __future__ import annotations

import re

from zsmtp.body.fields import field_values, outside_quotes, split_fields

SIGNATURES = frozenset([b"dkim-signature", b"domainkey-signature", b"arc-message-signature", b"arc-seal"])
"""Fields that cover the header and body of a message, in lower case (RFC 6376, RFC 4870, RFC 8617)."""

_SEALED_TYPE = re.compile(
    rb"multipart/(?:signed|encrypted)|application/(?:x-)?pkcs7-(?:mime|signature)|application/pgp(?:-[a-z]+)?"
)
_FOR_WORD = re.compile(rb"\sfor\s", re.IGNORECASE)
_FIT_FOR_CLAUSE = re.compile(rb"[\x20-\x7e]+")

_MAX_COLUMNS = 78  # RFC 5322 2.1.1: lines should not be longer


def is_signed(header: bytes) -> bool:
    """Whether the block forbids every change of the message.

    True with a DKIM, DomainKeys or ARC signature, with ``Content-Conversion: prohibited``, and when the content type
    is signed or encrypted (RFC 1847 multiparts, S/MIME, OpenPGP).
    """
    for spelling, value in field_values(header):
        name = spelling.lower()
        if name in SIGNATURES:
            return True
        if name == b"content-type":
            if _SEALED_TYPE.fullmatch(_first_word(value)):
                return True
        elif name == b"content-conversion" and _first_word(value) == b"prohibited":
            return True
    return False


def _first_word(value: bytes) -> bytes:
    """The part before the parameters, in lower case and without blanks and comments."""
    return b"".join(outside_quotes(value).partition(b";")[0].split()).lower()


def expand_tabs(header: bytes) -> bytes:
    """The block with each tab replaced by blanks up to the next multiple of 8 columns; a signed one unchanged."""
    return header if is_signed(header) else header.expandtabs(8)


def add_for_clause(header: bytes, recipient: bytes) -> bytes:
    """The block with `` for <recipient>`` in its first ``Received:`` field (RFC 5321 4.4), before the date's ``;``.

    Lines are kept within 78 columns where folding can do it. The block comes back unchanged if it is signed, has no
    ``Received:``, if the field has no ``;`` or a for-clause already, or if the address is not printable ASCII.
    """
    if not _FIT_FOR_CLAUSE.fullmatch(recipient) or is_signed(header):
        return header
    return _add_clause(header, b"for <" + recipient + b">", unless=_FOR_WORD)


def add_convert_clause(header: bytes, what: bytes) -> bytes:
    """The block with `` convert rfc822-to-what`` in its first ``Received:`` field, before the date's ``;``.

    ``what`` is the form that the content was converted to: ``quoted-printable``, ``base64`` or ``8bit``. The block
    comes back unchanged if it has no such field, or no ``;`` in it.
    """
    return _add_clause(header, b"convert rfc822-to-" + what, unless=None)


def _add_clause(header: bytes, words: bytes, *, unless: re.Pattern[bytes] | None) -> bytes:
    received = next((field for field in split_fields(header) if field.name == b"received"), None)
    if received is None:
        return header
    field = header[received.start : received.end]
    outside = outside_quotes(field)
    date = outside.rfind(b";")
    if date < 0 or (unless is not None and unless.search(outside, 0, date)):
        return header
    return header[: received.start] + _insert_clause(field, date, words) + header[received.end :]


def _insert_clause(field: bytes, date: int, words: bytes) -> bytes:
    """Put ``words`` before the ``;`` at ``date``, folding at the date first, then before them."""
    before = field[:date].rstrip()
    clause = words + b";"
    rest = field[date + 1 :]
    line = before[before.rfind(b"\n") + 1 :] + b" " + clause
    first_of_rest = rest.partition(b"\n")[0]
    if _columns(line + first_of_rest) <= _MAX_COLUMNS:
        return before + b" " + clause + rest
    if first_of_rest.strip():
        rest = b"\n\t" + rest.lstrip(b" \t")
    separator = b" " if _columns(line) <= _MAX_COLUMNS else b"\n\t"
    return before + separator + clause + rest


def _columns(line: bytes) -> int:
    return len(line.rstrip(b"\r").expandtabs(8))

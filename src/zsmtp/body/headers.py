"""The header block of a message: facts about it, and the few edits old practice knows (RFC 5322 2.2).

A block is kept as it is stored: lines ended by LF, without the empty line that parts it from the body. A field may run
over several lines; those after its first start with a blank or a tab. Nothing here decodes or reformats: what is not
edited keeps every octet.

A header that carries a signature, or says that its message is signed or encrypted, is never edited
(:func:`is_signed`): DKIM (RFC 6376) and ARC (RFC 8617) cover header fields octet by octet, and what looks harmless
for one canonicalization breaks the other. Edits are functions from block to block::

    if options.received_for and len(recipients) == 1:
        header = add_for_clause(header, recipients[0])
    if options.expand_tabs:
        header = expand_tabs(header)
"""

from __future__ import annotations

import re

_SIGNATURE = re.compile(
    rb"^(?:dkim-signature|domainkey-signature|arc-message-signature|arc-seal)[ \t]*+:", re.IGNORECASE | re.MULTILINE
)
# Possessive repeats: a block of a million folded lines must cost neither memory nor time for ways back.
_CONTENT_FIELD = re.compile(
    rb"^content-(type|conversion)[ \t]*+:((?:[^\n]*+\n[ \t])*+[^\n]*+)", re.IGNORECASE | re.MULTILINE
)
_SEALED_TYPE = re.compile(
    rb"multipart/(?:signed|encrypted)|application/(?:x-)?pkcs7-(?:mime|signature)|application/pgp(?:-[a-z]+)?"
)
_RECEIVED = re.compile(rb"^received[ \t]*+:(?:[^\n]*+\n[ \t])*+[^\n]*+\n?", re.IGNORECASE | re.MULTILINE)
_FOR_WORD = re.compile(rb"\sfor\s", re.IGNORECASE)
_QUOTING = re.compile(rb'\\[\s\S]|["()]')
_FIT_FOR_CLAUSE = re.compile(rb"[\x20-\x7e]+")

_MAX_COLUMNS = 78  # RFC 5322 2.1.1: lines should not be longer


def is_signed(header: bytes) -> bool:
    """Whether the block forbids every change of the message.

    True with a DKIM, DomainKeys or ARC signature, with ``Content-Conversion: prohibited``, and when the content type
    is signed or encrypted (RFC 1847 multiparts, S/MIME, OpenPGP).
    """
    if _SIGNATURE.search(header):
        return True
    for name, value in _CONTENT_FIELD.findall(header):
        word = b"".join(outside_quotes(value).partition(b";")[0].split()).lower()
        if name.lower() == b"conversion":
            if word == b"prohibited":
                return True
        elif _SEALED_TYPE.fullmatch(word):
            return True
    return False


def expand_tabs(header: bytes) -> bytes:
    """The block with each tab replaced by blanks up to the next multiple of 8 columns; a signed one as it is."""
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

    ``what`` is the form the content was brought into: ``quoted-printable``, ``base64`` or ``8bit``. The block comes
    back unchanged if it has no such field, or no ``;`` in it.
    """
    return _add_clause(header, b"convert rfc822-to-" + what, unless=None)


def _add_clause(header: bytes, words: bytes, *, unless: re.Pattern[bytes] | None) -> bytes:
    received = _RECEIVED.search(header)
    if received is None:
        return header
    field = received.group()
    outside = outside_quotes(field)
    date = outside.rfind(b";")
    if date < 0 or (unless is not None and unless.search(outside, 0, date)):
        return header
    return header[: received.start()] + _insert_clause(field, date, words) + header[received.end() :]


def outside_quotes(value: bytes, *, strings: bool = True) -> bytes:
    """``value`` with its comments (nested too) and quoted strings made blanks, octet for octet (RFC 5322 3.2).

    With ``strings`` false quoted strings stay; what looks like a comment inside them is none.
    """
    pieces = []
    done = 0  # what lies before is in pieces
    depth = 0  # of comments
    quoted = False
    for match in _QUOTING.finditer(value):
        token = match.group()
        if quoted or depth:
            pieces.append(b" " * (match.end() - done) if depth or strings else value[done : match.end()])
            done = match.end()
            if quoted:
                quoted = token != b'"'
            else:
                depth += (token == b"(") - (token == b")")
        elif token == b'"' or token == b"(":
            quoted = token == b'"'
            depth = 0 if quoted else 1
            pieces.append(value[done : match.start()])
            done = match.start()
    hidden = depth or (quoted and strings)
    pieces.append(b" " * (len(value) - done) if hidden else value[done:])
    return b"".join(pieces)


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

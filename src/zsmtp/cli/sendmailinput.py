"""Reads a message for sendmail(8) from standard input, separates header and body, and completes the header.

It may lack a header, and may begin with the ``From`` line of a mailbox file. A line that is no field ends the header,
and belongs to the body. Unless dots are ignored (``-i``), a line with a single dot ends the message. A large message is
kept in a temporary file.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from email.utils import formataddr, formatdate
from typing import IO, NamedTuple

from zsmtp.body.fields import field_values
from zsmtp.body.lines import unified_header
from zsmtp.body.source import Source
from zsmtp.client.header import check_bare_cr, with_missing, without_blind
from zsmtp.client.message import MAX_HEADER
from zsmtp.errors import SubmissionError

_IN_MEMORY = 1 << 20  # octets of a message; a larger one goes to a file
_BLOCK = 1 << 16
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_LINE_ENDS = b"\r\n"


class Given(NamedTuple):
    """A message as given: its header block with LF line ends, its body, and the file with both.

    ``original`` is the header block unchanged, with any CR in it.
    """

    header: bytes
    body: Source
    file: IO[bytes]
    original: bytes


def read_message(stream: IO[bytes], *, dots: bool) -> Given:
    """Read a message to its end. Raises SubmissionError for a header without end, OSError."""
    file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by the caller
    try:
        size = 0
        for block in _until_dot(stream) if dots else iter(lambda: stream.read(_BLOCK), b""):
            file.write(block)
            size += len(block)
        file.seek(0)
        beginning = file.read(MAX_HEADER + 1)
        start, end, body = _parts(beginning)
        if end > MAX_HEADER:
            raise SubmissionError(f"a header block of more than {MAX_HEADER} octets")
        header, _ = unified_header(beginning[start:end])
        return Given(header, Source(file, body, size), file, beginning[start:end])
    except BaseException:
        file.close()
        raise


def _until_dot(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines before one with a single dot; a long line comes in pieces."""
    begins = True
    while piece := stream.readline(_BLOCK):
        if begins and piece in (b".", b".\n", b".\r\n"):
            return
        begins = piece.endswith(b"\n")
        yield piece


def _parts(octets: bytes) -> tuple[int, int, int]:
    """The beginning and end of the header, and the beginning of the body."""
    start = octets.find(b"\n") + 1 if octets.startswith(b"From ") else 0
    at = start
    while at < len(octets):
        end = octets.find(b"\n", at) + 1 or len(octets)
        if not octets[at:end].strip(_LINE_ENDS):
            return start, at, end
        folded = at > start and octets[at] in b" \t"
        if not folded and not _FIELD.match(octets, at, end):
            return start, at, at
        at = end
    return start, at, at


def blind_removed(given: Given) -> bytes:
    """The header without Bcc, after a check that it can be parsed for it. Raises SubmissionError."""
    check_bare_cr(given.original, enough=False)
    return without_blind(given.header)


def completed(header: bytes, *, sender: bytes, author: bytes, full_name: str, trace: str) -> bytes:
    """The header with Received, and with From, Date and Message-ID if missing.

    ``author`` is the address for a missing From; ``trace`` is the value of Received, without the date.
    """
    names = {name.lower() for name, _ in field_values(header)}
    added = f"Received: {trace};\n\t{formatdate(localtime=True)}\n".encode()
    if b"from" not in names:
        address = author.decode("utf-8")
        try:
            line = formataddr((full_name, address))
        except UnicodeError:  # from a non-ASCII address, which the standard library rejects
            line = f"<{address}>"
        header = f"From: {line}\n".encode() + header
    return added + with_missing(header, sender or author)

"""Queue files of Postfix: envelope and content of a message, as its queue manager would deliver it.

A file is a sequence of records: a type (one octet), a length (seven bits an octet, the low ones first, the highest bit
set on all but the last octet), and that many octets. The envelope comes first, ``M`` begins the content, ``X`` the part
extracted from the header, and ``E`` is the end; recipients may be in the first and the last part. ``N`` is a line of
content, ``L`` a part of one. ``p`` with a number other than 0 is the offset to continue at: milters edit a file by such
jumps. A file is complete when its owner may execute it.

:func:`read_queue_file` reads one. A file that Postfix cannot have written is a SpoolError that names the octet; do not
send any part of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, cast

from zsmtp.errors import SpoolError
from zsmtp.proto.plan import EnvelopeRecipient

MAX_RECORD = 1 << 20  # octets; Postfix writes lines of 2 KiB, and addresses of a few
MAX_RECIPIENTS = 1_000_000
MAX_JUMPS = 100_000
_IN_MEMORY = 1 << 20
_NOTIFY = ((1, b"NEVER"), (2, b"SUCCESS"), (4, b"FAILURE"), (8, b"DELAY"))
_RET = {1: b"FULL", 2: b"HDRS"}
_ATTRIBUTES = {
    b"notify_flags": b"n",
    b"dsn_orig_rcpt": b"o",
    b"ret_flags": b"<",
    b"envelope_id": b"i",
}
"""Attributes that replace records of their own."""


@dataclass(slots=True)
class QueueFile:
    """A message of Postfix. ``content`` is its octets, in a temporary file, which the caller closes."""

    content: IO[bytes]
    size: int = 0
    arrival: str = ""
    """Its arrival as in the file: seconds since 1970."""
    sender: bytes | None = None
    recipients: list[EnvelopeRecipient] = field(default_factory=list)
    """The undelivered ones."""
    ret: bytes | None = None
    envid: bytes | None = None


def read_queue_file(path: str, file: IO[bytes]) -> QueueFile:
    """Read a queue file; ``path`` is its name in errors. Raises SpoolError."""
    found = QueueFile(cast("IO[bytes]", tempfile.SpooledTemporaryFile(_IN_MEMORY)))  # noqa: SIM115
    try:
        _RecordReader(path, file, found).read()
    except BaseException:
        found.content.close()
        raise
    return found


class _RecordReader:
    """One pass over the records."""

    def __init__(self, path: str, file: IO[bytes], found: QueueFile) -> None:
        self._path = path
        self._file = file
        self._found = found
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._jumps = 0
        self._notify: bytes | None = None
        self._orcpt: bytes | None = None
        self._records: dict[bytes, Callable[[bytes], None]] = {
            b"T": self._time,
            b"S": self._sender,
            b"R": self._recipient,
            b"D": self._done,
            b"/": self._done,
            b"A": self._attribute,
            b"n": self._notify_flags,
            b"o": self._original,
            b"<": self._returned,
            b"i": self._envelope_id,
            b"p": self._jump,
        }

    def read(self) -> None:
        in_content = begun = False
        while True:
            kind, value = self._record()
            if kind == b"E":
                break
            if kind == b"M" and not begun:
                in_content = begun = True
            elif kind == b"X":
                in_content = False
            elif in_content and kind in (b"N", b"L"):
                self._line(value if kind == b"L" else value + b"\n")
            elif kind in self._records and not (in_content and kind != b"p"):
                self._records[kind](value)
        found = self._found
        if found.sender is None or not begun:
            raise self._wrong("no sender, or no content: this is no queue file of Postfix")
        found.content.seek(0)

    def _record(self) -> tuple[bytes, bytes]:
        kind = self._take(1)
        length = shift = 0
        while True:
            octet = self._take(1)[0]
            length |= (octet & 0x7F) << shift
            if not octet & 0x80:
                break
            shift += 7
            if shift > 28:
                raise self._wrong("a length that cannot be")
        if length > MAX_RECORD:
            raise self._wrong(f"a record of {length} octets")
        return kind, self._take(length)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count) if count else b""
        if len(data) != count:
            raise self._wrong("the file ends early")
        self._at += count
        return data

    def _wrong(self, problem: str) -> SpoolError:
        return SpoolError(self._path, self._at, problem)

    def _line(self, data: bytes) -> None:
        self._found.size += len(data)
        if self._found.size > self._size:
            raise self._wrong("more content than the file has octets: its jumps go round in circles")
        self._found.content.write(data)

    # ----------------------------------------------------------------- records

    def _time(self, value: bytes) -> None:
        self._found.arrival = value.split(b" ")[0].decode("ascii", "replace")

    def _sender(self, value: bytes) -> None:
        self._found.sender = value

    def _recipient(self, value: bytes) -> None:
        if len(self._found.recipients) >= MAX_RECIPIENTS:
            raise self._wrong(f"more than {MAX_RECIPIENTS} recipients")
        self._found.recipients.append(EnvelopeRecipient(value, self._notify, self._orcpt))
        self._notify = self._orcpt = None

    def _done(self, value: bytes) -> None:
        self._notify = self._orcpt = None

    def _attribute(self, value: bytes) -> None:
        name, _, setting = value.partition(b"=")
        kind = _ATTRIBUTES.get(name.strip())
        if kind is not None:
            self._records[kind](setting.strip())

    def _notify_flags(self, value: bytes) -> None:
        flags = self._number(value)
        self._notify = b",".join(word for flag, word in _NOTIFY if flags & flag) or None

    def _original(self, value: bytes) -> None:
        self._orcpt = value or None

    def _returned(self, value: bytes) -> None:
        self._found.ret = _RET.get(self._number(value))

    def _envelope_id(self, value: bytes) -> None:
        self._found.envid = value or None

    def _jump(self, value: bytes) -> None:
        to = self._number(value)
        if not to:
            return
        self._jumps += 1
        if to > self._size or self._jumps > MAX_JUMPS:
            raise self._wrong("a jump out of the file, or too many of them")
        self._file.seek(to)
        self._at = to

    def _number(self, value: bytes) -> int:
        text = value.strip()
        if not text.isdigit() or len(text) > 15:
            raise self._wrong(f"{value[:20]!r} is no number")
        return int(text)

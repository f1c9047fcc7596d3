"""Messages as programs have them: an ``EmailMessage``, octets, a path, or a binary file.

:class:`Letter` makes one ready to go: header apart from body, without ``Bcc`` (RFC 5322 3.6.3), sender and recipients
taken from the header where none were given. A file is read from disk block by block while it is sent, and not held
open before; an ``EmailMessage`` is turned into octets once. Nothing else is changed, unless it is asked for: a
submission server adds Date and Message-ID where they are missing (RFC 6409 8), and ``add_missing`` does so here.

A binary file is read from where it stands, and must stay open until all results are in. One that cannot be positioned,
such as a pipe, is copied to a temporary file first.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from email.message import EmailMessage, Message
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from zsmtp.body.lines import unified_header
from zsmtp.body.source import Source
from zsmtp.body.stored import Stored, prepare
from zsmtp.body.tlsrequired import tls_is_optional
from zsmtp.client.address import read_address, read_addresses
from zsmtp.client.dsn import DSN, NO_WISHES, wishes
from zsmtp.errors import ContentError, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.plan import Envelope, Recipient, SenderWish

MessageLike = Message | bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO | IO[bytes]
"""What can be delivered; a ``str`` is the path of a file."""

MAX_HEADER = 1 << 20  # octets of a header block
_BLOCK = 1 << 16

_FIELD_NAME = re.compile(rb"[!-9;-~]+[ \t]*:")
_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:[ \t]*([^\n]{1,500})", re.IGNORECASE | re.MULTILINE)
_BLIND = re.compile(rb"^(?:resent-)?bcc[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)


class _Body(Protocol):
    """Where a body is read from; opened when it is needed."""

    def open(self) -> Source: ...
    def close(self) -> None: ...


class Letter:
    """A message on its way to its recipients; ``name`` is its Message-ID, or the name it was given.

    ``wish`` is what its sender asks of sessions: REQUIRETLS goes before a field ``TLS-Required: No`` (RFC 8689 5).
    ``dsn`` is what its sender wants to be notified of.
    """

    __slots__ = ("_asked", "_body", "_header", "_stored", "dsn", "name", "recipients", "sender", "wish")

    def __init__(
        self,
        message: MessageLike,
        *,
        sender: str | bytes | None = None,
        recipients: str | bytes | Iterable[str | bytes] | None = None,
        name: str = "",
        add_missing: bool = False,
        require_tls: bool = False,
        dsn: DSN | None = None,
    ) -> None:
        """Read the header. Raises SubmissionError, or OSError for a file that cannot be read."""
        if dsn is not None and not isinstance(dsn, DSN):
            raise SubmissionError(f"dsn: DSN is wanted, not {type(dsn).__name__}")
        self.dsn = dsn
        self._stored: Stored | None = None
        header, self._body = _open(message)
        try:
            folded = self._read(header, sender, recipients, add_missing=add_missing)
        except BaseException:
            self._body.close()
            raise
        self.name = name or (_message_id(self._header) if b"message-id" in folded else "")
        self.wish = SenderWish.REQUIRETLS if require_tls else SenderWish.NONE
        if not require_tls and b"tls-required" in folded and tls_is_optional(self._header):
            self.wish = SenderWish.TLS_OPTIONAL

    def _read(
        self,
        header: bytes,
        sender: str | bytes | None,
        recipients: str | bytes | Iterable[str | bytes] | None,
        *,
        add_missing: bool,
    ) -> bytes:
        """Find the header as it is sent, and the envelope; that header in lower case."""
        self._header, _ = unified_header(header)
        if not _FIELD_NAME.match(self._header):
            raise SubmissionError(_no_header(header))
        given = read_addresses(recipients, "recipient") if recipients is not None else None
        if sender is None or given is None:
            from zsmtp.client.fields import recipients_in, sender_in

            sender = sender_in(self._header) if sender is None else sender
            given = read_addresses(recipients_in(self._header), "recipient") if given is None else given
        self.sender = read_address(sender, "sender")
        self.recipients = given
        if not self.recipients:
            raise SubmissionError("no recipient: neither given nor named by To, Cc or Bcc")
        self._asked = NO_WISHES if self.dsn is None else wishes(self.dsn, self.recipients)
        folded = self._header.lower()
        if b"bcc" in folded:
            self._header = _BLIND.sub(b"", self._header)
            folded = self._header.lower()
        if add_missing:
            from zsmtp.client.fields import with_missing

            self._header = with_missing(self._header, self.sender)
            folded = self._header.lower()
        return folded

    def envelope(self, indexes: Iterable[int]) -> Envelope:
        """The envelope for some of the recipients."""
        asked = self._asked
        paths = [self.recipients[index] for index in indexes]
        recipients = tuple([Recipient(path, asked.notify, asked.originals.get(path)) for path in paths])
        return Envelope(self.sender, recipients, asked.ret, asked.envid, self.wish)

    def stored(self) -> Stored:
        """The message, looked through when this is asked first. Raises ContentError if it cannot be read."""
        if self._stored is None:
            self._stored = prepare(self._header, self._body.open())
        return self._stored

    def close(self) -> None:
        """Let go of the file and of what was kept."""
        self._stored = None
        self._body.close()


def _message_id(header: bytes) -> str:
    match = _MESSAGE_ID.search(header)
    return escape(match[1].strip().decode("utf-8", "replace")) if match is not None else ""


def _no_header(octets: bytes) -> str:
    """What is wrong with a message that does not begin as one."""
    if not octets.strip():
        return "the message is empty"
    if octets.startswith(b"From "):  # RFC 4155
        return "the message begins with the From line of a mailbox file, which is no part of it"
    return "the message does not begin with a header field"


# ---------------------------------------------------------------- kinds of messages


def _open(message: MessageLike) -> tuple[bytes, _Body]:
    """The header block of a message, as it is, and where its body is."""
    if isinstance(message, Message):
        return _in_memory(_octets_of(message))
    if isinstance(message, bytes | bytearray | memoryview):
        return _in_memory(bytes(message))
    if isinstance(message, str) and "\n" in message:
        raise SubmissionError("a str is the path of a file; a message that is text has to be encoded")
    if isinstance(message, str | os.PathLike):
        return _on_disk(Path(message))
    if hasattr(message, "read"):
        return _in_file(message)
    raise SubmissionError(f"not a message, octets, a path or a binary file: {type(message).__name__}")


def _octets_of(message: Message) -> bytes:
    from email.generator import BytesGenerator
    from email.policy import EmailPolicy, Policy, compat32
    from io import BytesIO

    octets = BytesIO()
    policy: Policy = compat32.clone(linesep="\n", cte_type="8bit")
    if isinstance(message, EmailMessage) and isinstance(message.policy, EmailPolicy):
        from zsmtp.client.fields import needs_utf8

        policy = message.policy.clone(linesep="\n", utf8=needs_utf8(message))
    try:
        BytesGenerator(octets, mangle_from_=False, policy=policy).flatten(message)
    except (UnicodeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise SubmissionError(f"the message cannot be made octets: {error}") from error
    return octets.getvalue()


def _in_memory(octets: bytes) -> tuple[bytes, _Body]:
    header, start = _split(octets[:MAX_HEADER], whole=len(octets) <= MAX_HEADER)
    return header, _Memory(octets, start)


def _on_disk(path: Path) -> tuple[bytes, _Body]:
    with open(path, "rb", buffering=0) as file:
        header, start = _read_header(file)
        found = os.fstat(file.fileno())
    return header, _Disk(path, start, _stamp(found), found.st_size)


def _in_file(file: BinaryIO | IO[bytes]) -> tuple[bytes, _Body]:
    mine: IO[bytes] | None = None
    try:
        if not file.seekable():
            mine = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the letter
            shutil.copyfileobj(file, mine, _BLOCK)
            mine.seek(0)
        readable = mine or file
        begin = readable.tell()
        header, start = _read_header(readable)
        end = readable.seek(0, os.SEEK_END)
    except BaseException as error:
        if mine is not None:
            mine.close()
        if isinstance(error, ValueError | TypeError) and not isinstance(error, SubmissionError | OSError):
            raise SubmissionError(f"the file cannot be read: {error}") from error  # closed, or not in binary mode
        raise
    return header, _File(readable, begin + start, end, mine)


def _read_header(file: IO[bytes]) -> tuple[bytes, int]:
    """The header block, and where the body starts behind it, seen from where the file stands."""
    octets = b""
    while len(octets) < MAX_HEADER:
        block: object = file.read(_BLOCK)
        if not isinstance(block, bytes):
            raise SubmissionError("the file is not open in binary mode")
        if not block:
            return _split(octets, whole=True)
        octets += block
        if _end_of_header(octets, max(len(octets) - len(block) - 3, 0)) is not None:
            break
    return _split(octets, whole=False)


def _end_of_header(octets: bytes, start: int) -> tuple[int, int] | None:
    """Where the last line of the header ends, and where the body begins: behind the first empty line."""
    plain = octets.find(b"\n\n", start)
    canonical = octets.find(b"\n\r\n", start, plain if plain >= 0 else len(octets))
    if canonical >= 0:
        return canonical, canonical + 3
    return (plain, plain + 2) if plain >= 0 else None


def _split(octets: bytes, *, whole: bool) -> tuple[bytes, int]:
    found = _end_of_header(octets, 0)
    if found is not None:
        return octets[: found[0]] + b"\n", found[1]
    if not whole:
        raise SubmissionError(f"a header block of more than {MAX_HEADER} octets, or none at all")
    return octets, len(octets)


class _Memory:
    __slots__ = ("_octets", "_start")

    def __init__(self, octets: bytes, start: int) -> None:
        self._octets = octets
        self._start = start

    def open(self) -> Source:
        return Source.from_bytes(self._octets).part(self._start, len(self._octets))

    def close(self) -> None:
        self._octets = b""


class _Disk:
    """A file by its name, which must be the one that was looked at."""

    def __init__(self, path: Path, start: int, stamp: tuple[int, ...], size: int) -> None:
        self._path = path
        self._start = start
        self._stamp = stamp
        self._size = size
        self._file: IO[bytes] | None = None

    def open(self) -> Source:
        try:
            if self._file is None:
                self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - closed with the letter
            found = os.fstat(self._file.fileno())
        except OSError as error:
            raise ContentError(f"{escape(str(self._path))}: {error.strerror}") from error
        if _stamp(found) != self._stamp:
            raise ContentError(f"{escape(str(self._path))} has changed since it was given")
        return Source(self._file, self._start, self._size)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _File:
    def __init__(self, file: BinaryIO | IO[bytes], start: int, end: int, mine: IO[bytes] | None) -> None:
        self._file = file
        self._range = (start, end)
        self._mine = mine

    def open(self) -> Source:
        return Source(self._file, *self._range)

    def close(self) -> None:
        if self._mine is not None:
            self._mine.close()


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

"""Reads messages from files of other programs: a Maildir, a mbox, folders of messages, spools of Postfix and ZMailer.

:func:`messages` yields each message as a :class:`Found`, or the fault of a file as a :class:`UnusableFile`. Nothing is
changed. Only regular files are read, and no symbolic link is followed: other users may write to a spool. Messages in
spools have an envelope; that of the others is in the header, unless it is given.

``key`` identifies a message permanently: its name in the spool, with what distinguishes it from a later one of that
name. A message that is imported twice is queued once.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import IO, NamedTuple, cast

from zsmtp.body.fields import end_of_header
from zsmtp.body.lines import unified_header
from zsmtp.body.source import Source
from zsmtp.cli.postfixspool import read_queue_file
from zsmtp.client.addresslist import read_address
from zsmtp.client.message import MAX_HEADER
from zsmtp.errors import LocalError, SpoolError, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.plan import Envelope, EnvelopeRecipient
from zsmtp.zmailer import control
from zsmtp.zmailer.paths import message_path
from zsmtp.zmailer.spoolid import spool_id

_IN_MEMORY = 1 << 20
_BLOCK = 1 << 16
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FILE_ERRORS = (SpoolError, LocalError, ValueError, OSError)  # errors of a single file
_QUOTED = re.compile(rb">+From ")
_POSTFIX_QUEUES = ("maildrop", "incoming", "active", "deferred")  # messages on hold must be requested by their folder


class SourceKind(Enum):
    """The kind of a path."""

    MAILDIR = "maildir"
    MBOX = "mbox"
    EML = "eml"
    """A file with one message, or a folder of such files."""
    POSTFIX = "postfix"
    """The queue directory of Postfix, or one of the queues in it."""
    ZMAILER = "zmailer"
    """The POSTOFFICE directory of ZMailer, with ``transport`` and ``queue``."""


@dataclass(slots=True)
class Found:
    """A message. ``file`` has it, at its beginning; for a spool it has the body, and ``header`` the header.

    ``close`` releases its files.
    """

    name: str
    key: str
    file: IO[bytes]
    close: Callable[[], None]
    envelope: Envelope | None = None
    header: bytes = b""
    body: Source | None = None


class UnusableFile(NamedTuple):
    """A file without a valid message, and the fault."""

    name: str
    text: str


def kind_of(path: str) -> SourceKind:
    """The apparent kind of a path. Raises OSError, and SubmissionError for a path that is neither folder nor file."""
    mode = os.stat(path).st_mode
    if not stat.S_ISDIR(mode):
        if not stat.S_ISREG(mode):
            raise SubmissionError(f"{path}: neither a folder nor a file")
        with open(path, "rb") as file:
            return SourceKind.MBOX if file.read(5) == b"From " else SourceKind.EML
    there = set(os.listdir(path))
    if {"cur", "new"} <= there:
        return SourceKind.MAILDIR
    if {"transport", "queue"} <= there:
        return SourceKind.ZMAILER
    if {"incoming", "active", "deferred"} <= there:
        return SourceKind.POSTFIX
    return SourceKind.EML


def messages(path: str, kind: SourceKind) -> Iterator[Found | UnusableFile]:
    """The messages of a path, in order of their names. Raises OSError for a path that cannot be read."""
    return _READERS[kind](os.path.realpath(path))


class _Entry(NamedTuple):
    """A file in a folder: its path for people, its name, and the descriptor of its folder."""

    path: str
    name: str
    folder: int

    def open(self) -> IO[bytes]:
        """Raises OSError; ValueError if it is no regular file."""
        descriptor = os.open(self.name, _FLAGS, dir_fd=self.folder)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("not a regular file")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise


Read = Callable[[_Entry], Iterator[Found | UnusableFile]]
"""Reads a file."""


def _walk(top: str) -> Iterator[_Entry]:
    """The files below a folder, without following links."""

    def fail(error: OSError) -> None:
        raise error

    for path, folders, names, descriptor in os.fwalk(top, onerror=fail):
        folders.sort()
        for name in sorted(names):
            yield _Entry(os.path.join(path, name), name, descriptor)


def _each(entries: Iterator[_Entry], read: Read) -> Iterator[Found | UnusableFile]:
    """The messages of each file, or its fault."""
    for entry in entries:
        try:
            yield from read(entry)
        except _FILE_ERRORS as error:
            yield _problem(entry, error)


def _problem(entry: _Entry, error: Exception) -> UnusableFile:
    return UnusableFile(entry.path, (error.strerror if isinstance(error, OSError) else "") or str(error))


# ------------------------------------------------------------- messages in files


def _maildir(path: str) -> Iterator[Found | UnusableFile]:
    for folder in ("new", "cur"):
        entries = (one for one in _walk(os.path.join(path, folder)) if not one.name.startswith("."))
        yield from _each(entries, lambda entry: _single(entry, "maildir", entry.name.partition(":")[0]))


def _eml(path: str) -> Iterator[Found | UnusableFile]:
    if not os.path.isdir(path):
        folder, name = os.path.split(path)
        yield from _in_folder(folder, name, lambda entry: _single(entry, "eml", entry.name))
        return
    entries = (one for one in _walk(path) if one.name.lower().endswith(".eml"))
    yield from _each(entries, lambda entry: _single(entry, "eml", entry.name))


def _in_folder(
    folder: str, name: str, read: Callable[[_Entry], Iterator[Found | UnusableFile]]
) -> Iterator[Found | UnusableFile]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _each(iter([_Entry(os.path.join(folder, name), name, descriptor)]), read)
    finally:
        os.close(descriptor)


def _single(entry: _Entry, kind: str, name: str) -> Iterator[Found]:
    file = entry.open()
    yield Found(entry.path, f"{kind} {name} {_hash(file)}", file, file.close)


def _hash(file: IO[bytes]) -> str:
    state = blake2b(digest_size=12)
    while block := file.read(_BLOCK):
        state.update(block)
    file.seek(0)
    return state.hexdigest()


def _mbox(path: str) -> Iterator[Found | UnusableFile]:
    folder, name = os.path.split(path)
    yield from _in_folder(folder, name, _of_mbox)


def _of_mbox(entry: _Entry) -> Iterator[Found]:
    with entry.open() as mbox:
        for number, part in enumerate(mbox_parts(mbox), 1):
            yield Found(f"{entry.path}, message {number}", f"mbox {_hash(part)}", part, part.close)


def mbox_parts(mbox: IO[bytes]) -> Iterator[IO[bytes]]:
    """The messages of a mbox (RFC 4155), each in a temporary file that the caller closes.

    Each begins with a From line; one ``>`` is removed from quoted ones. Raises ValueError for an invalid mbox.
    """
    part: IO[bytes] | None = None
    whole = blank = True  # about the previous line
    while line := mbox.readline(_BLOCK):
        if whole and blank and line.startswith(b"From "):
            if part is not None:
                part.seek(0)
                yield part
            part = cast("IO[bytes]", tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115
        elif part is None:
            raise ValueError("it does not begin with a From line: no mbox")
        else:
            part.write(line[1:] if whole and _QUOTED.match(line) else line)
        blank = whole and line in (b"\n", b"\r\n")
        whole = line.endswith(b"\n")
    if part is not None:
        part.seek(0)
        yield part


# ------------------------------------------------------------------------ spools


def _postfix(path: str) -> Iterator[Found | UnusableFile]:
    tops = [os.path.join(path, queue) for queue in _POSTFIX_QUEUES]
    for top in [top for top in tops if os.path.isdir(top)] or [path]:
        yield from _each(_walk(top), _of_postfix)


def _of_postfix(entry: _Entry) -> Iterator[Found]:
    with entry.open() as file:
        if not os.fstat(file.fileno()).st_mode & stat.S_IXUSR:
            raise ValueError("it is not complete: Postfix makes it executable when it is")
        read = read_queue_file(entry.path, file)
    try:
        if not read.recipients:
            read.content.close()
            return
        beginning = read.content.read(MAX_HEADER + 1)
        header, start = _split(beginning)
        envelope = _envelope(read.sender or b"", read.recipients, read.ret, read.envid)
    except BaseException:
        read.content.close()
        raise
    yield Found(
        entry.path,
        f"postfix {entry.name} {read.arrival}".rstrip(),
        read.content,
        read.content.close,
        envelope,
        header,
        Source(read.content, start, read.size),
    )


def _split(beginning: bytes) -> tuple[bytes, int]:
    """The header block, and where the body begins. Raises ValueError."""
    found = end_of_header(beginning)
    if found is None and len(beginning) > MAX_HEADER:
        raise ValueError(f"a header block of more than {MAX_HEADER} octets")
    end, start = found or (len(beginning), len(beginning))
    return unified_header(beginning[:end] + b"\n")[0], start


def _zmailer(path: str) -> Iterator[Found | UnusableFile]:
    transport = os.path.join(path, "transport")
    entries = (one for one in _walk(transport) if one.name[:1].isdigit())
    yield from _each(entries, lambda entry: _of_zmailer(path, transport, entry))


def _of_zmailer(top: str, transport: str, entry: _Entry) -> Iterator[Found | UnusableFile]:
    with entry.open() as file:
        relative = os.path.relpath(entry.path, transport)
        parsed = control.parse(relative, file.read(control.FILE_LIMIT + 1))
    over = {final.offset for final in parsed.recorded}
    groups: dict[tuple[int, int, bytes | None, bytes | None], list[control.ControlRecipient]] = {}
    for one in parsed.recipients:
        if one.state in (b" ", b"~") and one.offset not in over:
            groups.setdefault((one.sender, one.header, one.ret, one.envid), []).append(one)
    for recipients in groups.values():
        try:
            yield _of_group(top, relative, parsed, recipients, entry)
        except _FILE_ERRORS as error:
            yield _problem(entry, error)


def _of_group(
    top: str, path: str, parsed: control.ControlFile, recipients: list[control.ControlRecipient], entry: _Entry
) -> Found:
    """The message for recipients with the same sender and header."""
    first = recipients[0]
    sender = parsed.senders[first.sender]
    envelope = _envelope(
        b"" if sender.null else sender.user,
        [EnvelopeRecipient(one.user, one.dsn.notify, one.dsn.orcpt) for one in recipients],
        first.ret,
        first.envid,
    )
    body = _open_below(top, message_path(path, parsed.message_name).removeprefix("../"))
    try:
        status = os.fstat(body.fileno())
        source = Source(body, parsed.body_offset, status.st_size)
    except BaseException:
        body.close()
        raise
    name = f"{spool_id(status.st_ino, status.st_mtime_ns)} {first.sender} {first.header}"
    key = f"zmailer {name} {_word(first.ret)} {_word(first.envid)}".rstrip()
    return Found(entry.path, key, body, body.close, envelope, parsed.headers[first.header].data, source)


def _word(value: bytes | None) -> str:
    return "" if value is None else value.decode("ascii", "replace")


def _open_below(top: str, path: str) -> IO[bytes]:
    """Open a file below a folder; no part of its path is a link."""
    *folders, name = path.split("/")
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return _Entry(path, name, descriptor).open()
    finally:
        os.close(descriptor)


def _envelope(sender: bytes, recipients: list[EnvelopeRecipient], ret: bytes | None, envid: bytes | None) -> Envelope:
    """An envelope of a spool, with all checks of addresses. Raises SubmissionError."""
    checked = [EnvelopeRecipient(read_address(one.address, "recipient"), one.notify, one.orcpt) for one in recipients]
    for value in (ret, envid, *(one.orcpt for one in checked)):
        if value is not None and not (value.isascii() and value.decode("ascii", "replace").isprintable()):
            raise SubmissionError(f"'{escape(value[:80])}' is no parameter of an envelope")
    with suppress(SubmissionError):
        return Envelope(read_address(sender, "sender"), tuple(checked), ret, envid)
    raise SubmissionError(f"the sender '{escape(sender[:120])}' is no address")


_READERS: dict[SourceKind, Callable[[str], Iterator[Found | UnusableFile]]] = {
    SourceKind.MAILDIR: _maildir,
    SourceKind.MBOX: _mbox,
    SourceKind.EML: _eml,
    SourceKind.POSTFIX: _postfix,
    SourceKind.ZMAILER: _zmailer,
}

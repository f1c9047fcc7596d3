"""The sources of messages for ``zsmtp send``: files, folders, Maildirs, mboxes, standard input, lists of file names.

:func:`pieces` yields the messages of one name, each as a :class:`MessagePiece`; one that cannot be read is a
:class:`UnusableMessage`. A file stays where it is and is read when it is sent. Input that can be read only once, and
the messages of a mbox, are copied to a temporary file without a name.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from itertools import pairwise
from typing import IO, NamedTuple

from zsmtp.cli.failure import CommandFailed, reading, reason
from zsmtp.cli.keptfile import KeptFile
from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape

_BLOCK = 1 << 20
MAX_LIST = 256 << 20  # octets of a list of file names
_SPOOLS = ({"transport", "queue"}, {"incoming", "active", "deferred"})


class UnusableMessage(NamedTuple):
    """A message that cannot be sent: its fault in a line, and the exit status of a command that ends because of it."""

    name: str
    text: str
    status: Exit

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


class MessagePiece(NamedTuple):
    """One message: its name for people, its source, and the full path of its file if it has one."""

    name: str
    source: str | IO[bytes]
    path: str = ""


def named_files(files: Sequence[str], lists: Sequence[str]) -> list[str]:
    """The given names, and those in ``lists``: files of names, one a line or with NULs between (``-``: standard input).

    Raises CommandFailed.
    """
    if (*files, *lists).count("-") > 1:
        raise CommandFailed(Exit.USAGE, "standard input (-) can be one thing only")
    found = list(files)
    for path in lists:
        name = "standard input" if path == "-" else path
        with reading(name), nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            octets = file.read(MAX_LIST + 1)
        if len(octets) > MAX_LIST:
            raise CommandFailed(Exit.DATA, f"--files-from: {escape(name)}: longer than {MAX_LIST} octets")
        listed = [os.fsdecode(one) for one in octets.split(b"\0" if b"\0" in octets else b"\n") if one]
        if "-" in listed:
            raise CommandFailed(Exit.DATA, f"--files-from: {escape(name)}: standard input (-) cannot be in a list")
        found += listed
    return found


def pieces(path: str, opened: ExitStack) -> Iterator[MessagePiece | UnusableMessage]:
    """The messages of ``path``; copies are closed with ``opened``. Raises CommandFailed if no copy can be written."""
    name = "standard input" if path == "-" else escape(path)
    try:
        yield from _found(path, name, opened)
    except OSError as error:
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.NO_INPUT
        yield UnusableMessage(name, reason(error), status)


def _found(path: str, name: str, opened: ExitStack) -> Iterator[MessagePiece | UnusableMessage]:
    if path == "-":
        yield from _copied(name, sys.stdin.buffer, opened)
        return
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        yield from _in_folder(path, name)
    elif stat.S_ISFIFO(mode):
        with open(path, "rb") as once:
            yield from _copied(name, once, opened)
    elif not stat.S_ISREG(mode):
        yield UnusableMessage(name, "not a file", Exit.DATA)
    else:
        with open(path, "rb") as file:
            if _is_mbox(file):
                yield from _in_mbox(name, file, opened)
                return
        yield MessagePiece(name, path, os.path.abspath(path))


def _copied(name: str, once: IO[bytes], opened: ExitStack) -> Iterator[MessagePiece]:
    """Input that can be read only once: a message, or a mbox."""
    kept = opened.enter_context(KeptFile(name))
    shutil.copyfileobj(once, kept, _BLOCK)
    whole = io.BufferedReader(FilePart(kept.file, 0, kept.size))
    if _is_mbox(whole):
        yield from _in_mbox(name, whole, opened)
    else:
        yield MessagePiece(name, whole)


def _is_mbox(file: IO[bytes]) -> bool:
    """Whether a file begins as a mbox; it is left at its beginning."""
    beginning = file.read(5)
    file.seek(0)
    return beginning == b"From "


def _in_mbox(name: str, mbox: IO[bytes], opened: ExitStack) -> Iterator[MessagePiece]:
    """The messages of a mbox, one after the other in one temporary file."""
    from zsmtp.cli.importsources import mbox_parts  # imported only if used

    kept = opened.enter_context(KeptFile(f"the messages of {name}"))
    ends = [0]
    for part in mbox_parts(mbox):
        with part:
            shutil.copyfileobj(part, kept, _BLOCK)
        ends.append(kept.size)
    for number, (start, end) in enumerate(pairwise(ends), 1):
        yield MessagePiece(f"{name}, message {number}", io.BufferedReader(FilePart(kept.file, start, end)))


class FilePart(io.RawIOBase):
    """The octets ``[start, end)`` of a file that stays open, as a file with a position of its own."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._at = start

    @property
    def place(self) -> tuple[int, int, int]:
        """The descriptor of the file, the beginning and the end of the octets."""
        return self._file.fileno(), self._start, self._end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = max(base + offset, self._start)
        return self._at - self._start

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        size = max(min(len(buffer), self._end - self._at), 0)
        octets = os.pread(self._file.fileno(), size, self._at)
        buffer[: len(octets)] = octets
        self._at += len(octets)
        return len(octets)


# --------------------------------------------------------------------- folders


def _in_folder(path: str, name: str) -> Iterator[MessagePiece | UnusableMessage]:
    there = set(os.listdir(path))
    if any(spool <= there for spool in _SPOOLS):
        yield UnusableMessage(name, "the spool of a mail system; zsmtp queue import takes it", Exit.DATA)
        return
    if {"cur", "new"} <= there:
        tops = [os.path.join(path, folder) for folder in ("new", "cur")]
        files = [file for top in tops for file in _files(top) if not os.path.basename(file).startswith(".")]
    else:
        files, others = [], 0
        for file in _files(path):
            if file.lower().endswith(".eml"):
                files.append(file)
            else:
                others += 1
        if others and files:
            sys.stderr.write(f"zsmtp send: {name}: {others} files that do not end in .eml are left out\n")
        elif not files:
            yield UnusableMessage(name, "a folder without files that end in .eml", Exit.NO_INPUT)
    for file in files:
        yield MessagePiece(escape(file), file, os.path.abspath(file))


def _files(top: str) -> Iterator[str]:
    """The regular files below a folder, by name; no link to a folder is followed. Raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    for path, folders, names in os.walk(top, onerror=fail):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(path, name)
            if os.path.isfile(file):
                yield file

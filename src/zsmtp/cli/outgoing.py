"""The messages that ``zsmtp send`` was given, looked at before anything is sent.

A file is read again when it is sent, block by block; what comes from standard input is kept in a temporary file until
then. Whatever is wrong with any of them is found first: nothing is sent by halves because of a typing error.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.sysexits import Exit
from zsmtp.client.message import Letter
from zsmtp.errors import ContentError, SubmissionError
from zsmtp.escape import escape

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message: the name of its file for people, what to read it from, its octets, its envelope as text."""

    name: str
    source: str | IO[bytes]
    size: int
    sender: str
    recipients: tuple[str, ...]

    def from_start(self) -> str | IO[bytes]:
        """What to read it from, standing where the message begins."""
        if not isinstance(self.source, str):
            self.source.seek(0)
        return self.source

    def letter(self) -> Letter:
        """The message, read anew. Whoever asks for it closes it."""
        return Letter(self.from_start(), sender=self.sender, recipients=self.recipients, name=self.name)


def read_all(
    paths: Sequence[str], sender: str | None, recipients: Sequence[str] | None, opened: ExitStack
) -> list[Outgoing]:
    """Look at every message. Raises CommandFailed for the first that cannot be sent as it is."""
    if paths.count("-") > 1:
        raise CommandFailed(Exit.USAGE, "standard input (-) can be one message only")
    return [_read(path, sender, recipients, opened) for path in paths]


def _read(path: str, sender: str | None, recipients: Sequence[str] | None, opened: ExitStack) -> Outgoing:
    name = "standard input" if path == "-" else escape(path)
    with reading(name):
        source: str | IO[bytes] = path if path != "-" else _kept(opened)
        try:
            letter = Letter(source, sender=sender, recipients=recipients, name=name)
        except SubmissionError as error:
            raise CommandFailed(Exit.DATA, f"{name}: {escape(str(error))}") from error
    try:
        size = os.stat(path).st_size if isinstance(source, str) else source.seek(0, os.SEEK_END)
        return Outgoing(name, source, size, _text(letter.sender), tuple(map(_text, letter.recipients)))
    except ContentError as error:
        raise CommandFailed(Exit.NO_INPUT, f"{name}: {escape(str(error))}") from error
    finally:
        letter.close()


def _kept(opened: ExitStack) -> IO[bytes]:
    """All of standard input, in a file that goes away by itself."""
    kept = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the stack
    shutil.copyfileobj(sys.stdin.buffer, kept, _BLOCK)
    kept.seek(0)
    return kept


def _text(address: bytes) -> str:
    return address.decode("utf-8")

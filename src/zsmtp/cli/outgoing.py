"""The messages that ``zsmtp send`` was given, looked at before anything is sent.

A file is read again when it is sent, block by block; what comes from standard input is kept in a temporary file until
then. Whatever is wrong with any of them is found first: nothing is sent by halves because of a typing error.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING

from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.sysexits import Exit
from zsmtp.client.dsn import DSN
from zsmtp.client.message import Letter
from zsmtp.errors import ContentError, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.mailoptions import NO_OPTIONS, MailOptions

if TYPE_CHECKING:
    from zsmtp.cli.sendjournal import RecipientKey
    from zsmtp.signing.finalform import MessageSigning

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message: the name of its file for people, what to read it from, its octets, its envelope as text.

    ``path`` is the full path of its file, "" if it has none that stays. ``dsn`` is what the sender wants to be notified
    of, ``options`` what is asked of the transport. ``keys`` are those of its recipients in a journal, if there is one.
    """

    name: str
    source: str | IO[bytes]
    size: int
    sender: str
    recipients: tuple[str, ...]
    dsn: DSN | None = None
    options: MailOptions = NO_OPTIONS
    path: str = ""
    keys: Mapping[str, RecipientKey] = field(default_factory=dict)

    def from_start(self) -> str | IO[bytes]:
        """What to read it from, standing where the message begins."""
        if not isinstance(self.source, str):
            self.source.seek(0)
        return self.source

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Its octets as a file, standing where the message begins. Raises OSError."""
        source = self.from_start()
        if isinstance(source, str):
            with open(source, "rb", buffering=0) as file:
                yield file
        else:
            yield source

    def letter(self, signing: MessageSigning | None = None) -> Letter:
        """The message, read anew, and signed by ``signing``. Whoever asks for it closes it."""
        return Letter(
            self.from_start(),
            sender=self.sender,
            recipients=self.recipients,
            name=self.name,
            dsn=self.dsn,
            options=self.options,
            signing=signing,
        )


def read_all(
    paths: Sequence[str],
    sender: str | None,
    recipients: Sequence[str] | None,
    opened: ExitStack,
    *,
    dsn: DSN | None,
    options: MailOptions,
) -> list[Outgoing]:
    """Look at every message. Raises CommandFailed for the first that cannot be sent as it is."""
    if paths.count("-") > 1:
        raise CommandFailed(Exit.USAGE, "standard input (-) can be one message only")
    read = [_read(path, sender, recipients, opened) for path in paths]
    return [replace(one, dsn=dsn, options=options) for one in read]


def _read(path: str, sender: str | None, recipients: Sequence[str] | None, opened: ExitStack) -> Outgoing:
    name = "standard input" if path == "-" else escape(path)
    with reading(name):
        source = _source(path, opened)
        try:
            letter = Letter(source, sender=sender, recipients=recipients, name=name)
        except SubmissionError as error:
            raise CommandFailed(Exit.DATA, f"{name}: {escape(str(error))}") from error
    try:
        size = os.stat(path).st_size if isinstance(source, str) else source.seek(0, os.SEEK_END)
        return Outgoing(
            name,
            source,
            size,
            _text(letter.sender),
            tuple(map(_text, letter.recipients)),
            path=os.path.abspath(path) if isinstance(source, str) else "",
        )
    except ContentError as error:
        raise CommandFailed(Exit.NO_INPUT, f"{name}: {escape(str(error))}") from error
    finally:
        letter.close()


def _source(path: str, opened: ExitStack) -> str | IO[bytes]:
    """What a message is read from: its file, or a copy of what can be read only once, which goes away by itself."""
    if path != "-":
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # opening a directory says what is wrong
            return path
        if not stat.S_ISFIFO(mode):
            raise CommandFailed(Exit.DATA, f"{escape(path)}: not a file")
    kept = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the stack
    with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as once:
        shutil.copyfileobj(once, kept, _BLOCK)
    kept.seek(0)
    return kept


def _text(address: bytes) -> str:
    return address.decode("utf-8")

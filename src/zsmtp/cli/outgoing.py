"""The messages of ``zsmtp send``, all checked before anything is sent.

All faults are found first and reported together: a typing error does not cause a partial run, unless ``--keep-going``
asks for that. The sources of messages are in :mod:`zsmtp.cli.sendsources`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from zsmtp.cli.failure import CommandFailed, reason
from zsmtp.cli.keptfile import KeptFile
from zsmtp.cli.sendsources import FilePart, MessagePiece, UnusableMessage, pieces
from zsmtp.cli.sysexits import Exit, worst
from zsmtp.client.addresslist import read_address, read_addresses
from zsmtp.client.dsn import DSN
from zsmtp.client.message import Letter
from zsmtp.errors import ContentError, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.mailoptions import NO_OPTIONS, MailOptions

if TYPE_CHECKING:
    from zsmtp.cli.sendjournal import RecipientKey
    from zsmtp.signing.finalform import MessageSigning


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message: the name of its file for people, its source, its size in octets, its envelope as text.

    ``path`` is the full path of its file, "" if it has no permanent one. ``dsn`` are the notifications that the sender
    wants, ``options`` those of the transport. ``keys`` are those of its recipients in a journal, if there is one.
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

    def from_start(self) -> Path | IO[bytes]:
        """The source to read it from, positioned at the beginning of the message."""
        if isinstance(self.source, str):
            return Path(self.source)  # the library takes a str with a line end in it for a message
        self.source.seek(0)
        return self.source

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Its octets as a file, positioned at the beginning of the message. Raises OSError."""
        source = self.from_start()
        if isinstance(source, Path):
            with open(source, "rb", buffering=0) as file:
                yield file
        else:
            yield source

    def letter(self, signing: MessageSigning | None = None, *, add_missing: bool = False) -> Letter:
        """The message, read anew, as it is sent: signed by ``signing``. The caller closes it."""
        return Letter(
            self.from_start(),
            sender=self.sender,
            recipients=self.recipients,
            name=self.name,
            dsn=self.dsn,
            options=self.options,
            signing=signing,
            add_missing=add_missing,
        )


class ReadMessages(NamedTuple):
    """The messages in the order of their names, and those that cannot be sent."""

    messages: list[Outgoing]
    unusable: list[UnusableMessage]


def read_all(
    paths: Sequence[str],
    sender: str | None,
    recipients: Sequence[str] | None,
    opened: ExitStack,
    *,
    dsn: DSN | None,
    options: MailOptions,
) -> ReadMessages:
    """Read every message of these names. Raises CommandFailed for a wrong address."""
    _check_addresses(sender, recipients)
    read = ReadMessages([], [])
    for path in paths:
        for piece in pieces(path, opened):
            one = piece if isinstance(piece, UnusableMessage) else _read(piece, sender, recipients)
            if isinstance(one, UnusableMessage):
                read.unusable.append(one)
            else:
                read.messages.append(replace(one, dsn=dsn, options=options))
    return read


class MessageCopies:
    """Messages as sent, with the additions to their header: any number of copies in one temporary file.

    So the processes that send a message add nothing of their own. The file is closed with ``opened``. ``prepared``
    returns a message as sent.
    """

    def __init__(self, opened: ExitStack, prepared: Callable[[Outgoing], Letter]) -> None:
        self._opened = opened
        self._prepared = prepared
        self._kept: KeptFile | None = None

    def of(self, message: Outgoing) -> Outgoing:
        """The message itself if nothing is added to its header, else one whose source is the copy.

        One that cannot be read is returned unchanged: the process that sends it reports the error. Raises
        CommandFailed if the copy cannot be written.
        """
        try:
            with closing(message.letter()) as plain:
                header = plain.header
            letter = self._prepared(message)
        except (OSError, SubmissionError):
            return message
        with closing(letter):
            if letter.header == header:
                return message
            if self._kept is None:
                self._kept = self._opened.enter_context(KeptFile("copies of messages for several processes"))
            start = self._kept.size
            self._kept.write(letter.header + b"\n")
            try:
                for block in letter.body().blocks():
                    self._kept.write(block)
            except (OSError, ContentError):
                return message
        end = self._kept.size
        return replace(message, source=io.BufferedReader(FilePart(self._kept.file, start, end)), size=end - start)


def refuse_unusable(unusable: Sequence[UnusableMessage], of: int, *, keep_going: bool) -> None:
    """Report messages that cannot be sent. Raises CommandFailed unless the others are sent in spite of that."""
    if not unusable:
        return
    if len(unusable) == 1 and not keep_going:
        raise CommandFailed(unusable[0].status, str(unusable[0]))
    for one in unusable:
        sys.stderr.write(f"zsmtp send: {one}\n")
    if not keep_going:
        told = f"{len(unusable)} of {of} messages cannot be sent, so nothing is sent; --keep-going sends the others"
        raise CommandFailed(worst(one.status for one in unusable), told)


def _check_addresses(sender: str | None, recipients: Sequence[str] | None) -> None:
    """Check the addresses of the command line, which are the same for all messages."""
    try:
        if sender is not None:
            read_address(sender, "sender")
        if recipients is not None:
            read_addresses(recipients, "recipient")
    except SubmissionError as error:
        what, _, problem = str(error).partition(" ")
        flag = "--from" if what.startswith("sender") else "--to"
        raise CommandFailed(Exit.USAGE, f"{flag} {escape(problem)}") from error


def _read(piece: MessagePiece, sender: str | None, recipients: Sequence[str] | None) -> Outgoing | UnusableMessage:
    """Read one message."""
    name, source = piece.name, piece.source
    try:
        message = Path(source) if isinstance(source, str) else source
        letter = Letter(message, sender=sender, recipients=recipients, name=name)
        try:
            size = os.stat(source).st_size if isinstance(source, str) else source.seek(0, os.SEEK_END)
        finally:
            letter.close()
    except OSError as error:
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.NO_INPUT
        return UnusableMessage(name, reason(error), status)
    except SubmissionError as error:
        return UnusableMessage(name, escape(str(error)), Exit.DATA)
    envelope = _text(letter.sender), tuple(map(_text, letter.recipients))
    return Outgoing(name, source, size, *envelope, path=piece.path)


def _text(address: bytes) -> str:
    return address.decode("utf-8")

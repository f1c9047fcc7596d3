"""The messages that ``zsmtp send`` was given, looked at before anything is sent.

Whatever is wrong with any of them is found first, and all of it is told: nothing is sent by halves because of a typing
error, unless that is asked for. Where they come from is :mod:`zsmtp.cli.sendsources`.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, NamedTuple

from zsmtp.cli.failure import CommandFailed, reason
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

    def letter(self, signing: MessageSigning | None = None, *, add_missing: bool = False) -> Letter:
        """The message, read anew, as it is sent: signed by ``signing``. Whoever asks for it closes it."""
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
    """What was read: messages in the order they were named, and what cannot be sent."""

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
    """Look at every message that these names stand for. Raises CommandFailed for a wrong address."""
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


def with_missing_fields(message: Outgoing, opened: ExitStack, prepared: Callable[[Outgoing], Letter]) -> Outgoing:
    """The message as it is if nothing is added to its header, else a copy that has in it what would be added.

    So whoever sends it adds nothing of their own. ``prepared`` gives the letter that is sent. One that cannot be read
    is left as it is, for whoever sends it to tell. Raises OSError if the copy cannot be written.
    """
    try:
        with closing(message.letter()) as plain:
            header = plain.header
        letter = prepared(message)
    except (OSError, SubmissionError):
        return message
    with closing(letter):
        if letter.header == header:
            return message
        copy = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the stack
        copy.write(letter.header + b"\n")
        try:
            copy.writelines(letter.body().blocks())
        except ContentError:
            return message
    copy.flush()
    return replace(message, source=io.BufferedReader(FilePart(copy, 0, copy.tell())), size=copy.tell())


def refuse_unusable(unusable: Sequence[UnusableMessage], of: int, *, keep_going: bool) -> None:
    """Tell of what cannot be sent. Raises CommandFailed unless the others are to be sent all the same."""
    if not unusable:
        return
    if len(unusable) == 1 and not keep_going:
        raise CommandFailed(unusable[0].status, str(unusable[0]))
    for one in unusable:
        sys.stderr.write(f"zsmtp send: {one}\n")
    if not keep_going:
        told = f"{len(unusable)} of {of} messages cannot be sent, so nothing is; --keep-going sends the others"
        raise CommandFailed(worst(one.status for one in unusable), told)


def _check_addresses(sender: str | None, recipients: Sequence[str] | None) -> None:
    """Those of the command line are the same for all messages."""
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
    """Look at one message."""
    name, source = piece.name, piece.source
    try:
        letter = Letter(source, sender=sender, recipients=recipients, name=name)
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

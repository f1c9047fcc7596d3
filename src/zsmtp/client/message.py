"""Messages in all forms of a program: an ``EmailMessage``, octets, a path, or a binary file.

:class:`Letter` prepares one for delivery: it separates header and body, removes ``Bcc`` (RFC 5322 3.6.3), and takes
sender and recipients from the header if none were given. A file is read from disk block by block while it is sent, and
is not open before; an ``EmailMessage`` is turned into octets once (``zsmtp.client.serialise``). Nothing else is
changed, unless requested: a submission server adds a missing Date and Message-ID (RFC 6409 8), and ``add_missing`` does
so here. Any fault of a message, also an exception of its objects, is a SubmissionError.

A binary file is read from its present position, and must stay open until all results are in. One without positions,
such as a pipe, is copied to a temporary file first.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol, TypeGuard, Union, cast

from zsmtp.body.encode import KEEP_LIMIT
from zsmtp.body.fields import end_of_header
from zsmtp.body.lines import unified_header
from zsmtp.body.source import Source
from zsmtp.body.stored import AT_ONCE, Stored, prepare, prepare_in_pieces
from zsmtp.body.tlsrequired import tls_is_optional
from zsmtp.client.addresslist import read_address, read_addresses
from zsmtp.client.dsn import DSN, NO_WISHES, wishes
from zsmtp.client.header import check_bare_cr, envelope_in, message_id, with_missing, without_blind
from zsmtp.effects import GiveWay, Operation, SharedWork, at_once
from zsmtp.errors import ContentError, SubmissionError
from zsmtp.escape import described, escape
from zsmtp.proto.mailoptions import NO_OPTIONS, MailOptions
from zsmtp.proto.plan import Envelope, EnvelopeRecipient, sender_wish

if TYPE_CHECKING:
    from email.message import Message

    from zsmtp.signing.finalform import MessageSigning, SignedMessage, SigningChoice

MessageLike = Union["Message", bytes, bytearray, memoryview, str, os.PathLike[str], BinaryIO, IO[bytes]]
"""All kinds of messages: an object of the ``email`` package, octets, a path (also as ``str``), a binary file."""

MAX_HEADER = 1 << 20  # octets of a header block
_BLOCK = 1 << 16
_IN_MEMORY = 1 << 20  # octets of a body encoded anew; a larger one is in a temporary file
_BOM = b"\xef\xbb\xbf"  # some editors put it before a text; no part of a message

_FIELD_NAME = re.compile(rb"[!-9;-~]+[ \t]*:")


class _Body(Protocol):
    """The source of a body; opened when it is needed."""

    memory: int
    """Octets of memory that it uses."""

    def open(self) -> Source: ...
    def rest(self) -> None: ...
    def close(self) -> None: ...


class Letter:
    """A message prepared for delivery; ``name`` is its Message-ID, or the given name.

    ``options`` are the checked options of the transport; ``wish`` is the demand on TLS by them and the header. ``dsn``
    are the notifications that its sender requests. With ``signing`` it is signed when it is :meth:`stored`; ``remarks``
    name the keys, or the reason for none. Date and Message-ID are added to a signed message.
    """

    __slots__ = (
        "_asked",
        "_body",
        "_choice",
        "_header",
        "_preparing",
        "_signed_body",
        "_stored",
        "dsn",
        "name",
        "options",
        "recipients",
        "remarks",
        "sender",
        "wish",
    )

    def __init__(
        self,
        message: MessageLike,
        *,
        sender: str | bytes | None = None,
        recipients: str | bytes | Iterable[str | bytes] | None = None,
        name: str = "",
        add_missing: bool = False,
        dsn: DSN | None = None,
        options: MailOptions = NO_OPTIONS,
        signing: MessageSigning | None = None,
    ) -> None:
        """Read the header. Raises SubmissionError, or OSError for a file that cannot be read."""
        if dsn is not None and not isinstance(dsn, DSN):
            raise SubmissionError(f"dsn: DSN is expected, not {type(dsn).__name__}")
        if not isinstance(name, str):
            raise SubmissionError(f"name: a string is expected, not {type(name).__name__}")
        self.dsn = dsn
        self.options = options
        self.remarks: tuple[str, ...] = ()
        self._stored: Stored | None = None
        self._preparing: SharedWork[Stored] | None = None
        self._choice: SigningChoice | None = None
        self._signed_body: IO[bytes] | None = None
        header, self._body = _open(message)
        try:
            folded = self._read(header, sender, recipients, add_missing=add_missing, signing=signing)
        except BaseException:
            self._body.close()
            raise
        self.name = name or (message_id(self._header) if b"message-id" in folded else "") or path_text(message)
        optional = b"tls-required" in folded and tls_is_optional(self._header)
        self.wish = sender_wish(options, tls_optional=optional)

    def _read(
        self,
        header: bytes,
        sender: str | bytes | None,
        recipients: str | bytes | Iterable[str | bytes] | None,
        *,
        add_missing: bool,
        signing: MessageSigning | None,
    ) -> bytes:
        """Find the header as it is sent, and the envelope; return that header in lower case."""
        block, bare_cr = unified_header(header)
        if not _FIELD_NAME.match(block):
            raise SubmissionError(_no_header(header))
        if bare_cr:
            check_bare_cr(header, enough=sender is not None and recipients is not None)
        given = read_addresses(recipients, "recipient") if recipients is not None else None
        if sender is None or given is None:
            named, addressed = envelope_in(block, sender=sender is None, recipients=given is None)
            sender = named if sender is None else sender
            given = read_addresses(addressed or (), "recipient") if given is None else given
        self.sender = read_address(sender or "", "sender")
        self.recipients = given
        if not given:
            raise SubmissionError("no recipient: neither given nor named by To, Cc or Bcc")
        self._asked = NO_WISHES if self.dsn is None else wishes(self.dsn, self.recipients)
        folded = block.lower()
        if b"bcc" in folded:
            block = without_blind(block)
            folded = block.lower()
        if signing is not None:
            choice = signing.choose(block)
            self.remarks = (f"not signed: {choice.reason}",) if choice.reason else ()
            self._choice = choice if choice.keys else None
        if add_missing or self._choice is not None:
            block = with_missing(block, self.sender)
            folded = block.lower()
        self._header = block
        return folded

    def envelope(self, indexes: Iterable[int]) -> Envelope:
        """The envelope for some of the recipients."""
        asked = self._asked
        paths = [self.recipients[index] for index in indexes]
        recipients = tuple([EnvelopeRecipient(path, asked.notify, asked.originals.get(path)) for path in paths])
        return Envelope(self.sender, recipients, asked.ret, asked.envid, self.wish, self.options)

    @property
    def header(self) -> bytes:
        """The header block as it is sent: lines end with LF, no empty line at its end."""
        return self._header

    def body(self) -> Source:
        """The body unchanged, which may be empty. Raises ContentError if its file has been replaced or changed."""
        return self._body.open()

    def stored(self) -> Stored:
        """The message, examined at the first call. Raises ContentError if it cannot be read."""
        stored = self.preparation()
        return stored if isinstance(stored, Stored) else at_once(stored)

    def preparation(self) -> Stored | Operation[Stored]:
        """As :meth:`stored`; for a large message an operation that returns it, and yields to others meanwhile.

        Any number of operations may request it; it is done once.
        """
        if self._stored is not None:
            return self._stored
        if self._preparing is None or self._preparing.over:
            body, choice = self._body.open(), self._choice
            if choice is None and body.size <= KEEP_LIMIT:
                self._stored = prepare(self._header, body)
                return self._stored
            work = self._prepare(body)
            if body.size <= AT_ONCE:
                return at_once(work)
            self._preparing = SharedWork(work)
        return self._preparing.result()

    async def _prepare(self, body: Source) -> Stored:
        if self._choice is None:
            stored = await prepare_in_pieces(self._header, body)
        else:
            stored = await self._signed(await self._choice.sign_in_pieces(self._header, body), body)
        self._stored = stored
        return stored

    async def _signed(self, done: SignedMessage, body: Source) -> Stored:
        self.remarks = done.remarks
        if done.seen is not None:
            return Stored(done.seen, body)
        if done.body is not None:
            self._signed_body = await spooled_in_pieces(done.body())
            body = Source(self._signed_body, 0, done.body_size)
        return await prepare_in_pieces(done.header, body)

    @property
    def memory(self) -> int:
        """An estimate of its octets of memory: its header, and its body unless that is in a file."""
        return len(self._header) + self._body.memory

    def rest(self) -> None:
        """Close its file until the message is read again."""
        self._stored = None
        if self._preparing is not None:
            self._preparing.close(ContentError("the message was released while it was read"))
            self._preparing = None
        if self._signed_body is not None:
            self._signed_body.close()
            self._signed_body = None
        self._body.rest()

    def close(self) -> None:
        """Close the file and release its memory."""
        self.rest()
        self._body.close()


def spooled(blocks: Iterable[bytes]) -> IO[bytes]:
    """A file with these octets: in memory if small, removed when closed. Raises ContentError."""
    return at_once(spooled_in_pieces(blocks))


async def spooled_in_pieces(blocks: Iterable[bytes]) -> IO[bytes]:
    """As :func:`spooled`, yielding to others between blocks."""
    import tempfile  # most messages need no file of their own

    file = cast("IO[bytes]", tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 - closed by the caller
    try:
        for block in blocks:
            file.write(block)
            await GiveWay()
    except OSError as error:
        file.close()
        raise ContentError(f"a temporary file cannot be written: {error.strerror}") from error
    except BaseException:
        file.close()
        raise
    return file


def _no_header(octets: bytes) -> str:
    """The reason why the octets do not begin with a header."""
    if not octets.strip():
        return "the message is empty"
    if octets.startswith(b"From "):  # RFC 4155
        return "the message begins with the From line of a mailbox file, which is no part of it"
    return "the message does not begin with a header field"


# ---------------------------------------------------------------- kinds of messages


def path_text(message: object) -> str:
    """The path of a message that is given as a path; "" for every other."""
    try:
        path = os.fspath(message) if isinstance(message, str | os.PathLike) else ""
    except Exception:  # an object of a program may raise anything
        return ""
    return escape(os.fsdecode(path))


async def octets_first(message: MessageLike) -> MessageLike:
    """A message object as octets, which a :class:`Letter` makes at once, and this in turns of the loop.

    Other messages stay as they are. Raises SubmissionError.
    """
    if not _is_message(message):
        return message
    from zsmtp.client.serialise import octets_in_pieces
    from zsmtp.net.turns import in_turns

    return await in_turns(octets_in_pieces(message))


def _open(message: MessageLike) -> tuple[bytes, _Body]:
    """The header block of a message, unchanged, and its body."""
    try:
        return _opened(message)
    except (SubmissionError, OSError):
        raise
    except Exception as error:  # objects of programs may raise anything: paths with NULs, closed files
        raise SubmissionError(f"the message cannot be read: {described(error)}") from error


def _is_message(message: object) -> TypeGuard[Message]:
    """Whether it is an object of the ``email`` package; does not load that package for other objects."""
    loaded = sys.modules.get("email.message")
    return loaded is not None and isinstance(message, loaded.Message)


def _opened(message: MessageLike) -> tuple[bytes, _Body]:
    if _is_message(message):
        from zsmtp.client.serialise import octets_of

        return _in_memory(octets_of(message))
    if isinstance(message, bytes | bytearray | memoryview):
        return _in_memory(bytes(message))
    if isinstance(message, str) and "\n" in message:
        raise SubmissionError("a str is the path of a file; a message that is text has to be encoded")
    if isinstance(message, str | os.PathLike):
        return _on_disk(os.fsdecode(message))
    if hasattr(message, "read"):
        return _in_file(cast("IO[bytes]", message))
    raise SubmissionError(f"not a message, octets, a path or a binary file: {type(message).__name__}")


def _in_memory(octets: bytes) -> tuple[bytes, _Body]:
    header, start = _split(octets[:MAX_HEADER], whole=len(octets) <= MAX_HEADER)
    return header, _Memory(octets, start)


def _on_disk(path: str) -> tuple[bytes, _Body]:
    with open(path, "rb", buffering=0) as file:
        header, start = _read_header(file)
        found = os.fstat(file.fileno())
    return header, _Disk(path, start, _stamp(found), found.st_size)


def _in_file(file: BinaryIO | IO[bytes]) -> tuple[bytes, _Body]:
    mine: IO[bytes] | None = None
    try:
        if not file.seekable():
            import shutil
            import tempfile

            mine = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the letter
            shutil.copyfileobj(file, mine, _BLOCK)
            mine.seek(0)
        readable = mine or file
        begin = readable.tell()
        header, start = _read_header(readable)
        end = readable.seek(0, os.SEEK_END)
    except BaseException:
        if mine is not None:
            mine.close()
        raise
    return header, _File(readable, begin + start, end, mine)


def _read_header(file: IO[bytes]) -> tuple[bytes, int]:
    """The header block, and the offset of the body from the file's position."""
    octets = b""
    while len(octets) < MAX_HEADER:
        block: object = file.read(_BLOCK)
        if not isinstance(block, bytes):
            raise SubmissionError("the file is not open in binary mode")
        if not block:
            return _split(octets, whole=True)
        octets += block
        if end_of_header(octets, max(len(octets) - len(block) - 3, 0)) is not None:
            break
    return _split(octets, whole=False)


def _split(octets: bytes, *, whole: bool) -> tuple[bytes, int]:
    found = end_of_header(octets)
    if found is not None:
        return octets[: found[0]].removeprefix(_BOM) + b"\n", found[1]
    if not whole:
        raise SubmissionError(f"a header block of more than {MAX_HEADER} octets, or none at all")
    return octets.removeprefix(_BOM), len(octets)


class _Memory:
    __slots__ = ("_octets", "_start", "memory")

    def __init__(self, octets: bytes, start: int) -> None:
        self._octets = octets
        self._start = start
        self.memory = len(octets)

    def open(self) -> Source:
        return Source.from_bytes(self._octets).part(self._start, len(self._octets))

    def rest(self) -> None:
        """Do nothing: it is no file."""

    def close(self) -> None:
        self._octets = b""


class _Disk:
    """A named file, which must still be the one that was read first."""

    memory = 0

    def __init__(self, path: str, start: int, stamp: tuple[int, ...], size: int) -> None:
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
            raise ContentError(f"{escape(self._path)}: {error.strerror}") from error
        if _stamp(found) != self._stamp:
            raise ContentError(f"{escape(self._path)} has changed since it was given")
        return Source(self._file, self._start, self._size)

    def rest(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self.rest()


class _File:
    memory = 0

    def __init__(self, file: BinaryIO | IO[bytes], start: int, end: int, mine: IO[bytes] | None) -> None:
        self._file = file
        self._range = (start, end)
        self._mine = mine

    def open(self) -> Source:
        return Source(self._file, *self._range)

    def rest(self) -> None:
        """Do nothing: the file is the program's, or has no name to open again."""

    def close(self) -> None:
        if self._mine is not None:
            self._mine.close()


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

"""Parses message control files: the record format of ZMailer's ``transport/`` directory.

A control file is lines. The first byte of a line is its record tag, the second its state tag, content starts at the
third. Records depend on those above them: an ``r`` (recipient) belongs to the nearest ``s`` (sender) above, an ``N``,
``n`` or ``R`` (RFC 3461 data) to the recipient just above, and an ``m`` block (the header that is sent) to all
recipients above that have none yet. A parser therefore needs the whole file::

    control = parse("A/B/12345-6789", data)
    for recipient in control.recipients:
        sender, header = control.senders[recipient.sender], control.headers[recipient.header]

:func:`parse` does no I/O. It refuses (:class:`~zsmtp.errors.SpoolError`, naming the byte offset) a file that could make
mail go out with a shortened header or to a shortened address: one cut off anywhere except in a trailing ``d`` record,
which other processes append at any time. Harmless errors (a malformed word of an ``N`` record, an unknown tag) become
remarks. ``zsmtp.zmailer.locks`` reads such files and changes their state tags.
"""

from __future__ import annotations

import re

from zsmtp.errors import SpoolError
from zsmtp.patterns import pattern
from zsmtp.records import NamedTuple
from zsmtp.zmailer.dsnwords import NO_DSN_WORDS, By, DsnWords, DsnWordsReader, valid_envid
from zsmtp.zmailer.paths import file_id

__all__ = ["By", "ControlFile", "ControlRecipient", "DsnWords", "HeaderBlock", "Sender", "parse"]

FILE_LIMIT = 64 * 1024 * 1024
HEADER_LIMIT = 4 * 1024 * 1024
LINE_LIMIT = 64 * 1024
RECORD_LIMIT = 1_000_000  # of recipients, senders and header blocks, each
REMARK_LIMIT = 20

FLAG_LOCK_FIELD = 0x1
FLAG_DELAY_FIELD = 0x2
FLAG_MIME_BLOCK = 0x4
_KNOWN_FLAGS = FLAG_LOCK_FIELD | FLAG_DELAY_FIELD | FLAG_MIME_BLOCK


class Sender(NamedTuple):
    """An ``s`` record. ``offset`` is that of its tag in the file; the fields are as in :class:`ControlRecipient`."""

    offset: int
    channel: bytes
    host: bytes
    user: bytes
    privilege: bytes

    @property
    def null(self) -> bool:
        """Whether this is the null reverse-path ``<>`` (RFC 5321 4.5.5): channel ``error``, or written so."""
        return self.channel == b"error" or not self.user


class ControlRecipient(NamedTuple):
    """An ``r`` record with the facts of the records that belong to it.

    ``offset`` is that of the ``r``; ``state`` the one byte after it when the file was read: blank (to do),
    ``~`` (locked), ``+`` (delivered), ``-`` (failed). ``user`` is the address without enclosing angle brackets.
    ``sender`` and ``header`` are indexes into the file's senders and headers. ``dsn_offset`` is the offset of the
    (first) ``N`` record, -1 without one. ``envid`` is the ``ENVID=`` value, still xtext; ``ret`` is FULL or HDRS.
    ``lock_field``: 6 bytes for a process id follow the state tag.
    """

    offset: int
    state: bytes
    channel: bytes
    host: bytes
    user: bytes
    privilege: bytes
    sender: int
    header: int
    dsn: DsnWords = NO_DSN_WORDS
    dsn_offset: int = -1
    envid: bytes | None = None
    ret: bytes | None = None
    lock_field: bool = True


class HeaderBlock(NamedTuple):
    """An ``m`` block. ``offset`` is that of the first header byte; ``data`` are lines, each ended by LF, none empty."""

    offset: int
    data: bytes


class FinalRecord(NamedTuple):
    """A ``d`` record that ends a delivery: the offset of its recipient, DSN action and final recipient."""

    offset: int
    action: bytes
    address: bytes


class ControlFile(NamedTuple):
    """A whole control file.

    ``id`` is its number in reports. ``body_offset`` is where the body starts in the message file, in octets.
    ``verbose_log`` is the path of a ``v`` record. ``format_flags`` are the bits of the ``@`` record (0 without one). A
    ``turn_request`` (ETRN) file is not a message: it has neither recipients nor message name. ``remarks`` are texts for
    people, printable ASCII, at most ``REMARK_LIMIT`` and one more. ``recorded`` are the ``d`` records with an action
    that ends a delivery (RFC 3464 2.3.3): the sender's notification about such a recipient is in the file, even if the
    recipient's state tag says otherwise.
    """

    path: str
    id: bytes
    message_name: bytes
    body_offset: int
    log_identity: bytes
    verbose_log: bytes | None
    senders: tuple[Sender, ...]
    headers: tuple[HeaderBlock, ...]
    recipients: tuple[ControlRecipient, ...]
    remarks: tuple[str, ...] = ()
    turn_request: bool = False
    format_flags: int = 0
    recorded: tuple[FinalRecord, ...] = ()


def parse(path: str, data: bytes) -> ControlFile:
    """Read a whole control file; ``path`` gives its number, its hash directories and the name in messages.

    Raises SpoolError, naming the byte offset, for any error that could lead to wrong mail: then nothing of the file may
    be sent.
    """
    identity = file_id(path)
    if len(data) > FILE_LIMIT:
        raise SpoolError(path, FILE_LIMIT, f"longer than {FILE_LIMIT} bytes")
    nul = data.find(b"\0")
    if nul >= 0:
        raise SpoolError(path, nul, "a NUL byte")
    usual = _usual_file(path, identity, data)
    if usual is not None:
        return usual
    parser = _Parser(path, data)
    parser.records()
    return parser.result(identity)


_NUMBER = pattern(rb"[ \t]*+(?:0[xX]([0-9A-Fa-f]{1,16})|0([0-7]{1,22})|([1-9][0-9]{0,19}|0))[ \t]*+")
_BODY_OFFSET = pattern(rb"[ \t]*+([0-9]{1,18})[ \t]*+")
_LOCK_FIELD = pattern(rb"[ 0-9]{6}")
# RFC 821 paths: blanks inside "...", <...> and [...] and after a backslash do not end a field. An unclosed quote
# matches nothing, which refuses the record. An unclosed bracket stands for itself, and brackets of one kind do not
# nest: so no octet is matched more than twice, however many are opened.
_FIELD = rb"""((?:[^ \t\n"\\<\[]++
      |"(?:[^"\\\n]++|\\[^\n])*+"
      |\\[^\n]
      |<(?:[^<>"\\\n]++|"(?:[^"\\\n]++|\\[^\n])*+"|\\[^\n])*+>
      |\[[^\[\]\n]*+\]
      |[<\[]
      )++)"""
_CHANNEL = pattern(rb"[ \t]*+" + _FIELD, re.VERBOSE)
_ADDRESS = pattern(rb"[ \t]*+" + rb"[ \t]++".join([_FIELD] * 4) + rb"[ \t]*+", re.VERBOSE)  # channel to privilege


# A d record for a notification not yet sent (state tag blank) or sent (+), whole up to the action that ends a delivery.
_FINAL_DIAGNOSTIC = pattern(
    rb"d[ +]([0-9]{1,18}):[-0-9]*+:[-0-9]*+:[-0-9]*+:[0-9]*+\t"
    rb"([^\t\n\x01]*+)\x01(failed|delivered|relayed|expanded)\x01[^\t\n]*+\t"
)

# The records with which ZMailer's router begins every file: parsed in one match in the usual case.
_BEGINNING = rb"@ 0x0{0,15}([0-7])\ni ([^\n/.][^\n/]{0,254})\no ([0-9]{1,18})\nl ([^\n]{0,1000})\n"
_PREAMBLE = pattern(_BEGINNING)

# A file of the router with one sender and one recipient, neither with quotes nor with DSN data, up to its header. Each
# field is one that _FIELD matches, too, and that has no enclosing angle brackets. The ten digits and blanks are a lock
# field and a delay field with any format flags.
_USUAL_FIELDS = rb" ".join([rb"([^ \t\n\"\\<>\[\]]++|\[[0-9A-Za-z.:]++\])"] * 4)
_USUAL = pattern(
    _BEGINNING + rb"(?:e [^\n]*+\n)?(s) " + _USUAL_FIELDS + rb"\n(r)([^\n])[ 0-9]{10}" + _USUAL_FIELDS + rb"\nm\n(?!\n)"
)


def _usual_file(path: str, identity: bytes, data: bytes) -> ControlFile | None:
    """What :class:`_Parser` makes of the usual file, in one match; None for any other file."""
    match = _USUAL.match(data) if len(data) <= LINE_LIMIT else None
    if match is None or data.find(b"\n\n", match.end()) != len(data) - 2:
        return None
    flags, name, body_offset, log_identity, _, *sender, _, state, channel, host, user, privilege = match.groups()
    block = match.end()
    return ControlFile(
        path,
        identity,
        name,
        int(body_offset),
        log_identity,
        None,
        (Sender(match.start(5), *sender),),
        (HeaderBlock(block, data[block:-1]),),
        (ControlRecipient(match.start(10), state, channel, host, user, privilege, 0, 0),),
        (),
        False,
        int(flags),
    )


class _Parser:
    """One pass over the records; the methods named after tags take the offsets of a record's tag and of its LF.

    A recipient belongs to the next header block before that is read: it is ``unheaded`` until then. ``current``: DSN
    data of the last recipient may still follow.
    """

    flags = 0
    message_name = b""
    body_offset = -1
    log_identity = b""
    verbose_log: bytes | None = None
    turn_request = False
    envid: bytes | None = None
    ret: bytes | None = None
    current = False

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data
        self.senders: list[Sender] = []
        self.headers: list[HeaderBlock] = []
        self.recipients: list[ControlRecipient] = []
        self.unheaded = 0  # the recipients since the last m block
        self.remarks: list[str] = []
        self.recorded: list[FinalRecord] = []

    def refuse(self, offset: int, problem: str) -> SpoolError:
        return SpoolError(self.path, offset, problem)

    def remark(self, offset: int, text: str) -> None:
        if len(self.remarks) < REMARK_LIMIT:
            self.remarks.append(f"byte {offset}: {text}")
        elif len(self.remarks) == REMARK_LIMIT:
            self.remarks.append("more of this kind is left out")

    def too_many(self, offset: int, what: str) -> SpoolError:
        return self.refuse(offset, f"more than {RECORD_LIMIT} {what}")

    def records(self) -> None:
        """Read all records; raises SpoolError."""
        data = self.data
        start, size = self.preamble(), len(data)
        while start < size:
            end = data.find(b"\n", start)
            tag = data[start]
            if end < 0:
                if tag == _DIAGNOSTIC:  # being appended at this moment, or cut off by a crash
                    break
                raise self.refuse(start, "cut off: the last line has no line end")
            if end - start > LINE_LIMIT and tag != _DIAGNOSTIC:
                raise self.refuse(start, f"a line of more than {LINE_LIMIT} bytes")
            if tag == _RECIPIENT:
                self.recipient(start, end)
            elif tag in _BLOCKS:
                end = self.block(start, end)
            elif tag in _HANDLERS:
                _HANDLERS[tag](self, start, end)
            elif tag not in _IGNORED:
                self.remark(start, f"skipped: not a known record: {data[start : min(end, start + 20)]!r}")
            start = end + 1

    def preamble(self) -> int:
        """Parse the usual beginning of a file in one match; returns where the next record starts."""
        match = _PREAMBLE.match(self.data)
        if match is None:
            return 0
        flags, self.message_name, body_offset, self.log_identity = match.groups()
        self.flags, self.body_offset = int(flags), int(body_offset)
        return match.end()

    def result(self, identity: bytes) -> ControlFile:
        """The file as a value; raises SpoolError if a record is missing."""
        end = len(self.data)
        if not self.turn_request:
            if not self.message_name:
                raise self.refuse(end, "no i record (message file)")
            if self.body_offset < 0:
                raise self.refuse(end, "no o record (body offset)")
            if self.unheaded:
                first = self.recipients[-self.unheaded]
                raise self.refuse(first.offset, "no m record (headers) for this recipient")
        return ControlFile(
            self.path,
            identity,
            self.message_name,
            max(self.body_offset, 0),
            self.log_identity,
            self.verbose_log,
            tuple(self.senders),
            tuple(self.headers),
            () if self.turn_request else tuple(self.recipients),
            tuple(self.remarks),
            self.turn_request,
            self.flags,
            tuple(self.recorded),
        )

    def format_flags(self, start: int, end: int) -> None:
        match = _NUMBER.fullmatch(self.data, start + 1, end)
        if match is None:
            raise self.refuse(start, "the @ record is not a number")
        hexadecimal, octal, decimal = match.groups()
        flags = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
        if flags & ~_KNOWN_FLAGS:
            raise self.refuse(start, f"unknown format flags {flags & ~_KNOWN_FLAGS:#x}")
        self.flags = flags

    def content(self, start: int, end: int) -> bytes:
        """The content of a record whose state tag must be blank: else its first byte might be taken for the tag."""
        if self.data[start + 1] != _BLANK:
            raise self.no_blank(start)
        return self.data[start + 2 : end]

    def no_blank(self, start: int) -> SpoolError:
        return self.refuse(start, f"no blank after the tag {chr(self.data[start])}")

    def message_file(self, start: int, end: int) -> None:
        name = self.content(start, end)
        if self.message_name:
            raise self.refuse(start, "a second i record")
        if not name or name in {b".", b".."} or b"/" in name:
            raise self.refuse(start, "the i record is not a plain file name")
        self.message_name = name

    def body(self, start: int, end: int) -> None:
        match = _BODY_OFFSET.fullmatch(self.content(start, end))
        if match is None:
            raise self.refuse(start, "the o record is not a decimal number")
        if self.body_offset >= 0:
            raise self.refuse(start, "a second o record")
        self.body_offset = int(match[1])

    def identity(self, start: int, end: int) -> None:
        self.log_identity = self.data[start + 2 : end]

    def verbose(self, start: int, end: int) -> None:
        if self.data[start + 1] == _BLANK and end > start + 2:
            self.verbose_log = self.data[start + 2 : end]
        else:
            self.remark(start, "a malformed v record is skipped")

    def turn(self, start: int, end: int) -> None:
        self.turn_request = True

    def sender(self, start: int, end: int) -> None:
        if self.data[start + 1] != _BLANK:
            raise self.no_blank(start)
        match = _ADDRESS.fullmatch(self.data, start + 2, end)
        if match is not None:
            channel, host, user, privilege = match.groups()
        elif (match := _CHANNEL.match(self.data, start + 2, end)) and match[1] == b"error":
            channel, host, user, privilege = b"error", b"", b"", b""  # nothing else in it is used
        else:
            raise self.refuse(start, "the s record is not channel, host, user, privilege")
        if len(self.senders) >= RECORD_LIMIT:
            raise self.too_many(start, "senders")
        self.senders.append(Sender(start, channel, host, _without_brackets(user), privilege))
        self.current = False

    def recipient(self, start: int, end: int) -> None:
        data, at = self.data, start + 2
        if at >= end:
            raise self.refuse(start, "the r record is empty")
        locked = _LOCK_FIELD.match(data, at) is not None
        if locked:
            at += 6
            if self.flags & FLAG_DELAY_FIELD or data[at] in b" 0123456789":
                at += 4
        elif self.flags & FLAG_LOCK_FIELD:
            raise self.refuse(start, "the lock field is not 6 digits and blanks")
        elif self.flags & FLAG_DELAY_FIELD:
            at += 4
        match = _ADDRESS.fullmatch(data, at, end) if at < end else None
        if match is None:
            raise self.refuse(start, "the r record is not channel, host, user, privilege")
        if not self.senders:
            raise self.refuse(start, "no s record (sender) above this recipient")
        if len(self.recipients) >= RECORD_LIMIT:
            raise self.too_many(start, "recipients")
        channel, host, user, privilege = match.groups()
        self.recipients.append(
            ControlRecipient(
                start,
                data[start + 1 : start + 2],
                channel,
                host,
                _without_brackets(user),
                privilege,
                len(self.senders) - 1,
                len(self.headers),
                NO_DSN_WORDS,
                -1,
                self.envid,
                self.ret,
                locked,
            )
        )
        self.unheaded += 1
        self.current = True

    def dsn(self, start: int, end: int) -> None:
        if not self.current or self.data[start + 1] != _BLANK:
            self.remark(start, "an N record without recipient or blank is skipped")
            return
        last = self.recipients[-1]
        reader = DsnWordsReader(last.dsn)
        reader.read(self.data[start + 2 : end])
        for text in reader.remarks:
            self.remark(start, text)
        offset = start if last.dsn_offset < 0 else last.dsn_offset
        self.recipients[-1] = last._replace(dsn=reader.words, dsn_offset=offset)

    def envelope_id(self, start: int, end: int) -> None:
        value = self.data[start + 2 : end].strip(b" \t")
        if self.data[start + 1] != _BLANK or not valid_envid(value):
            self.remark(start, "a malformed ENVID is left out")
        elif self.current:
            self.recipients[-1] = self.recipients[-1]._replace(envid=value)
        else:
            self.envid = value

    def diagnostic(self, start: int, end: int) -> None:
        match = _FINAL_DIAGNOSTIC.match(self.data, start, end)
        if match is not None:
            self.recorded.append(FinalRecord(int(match[1]), match[3], match[2]))

    def returned(self, start: int, end: int) -> None:
        value = self.data[start + 2 : end].strip(b" \t").upper()
        if self.data[start + 1] != _BLANK or value not in {b"FULL", b"HDRS"}:
            self.remark(start, "a malformed RET is left out")
        elif self.current:
            self.recipients[-1] = self.recipients[-1]._replace(ret=value)
        else:
            self.ret = value

    def skipped_recipient(self, start: int, end: int) -> None:
        self.remark(start, "skipped: an XOR set of recipients")
        self.current = False

    def block(self, start: int, end: int) -> int:
        """Read the m or skip the M block at ``start``; returns the offset of the LF that is its empty line."""
        data = self.data
        if end != start + 1:
            raise self.refuse(start, f"characters after the tag {chr(data[start])}")
        last = data.find(b"\n\n", end, end + HEADER_LIMIT + 2)
        if last < 0:
            if len(data) > end + HEADER_LIMIT:
                raise self.refuse(start, f"a header block of more than {HEADER_LIMIT} bytes")
            raise self.refuse(start, "cut off: the header block runs off the end of the file")
        if data[start] == _HEADER:
            if len(self.headers) >= RECORD_LIMIT:
                raise self.too_many(start, "header blocks")
            self.headers.append(HeaderBlock(end + 1, data[end + 1 : last + 1]))
            self.unheaded = 0
        self.current = False
        return last + 1


def _without_brackets(user: bytes) -> bytes:
    return user[1:-1] if user[:1] == b"<" and user.find(b">") == len(user) - 1 else user


_BLANK = ord(" ")
_RECIPIENT = ord("r")
_HEADER = ord("m")
_DIAGNOSTIC = ord("d")
_BLOCKS = b"mM"
_IGNORED = b"ebx\n"  # and empty lines
_HANDLERS = {
    ord("d"): _Parser.diagnostic,
    ord("@"): _Parser.format_flags,
    ord("i"): _Parser.message_file,
    ord("o"): _Parser.body,
    ord("l"): _Parser.identity,
    ord("v"): _Parser.verbose,
    ord("s"): _Parser.sender,
    ord("N"): _Parser.dsn,
    ord("n"): _Parser.envelope_id,
    ord("R"): _Parser.returned,
    ord("X"): _Parser.skipped_recipient,
    ord("T"): _Parser.turn,
}

"""Replies of a mail server, read incrementally and within bounds (RFC 5321 4.2).

A reply is one or more lines ``code [separator text] CRLF``; ``-`` as separator announces a further line, a blank or
nothing ends the reply. :class:`ReplyParser` is fed octets in any portions and returns complete replies; it never
guesses: a code outside 200-599, an invalid separator, lines of one reply with different codes, or more octets than the
caps allow raise :class:`~zsmtp.errors.ReplyError`, and later octets are ignored. A bare LF as line end, as broken
servers send it, is unambiguous here: it is accepted and noted in :attr:`Reply.bare_lf`.

The text of a reply is untrusted: it may hold any octet but LF. Show it through :func:`printable` only. A server may
repeat a secret that it received: :meth:`ReplyParser.hide` keeps it out of logs and reports.
"""

from __future__ import annotations

from zsmtp.errors import ReplyError
from zsmtp.escape import escape, shortened
from zsmtp.records import NamedTuple

MAX_LINE = 64 * 1024  # octets; RFC 5321 4.5.3.1.5 asks for 512
MAX_REPLY = 256 * 1024  # octets of all lines of one reply

MASK = b"***secret***"
_LEAST_SECRET = 4  # octets

_COMMON = 64  # replies of one line that are cached
_COMMON_LINE = 256  # octets of the longest of them

_BEGUN, _BEGUN_LINES = 1000, 8  # octets and lines of an incomplete reply that reports show


class Reply(NamedTuple):
    """One complete reply.

    ``lines`` are the texts behind code and separator, without line ends, one for each line.
    """

    code: int
    lines: tuple[bytes, ...]
    bare_lf: bool = False

    @property
    def raw_lines(self) -> tuple[bytes, ...]:
        """The lines as they came, code and separator included, without line ends."""
        if len(self.lines) == 1:
            text = self.lines[0]
            return (b"%d %b" % (self.code, text) if text else b"%d" % self.code,)
        code, last = b"%d" % self.code, len(self.lines) - 1
        return tuple(code + (b"-" if i < last else b" " if text else b"") + text for i, text in enumerate(self.lines))

    def __str__(self) -> str:
        return f"{self.code} {printable(b' / '.join(self.lines))}".rstrip()


def printable(octets: bytes, limit: int = 500) -> str:
    """:func:`~zsmtp.escape.escape`, at most ``limit`` characters (:func:`~zsmtp.escape.shortened`)."""
    if len(octets) <= limit and octets.isascii() and (plain := octets.decode("ascii")).isprintable():
        return plain
    return shortened(escape(octets[: limit * 4 + 4]), limit)  # a character has four octets at most


class ReplyParser:
    """Octets in, replies out. Feed with :meth:`receive_data`, then call :meth:`next_reply` until it returns None."""

    def __init__(self, *, max_line: int = MAX_LINE, max_reply: int = MAX_REPLY) -> None:
        self._max_line = max_line
        self._max_reply = max_reply
        self._buffer = b""
        self._start = 0  # of the line to be read next
        self._searched = 0  # up to where the buffer is known to hold no LF from there
        self._common: dict[bytes, Reply] = {}  # a server repeats the same few replies
        self._code = 0
        self._lines: list[bytes] = []
        self._octets = 0
        self._bare_lf = False
        self._hidden: tuple[bytes, ...] = ()  # longest first

    def hide(self, *secrets: bytes) -> None:
        """Replace each of ``secrets`` by :data:`MASK` in all replies from now on, and in errors.

        A secret of less than four octets (the shortest base64) cannot be distinguished from other words and is not
        masked.
        """
        wanted = {secret for secret in secrets if len(secret) >= _LEAST_SECRET}
        self._hidden = tuple(sorted({*self._hidden, *wanted}, key=len, reverse=True))

    @property
    def pending(self) -> bool:
        """Whether octets were received that belong to no complete reply."""
        return self._start < len(self._buffer) or bool(self._lines)

    @property
    def begun(self) -> str:
        """The escaped text of an incomplete reply; "" if there is none.

        While there are secrets to hide, octets without a line end are left out: they may be half a secret.
        """
        rest = b"" if self._hidden else self._buffer[self._start :].rstrip(b"\r")
        return self._quoted(rest[:_BEGUN]) if rest or self._lines else ""

    def _quoted(self, line: bytes) -> str:
        """The lines of the reply that is being read, with ``line`` as it came."""
        before = [b"%d-%b" % (self._code, text) for text in self._lines[-_BEGUN_LINES:]]
        return printable(b" / ".join([*before, line] if line else before), 300)

    def receive_data(self, data: bytes) -> None:
        """Append ``data``, the octets received next."""
        rest = self._buffer[self._start :]
        self._searched -= self._start
        self._start = 0
        self._buffer = rest + data if rest else data

    def complete_replies(self) -> tuple[list[Reply], ReplyError | None]:
        """All complete replies, and the error in the octets behind them, if there is one."""
        replies: list[Reply] = []
        try:
            while (reply := self.next_reply()) is not None:
                replies.append(reply)
        except ReplyError as error:
            return replies, error
        return replies, None

    def next_reply(self) -> Reply | None:
        """The next complete reply, or None if more octets are needed.

        Raises :class:`~zsmtp.errors.ReplyError` if the octets received cannot be a reply.
        """
        buffer = self._buffer
        while (end := buffer.find(b"\n", self._searched)) >= 0:
            line = buffer[self._start : end]
            self._start = self._searched = end + 1
            if self._hidden:
                for secret in self._hidden:
                    line = line.replace(secret, MASK)
            known = self._common.get(line)
            if known is not None and not self._lines:
                return known
            if self._take_line(line):
                return self._complete(line)
        if len(buffer) - self._start > self._max_line:
            raise ReplyError(f"reply line of more than {self._max_line} octets")
        self._searched = len(buffer)
        return None

    def _complete(self, last_line: bytes) -> Reply:
        reply = Reply(self._code, tuple(self._lines), self._bare_lf)
        if len(self._lines) == 1 and len(last_line) <= _COMMON_LINE:
            if len(self._common) >= _COMMON:
                self._common.clear()
            self._common[last_line] = reply
        self._lines.clear()
        self._octets = 0
        self._bare_lf = False
        return reply

    def _take_line(self, line: bytes) -> bool:
        """Process one line without its LF; returns whether it ends the reply."""
        if len(line) > self._max_line:
            raise ReplyError(f"reply line of more than {self._max_line} octets")
        self._octets += len(line) + 1
        if self._octets > self._max_reply:
            raise ReplyError(f"reply of more than {self._max_reply} octets")
        if line.endswith(b"\r"):
            line = line[:-1]
        else:
            self._bare_lf = True
        code = line[:3]
        if not (len(code) == 3 and code.isdigit() and 50 <= code[0] <= 53):
            raise ReplyError(f"not a reply: '{self._quoted(line[:_BEGUN])}'")
        separator = line[3:4]
        if separator not in (b" ", b"-", b""):
            raise ReplyError(f"not a reply: '{self._quoted(line[:_BEGUN])}'")
        if self._lines and int(code) != self._code:
            codes = f"{self._code} and {int(code)}"
            raise ReplyError(f"lines of one reply have the codes {codes}: {self._quoted(line[:_BEGUN])}")
        self._code = int(code)
        self._lines.append(line[4:])
        return separator != b"-"

"""Builds every SMTP command line, and is the only place that refuses command injection (RFC 5321 4.1).

Each function returns one complete command line with its CRLF, or raises :class:`~zsmtp.errors.CommandError` if a value
could break out of its position: a line end, a control character, a misplaced blank or angle bracket, a malformed
parameter, or a line over the limit. No other module builds commands, so no other module needs these checks.

Content can inject commands as well, at a server that refuses a chunk and parses it as commands instead of discarding it
(RFC 3030 4.2): :func:`may_be_read_as_commands` finds content that could.
"""

from __future__ import annotations

import re

from zsmtp.errors import CommandError
from zsmtp.patterns import pattern
from zsmtp.proto.address import MAX_ENVID, MAX_ORCPT, is_xtext, path_problem
from zsmtp.proto.datetimes import date_time
from zsmtp.proto.mailoptions import LAST_MOMENT, MAX_HOLD, PRIORITIES
from zsmtp.proto.reply import printable

MAX_COMMAND = 2048  # octets; every extension used here adds its share to the 512 of RFC 5321 4.5.3.1.4

DATA = b"DATA\r\n"
RSET = b"RSET\r\n"
NOOP = b"NOOP\r\n"
QUIT = b"QUIT\r\n"
LONE_DOT = b".\r\n"

_NAME = pattern(rb"[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9:._-]{1,255}\]")
_ORCPT = pattern(rb"[A-Za-z0-9-]{1,40};(.+)", re.DOTALL)
_NOTIFY = pattern(rb"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}", re.IGNORECASE)
_BY = pattern(rb"-?\d{1,9};[NR]T?")
_FIELD = pattern(rb"(?!EHLO|HELO|LHLO|NOOP|RSET|HELP|VRFY|EXPN|QUIT)[!-9;-~]+:", re.IGNORECASE)
# Commands that open a transaction, add to one, transfer content, or change the client. Servers skip blanks before them.
# The first two letters of a line are looked at before the words: most lines are text, and there are twenty words.
_COMMANDS = pattern(
    rb"\n[\0-\t\v\f\x0e-\x20]*+(?=[MRDBSATEX][ACDEFOTU])"
    rb"(?:MAIL(?:FROM)?|RCPT(?:TO)?|DATA|BDAT|BURL|SEND|SOML|SAML|AUTH|STARTTLS|TURN|ATRN|ETRN|XCLIENT|XFORWARD|XEXCH50)"
    rb"(?![A-Za-z0-9-])",
    re.IGNORECASE,
)


def hello(verb: bytes, name: bytes) -> bytes:
    """``EHLO``, ``HELO`` or ``LHLO`` with the client's name: a domain or an address literal."""
    if not _NAME.fullmatch(name):
        raise CommandError(f"not a name to greet with: '{printable(name, 100)}'")
    return _one_of(verb, b"EHLO", b"HELO", b"LHLO") + b" " + name + b"\r\n"


def mail(
    address: bytes,
    *,
    size: int | None = None,
    body: bytes | None = None,
    ret: bytes | None = None,
    envid: bytes | None = None,
    by: bytes | None = None,
    smtputf8: bool = False,
    require_tls: bool = False,
    priority: int | None = None,
    hold_for: int | None = None,
    hold_until: int | None = None,
) -> bytes:
    """``MAIL FROM:<address>`` with its parameters; an empty ``address`` is the null reverse-path.

    ``size`` in octets (RFC 1870), ``body`` 7BIT, 8BITMIME or BINARYMIME (RFC 6152, 3030), ``ret`` FULL or HDRS and
    ``envid`` xtext of at most 100 octets (RFC 3461 4.3, 4.4), ``by`` seconds;mode (RFC 2852 4), ``require_tls``
    is REQUIRETLS (RFC 8689 2), ``priority`` -9 to 9 (RFC 6710 3), ``hold_for`` seconds or ``hold_until`` a POSIX time
    (RFC 4865 4).
    """
    words = [b"MAIL FROM:<" + _path(address) + b">"]
    if size is not None:
        words.append(b"SIZE=%d" % size)
    if body is not None:
        words.append(b"BODY=" + _one_of(body, b"7BIT", b"8BITMIME", b"BINARYMIME"))
    if envid is not None:
        if not envid or len(envid) > MAX_ENVID or not is_xtext(envid):
            raise CommandError(f"not an envelope identifier: '{printable(envid, 100)}'")
        words.append(b"ENVID=" + envid)
    if ret is not None:
        words.append(b"RET=" + _one_of(ret, b"FULL", b"HDRS"))
    if by is not None:
        if not _BY.fullmatch(by):
            raise CommandError(f"not a delivery time: '{printable(by, 100)}'")
        words.append(b"BY=" + by)
    if smtputf8:
        words.append(b"SMTPUTF8")
    if require_tls:
        words.append(b"REQUIRETLS")
    if priority is not None:
        words.append(b"MT-PRIORITY=%d" % _in_range(priority, PRIORITIES))
    if hold_for is not None:
        words.append(b"HOLDFOR=%d" % _in_range(hold_for, range(1, MAX_HOLD + 1)))
    if hold_until is not None:
        words.append(b"HOLDUNTIL=" + date_time(_in_range(hold_until, range(LAST_MOMENT + 1))))
    return _line(words)


def rcpt(address: bytes, *, notify: bytes | None = None, orcpt: bytes | None = None) -> bytes:
    """``RCPT TO:<address>`` with the DSN parameters ``notify`` and ``orcpt`` (``type;xtext``, RFC 3461 4.1, 4.2)."""
    words = [b"RCPT TO:<" + _path(address) + b">"]
    if not address:
        raise CommandError("empty forward-path")
    if notify is not None:
        if not _NOTIFY.fullmatch(notify):
            raise CommandError(f"not a NOTIFY value: '{printable(notify, 100)}'")
        words.append(b"NOTIFY=" + notify)
    if orcpt is not None:
        match = _ORCPT.fullmatch(orcpt)
        if match is None or len(orcpt) > MAX_ORCPT or not is_xtext(match[1]):
            raise CommandError(f"not an original recipient: '{printable(orcpt, 100)}'")
        words.append(b"ORCPT=" + orcpt)
    return _line(words)


def bdat(octets: int, *, last: bool) -> bytes:
    """``BDAT octets [LAST]`` (RFC 3030 2); the octets follow without a go-ahead."""
    if octets < 0:
        raise CommandError(f"a chunk of {octets} octets")
    return b"BDAT %d LAST\r\n" % octets if last else b"BDAT %d\r\n" % octets


def may_be_read_as_commands(content: bytes) -> bool:
    """Whether a line of ``content`` is a command with an effect besides its reply, for a server that parses it as one.

    Commands that only ask (``NOOP``, ``HELP``, ``VRFY``), or only end something (``RSET``, ``QUIT``), change nothing
    for other messages; their surplus replies are detected.
    """
    return _COMMANDS.match(b"\n" + content[:1024]) is not None or _COMMANDS.search(content) is not None


def is_field(content: bytes) -> bool:
    """Whether ``content`` starts with a header field: a line that every server refuses as a command."""
    return _FIELD.match(content) is not None


def _path(address: bytes) -> bytes:
    problem = path_problem(address)
    if problem is not None:
        raise CommandError(f"{problem}: '{printable(address, 100)}'")
    return address


def _one_of(value: bytes, *allowed: bytes) -> bytes:
    if value not in allowed:
        raise CommandError(f"not a parameter value: '{printable(value, 100)}'")
    return value


def _in_range(value: int, allowed: range) -> int:
    if value not in allowed:
        raise CommandError(f"{value} is not from {allowed[0]} to {allowed[-1]}")
    return value


def _line(words: list[bytes]) -> bytes:
    line = b" ".join(words) + b"\r\n"
    if len(line) > MAX_COMMAND:
        raise CommandError(f"command line of {len(line)} octets; {MAX_COMMAND} are the limit")
    return line

"""Parses command lines for a server: from one line to values, or to the reply that refuses it (RFC 5321 4.1).

The counterpart of ``zsmtp.proto.command``. A line has its CRLF and no other line end; its verb is known.
``zsmtp.proto.address`` decides what is a valid path, as for the client; the offer of the session decides which
parameters there are. A parameter that is not offered gets 555, a repeated or malformed one 501. Accepted are blanks
behind the colon of ``MAIL FROM:`` and at the end of a line (RFC 5321 4.1.1); source routes are dropped (RFC 5321
appendix C). No content of a line raises an exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from zsmtp.errors import CommandError
from zsmtp.patterns import pattern
from zsmtp.proto import command
from zsmtp.proto.address import MAX_ENVID, MAX_ORCPT, is_xtext, original_recipient, path_problem
from zsmtp.proto.capabilities import MAX_SIZE
from zsmtp.proto.datetimes import date_time, parse_date_time
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import MailParameters
from zsmtp.proto.server_replies import BAD_ARGUMENTS, BAD_CHARACTER, BAD_NAME, make_reply
from zsmtp.proto.server_settings import Offer

# A path ends at the first angle bracket outside quotes. Possessive, so that no line takes longer than its length.
_PATH = rb" *<((?:[^\"\\>]|\\.|\"(?:[^\"\\]|\\.)*+\")*+)>((?: .*)?)\r\n"
_COMMON_MAIL = pattern(rb"MAIL FROM:<([^ \"\\<>@]+@[^ \"\\<>@]+)> SIZE=([0-9]{1,18})(?: BODY=(7BIT|8BITMIME))?\r\n")
_MAIL = pattern(rb"MAIL FROM:" + _PATH, re.IGNORECASE | re.DOTALL)
_RCPT = pattern(rb"RCPT TO:" + _PATH, re.IGNORECASE | re.DOTALL)
_BDAT = pattern(rb"BDAT +([0-9]{1,20})( +LAST)? *\r\n", re.IGNORECASE)
_AUTH = pattern(rb"AUTH +([A-Z0-9_-]{1,20})(?: +([^ ]+))? *\r\n", re.IGNORECASE)
_TEXT = pattern(rb"[\x20-\x7e]*")
_PARAMETER = pattern(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\x80-\xff]+))?")
_NUMBER = pattern(rb"[0-9]{1,20}")
_SECONDS = pattern(rb"[0-9]{1,9}")
_PRIORITY = pattern(rb"-?[0-9]")
_HEX = pattern(rb"\+([0-9A-F]{2})")

_MAIL_SYNTAX = make_reply(501, "5.5.4", "not of the syntax MAIL FROM:<reverse-path> [parameters]")
_RCPT_SYNTAX = make_reply(501, "5.5.4", "not of the syntax RCPT TO:<forward-path> [parameters]")
_NEEDS_SMTPUTF8 = make_reply(553, "5.6.7", "an address that is not ASCII needs SMTPUTF8, offered and asked for")
_NO_PARAMETERS = MailParameters()
_COMMON_PARAMETERS = frozenset({b"SIZE", b"BODY"})
_NOTIFY_WORDS = frozenset({b"SUCCESS", b"FAILURE", b"DELAY"})


class MailCommand(NamedTuple):
    """A MAIL command."""

    path: bytes
    parameters: MailParameters


class Chunk(NamedTuple):
    """A BDAT command (RFC 3030 2)."""

    octets: int
    last: bool


def parse_hello(line: bytes) -> bytes | Reply:
    """The client's name in EHLO, HELO or LHLO, a domain or an address literal as clients of all kinds write them."""
    name = line[5:].strip(b" \t\r\n")
    try:
        command.hello(b"EHLO", name)
    except CommandError:
        return BAD_NAME
    return name


def parse_mail(line: bytes, offered: Offer, utc: float) -> MailCommand | Reply:
    """Parse MAIL; ``utc`` is the POSIX time now, for relative times of release."""
    match = _COMMON_MAIL.fullmatch(line)
    if match is not None and offered.mail >= _COMMON_PARAMETERS:
        path, size, body = match.groups()
        problem = _path_problem(path, b"5.1.7", smtputf8=False)
        return MailCommand(path, MailParameters(int(size), body)) if problem is None else problem
    match = _MAIL.fullmatch(_trimmed(line))
    if match is None:
        return _MAIL_SYNTAX if _TEXT.fullmatch(line[:-2]) else BAD_CHARACTER
    path, rest = match.groups()
    parameters = _NO_PARAMETERS
    if rest:
        found = _parameters(rest, offered.mail, _MAIL_PARAMETERS, _Context(offered, utc, path, smtputf8=False))
        if isinstance(found, Reply):
            return found
        parameters = MailParameters(**found)
    problem = _path_problem(path, b"5.1.7", smtputf8=parameters.smtputf8)
    if problem is not None:
        return problem
    return MailCommand(_without_route(path), parameters)


def parse_rcpt(line: bytes, offered: Offer, *, smtputf8: bool) -> EnvelopeRecipient | Reply:
    """Parse RCPT; ``smtputf8``: the transaction's MAIL had that parameter."""
    match = _RCPT.fullmatch(_trimmed(line))
    if match is None:
        return _RCPT_SYNTAX if _TEXT.fullmatch(line[:-2]) else BAD_CHARACTER
    path, rest = match.groups()
    problem = _path_problem(path, b"5.1.3", smtputf8=smtputf8)
    if problem is not None:
        return problem
    address = _without_route(path)
    if not address:
        return make_reply(501, "5.1.3", "empty forward-path")
    if not rest:
        return EnvelopeRecipient(address)
    found = _parameters(rest, offered.rcpt, _RCPT_PARAMETERS, _Context(offered, 0.0, address, smtputf8=smtputf8))
    return found if isinstance(found, Reply) else EnvelopeRecipient(address, **found)


def parse_bdat(line: bytes) -> Chunk | None:
    """Parse BDAT; None if it is malformed: the length of what follows is then unknown."""
    match = _BDAT.fullmatch(line)
    if match is None or int(match[1]) > MAX_SIZE:
        return None
    return Chunk(int(match[1]), match[2] is not None)


def parse_auth(line: bytes) -> tuple[str, bytes | None] | Reply:
    """The mechanism of AUTH in upper case, and the initial response in base64 (None without one)."""
    match = _AUTH.fullmatch(line)
    if match is None or not _TEXT.fullmatch(line[:-2]):
        return BAD_ARGUMENTS if _TEXT.fullmatch(line[:-2]) else BAD_CHARACTER
    return match[1].decode("ascii").upper(), match[2]


def _trimmed(line: bytes) -> bytes:
    return line if line[-3] not in b" \t" else line[:-2].rstrip(b" \t") + b"\r\n"


def is_bare(line: bytes, verb: bytes) -> bool:
    """Whether ``line`` is the verb alone, perhaps with blanks behind it."""
    return len(line) == len(verb) + 2 or not line[len(verb) : -2].strip(b" \t")


def has_text(line: bytes) -> bool:
    """Whether all of ``line`` but its CRLF is printable ASCII."""
    return _TEXT.fullmatch(line[:-2]) is not None


def decode_xtext(octets: bytes) -> bytes:
    """The octets that well-formed xtext encodes (RFC 3461 4)."""
    return _HEX.sub(lambda match: bytes((int(match[1], 16),)), octets)


# ----------------------------------------------------------------- paths


def _path_problem(path: bytes, status: bytes, *, smtputf8: bool) -> Reply | None:
    problem = path_problem(path)
    if problem is not None:
        return make_reply(501, status.decode(), problem)
    return None if smtputf8 or path.isascii() else _NEEDS_SMTPUTF8


def _without_route(path: bytes) -> bytes:
    """``@one,@two:user@domain`` is ``user@domain`` (RFC 5321 4.1.1.3, appendix C)."""
    if path[:1] == b"@":
        _, colon, rest = path.partition(b":")
        return rest if colon else path
    return path


# ------------------------------------------------------------ parameters


class _Context(NamedTuple):
    """What the parsers of parameter values need to know."""

    offered: Offer
    utc: float
    path: bytes
    smtputf8: bool


_Found = dict[str, Any]
_Reader = Callable[[bytes | None, _Found, _Context], bool]
"""Reads one value into the values found; False if it is malformed."""


def _parameters(
    rest: bytes, allowed: frozenset[bytes], readers: dict[bytes, _Reader], context: _Context
) -> _Found | Reply:
    found: _Found = {}
    seen: set[bytes] = set()
    for word in rest.split(b" "):
        if not word:
            continue
        match = _PARAMETER.fullmatch(word)
        if match is None:
            return BAD_ARGUMENTS if word.isascii() and _TEXT.fullmatch(word) else BAD_CHARACTER
        keyword = match[1].upper()
        name = keyword.decode("ascii")
        if keyword not in allowed:
            return make_reply(555, "5.5.4", f"parameter {name[:40]} is not offered")
        if keyword in seen:
            return make_reply(501, "5.5.4", f"parameter {name} is given twice")
        seen.add(keyword)
        if not readers[keyword](match[2], found, context):
            return make_reply(501, "5.5.4", f"parameter {name} has no value that it may have")
    return found


def _size(value: bytes | None, found: _Found, context: _Context) -> bool:
    if value is None or not _NUMBER.fullmatch(value) or int(value) > MAX_SIZE:
        return False
    found["size"] = int(value)
    return True


def _body(value: bytes | None, found: _Found, context: _Context) -> bool:
    word = (value or b"").upper()
    if word not in (b"7BIT", b"8BITMIME") and not (word == b"BINARYMIME" and context.offered.binary_mime):
        return False
    found["body"] = word
    return True


def _ret(value: bytes | None, found: _Found, context: _Context) -> bool:
    word = (value or b"").upper()
    found["ret"] = word
    return word in (b"FULL", b"HDRS")


def _envid(value: bytes | None, found: _Found, context: _Context) -> bool:
    found["envid"] = value
    return value is not None and len(value) <= MAX_ENVID and is_xtext(value)


def _auth(value: bytes | None, found: _Found, context: _Context) -> bool:
    if value is None or not (value == b"<>" or is_xtext(value)):
        return False
    mailbox = b"" if value == b"<>" else decode_xtext(value)
    found["submitter"] = mailbox
    return path_problem(mailbox) is None


def _smtputf8(value: bytes | None, found: _Found, context: _Context) -> bool:
    found["smtputf8"] = True
    return value is None


def _require_tls(value: bytes | None, found: _Found, context: _Context) -> bool:
    found["require_tls"] = True
    return value is None


def _priority(value: bytes | None, found: _Found, context: _Context) -> bool:
    if value is None or not _PRIORITY.fullmatch(value):
        return False
    found["priority"] = int(value)
    return True


def _hold_for(value: bytes | None, found: _Found, context: _Context) -> bool:
    if value is None or "release" in found or not _SECONDS.fullmatch(value):
        return False
    found["release"] = context.utc + int(value)
    found["release_request"] = b"for;" + value
    return int(value) <= context.offered.max_hold


def _hold_until(value: bytes | None, found: _Found, context: _Context) -> bool:
    moment = None if value is None or "release" in found else parse_date_time(value)
    if moment is None or moment > context.utc + context.offered.max_hold:
        return False
    try:
        found["release_request"] = b"until;" + date_time(moment)
    except (ValueError, OverflowError):  # in UTC it is in the year 0
        return False
    found["release"] = moment
    return True


def _notify(value: bytes | None, found: _Found, context: _Context) -> bool:
    word = (value or b"").upper()
    words = word.split(b",")
    found["notify"] = word
    return word == b"NEVER" or (_NOTIFY_WORDS.issuperset(words) and len(set(words)) == len(words))


def _orcpt(value: bytes | None, found: _Found, context: _Context) -> bool:
    if value is None:
        return False
    if not value.isascii():
        kind, _, address = value.partition(b";")
        if kind.lower() != b"utf-8" or not context.smtputf8:
            return False
        try:  # utf-8-addr-unitext of RFC 6533 3, kept in the form of ASCII
            text = address.decode("utf-8")
        except UnicodeDecodeError:
            return False
        value = kind + b";" + "".join(c if c < "\x80" else f"\\x{{{ord(c):02X}}}" for c in text).encode("ascii")
    found["orcpt"] = original_recipient(value, context.path)
    return found["orcpt"] == value and len(value) <= MAX_ORCPT


_MAIL_PARAMETERS: dict[bytes, _Reader] = {
    b"SIZE": _size,
    b"BODY": _body,
    b"SMTPUTF8": _smtputf8,
    b"RET": _ret,
    b"ENVID": _envid,
    b"AUTH": _auth,
    b"REQUIRETLS": _require_tls,
    b"MT-PRIORITY": _priority,
    b"HOLDFOR": _hold_for,
    b"HOLDUNTIL": _hold_until,
}
_RCPT_PARAMETERS: dict[bytes, _Reader] = {b"NOTIFY": _notify, b"ORCPT": _orcpt}

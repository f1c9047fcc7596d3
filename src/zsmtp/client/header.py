"""Reads sender and recipients from the header of a message, and adds or removes the fields that a submission needs.

As for ``smtplib.SMTP.send_message``: the envelope comes from Sender, else From, and from To, Cc and Bcc. In a resent
message it comes from the block of Resent- fields instead, of which there must be exactly one (RFC 5322 3.6.6). All
functions take a header block with LF line ends, as it will be sent, and parse it by ``zsmtp.body.fields``::

    sender, recipients = envelope_in(block)

No recipient is left out silently: a list of addresses that cannot be parsed completely is refused with its place, and
so is a header with a line that belongs to no field. Some systems end the header at such a line: they would serve only
the recipients before it. With sender and recipients given, such a header is sent as it is.
"""

from __future__ import annotations

import re

from zsmtp.body.fields import field_values, first_value, split_fields, stray_lines
from zsmtp.body.mailboxes import Unreadable, read_mailboxes
from zsmtp.dns.literal import Name, parse_destination
from zsmtp.errors import SubmissionError
from zsmtp.escape import escape
from zsmtp.patterns import pattern
from zsmtp.proto.address import domain_of

_NAMES = (b"sender", b"from", b"to", b"cc", b"bcc")
_RESENT_NAMES = tuple(b"resent-" + name for name in _NAMES)
_ASKED = frozenset([*_NAMES, *_RESENT_NAMES, b"resent-date"])
_NOT_RESENT = frozenset(_NAMES)
_BLIND = frozenset([b"bcc", b"resent-bcc"])
_ONCE = (b"resent-date", b"resent-from")  # in each block of Resent- fields (RFC 5322 3.6)

_BARE_CR = pattern(rb"\r(?!\n)")
_BLIND_BEHIND_CR = pattern(rb"\r(?:resent-)?bcc[ \t]*:", re.IGNORECASE)

_Values = dict[bytes, list[bytes]]


def envelope_in(
    block: bytes, *, sender: bool = True, recipients: bool = True
) -> tuple[bytes | None, tuple[bytes, ...] | None]:
    """Sender and recipients by the header; None for those not asked for.

    Raises SubmissionError if they cannot be read for sure, or if the header names no sender.
    """
    values: _Values = {}
    for spelling, value in field_values(block):
        name = spelling.lower()
        if name in _ASKED:
            values.setdefault(name, []).append(value)
        elif not name:
            raise SubmissionError(_about_stray(block))
    names = _NAMES if values.keys() <= _NOT_RESENT else _newest(values)
    return (
        _sender(block, values, names) if sender else None,
        _recipients(block, values, names) if recipients else None,
    )


def _newest(values: _Values) -> tuple[bytes, ...]:
    """The names of the fields to read: in a resent message those of its Resent- block."""
    if any(len(values.get(name, ())) > 1 for name in _ONCE):
        raise SubmissionError("the message was resent more than once: give sender and recipients")
    if b"resent-date" in values:
        return _RESENT_NAMES
    if any(name in values for name in _RESENT_NAMES[2:]):
        raise SubmissionError(
            "the message has recipients in Resent- fields and no Resent-Date: give sender and recipients"
        )
    return _NAMES


def _sender(block: bytes, values: _Values, names: tuple[bytes, ...]) -> bytes:
    for name in names[:2]:
        found = _addresses(block, name, values[name]) if name in values else ()
        if len(found) == 1 or (found and name is names[1]):
            return found[0]
    raise SubmissionError("no sender: neither given nor named by From or Sender")


def _recipients(block: bytes, values: _Values, names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    found: tuple[bytes, ...] = ()
    for name in names[2:]:
        if name in values:
            found += _addresses(block, name, values[name])
    return found


def check_bare_cr(header: bytes, *, enough: bool) -> None:
    """Refuse a stored header with a CR without LF: some systems read it as a line end, this one as a blank.

    With ``enough`` the envelope is given, and the header is refused only if a blind copy would show.
    """
    found = _BARE_CR.search(header) if not enough else _BLIND_BEHIND_CR.search(header)
    if found is not None:
        line = header.count(b"\n", 0, found.start()) + 1
        raise SubmissionError(f"line {line} of the header has a CR without an LF, where some systems begin a new field")


def without_blind(block: bytes) -> bytes:
    """The block without Bcc and Resent-Bcc (RFC 5322 3.6.3), at any place in it."""
    pieces = []
    done = 0
    for field in split_fields(block):
        if field.name in _BLIND:
            pieces.append(block[done : field.start])
            done = field.end
    return b"".join([*pieces, block[done:]])


def message_id(block: bytes) -> str:
    """The Message-ID as printable text; empty if there is none."""
    value = first_value(block, b"message-id")
    return "" if value is None else escape(value.strip()[:500].decode("utf-8", "replace"))


def with_missing(block: bytes, sender: bytes) -> bytes:
    """The block with Date and Message-ID added if missing (RFC 6409 8.2, 8.3).

    They are put before the first line that belongs to no field, where every system still reads the header.
    """
    from email.utils import formatdate, make_msgid

    names = {name.lower() for name, _ in field_values(block)}
    added = ""
    if b"date" not in names:
        added += f"Date: {formatdate(localtime=True)}\n"
    if b"message-id" not in names:
        domain = parse_destination(domain_of(sender).decode("utf-8", "replace"))
        added += f"Message-ID: {make_msgid(domain=domain.domain if isinstance(domain, Name) else None)}\n"
    strays = stray_lines(block) if added and b"" in names else ()
    place = strays[0].start if strays else len(block)
    return block[:place] + added.encode() + block[place:]


def _addresses(block: bytes, name: bytes, values: list[bytes]) -> tuple[bytes, ...]:
    """The addresses in all fields with this name."""
    if len(values) == 1:  # the usual case
        found = read_mailboxes(values[0])
        if not isinstance(found, Unreadable):
            return found
    together: list[bytes] = []
    for number, value in enumerate(values):
        found = read_mailboxes(value)
        if isinstance(found, Unreadable):
            raise SubmissionError(_about_list(block, name, number, found))
        together += found
    return tuple(together)


def _about_list(block: bytes, name: bytes, number: int, trouble: Unreadable) -> str:
    """The error text for the field of that number and name: where and why it is unreadable."""
    field = [field for field in split_fields(block) if field.name == name][number]
    line = block.count(b"\n", 0, field.start) + 1
    value = block[field.value : field.end]
    return f"{unreadable(block[field.start : field.value], value, trouble)} (line {line} of the header)"


def unreadable(name: bytes, value: bytes, trouble: Unreadable) -> str:
    """The error text for a list of addresses in a field, with the octet of the fault in its value."""
    octet = trouble.position - (len(value) - len(value.lstrip())) + 1
    shown = escape(name.rstrip(b" \t:"))
    return f"the field {shown} cannot be read at octet {max(octet, 1)} of its value: {trouble.problem}"


def _about_stray(block: bytes) -> str:
    """The error text for the line that makes it unsafe to read sender and recipients from the header."""
    stray = stray_lines(block)[0]
    line = block[stray.start : stray.end].partition(b"\n")[0]
    return (
        f"line {stray.line} of the header is no field: '{escape(line[:60])}'; some systems end the header there,"
        " so sender and recipients have to be given"
    )

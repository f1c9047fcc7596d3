"""Writes the header of a message object as octets (RFC 5322 2.2, RFC 2047, RFC 6532).

The fields of an object are texts, from a parser or from a program with the older classes, or objects that a policy made
from values of a program:

- A text is written as it is: source lines stay source lines. Only characters beyond ASCII that never were octets
  become encoded words.
- An object of a policy is written on one line, folded only beyond 998 octets, its characters beyond ASCII as encoded
  words; unless an address of the outermost header needs UTF-8: then that whole header is UTF-8.
- Below a signature it is written as the policy folds it, and in a signed header so is text beyond ASCII: those are the
  octets that a program can have signed.

The addresses of a field are those of its object, and the written form is parsed again to compare them: a display name
cannot become an address. A value that would become more or other fields than the object has is refused.
"""

from __future__ import annotations

import re
from email.errors import InvalidHeaderDefect
from email.header import Header
from email.message import Message
from email.mime.base import MIMEBase
from typing import Any, NamedTuple

from zsmtp.body.fields import is_field
from zsmtp.body.fold import fold_field
from zsmtp.body.headers import SIGNATURES
from zsmtp.body.lines import CRLF, MAX_LINE
from zsmtp.body.mailboxes import Unreadable, read_mailboxes
from zsmtp.body.words import encode_header
from zsmtp.client.addresslist import comparable
from zsmtp.client.header import unreadable
from zsmtp.errors import SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.address import mapped

_ADDRESS_FIELDS = frozenset(
    prefix + name for prefix in ("", "resent-") for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
)
_SIGNATURES = frozenset(name.decode("ascii") for name in SIGNATURES)
_NAME = re.compile(r"[!-9;-~]+")
_PLAIN_PHRASE = re.compile(r"(?!=\?)[\w!#$%&'*+/=?^`{|}~-]++(?: (?!=\?)[\w!#$%&'*+/=?^`{|}~-]++)*+")
_SPECIALS = re.compile(r'(["\\])')


class _Value(NamedTuple):
    """The part of a field after the colon. ``source``: it is written unchanged, with any octets."""

    octets: bytes
    source: bool


def is_made(message: Message) -> bool:
    """Whether a program made this part: a parser makes neither field objects nor instances of ``email.mime``."""
    return isinstance(message, MIMEBase) or any(_is_object(value) for _, value in message.raw_items())


def is_sealed(message: Message) -> bool:
    """Whether a signature in this header covers the whole message (DKIM, ARC)."""
    return any(name.lower() in _SIGNATURES for name in message)


def header_of(message: Message, *, signed: bool, outermost: bool) -> bytes:
    """The header block of a message or part, with unchanged lines. ``signed``: it is below a signature.

    Raises SubmissionError, and the exceptions of the ``email`` package.
    """
    fields: list[tuple[str, Any]] = list(message.raw_items())
    if signed and is_made(message):
        whole = isinstance(message, MIMEBase)
        return b"".join(
            _folded_by_policy(message, name, value)
            if whole or _is_object(value)
            else _in_ascii(name, _value(name, value))
            for name, value in fields
        )
    values = [_value(name, value) for name, value in fields]
    if outermost and any(map(_needs_utf8, fields, values)):
        return b"".join([_field(name, value) for (name, _), value in zip(fields, values, strict=True)])
    written = [_in_ascii(name, value) for (name, _), value in zip(fields, values, strict=True)]
    if is_sealed(message):
        for number, ((name, given), value) in enumerate(zip(fields, values, strict=True)):
            if not _is_ready(value):
                folded = _folded_by_policy(message, name, given)
                if _same_addresses(name, written[number], folded):
                    written[number] = folded
    return b"".join(written)


def _is_object(value: object) -> bool:
    """Whether a policy made it from a value of a program."""
    return hasattr(value, "fold")


def _field(name: str, value: _Value) -> bytes:
    """The field as it is written, with its line end."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SubmissionError(f"'{escape(str(name)[:80])}' cannot be the name of a field")
    octets = value.octets.removesuffix(b"\n").removesuffix(b"\r")  # as most programs read lines
    octets = name.encode("ascii") + (b":" if octets[:1] in (b"\r", b"\n") else b": ") + octets + b"\n"
    if not value.source and len(octets) > MAX_LINE:
        octets = fold_field(octets)
    return _one_field(name, octets)


def _one_field(name: str, octets: bytes) -> bytes:
    """``octets``, after a check that they are one field under every meaning of a line end."""
    if octets.find(b"\n") < len(octets) - 1 or b"\r" in octets:
        lines = octets.replace(CRLF, b"\n").replace(b"\r", b"\n")
        if not is_field(lines):
            raise SubmissionError(
                f"the field {escape(name[:80])} holds a line end, and would become more than one field"
            )
    return octets


def _folded_by_policy(message: Message, name: str, value: Any) -> bytes:
    """The field as ``as_bytes()`` of its message writes it."""
    _field(name, _Value(b"", source=True))
    return _one_field(name, message.policy.fold_binary(name, value).replace(CRLF, b"\n"))


def _is_ready(value: _Value) -> bool:
    """Whether nothing needs to be encoded."""
    return value.source or value.octets.isascii()


def _in_ascii(name: str, value: _Value) -> bytes:
    """The field with its text beyond ASCII as encoded words."""
    octets = _field(name, value)
    if _is_ready(value):
        return octets
    encoded = encode_header(octets, default_charset=b"UNKNOWN-8BIT", keep_utf8=False).block
    if not _same_addresses(name, octets, encoded):
        raise SubmissionError(f"the names in the field {escape(name[:80])} cannot be encoded")
    return _one_field(name, encoded)


def _same_addresses(name: str, before: bytes, after: bytes) -> bool:
    """Whether two forms of a field name the same addresses; true for a field without addresses."""
    if name.lower() not in _ADDRESS_FIELDS:
        return True
    start = len(name) + 1
    first, second = read_mailboxes(before[start:]), read_mailboxes(after[start:])
    if isinstance(first, Unreadable) or isinstance(second, Unreadable):
        return isinstance(first, Unreadable) and isinstance(second, Unreadable)
    return list(map(comparable, first)) == list(map(comparable, second))


def _needs_utf8(field: tuple[str, Any], value: _Value) -> bool:
    """Whether an address in the field has no ASCII form (RFC 6531)."""
    if field[0].lower() not in _ADDRESS_FIELDS or value.octets.isascii():
        return False
    found = read_mailboxes(value.octets)
    return not isinstance(found, Unreadable) and not all(_is_plain(address) for address in found)


def _is_plain(address: bytes) -> bool:
    try:
        return mapped(address).isascii()
    except UnicodeDecodeError:
        return False


# ---------------------------------------------------------------- values


def _value(name: str, value: Any) -> _Value:
    """The value of a field, without the folding and encoding of the ``email`` package."""
    if _is_object(value):
        if hasattr(type(value), "addresses"):
            return _Value(_addresses_of(name, value), source=False)
        text = str(value)
        if "\ufffd" in text:  # it replaces octets that were not decodable
            text = str(getattr(value, "_parse_tree", text))
        if "\n" in text.removesuffix("\n") or "\r" in text:  # from an encoded word: a policy accepts no other
            raise SubmissionError(
                f"the field {escape(name[:80])} holds a line end, and would become more than one field"
            )
        return _Value(text.encode("utf-8", "surrogateescape"), source=False)
    if isinstance(value, str):
        try:
            return _Value(value.encode("ascii", "surrogateescape"), source=True)
        except UnicodeEncodeError:
            return _Value(value.encode("utf-8", "surrogateescape"), source=False)
    if isinstance(value, Header):
        return _value_of_header(name, value)
    raise SubmissionError(f"the field {escape(str(name)[:80])} holds {type(value).__name__} in place of a text")


def _value_of_header(name: str, header: Header) -> _Value:
    """A field of class Header, which carries its own charset."""
    text = str(header)
    if text.isascii():
        return _Value(text.encode("ascii"), source=True)
    encoded = header.encode(linesep="\n").encode("ascii", "surrogateescape")
    if name.lower() in _ADDRESS_FIELDS:
        found = read_mailboxes(encoded)
        if isinstance(found, Unreadable) or not all(b"@" in address for address in found):  # encoded with the names
            return _Value(text.encode("utf-8", "surrogateescape"), source=False)
    return _Value(encoded, source=True)


def _addresses_of(name: str, field: Any) -> bytes:
    """The list of addresses in a field object, in the program's own form if that names the same addresses."""
    tree = getattr(field, "_parse_tree", None)
    octets = str(field if tree is None else tree).encode("utf-8", "surrogateescape")
    found = read_mailboxes(octets)
    listed = tuple(one.addr_spec.encode("utf-8", "surrogateescape") for one in field.addresses)
    if found == listed or (tree is not None and not _has_encoded_word(tree)):
        return octets  # if it is unreadable, the reader of the envelope reports that
    # A decoded name may look like addresses. The object's addresses give its source, if it has all of them.
    whole = all(one.username and one.domain for one in field.addresses)
    if not whole or any(isinstance(one, InvalidHeaderDefect) and "encoded" not in str(one) for one in field.defects):
        problem = found if isinstance(found, Unreadable) else Unreadable(0, "an encoded word where an address belongs")
        raise SubmissionError(unreadable(name.encode("utf-8", "replace"), octets, problem))
    octets = ", ".join(_group(group) for group in field.groups).encode("utf-8", "surrogateescape")
    if read_mailboxes(octets) != listed:
        raise SubmissionError(f"the names in the field {escape(name[:80])} cannot be written")
    return octets


def _has_encoded_word(tree: Any) -> bool:
    """Whether any token of a parsed field was decoded."""
    waiting = [tree]
    while waiting:
        token = waiting.pop()
        if getattr(token, "token_type", "") == "encoded-word":
            return True
        if isinstance(token, list):
            waiting += token
    return False


def _group(group: Any) -> str:
    members = ", ".join(_mailbox(one) for one in group.addresses)
    return members if group.display_name is None else f"{_phrase(group.display_name)}: {members};"


def _mailbox(one: Any) -> str:
    return f"{_phrase(one.display_name)} <{one.addr_spec}>" if one.display_name else str(one.addr_spec)


def _phrase(name: str) -> str:
    return name if _PLAIN_PHRASE.fullmatch(name) else '"' + _SPECIALS.sub(r"\\\1", name) + '"'

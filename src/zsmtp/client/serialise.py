"""Writes message objects of the ``email`` package as octets, exactly as they are (RFC 5322, RFC 2045, RFC 2046).

:func:`octets_of` replaces ``BytesGenerator``, which folds parsed fields anew, puts empty lines between nested
multiparts, and visits nested parts by recursion. The rules, with ``zsmtp.client.objectheader`` for the fields:

- A part parsed from octets is written as those octets, with every policy. If the parser ended a header at a line that
  is no field, there is no empty line; if it missed the last boundary, none is written. The parser does not keep the
  following, so it cannot be written: blanks after a colon or a boundary, a line without a name before its colon,
  whether the header of an empty part ended with an empty line.
- A part made by a program is written as the program made it; a multipart without a boundary gets one.
- Below ``multipart/signed``, and below a header with a DKIM signature, a part made by a program is written as its
  ``as_bytes()`` writes it: those are the octets that the program can have signed.

No message is changed, and nesting may have any depth. A message that cannot be written raises SubmissionError, for
every exception of the ``email`` package. A large one is written in pieces: :func:`octets_in_pieces`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from email.errors import CloseBoundaryNotFoundDefect, MessageDefect, MissingHeaderBodySeparatorDefect
from email.message import Message
from io import BytesIO
from typing import NamedTuple

from zsmtp.body.encode import KEEP_LIMIT
from zsmtp.body.fields import split_fields
from zsmtp.body.source import BLOCK_SIZE
from zsmtp.client.objectheader import header_of, is_made, is_sealed
from zsmtp.effects import GiveWay, at_once
from zsmtp.errors import SubmissionError
from zsmtp.escape import described, escape

_NO_END = re.compile(r"From |[!-9;-~]*:|[ \t\r\n]|\Z")  # the parser goes on at such lines

MAX_PARTS = 10_000
"""The most parts of a message: it may contain one object any number of times."""


class _Part(NamedTuple):
    """A message or part to write.

    ``signed``: it is below a signature. ``last``: nothing follows it. ``enclosed``: it is the only content of a part.
    """

    message: Message
    signed: bool = False
    last: bool = False
    enclosed: bool = False


def octets_of(message: Message) -> bytes:
    """The message as octets, with the line ends it has. Raises SubmissionError."""
    return at_once(octets_in_pieces(message))


async def octets_in_pieces(message: Message) -> bytes:
    """As :func:`octets_of`; beyond ``KEEP_LIMIT`` octets it gives way to others, who must not change the message."""
    file = BytesIO()  # grows without a second copy, and its value is none either
    try:
        for piece in _pieces(message):
            if file.tell() > KEEP_LIMIT:
                await GiveWay()
            file.write(piece)
    except SubmissionError:
        raise
    except Exception as error:  # fields and payloads are objects of the program, of any class
        raise SubmissionError(f"the message cannot be written: {described(error)}") from error
    return file.getvalue()


def _pieces(message: Message) -> Iterator[bytes]:
    """The octets in order. Parts wait on a stack; None on it ends the part begun last."""
    waiting: list[bytes | str | _Part | None] = [_Part(message, last=True)]
    begun: list[int] = []
    around: set[int] = set()
    count = 0
    while waiting:
        item = waiting.pop()
        if item is None:
            around.remove(begun.pop())
        elif isinstance(item, bytes):
            yield item
        elif isinstance(item, str):
            for start in range(0, len(item), BLOCK_SIZE):
                yield _encoded(item[start : start + BLOCK_SIZE])
        else:
            count += 1
            if count > MAX_PARTS:
                raise SubmissionError(f"the message has more than {MAX_PARTS} parts")
            if id(item.message) in around:
                raise SubmissionError("a part of the message contains itself")
            pieces = _written(item, outermost=count == 1)
            if any(isinstance(piece, _Part) for piece in pieces):
                begun.append(id(item.message))
                around.add(begun[-1])
                waiting.append(None)
            waiting.extend(reversed(pieces))


def _written(part: _Part, *, outermost: bool) -> list[bytes | str | _Part]:
    """The header of a part and its content; a text is for :func:`_encoded`."""
    message = part.message
    payload: object = message._payload  # type: ignore[attr-defined]  # get_payload() would decode octets
    if payload is None and message.get_content_maintype() == "multipart":
        payload = []
    header = header_of(message, signed=part.signed, outermost=outermost)
    mailbox_line = message.get_unixfrom()
    if mailbox_line and not (outermost or "\n" in mailbox_line or is_made(message)):
        header = mailbox_line.encode("ascii", "surrogateescape") + b"\n" + header
    separator = _separator(message)
    if not isinstance(payload, list):
        text = _text(payload)
        if part.enclosed and not text and not is_made(message):  # fields alone, as in reports
            separator = b""
        return [header, separator, text]
    if not all(isinstance(one, Message) for one in payload):
        raise SubmissionError("a part of the message holds something else than parts")
    kind = message.get_content_type()
    signed = part.signed or kind == "multipart/signed" or is_sealed(message)
    parts = [_Part(one, signed) for one in payload]
    if kind == "message/delivery-status":
        return [header, separator, _blocks(parts)]
    if kind.startswith("message/") and len(parts) == 1:
        return [header, separator, parts[0]._replace(last=part.last, enclosed=True)]
    if not kind.startswith("multipart/"):
        raise SubmissionError(f"a part of type {escape(kind[:100])} holds a list of {len(parts)} parts")
    boundary = message.get_boundary()
    if not boundary:
        boundary = f"==============={os.urandom(9).hex()}=="
        header = _with_boundary(header, boundary)
    body = _multipart(message, parts, boundary.encode("utf-8", "surrogateescape"), last=part.last)
    return [header, separator, *body]


def _separator(message: Message) -> bytes:
    """The empty line between header and content; none if the parser ended the header at a line that is no field.

    That defect no longer counts if the program has replaced the content, as far as that is visible.
    """
    if not _has(message, MissingHeaderBodySeparatorDefect):
        return b"\n"
    payload: object = message._payload  # type: ignore[attr-defined]
    first = payload if isinstance(payload, str) else message.preamble
    exchanged = any(name.lower() == "content-type" and hasattr(value, "fold") for name, value in message.raw_items())
    return b"\n" if exchanged or (first is not None and _NO_END.match(first)) else b""


def _has(message: Message, defect: type[MessageDefect]) -> bool:
    return any(isinstance(one, defect) for one in message.defects)


def _text(payload: object) -> str:
    """The text of a part without subparts."""
    if payload is None:
        return ""
    if not isinstance(payload, str):
        raise SubmissionError(f"a part of the message holds {type(payload).__name__} in place of a text")
    return payload


def _encoded(text: str) -> bytes:
    """The octets of a text, or of a piece of one: characters of a parser stand for one octet each."""
    try:
        return text.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:
        raise SubmissionError("a part of the message is text beyond ASCII that was never encoded") from None


def _blocks(parts: list[_Part]) -> bytes:
    """The groups of fields of a delivery report (RFC 3464 2.1)."""
    blocks = []
    for part in parts:
        header = header_of(part.message, signed=part.signed, outermost=False)
        text = _encoded(_text(part.message._payload))  # type: ignore[attr-defined]
        separator = _separator(part.message)
        blocks.append(header + separator + (text.removesuffix(b"\n") if separator else text) if text else header)
    return b"\n".join(blocks)


def _with_boundary(header: bytes, boundary: str) -> bytes:
    """The header with a boundary parameter in its multipart Content-Type field."""
    for field in split_fields(header):
        if field.name == b"content-type":
            value = header[: field.end].rstrip(b"; \t\r\n")
            return value + f'; boundary="{boundary}"\n'.encode() + header[field.end :]
    raise SubmissionError("a part of the message is a multipart by default, which needs a Content-Type")


def _multipart(message: Message, parts: list[_Part], boundary: bytes, *, last: bool) -> list[bytes | str | _Part]:
    """A body of several parts (RFC 2046 5.1.1)."""
    pieces: list[bytes | str | _Part] = []
    if message.preamble is not None:
        pieces += [_text(message.preamble), b"\n"]
    pieces.append(b"--" + boundary + b"\n")
    for number, part in enumerate(parts):
        if number:
            pieces.append(b"\n--" + boundary + b"\n")
        pieces.append(part)
    if _has(message, CloseBoundaryNotFoundDefect):
        return [*pieces, b"\n"] if last else pieces  # the parser takes one from the text before a missed boundary
    pieces.append(b"\n--" + boundary + b"--")
    if message.epilogue is not None or is_made(message):  # a parsed line end belongs to the next boundary
        pieces += [b"\n", _text(message.epilogue)]
    return pieces

"""What a receiver makes of content, by the standard library's email package alone: the independent judge of conversion.

A message is compared by its decoded leaves, their types and charsets, and its decoded header fields. Line ends in text
count as such however they are stored; what stands around the parts (preamble, epilogue) is nobody's content.
"""

from __future__ import annotations

import email
import re
from email.header import decode_header
from email.message import Message
from typing import NamedTuple

ASCII_SUPERSETS = re.compile(r"iso-8859-.*|koi8.*|utf-8")

UNNAMED = ""
"""As a charset: 8-bit text that says nothing about itself; conversion may name one (RFC 1428 appendix A)."""


class Leaf(NamedTuple):
    """One leaf: type, charset, decoded octets, and whether these are octets rather than lines."""

    type: str
    charset: str
    content: bytes
    binary: bool


def same_leaves(stored: bytes, sent: bytes) -> bool:
    """Whether a receiver of ``sent`` gets what is stored."""
    before, after = leaves(stored), leaves(sent)
    if len(before) != len(after):
        return False
    return all(_same(one, other) for one, other in zip(before, after, strict=True))


def _same(stored: Leaf, sent: Leaf) -> bool:
    charset = stored.charset in (UNNAMED, sent.charset)
    # Stored octets of a binary part are exactly those sent; of all others the line ends do not count.
    octets = stored.content == sent.content or (not stored.binary and _lines(stored.content) == _lines(sent.content))
    return stored.type == sent.type and charset and octets


def _lines(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")


def leaves(content: bytes) -> list[Leaf]:
    """The leaves of a whole message, in order."""
    return [_leaf(part) for part in email.message_from_bytes(content).walk() if not part.is_multipart()]


def _leaf(part: Message) -> Leaf:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    binary = str(part.get("content-transfer-encoding", "")).strip().lower() in ("binary", "base64")
    binary = binary and part.get_content_maintype() != "text"
    if part["content-type"] is None and not payload.isascii():
        return Leaf(part.get_content_type(), UNNAMED, payload, binary)
    charset = str(part.get_content_charset() or "us-ascii")
    # Text of ASCII octets alone may call itself US-ASCII instead (the first row of the table).
    if payload.isascii() and ASCII_SUPERSETS.fullmatch(charset):
        charset = "us-ascii"
    return Leaf(part.get_content_type(), charset, payload, binary)


def fields(content: bytes) -> list[tuple[str, str]]:
    """The header fields of a message, decoded, blanks taken as one, without those that conversion may change."""
    changed = ("received", "content-type", "content-transfer-encoding", "mime-version", "x-warning")
    message = email.message_from_bytes(content)
    return [(name.lower(), text(raw)) for name, raw in message.raw_items() if name.lower() not in changed]


def text(raw: object) -> str:
    """One field value as a reader sees it, names without their quotation marks."""
    value = str(raw).encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    parts = decode_header(re.sub(r"\r?\n(?=[ \t])", "", value))
    decoded = "".join(
        part if isinstance(part, str) else part.decode(_codec(charset), "surrogateescape") for part, charset in parts
    )
    decoded = re.sub("xn--[a-z0-9-]+", lambda label: label[0].encode("ascii").decode("idna"), decoded)
    octets = decoded.encode("utf-8", "surrogateescape")
    return " ".join(octets.decode("utf-8", "replace").replace('"', "").split())


def _codec(charset: str | None) -> str:
    if charset is None:
        return "raw-unicode-escape"  # what decode_header gives plain text in, beside encoded words
    return "ascii" if charset.lower() == "unknown-8bit" else charset


def is_wire_clean(content: bytes) -> bool:
    """Whether content can go to any server: CRLF alone as line end, no NUL, no line over 998 octets."""
    alone = re.search(rb"\r(?!\n)|(?<!\r)\n", content)
    return alone is None and b"\0" not in content and all(len(line) <= 998 for line in content.split(b"\r\n"))

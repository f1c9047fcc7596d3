"""Tag lists: the syntax of signatures and of key records, ``name=value; name=value`` (RFC 6376 3.2).

Both are untrusted. A list that violates the grammar is refused as a whole, as the RFC requires: a repeated name, an
empty tag between two semicolons, a character that is not allowed in values. Names are case-sensitive::

    parse_tags(b"v=DKIM1; k=rsa; p=MIIB")[b"k"]      # b"rsa"
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error

from zsmtp.escape import escape
from zsmtp.patterns import pattern

MAX_LIST = 16_384  # octets of a tag list that is parsed
MAX_TAGS = 100

BLANKS = b" \t\r\n"

_NAME = pattern(rb"[A-Za-z][A-Za-z0-9_]*+")
_VALUE = pattern(rb"[\t\r\n\x20-:<-~]*+")
_UTF8_VALUE = pattern(rb"[\t\r\n\x20-:<-~\x80-\xff]*+")
_FOLDING = pattern(rb"[ \t\r\n]++")
_QUOTED = pattern(rb"=([0-9A-F]{2})")


def parse_tags(text: bytes, *, utf8: bool = False) -> dict[bytes, bytes]:
    """The tags of a list, values without the blanks around them; blanks inside stay.

    ``utf8``: values may hold UTF-8 (RFC 8616 5). Raises ValueError with the reason if the list is invalid.
    """
    if len(text) > MAX_LIST:
        raise ValueError(f"longer than {MAX_LIST} octets")
    parts = text.split(b";")
    if not parts[-1].strip(BLANKS):  # the list may end with its delimiter
        del parts[-1]
    if len(parts) > MAX_TAGS:
        raise ValueError(f"more than {MAX_TAGS} tags")
    tags: dict[bytes, bytes] = {}
    for part in parts:
        name, equals, value = part.partition(b"=")
        name, value = name.strip(BLANKS), value.strip(BLANKS)
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"not name=value: {shown(part.strip(BLANKS))}")
        if name in tags:
            raise ValueError(f"{shown(name)}= occurs twice")
        if not (_UTF8_VALUE if utf8 and is_utf8(value) else _VALUE).fullmatch(value):
            raise ValueError(f"{shown(name)}= has invalid characters")
        tags[name] = value
    return tags


def is_utf8(octets: bytes) -> bool:
    """Whether octets are UTF-8."""
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def shown(value: bytes | str) -> str:
    """An untrusted text for a reason: escaped, and cut to 80 characters."""
    return escape(value[:80]) + ("..." if len(value) > 80 else "")


def unfolded(value: bytes) -> bytes:
    """A value with its blanks removed."""
    return _FOLDING.sub(b"", value)


def parse_words(value: bytes) -> tuple[bytes, ...]:
    """The words of a list separated by colons, blanks around each allowed."""
    return tuple(word.strip(BLANKS) for word in value.split(b":"))


def parse_base64(value: bytes, name: str) -> bytes:
    """The octets of a base64 value, which may be folded anywhere. Raises ValueError, naming the tag."""
    try:
        return b64decode(unfolded(value), validate=True)
    except Base64Error:
        raise ValueError(f"{name}= is not base64") from None


def parse_quoted(value: bytes) -> bytes:
    """The octets of a dkim-quoted-printable value (2.11): blanks are dropped, ``=3B`` is a semicolon."""
    return _QUOTED.sub(lambda match: bytes([int(match[1], 16)]), unfolded(value))


def quoted(text: str, *, utf8: bool) -> bytes:
    """``text`` as dkim-quoted-printable; with ``utf8`` characters beyond ASCII stay as they are (RFC 8616 5)."""
    return b"".join(
        b"%c" % octet if (0x20 < octet < 0x7F and octet not in b";=") or (utf8 and octet > 0x7F) else b"=%02X" % octet
        for octet in text.encode("utf-8")
    )


def parse_number(value: bytes, name: str, digits: int) -> int:
    """A whole number of at most so many digits. Raises ValueError, naming the tag."""
    if not value.isdigit() or len(value) > digits:
        raise ValueError(f"{name}= is not a number of at most {digits} digits")
    return int(value)

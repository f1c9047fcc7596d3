"""Base64 in blocks (RFC 2045 6.8): lines of 76 octets with CRLF between them.

The encoder takes octets as they are and does not look for line ends: the canonical form is encoded, so callers convert
the line ends of text to CRLF first. The result does not depend on how the octets are cut into blocks::

    encoder = Base64Encoder()
    wire = b"".join(map(encoder.feed, blocks)) + encoder.finish()

:class:`Base64Wrapper` rewraps text that is base64 already, but has too long lines or octets outside its alphabet, which
every decoder skips.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from struct import Struct

LINE_OCTETS = 57
"""Octets that fill a line of 76."""

_PAGE = Struct("76s" * 1024)  # the fastest way to cut many lines
_LINES = re.compile(rb"[\s\S]{1,76}")
_STRANGERS = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))


class _EncodedLines:
    """Lines of 76 octets; the line end before a line is written with that line, so the last has none."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = False

    def lines(self, text: bytes) -> bytes:
        if not text:
            return b""
        rest = len(text) - len(text) % _PAGE.size
        pages = [b"\r\n".join(_PAGE.unpack_from(text, start)) for start in range(0, rest, _PAGE.size)]
        wrapped = b"\r\n".join([*pages, *_LINES.findall(text, rest)])
        if self._begun:
            return b"\r\n" + wrapped
        self._begun = True
        return wrapped


class Base64Encoder(_EncodedLines):
    """Encodes one range of octets."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        super().__init__()
        self._pending = b""

    def feed(self, block: bytes) -> bytes:
        """The next octets, encoded as far as they fill lines."""
        data = self._pending + block
        end = len(data) - len(data) % LINE_OCTETS
        self._pending = data[end:]
        return self.lines(b2a_base64(data[:end], newline=False))

    def finish(self) -> bytes:
        """The last line, without a line end."""
        data, self._pending = self._pending, b""
        return self.lines(b2a_base64(data, newline=False))


class Base64Wrapper(_EncodedLines):
    """Rewraps base64 text; removes octets outside the alphabet."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        super().__init__()
        self._pending = b""

    def feed(self, block: bytes) -> bytes:
        """The next octets of the text, as far as they fill lines."""
        data = self._pending + block.translate(None, _STRANGERS)
        end = len(data) - len(data) % 76
        self._pending = data[end:]
        return self.lines(data[:end])

    def finish(self) -> bytes:
        """The last line, without a line end."""
        data, self._pending = self._pending, b""
        return self.lines(data)

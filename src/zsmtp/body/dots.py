"""Dot-stuffing, which distinguishes content from its end in DATA (RFC 5321 4.5.2).

After ``DATA`` a line of one dot ends the content. So that no line of the content is taken for the end, every line that
starts with a dot gets one more in front, which the receiver removes. Input is canonical content (every line end a CRLF,
see ``zsmtp.body.lines``) in blocks cut anywhere; ``BDAT`` (RFC 3030) needs none of this::

    dots = DotStuffer()
    wire = b"".join(map(dots.stuff, blocks)) + dots.terminator()
"""

from __future__ import annotations

_DOT_LINE = b"\n."  # in canonical content every LF ends a line
_DOT, _LF = ord("."), ord("\n")


def stuffed(head: bytes, body: bytes) -> bytes:
    """A whole content, dot-stuffed and with its terminator; ``head`` ends with a line end, ``body`` too or is empty."""
    if head[:1] == b"." or body[:1] == b"." or head.find(_DOT_LINE) >= 0 or body.find(_DOT_LINE) >= 0:
        dots = DotStuffer()
        return b"".join((dots.stuff(head), dots.stuff(body), dots.terminator()))
    return b"".join((head, body, b".\r\n"))


class DotStuffer:
    """Stuffs the content of one message."""

    __slots__ = ("_line_open",)

    def __init__(self) -> None:
        self._line_open = False

    def stuff(self, block: bytes) -> bytes:
        """The next octets of the content with the dots doubled that start a line."""
        if not block:
            return block
        at_line_start = not self._line_open
        self._line_open = block[-1] != _LF
        stuffed = block.replace(_DOT_LINE, b"\n..")
        return b"." + stuffed if at_line_start and block[0] == _DOT else stuffed

    def terminator(self) -> bytes:
        """The line of one dot, after a line end if the content lacks its last one."""
        terminator = b"\r\n.\r\n" if self._line_open else b".\r\n"
        self._line_open = False
        return terminator

"""Converts stored line ends to the canonical CRLF of the wire (RFC 5321 2.3.8).

Spool files end lines with LF. On the wire CRLF is the only line end, and neither CR nor LF may appear by itself: a
server that takes a bare LF or CR for a line end as well could see an end of the message that this side never sent (SMTP
smuggling). Therefore everything that any system takes for a line end becomes exactly one CRLF: LF, a CRLF that is
stored as such, and a CR that no LF follows. The last is counted, since it changes the author's text. A last line
without an end gets one. Header blocks have a stricter rule of their own, :func:`canonical_header`.

The work is done on whole blocks by the search and replace of ``bytes``, never line by line; the result does not depend
on how the octets are cut into blocks. :class:`LineConverter` converts, :class:`LineSurvey` only measures the result,
several times faster::

    lines = LineConverter()
    wire = b"".join(map(lines.convert, blocks)) + lines.finish()
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

CRLF = b"\r\n"
CR = 0x0D  # ``in`` finds a number in a fifth of the time of an octet string

MAX_LINE = 998
"""Octets a line may have without its line end (RFC 5321 4.5.3.1.6: 1000 with it)."""


class LineConverter:
    """Makes every line end of one message a CRLF. ``bare_cr`` counts the CRs so far that no LF followed.

    A block returned never ends between CR and LF.
    """

    __slots__ = ("_after_cr", "_line_open", "bare_cr")

    def __init__(self) -> None:
        self.bare_cr = 0
        self._after_cr = False  # the last octet stored was a CR; its line end is written already
        self._line_open = False

    def convert(self, block: bytes) -> bytes:
        """The next octets of the message in canonical form; may be empty."""
        if self._after_cr and block[:1] == b"\n":
            # The previous block was cut inside a CRLF: its last CR was no bare one, and its CRLF is written already.
            self.bare_cr -= 1
            self._after_cr = False
            block = block[1:]
        if not block:
            return b""
        if CR in block:
            self._after_cr = block[-1] == CR
            block = self._convert_cr(block)
        else:
            self._after_cr = False
            block = block.replace(b"\n", CRLF)
        self._line_open = block[-1] != 0x0A
        return block

    def finish(self) -> bytes:
        """The line end that the message lacks at its end, if it does. An empty message stays empty."""
        missing = CRLF if self._line_open else b""
        self._line_open = False
        return missing

    def _convert_cr(self, block: bytes) -> bytes:
        # If all CRs belong to a CRLF and all LFs too, removing the CRs and putting one before each LF changes
        # nothing. Text stored with CRLF is common, and this takes less than half the time of counting the pairs.
        if block.replace(b"\r", b"").replace(b"\n", CRLF) == block:
            return block
        self.bare_cr += block.count(b"\r") - block.count(CRLF)
        return block.replace(CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", CRLF)


class LineUnifier:
    """Makes every line end of one text a single LF, as :class:`LineConverter` makes it CRLF: for line codecs."""

    __slots__ = ("_converter",)

    def __init__(self) -> None:
        self._converter = LineConverter()

    @property
    def bare_cr(self) -> int:
        """CRs so far that no LF followed."""
        return self._converter.bare_cr

    def unify(self, block: bytes) -> bytes:
        """The next octets of the text with LF line ends; may be empty."""
        if CR not in block and not self._converter._after_cr:
            return block
        return self._converter.convert(block).replace(CRLF, b"\n")


class LineSurvey:
    """Measures the result of :class:`LineConverter` without building it.

    ``octets`` is the size in canonical form so far, ``bare_cr`` counts CRs without LF, ``long_lines``: some line has
    over 998 octets without its line end. All three are final after :meth:`finish`.
    """

    __slots__ = ("_converter", "_open_octets", "long_lines", "octets")

    def __init__(self) -> None:
        self.octets = 0
        self.long_lines = False
        self._converter = LineConverter()
        self._open_octets = 0  # octets of the line that has begun and not ended

    @property
    def bare_cr(self) -> int:
        return self._converter.bare_cr

    def feed(self, block: bytes) -> None:
        """Take the next octets of the message."""
        if CR in block or self._converter._after_cr:
            canonical = self._converter.convert(block)
            self.octets += len(canonical)
            self._measure(canonical, line_end=2)
        else:
            self.octets += len(block.replace(b"\n", CRLF))  # faster than counting
            self._measure(block, line_end=1)

    def finish(self) -> None:
        """Count the line end that the last line lacks, if it does."""
        if self._open_octets:
            self.octets += len(CRLF)
            self._open_octets = 0

    def _measure(self, block: bytes, *, line_end: int) -> None:
        """Look for long lines. ``line_end`` is how many octets each line end has in this block.

        Jumps from the start of a line to the last line start within reach: a handful of searches per thousand
        octets, however short the lines are.
        """
        end = len(block)
        reach = MAX_LINE + line_end
        start = -self._open_octets  # where the line began, relative to this block
        while not self.long_lines and end - start > MAX_LINE:
            last = block.rfind(b"\n", max(start, 0), start + reach)
            if last < 0:
                self.long_lines = True
            start = last + 1
        last = block.rfind(b"\n", max(start, 0))
        self._open_octets = end - start if last < 0 else end - last - 1


def canonical(text: bytes) -> tuple[bytes, int]:
    """A whole text in canonical form, and how many bare CRs it had."""
    if CR not in text and text.endswith(b"\n"):
        return text.replace(b"\n", CRLF), 0
    lines = LineConverter()
    return lines.convert(text) + lines.finish(), lines.bare_cr


def has_long_line(text: bytes) -> bool:
    """Whether a whole text in canonical form has a line over the limit.

    Jumps from the start of a line to the last line start within reach: a handful of searches per thousand octets,
    however short the lines are.
    """
    start, last_start, rfind = 0, len(text) - MAX_LINE, text.rfind
    while start < last_start:
        start = rfind(b"\n", start, start + MAX_LINE + 2) + 1
        if not start:
            return True
    return False


def canonical_blocks(blocks: Iterable[bytes], lines: LineConverter) -> Iterator[bytes]:
    """The blocks of one whole message in canonical form; ``lines`` has the counts afterwards."""
    for block in blocks:
        converted = lines.convert(block)
        if converted:
            yield converted
    missing = lines.finish()
    if missing:
        yield missing


def canonical_header(header: bytes) -> tuple[bytes, int]:
    """A header block in the form of the wire, without the empty line after it, and how many bare CRs it had.

    Line ends become CRLF. A CR that no LF follows becomes a blank, unlike in a body: as a line end it could begin a
    forged header field, or end the block early. Empty lines inside the block are removed for the same reason. A last
    line without end gets one.
    """
    header, bare_cr = unified_header(header)
    return header.replace(b"\n", CRLF), bare_cr


def unified_header(header: bytes) -> tuple[bytes, int]:
    """Like :func:`canonical_header`, with LF line ends: the form in which blocks are edited."""
    bare_cr = 0
    if CR in header:
        bare_cr = header.count(b"\r") - header.count(CRLF)
        header = header.replace(CRLF, b"\n").replace(b"\r", b" ")
    if header.startswith(b"\n") or header.find(b"\n\n") >= 0:
        header = re.sub(rb"\n{2,}", b"\n", header).removeprefix(b"\n")
    if header and not header.endswith(b"\n"):
        header += b"\n"
    return header, bare_cr

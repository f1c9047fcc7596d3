"""The structure of a MIME body: which octets belong to which part (RFC 2046 5.1).

One pass over the stored body, block by block, gives the tree of parts: multiparts in multiparts, messages in parts, and
for each leaf its type, transfer encoding, octet range, and the properties that a server could reject. Nothing is
decoded, and only the small headers of parts are kept. Line ends may be LF, CRLF or CR, as everywhere in a stored body.

Mail is scanned as receivers read it, however broken: a delimiter is a whole line of two hyphens and the boundary of an
open multipart, so that one boundary may begin another; an outer delimiter ends everything inside; the final one may be
missing; a multipart in which no delimiter ever came is a leaf. Text before the first and after the last delimiter
belongs to no part: :class:`Filler`::

    scan = StructureScan(header)
    for block in source.blocks():
        scan.feed(block)
    structure = scan.finish()

Depth, number of parts and the octets of their headers are limited. Beyond a limit ``structure.whole`` is false, and the
tree must not be used for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from zsmtp.body.fields import Description, TransferEncoding, describe, split_fields
from zsmtp.body.headers import is_signed
from zsmtp.body.lines import MAX_LINE, LineSurvey, unified_header

MAX_DEPTH = 100
MAX_PARTS = 10_000
MAX_HEADERS = 2 * 1024 * 1024
"""Octets that the headers of all parts may have together."""

_HIGH = bytes(range(128, 256))
_LINE_END = re.compile(rb"\r\n|\r|\n")
_HEADER_LINE = re.compile(rb"[!-9;-~]*+[ \t]*+:|[ \t]|From ")
_DELIMITER_END = re.compile(rb"(--)?[ \t]*+(\r\n|\r|\n|\Z)")


class PartKind(Enum):
    """The kind of a part's content."""

    LEAF = "leaf"
    MULTIPART = "multipart"
    MESSAGE = "message"  # message/rfc822: one child, the message


class Tally:
    """The properties of a range of octets. ``high`` counts octets over 127; it is exact only if ``counted``."""

    __slots__ = ("_counted", "_survey", "high", "nul")

    def __init__(self, *, counted: bool) -> None:
        self.high = 0
        self.nul = False
        self._counted = counted
        self._survey = LineSurvey()

    @property
    def long_lines(self) -> bool:
        """A line of over 998 octets."""
        return self._survey.long_lines

    @property
    def clean(self) -> bool:
        """Whether every server accepts these octets."""
        return not (self.high or self.nul or self.long_lines)

    def feed(self, octets: bytes) -> None:
        """Process the next octets of the range."""
        self._survey.feed(octets)
        if not self.nul and 0 in octets:
            self.nul = True
        if not octets.isascii():
            self.high += len(octets) - len(octets.translate(None, _HIGH)) if self._counted else 1


class Part:
    """One part, or the message itself (``parent`` is None), as ranges of the stored body.

    ``header`` is its header block with LF line ends, stored at ``[header_start, body_start)`` with the empty line if
    it has one; the root's is not in the body. ``[body_start, body_end)`` is its content, without the line end that
    belongs to the delimiter after it. ``delimited``: a delimiter of its own was found.
    """

    __slots__ = (
        "body_end",
        "body_start",
        "children",
        "delimited",
        "description",
        "header",
        "header_start",
        "kind",
        "parent",
        "tally",
    )

    def __init__(self, parent: Part | None, header_start: int) -> None:
        self.parent = parent
        self.header_start = header_start
        self.header = b""
        self.body_start = self.body_end = header_start
        self.description = Description()
        self.kind = PartKind.LEAF
        self.delimited = False
        self.children: list[Part] = []
        self.tally = Tally(counted=False)

    @property
    def size(self) -> int:
        """Octets of content as stored."""
        return self.body_end - self.body_start

    @property
    def raw(self) -> bool:
        """Whether the content is octets rather than lines: its line ends must not be touched."""
        binary = self.description.encoding is TransferEncoding.BINARY
        return self.kind is PartKind.LEAF and binary and (self.tally.nul or not self.description.is_text)

    @property
    def in_multipart(self) -> bool:
        """Whether delimiters may follow its content."""
        parent = self.parent
        return parent is not None and (parent.kind is PartKind.MULTIPART or parent.in_multipart)


@dataclass(frozen=True, slots=True)
class Filler:
    """Octets ``[start, end)`` that belong to no part: the preamble or epilogue of the multipart ``owner``."""

    owner: Part
    start: int
    end: int
    tally: Tally


@dataclass(slots=True)
class Structure:
    """The tree under ``root``. ``fillers`` are those with octets that a server could reject.

    ``whole`` is false if the body could not be parsed entirely; ``sealed``: a part is signed or encrypted; ``loose``
    are runs of blanks that make a delimiter line too long.
    """

    root: Part
    whole: bool = True
    sealed: bool = False
    fillers: list[Filler] = field(default_factory=list)
    loose: list[tuple[int, int]] = field(default_factory=list)

    def parts(self) -> Iterator[Part]:
        """All parts, parents before children, in the order of the body."""
        waiting = [self.root]
        while waiting:
            part = waiting.pop()
            yield part
            waiting.extend(reversed(part.children))


class StructureScan:
    """Parses a body. ``header`` is the message's header block, LF line ends, without the empty line."""

    def __init__(self, header: bytes) -> None:
        root = Part(None, 0)
        self._structure = Structure(root)
        self._open = [root]  # from the root to the current part
        self._delimiters: list[tuple[bytes, int]] = []  # of open multiparts, with their place in _open; innermost last
        self._prefixes: tuple[bytes, ...] = ()
        self._common = b"--"  # the common prefix of all delimiters
        self._buffer = b""
        self._base = 0  # offset of _buffer in the body
        self._at = 0  # octets of _buffer before this are processed
        self._header: bytearray | None = None  # of the part whose header is being read
        self._line_start = True  # _at is at the start of a line
        self._filler: Filler | None = None
        self._parts = self._header_octets = 0
        self._ended = False
        self._describe(root, header)
        self._enter(root)

    def feed(self, block: bytes) -> None:
        """Take the next octets of the body."""
        if not self._structure.whole:
            return
        self._buffer = self._buffer[self._at :] + block if self._at < len(self._buffer) else block
        self._base += self._at
        self._at = 0
        self._run()

    def finish(self) -> Structure:
        """The structure of the octets fed so far."""
        self._ended = True
        self._run()
        if self._structure.whole:
            self._close(0, len(self._buffer))
        return self._structure

    def _run(self) -> None:
        while self._structure.whole and (self._read_header() if self._header is not None else self._read_body()):
            pass

    # ---------------------------------------------------------------- header

    def _read_header(self) -> bool:
        """One line of a part's header; False if more octets are needed."""
        assert self._header is not None
        buffer = self._buffer
        start = self._at
        end = _LINE_END.search(buffer, start)
        # A CR at the end of the buffer may be half a line end.
        if not self._ended and (end is None or (end.end() == len(buffer) and end[0] == b"\r")):
            self._structure.whole = len(buffer) - start <= MAX_HEADERS
            return False
        if buffer.startswith(b"--", start):
            decided = self._delimit(start, start)
            if decided is not False:
                return bool(decided)
        if start == len(buffer):
            return False
        line = buffer[start : end.end() if end else len(buffer)]
        if end is not None and end.start() == start:
            self._at = end.end()
        elif _HEADER_LINE.match(line) and not (line.startswith(b"From ") and self._header):
            self._header += line
            self._at += len(line)
            self._header_octets += len(line)
            self._structure.whole = self._header_octets <= MAX_HEADERS
            return True
        self._end_header()
        self._enter(self._open[-1])
        return True

    def _end_header(self) -> None:
        part = self._open[-1]
        part.body_start = self._base + self._at
        header, self._header = bytes(self._header or b""), None
        self._describe(part, unified_header(header)[0])
        if is_signed(_content_type(part.header)):
            self._structure.sealed = True

    def _describe(self, part: Part, header: bytes) -> None:
        parent = part.parent
        digest = parent is not None and parent.description[:2] == (b"multipart", b"digest")
        part.header = header
        part.description = describe(header, digest=digest)

    def _enter(self, part: Part) -> None:
        """The header of ``part`` is over: its body begins."""
        description = part.description
        encoded = description.encoding in (TransferEncoding.BASE64, TransferEncoding.QUOTED_PRINTABLE)
        self._line_start = True
        if description.maintype == b"multipart" and 0 < len(description.boundary) <= MAX_LINE - 4:
            part.kind = PartKind.MULTIPART
            self._structure.whole = description.boundary.isascii() and not _LINE_END.search(description.boundary)
            self._delimiters.append((b"--" + description.boundary, len(self._open) - 1))
            self._index_delimiters()
            self._filler = Filler(part, part.body_start, 0, part.tally)
        elif description[:2] == (b"message", b"rfc822") and not encoded:
            part.kind = PartKind.MESSAGE
            self._begin_part(part)
        else:
            part.tally = Tally(counted=not description.is_text)

    def _begin_part(self, parent: Part) -> None:
        part = Part(parent, self._base + self._at)
        parent.children.append(part)
        self._open.append(part)
        self._parts += 1
        if len(self._open) > MAX_DEPTH or self._parts > MAX_PARTS:
            self._structure.whole = False
        self._header = bytearray()

    # ------------------------------------------------------------------ body

    def _read_body(self) -> bool:
        """Go on to the next delimiter; False if more octets are needed."""
        buffer = self._buffer
        start = self._at
        if not self._prefixes:
            self._take(len(buffer))
            return False
        if self._line_start:
            if len(buffer) - start < 2 and not self._ended:
                return False
            if buffer.startswith(b"--", start):
                decided = self._delimit(start, start)
                if decided is not False:
                    return bool(decided)
        lf = buffer.find(b"\n" + self._common, start)
        cr = buffer.find(b"\r" + self._common, start) if b"\r" in buffer else -1
        while lf >= 0 or cr >= 0:
            found = lf if cr < 0 or 0 <= lf < cr else cr
            pair = buffer[found] == 0x0A and found > start and buffer[found - 1] == 0x0D
            decided = self._delimit(found + 1, found - 1 if pair else found)
            if decided:
                return True
            if decided is None:
                self._take(found - 1 if pair else found)
                return False
            if found == lf:
                lf = buffer.find(b"\n" + self._common, found + 1)
            else:
                cr = buffer.find(b"\r" + self._common, found + 1)
        # A delimiter may have begun in the last octets.
        self._take(len(buffer) if self._ended else max(start, len(buffer) - len(self._common) - 2))
        return False

    def _take(self, end: int) -> None:
        """Assign the octets up to ``end`` to the current part."""
        if end > self._at:
            octets = self._buffer[self._at : end]
            self._line_start = False
            self._at = end
            (self._filler.tally if self._filler is not None else self._open[-1].tally).feed(octets)

    def _delimit(self, line: int, end: int) -> bool | None:
        """Whether the line at ``line`` is a delimiter; if so, the open parts that it closes end at ``end``.

        None if more octets are needed to decide.
        """
        buffer = self._buffer
        if not self._ended and len(buffer) - line <= MAX_LINE:
            return None
        if not buffer.startswith(self._prefixes, line):
            return False
        for prefix, depth in reversed(self._delimiters):
            if not buffer.startswith(prefix, line):
                continue
            rest = _DELIMITER_END.match(buffer, line + len(prefix))
            if rest is None:
                continue
            if not self._ended and rest.end() == len(buffer) and rest[2] in (b"", b"\r"):
                self._structure.whole = len(buffer) - line <= MAX_HEADERS
                return None
            blanks = self._base + line + len(prefix) + len(rest[1] or b"")
            if rest.start(2) - line > MAX_LINE:
                self._structure.loose.append((blanks, self._base + rest.start(2)))
            self._cross(depth, end, rest.end(), final=rest[1] is not None)
            return True
        return False

    def _cross(self, depth: int, end: int, after: int, *, final: bool) -> None:
        """A delimiter of the multipart at ``depth``: all inside it ends, and a new part or the epilogue begins."""
        self._take(end)
        self._close(depth + 1, end)
        owner = self._open[depth]
        owner.delimited = True
        if final and not owner.children:
            # The end of a multipart without parts: receivers show the text before it.
            owner.kind = PartKind.LEAF
            owner.body_end = self._base + end
            self._filler = None
        elif self._filler is not None:
            self._end_filler(end)
        self._at = after
        self._line_start = True
        if final:
            self._delimiters.pop()
            self._index_delimiters()
            self._filler = Filler(owner, self._base + after, 0, Tally(counted=False))
        else:
            self._begin_part(owner)

    def _close(self, depth: int, end: int) -> None:
        """Close every part from ``depth`` on, at ``end`` of the buffer."""
        if self._header is not None:
            self._end_header()  # a part without content
        while len(self._open) > depth:
            part = self._open.pop()
            if part.kind is not PartKind.LEAF or not part.delimited:
                part.body_end = max(self._base + end, part.body_start)
            if self._filler is not None and self._filler.owner is part:
                self._end_filler(end)
            if part.kind is PartKind.MULTIPART and not part.delimited:
                part.kind = PartKind.LEAF
        while self._delimiters and self._delimiters[-1][1] >= depth:
            self._delimiters.pop()
        self._index_delimiters()

    def _end_filler(self, end: int) -> None:
        filler, self._filler = self._filler, None
        if filler is not None and filler.owner.delimited and not filler.tally.clean:
            self._structure.fillers.append(Filler(filler.owner, filler.start, self._base + end, filler.tally))

    def _index_delimiters(self) -> None:
        self._prefixes = tuple(prefix for prefix, _ in self._delimiters)
        first, last = min(self._prefixes, default=b"--"), max(self._prefixes, default=b"--")
        same = next(
            (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
        )
        self._common = first[:same]


def _content_type(header: bytes) -> bytes:
    """Only the MIME fields of a part: signatures over a forwarded message do not concern this one."""
    return b"".join(header[f.start : f.end] for f in split_fields(header) if f.name == b"content-type")

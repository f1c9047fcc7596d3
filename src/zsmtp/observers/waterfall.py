"""A trace drawn with characters: bars over time, what was said, what was decided, who got the message.

:func:`draw` gives lines of :class:`Piece`, a text with a tone each; who prints them turns tones into colours, or leaves
them out: nothing is told by colour alone. ``unicode`` off draws with ASCII only::

    for line in draw(trace, width=80):
        print(plain(line))
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from zsmtp.observers.chart import Kind, Mood, Row, Section, duration_words, mood_of, sections, span_of, summary
from zsmtp.observers.document import Addresses, Recipient, Trace

MIN_WIDTH = 40
MOST_RECIPIENTS = 50  # whose verdicts are listed

_NARROW = 72  # below it notes stand on a line of their own
_DURATION = 9


class Tone(Enum):
    """What a piece of text is, for the eye."""

    PLAIN = "plain"
    STRONG = "strong"
    FAINT = "faint"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Piece:
    """A text in one tone."""

    text: str
    tone: Tone = Tone.PLAIN


Line = list[Piece]

_TONES = {Mood.PLAIN: Tone.PLAIN, Mood.GOOD: Tone.GOOD, Mood.WARN: Tone.WARN, Mood.BAD: Tone.BAD}


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """The characters of a drawing. ``part`` are the thin bars of 1/8 to 7/8 of a cell."""

    full: str = "█"
    part: str = "▏▎▍▌▋▊▉"
    failed: str = "▒"
    before: str = "◂"
    open: str = "▸"
    decided: str = "◆"
    broken: str = "✗"
    fates: tuple[str, str, str, str] = ("✓", "✗", "◷", "?")  # delivered, failed, deferred, in doubt
    ellipsis: str = "…"
    rule: str = "─"
    edge: str = "│"


_UNICODE = _Glyphs()
_ASCII = _Glyphs("=", "|||||||", "x", "<", ">", "*", "!", ("+", "x", "~", "?"), "...", "-", "|")


def plain(line: Line) -> str:
    """A line without its tones."""
    return "".join(piece.text for piece in line).rstrip()


def draw(trace: Trace, *, width: int = 80, unicode: bool = True) -> list[Line]:
    """The drawing, line by line, none wider than ``width`` columns (40 at least)."""
    return list(_Drawing(trace, max(width, MIN_WIDTH), _UNICODE if unicode else _ASCII).lines())


def cells(text: str) -> int:
    """How many columns a text takes: two for wide characters, none for marks that combine."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me") else _WIDTHS.get(_east(c), 1)
        for c in text
    )


_east = unicodedata.east_asian_width
_WIDTHS = {"W": 2, "F": 2}


class _Drawing:
    """One trace on its way to lines."""

    def __init__(self, trace: Trace, width: int, glyphs: _Glyphs) -> None:
        self._trace = trace
        self._width = width
        self._glyphs = glyphs
        self._narrow = width < _NARROW
        self._label = 18 if self._narrow else min(26 + (width - 80) // 8, 34) if width > 80 else 26
        room = width - self._label - _DURATION - 3
        self._bar = room if self._narrow else min(max(room * 2 // 5, 16), 60)
        self._note = 0 if self._narrow else room - self._bar - 2
        self._span = span_of(trace)

    def lines(self) -> Iterator[Line]:
        """All of it."""
        yield from self._head()
        yield []
        axis = self._glyphs.edge + self._glyphs.rule * (self._bar - 2) + self._glyphs.edge
        yield [Piece(f"{'':{self._label}} {axis} {duration_words(self._span):>{_DURATION}}", Tone.FAINT)]
        for number, section in enumerate(sections(self._trace)):
            if number:
                yield []
            yield from self._section(section)
        if self._trace.fates.recipients:
            yield []
            yield from self._verdicts()
        if self._trace.left_out:
            yield []
            yield [Piece(f"{self._trace.left_out} more items had no room in the trace", Tone.WARN)]

    # ------------------------------------------------------------------------------------------------------------ head

    def _head(self) -> Iterator[Line]:
        trace = self._trace
        name = f"{trace.name}: " if trace.name else ""
        what = f"mail from <{trace.sender}> to" if trace.fates.recipients else "a try of"
        yield [Piece(self._cut(f"{name}{what} {trace.destination}", self._width), Tone.STRONG)]
        started = trace.started[:19].replace("T", " ")
        words = f"{started} UTC, {duration_words(trace.seconds)}, {trace.program}"
        if trace.addresses is Addresses.HASHED:
            words += ", addresses hashed"
        yield [Piece(self._cut(words, self._width), Tone.FAINT)]
        tone = Tone.GOOD if trace.fates.delivered == trace.fates.recipients else Tone.WARN
        yield [Piece(self._cut(summary(trace), self._width), Tone.BAD if trace.fates.failed else tone)]

    # -------------------------------------------------------------------------------------------------------- sections

    def _section(self, section: Section) -> Iterator[Line]:
        yield [Piece(self._cut(section.title, self._width), Tone.NAME)]
        if section.about:
            for text in self._wrapped(section.about, self._width - 2):
                yield [Piece("  " + text, _TONES[section.mood] if section.mood is not Mood.PLAIN else Tone.FAINT)]
        for row in section.rows:
            yield from self._words(row) if row.kind is Kind.WORDS else self._row(row)

    def _row(self, row: Row) -> Iterator[Line]:
        label = self._padded("  " + row.label + (" (shared)" if row.shared else ""), self._label)
        took = "" if row.end is None else duration_words(row.end - row.start)
        tone = _TONES[row.mood]
        line = [
            Piece(label + " ", Tone.FAINT if row.shared else Tone.PLAIN),
            *self._bar_of(row),
            Piece(f" {took:>{_DURATION}}", Tone.FAINT),
        ]
        if not self._narrow:
            yield [*line, Piece("  " + self._cut(row.note, self._note), tone)]
            return
        yield line
        if row.note:
            yield [Piece("    " + self._cut(row.note, self._width - 4), tone)]

    def _bar_of(self, row: Row) -> Line:
        """The bar, padded: what is shorter than a cell is thin, what failed looks it, what never ended points on."""
        glyphs, room = self._glyphs, self._bar
        if row.earlier:
            text = f"{glyphs.before} {duration_words(-row.start)} before"
            return [Piece(self._padded(text, room), Tone.FAINT)]
        scale = room / self._span
        start = min(max(row.start, 0.0) * scale, room - 1e-9)
        end = room if row.end is None else min(row.end * scale, room)
        first = min(int(start), room - 1)
        fill = glyphs.failed if row.mood is Mood.BAD else glyphs.full
        if end - start < 1:
            eighths = max(int((end - start) * 8), 1)
            bar = fill if row.mood is Mood.BAD else glyphs.part[min(eighths, 7) - 1]
        else:
            bar = fill * max(round(end) - first, 1)
        if row.end is None:
            bar = bar[: room - first - 1] + glyphs.open
        bar = bar[: room - first]
        tone = _TONES[row.mood] if row.mood is not Mood.PLAIN else _KIND_TONES[row.kind]
        return [Piece(" " * first), Piece(bar, tone), Piece(" " * (room - first - len(bar)))]

    def _words(self, row: Row) -> Iterator[Line]:
        """A decision: all words, at the place where it was taken."""
        broken = row.mood is Mood.BAD
        mark = self._glyphs.broken if broken else self._glyphs.decided
        first, tone = (
            f"  {mark} {self._cut(row.label, 20)}: ",
            Tone.FAINT if row.mood is Mood.PLAIN else _TONES[row.mood],
        )
        for number, text in enumerate(self._wrapped(row.note, self._width - 4, cells(first) - 4)):
            yield [Piece(first if number == 0 else "    ", tone), Piece(text, tone)]

    # -------------------------------------------------------------------------------------------------------- verdicts

    def _verdicts(self) -> Iterator[Line]:
        recipients = self._trace.recipients
        yield [Piece("Recipients", Tone.NAME)]
        shown = recipients[:MOST_RECIPIENTS]
        longest = max((cells(recipient.address) for recipient in shown), default=0)
        column = min(longest, self._width * 2 // 5)
        for recipient in shown:
            yield from self._verdict(recipient, column)
        more = self._trace.fates.recipients - len(shown)
        if more > 0:
            yield [Piece(f"  and {more} more", Tone.FAINT)]

    def _verdict(self, recipient: Recipient, column: int) -> Iterator[Line]:
        marks = dict(zip(("delivered", "failed", "deferred"), self._glyphs.fates, strict=False))
        mark = self._glyphs.fates[3] if recipient.in_doubt else marks.get(recipient.fate, " ")
        tone = _TONES[mood_of(recipient)]
        fate = f"{recipient.fate or 'not settled'}{' (in doubt)' if recipient.in_doubt else ''}"
        words = f"  {self._padded(fate, 9)} {self._padded(recipient.status, 6)}"
        line = [Piece(f"  {mark} ", tone), Piece(self._padded(recipient.address, column)), Piece(words, tone)]
        room = self._width - 4 - column - cells(words) - 1
        why = recipient.diagnostic.partition("; ")[2] or recipient.diagnostic
        if room >= 24:
            yield [*line, Piece(" " + self._cut(why, room), Tone.FAINT)]
            return
        yield line
        if why:
            yield [Piece("      " + self._cut(why, self._width - 6), Tone.FAINT)]

    # ------------------------------------------------------------------------------------------------------------ text

    def _fit(self, text: str) -> str:
        """The text in the characters of this drawing."""
        return text if self._glyphs is _UNICODE else text.encode("ascii", "backslashreplace").decode("ascii")

    def _cut(self, text: str, room: int) -> str:
        """The text in so many columns at most."""
        text = self._fit(text)
        if cells(text) <= room:
            return text
        ellipsis = self._glyphs.ellipsis
        return self._cut_hard(text, max(room - len(ellipsis), 0)) + ellipsis[:room]

    def _padded(self, text: str, room: int) -> str:
        text = self._cut(text, room)
        return text + " " * (room - cells(text))

    def _wrapped(self, text: str, room: int, first: int = 0) -> Iterator[str]:
        """The text in lines of so many columns, broken at blanks; the first line has ``first`` columns less."""
        line, used, left = "", 0, room - first
        for word in self._fit(text).split(" "):
            size = cells(word)
            while size > room:
                head = self._cut_hard(word, left - used - 1 if line else left)
                if not head and line:  # not a character of it goes behind what is there
                    yield line
                    line, used, left = "", 0, room
                    continue
                head = head or word[:1]
                yield f"{line} {head}" if line else head
                word, size, line, used, left = word[len(head) :], size - cells(head), "", 0, room
            if (line and used + 1 + size > left) or (not line and size > left):
                yield line
                line, used, left = word, size, room
            else:
                line, used = (f"{line} {word}", used + 1 + size) if line else (word, size)
        yield line

    @staticmethod
    def _cut_hard(text: str, room: int) -> str:
        """As much of the text as goes into so many columns, in time that grows with what is kept."""
        length = 0
        for count, character in enumerate(text):
            length += cells(character)
            if length > room:
                return text[:count]
        return text


_KIND_TONES = {
    Kind.LOOKUP: Tone.NAME,
    Kind.CONNECT: Tone.NAME,
    Kind.SESSION: Tone.FAINT,
    Kind.SECURITY: Tone.GOOD,
    Kind.ENVELOPE: Tone.PLAIN,
    Kind.CONTENT: Tone.STRONG,
    Kind.FINAL: Tone.STRONG,
    Kind.WORDS: Tone.FAINT,
}

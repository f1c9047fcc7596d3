"""Draws a trace with characters: bars over time, the dialogue, decisions, and verdicts.

:func:`draw` returns lines of pieces of text with a style each (``zsmtp.text``); no information is in colour alone.
``unicode`` off draws with ASCII only::

    for line in draw(trace, width=80):
        print(plain(line))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsmtp.observers.chart import ChartRow, Mood, RowKind, Section, duration_words, mood_of, sections, span_of, summary
from zsmtp.observers.document import Addresses, Trace, TracedRecipient
from zsmtp.text.lines import Piece, cut, line, padded, plain, width_of, wrap
from zsmtp.text.look import Look, Style

MIN_WIDTH = 40
MOST_RECIPIENTS = 50  # recipients whose verdicts are listed

_NARROW = 72  # columns; below it notes have a line of their own
_DURATION = 9


Line = list[Piece]

_STYLES = {Mood.PLAIN: Style.PLAIN, Mood.GOOD: Style.GOOD, Mood.WARN: Style.WARN, Mood.BAD: Style.BAD}


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


def draw(trace: Trace, *, width: int = 80, unicode: bool = True) -> list[Line]:
    """The drawing, line by line, none wider than ``width`` columns (40 at least)."""
    return list(_Drawing(trace, Look(max(width, MIN_WIDTH), unicode=unicode)).lines())


class _Drawing:
    """Draws one trace."""

    def __init__(self, trace: Trace, look: Look) -> None:
        self._trace = trace
        self._look = look
        self._width = width = look.width
        self._glyphs = _UNICODE if look.unicode else _ASCII
        self._narrow = width < _NARROW
        self._label = 18 if self._narrow else min(26 + (width - 80) // 8, 34) if width > 80 else 26
        room = width - self._label - _DURATION - 3
        self._bar = room if self._narrow else min(max(room * 2 // 5, 16), 60)
        self._note = 0 if self._narrow else room - self._bar - 2
        self._span = span_of(trace)

    def lines(self) -> Iterator[Line]:
        """All lines."""
        yield from self._head()
        yield []
        axis = self._glyphs.edge + self._glyphs.rule * (self._bar - 2) + self._glyphs.edge
        yield [Piece(f"{'':{self._label}} {axis} {duration_words(self._span):>{_DURATION}}", Style.FAINT)]
        for number, section in enumerate(sections(self._trace)):
            if number:
                yield []
            yield from self._section(section)
        if self._trace.fates.recipients:
            yield []
            yield from self._verdicts()
        if self._trace.left_out:
            yield []
            yield [Piece(f"{self._trace.left_out} more items are not in the trace", Style.WARN)]

    # ------------------------------------------------------------------------------------------------------------ head

    def _head(self) -> Iterator[Line]:
        trace = self._trace
        name = f"{trace.name}: " if trace.name else ""
        what = f"mail from <{trace.sender}> to" if trace.fates.recipients else "a try of"
        yield [Piece(self._cut(f"{name}{what} {trace.destination}", self._width), Style.STRONG)]
        started = trace.started[:19].replace("T", " ")
        words = f"{started} UTC, {duration_words(trace.seconds)}, {trace.program}"
        if trace.addresses is Addresses.HASHED:
            words += ", addresses hashed"
        yield [Piece(self._cut(words, self._width), Style.FAINT)]
        style = Style.GOOD if trace.fates.delivered == trace.fates.recipients else Style.WARN
        yield [Piece(self._cut(summary(trace), self._width), Style.BAD if trace.fates.failed else style)]

    # -------------------------------------------------------------------------------------------------------- sections

    def _section(self, section: Section) -> Iterator[Line]:
        yield [Piece(self._cut(section.title, self._width), Style.NAME)]
        if section.about:
            for text in self._wrapped(section.about, self._width - 2):
                yield [Piece("  " + text, _STYLES[section.mood] if section.mood is not Mood.PLAIN else Style.FAINT)]
        for row in section.rows:
            yield from self._words(row) if row.kind is RowKind.WORDS else self._row(row)

    def _row(self, row: ChartRow) -> Iterator[Line]:
        label = self._padded("  " + row.label + (" (shared)" if row.shared else ""), self._label)
        took = "" if row.end is None else duration_words(row.end - row.start)
        style = _STYLES[row.mood]
        drawn = [
            Piece(label + " ", Style.FAINT if row.shared else Style.PLAIN),
            *self._bar_of(row),
            Piece(f" {took:>{_DURATION}}", Style.FAINT),
        ]
        if not self._narrow:
            yield [*drawn, Piece("  " + self._cut(row.note, self._note), style)]
            return
        yield drawn
        if row.note:
            yield [Piece("    " + self._cut(row.note, self._width - 4), style)]

    def _bar_of(self, row: ChartRow) -> Line:
        """The bar, padded: thin if shorter than a cell, marked if failed, with an arrow if unfinished."""
        glyphs, room = self._glyphs, self._bar
        if row.earlier:
            text = f"{glyphs.before} {duration_words(-row.start)} before"
            return [Piece(self._padded(text, room), Style.FAINT)]
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
        style = _STYLES[row.mood] if row.mood is not Mood.PLAIN else _KIND_STYLES[row.kind]
        return [Piece(" " * first), Piece(bar, style), Piece(" " * (room - first - len(bar)))]

    def _words(self, row: ChartRow) -> Iterator[Line]:
        """A decision: its text, at the time when it was taken."""
        broken = row.mood is Mood.BAD
        mark = self._glyphs.broken if broken else self._glyphs.decided
        first, style = (
            f"  {mark} {self._cut(row.label, 20)}: ",
            Style.FAINT if row.mood is Mood.PLAIN else _STYLES[row.mood],
        )
        for number, text in enumerate(self._wrapped(row.note, self._width - 4, width_of(first) - 4)):
            yield [Piece(first if number == 0 else "    ", style), Piece(text, style)]

    # -------------------------------------------------------------------------------------------------------- verdicts

    def _verdicts(self) -> Iterator[Line]:
        recipients = self._trace.recipients
        yield [Piece("Recipients", Style.NAME)]
        shown = recipients[:MOST_RECIPIENTS]
        longest = max((width_of(recipient.address) for recipient in shown), default=0)
        column = min(longest, self._width * 2 // 5)
        for recipient in shown:
            yield from self._verdict(recipient, column)
        more = self._trace.fates.recipients - len(shown)
        if more > 0:
            yield [Piece(f"  and {more} more", Style.FAINT)]

    def _verdict(self, recipient: TracedRecipient, column: int) -> Iterator[Line]:
        marks = dict(zip(("delivered", "failed", "deferred"), self._glyphs.fates, strict=False))
        mark = self._glyphs.fates[3] if recipient.in_doubt else marks.get(recipient.fate, " ")
        style = _STYLES[mood_of(recipient)]
        fate = f"{recipient.fate or 'not settled'}{' (in doubt)' if recipient.in_doubt else ''}"
        words = f"  {self._padded(fate, 9)} {self._padded(recipient.status, 6)}"
        drawn = [Piece(f"  {mark} ", style), Piece(self._padded(recipient.address, column)), Piece(words, style)]
        room = self._width - 4 - column - width_of(words) - 1
        why = recipient.diagnostic.partition("; ")[2] or recipient.diagnostic
        if room >= 24:
            yield [*drawn, Piece(" " + self._cut(why, room), Style.FAINT)]
            return
        yield drawn
        if why:
            yield [Piece("      " + self._cut(why, self._width - 6), Style.FAINT)]

    # ------------------------------------------------------------------------------------------------------------ text

    def _cut(self, text: str, room: int) -> str:
        """The text in so many columns at most, in the characters of this drawing."""
        return cut(self._look.fit(text), room, self._glyphs.ellipsis)

    def _padded(self, text: str, room: int) -> str:
        return padded(self._look.fit(text), room, self._glyphs.ellipsis)

    def _wrapped(self, text: str, room: int, first: int = 0) -> Iterator[str]:
        """The text in lines of so many columns; the first line has ``first`` columns less."""
        for one in wrap(line(text), room - first, room, self._look):
            yield plain(one)


_KIND_STYLES = {
    RowKind.LOOKUP: Style.NAME,
    RowKind.CONNECT: Style.NAME,
    RowKind.SESSION: Style.FAINT,
    RowKind.SECURITY: Style.GOOD,
    RowKind.ENVELOPE: Style.PLAIN,
    RowKind.CONTENT: Style.STRONG,
    RowKind.FINAL: Style.STRONG,
    RowKind.WORDS: Style.FAINT,
}

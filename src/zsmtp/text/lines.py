"""Styled text: measures it in columns, cuts and wraps it.

A :class:`Piece` is a run of text of one style; a text is a sequence of them. Widths are those of a terminal: two
columns for wide characters, none for combining marks (Unicode annexes 11 and 15)::

    for one in wrap(line("a long sentence ...", Style.FAINT), 78, 74, look):
        print(painted(one, look))
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby

from zsmtp.records import NamedTuple
from zsmtp.text.look import Look, Style

NO_BREAK = "\u00a0"
"""A blank without a line break, between a number and its unit."""


class Piece(NamedTuple):
    """A run of text of one style."""

    text: str
    style: Style = Style.PLAIN


Text = tuple[Piece, ...]


def line(text: str, style: Style = Style.PLAIN) -> Text:
    """A text of one piece; ``+`` joins texts."""
    return (Piece(text, style),)


def plain(pieces: Iterable[Piece]) -> str:
    """A line without its styles."""
    return "".join(piece.text for piece in pieces).rstrip()


def painted(pieces: Iterable[Piece], look: Look) -> str:
    """A line with its styles; adjacent pieces of one style are painted together."""
    runs = groupby(pieces, key=lambda piece: piece.style)
    return "".join(look.paint("".join(piece.text for piece in run), style) for style, run in runs)


def width_of(text: str) -> int:
    """The columns a text takes."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def cut(text: str, room: int, ellipsis: str = "") -> str:
    """The beginning of a text that fits into ``room`` columns; if it is cut, ``ellipsis`` ends it.

    The time depends on the length of the result, not of the text.
    """
    if len(text) <= room and width_of(text) <= room:
        return text
    if ellipsis:
        if len(text) <= 2 * room and width_of(text) <= room:  # combining marks
            return text
        return cut(text, max(room - len(ellipsis), 0)) + ellipsis[:room]
    used = 0
    for count, character in enumerate(text):
        used += _width(character)
        if used > room:
            return text[:count]
    return text


def padded(text: str, room: int, ellipsis: str = "") -> str:
    """A text of exactly so many columns: cut, or followed by blanks."""
    text = cut(text, room, ellipsis)
    return text + " " * (room - width_of(text))


def wrap(text: Iterable[Piece], first: int, later: int, look: Look) -> Iterator[list[Piece]]:
    """The text in lines of so many columns, broken at blanks; at least one line. Words longer than a line are cut."""
    current: list[Piece] = []
    used, room = 0, first
    for word in _words(text, look):
        blank = 1 if current else 0
        if current and used + blank + sum(width_of(piece.text) for piece in word) > room:
            yield current
            current, used, room, blank = [], 0, later, 0
        if blank:
            same = current[-1].style is word[0].style  # a blank between words of one style has that style, too
            current.append(Piece(" ", word[0].style if same else Style.PLAIN))
            used += 1
        for piece in word:
            for number, part in enumerate(_parts(piece.text, room - used, later)):
                if number or (current and used + width_of(part) > room):
                    yield current
                    current, used, room = [], 0, later
                current.append(Piece(part, piece.style))
                used += width_of(part)
    yield current


def _words(text: Iterable[Piece], look: Look) -> Iterator[list[Piece]]:
    """The words; one of several styles is in several pieces."""
    word: list[Piece] = []
    for piece in text:
        for number, part in enumerate(piece.text.split(" ")):
            if number and word:
                yield word
                word = []
            if part:
                word.append(Piece(look.fit(part.replace(NO_BREAK, " ")), piece.style))
    if word:
        yield word


def _parts(word: str, first: int, later: int) -> Iterator[str]:
    """A word in parts: the first of at most ``first`` columns, the others of ``later``; no part is empty."""
    room = first if first > 0 else later
    while word:
        head = cut(word, room) or word[:1]
        yield head
        word, room = word[len(head) :], later


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

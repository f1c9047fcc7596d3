"""Trees of text for a terminal: labels, aligned facts beneath them, branches; every line fits the width.

A :class:`Node` is made of pieces of text with a style each; :func:`draw` wraps them at blanks, goes on under the text
(never under the guides), and cuts words that are longer than a line::

    root = Node(line("example.org", Style.STRONG))
    root.add(line("10 mx1.example.org")).fact("TLS", line("dane", Style.GOOD), line(" as TLSA records say"))
    print("\\n".join(draw(root, look)))
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from zsmtp.cli.terminal import Look, Style
from zsmtp.records import NamedTuple

NO_BREAK = "\u00a0"
"""A blank at which no line ends, between a number and its unit."""
_MIN_TEXT = 16  # columns for text, however deep the tree: then lines grow longer than the width


class Piece(NamedTuple):
    """A run of text of one style."""

    text: str
    style: Style = Style.PLAIN


Text = tuple[Piece, ...]


def line(text: str, style: Style = Style.PLAIN) -> Text:
    """A text of one piece; texts are put together with ``+``."""
    return (Piece(text, style),)


@dataclass(slots=True)
class Node:
    """One branch: its label, facts (a short key and a text each, keys aligned), and smaller branches."""

    label: Text
    facts: list[tuple[str, Text]] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def add(self, label: Text) -> Node:
        """A new branch of this one."""
        child = Node(label)
        self.children.append(child)
        return child

    def fact(self, key: str, *texts: Text) -> Node:
        """One more fact; an empty key goes on with the fact before. Returns the node itself."""
        self.facts.append((key, tuple(piece for text in texts for piece in text)))
        return self


class _Guides(NamedTuple):
    branch: str
    last: str
    through: str
    nothing: str = "   "


_UNICODE = _Guides("├─ ", "└─ ", "│  ")
_ASCII = _Guides("|- ", "`- ", "|  ")


def draw(root: Node, look: Look) -> list[str]:
    """The lines of a tree."""
    return list(_draw(root, "", "", look))


def _draw(node: Node, first: str, rest: str, look: Look) -> Iterator[str]:
    guides = _UNICODE if look.unicode else _ASCII
    below = rest + (guides.through if node.children else guides.nothing)
    yield from _lines(node.label, first, below + ("" if node.children else " "), look)
    keys = max((width_of(key) for key, _ in node.facts), default=0)
    for key, text in node.facts:
        padding = " " * (keys - width_of(key) + 2)
        start = below + look.paint(look.fit(key), Style.FAINT) + padding
        onward = below + " " * (keys + 4)  # two more than where it started: what follows may be another fact's text
        yield from _lines(text, start, onward, look, taken=width_of(below) + keys + 2)
    for number, child in enumerate(node.children, 1):
        is_last = number == len(node.children)
        mark, onward = (guides.last, guides.nothing) if is_last else (guides.branch, guides.through)
        yield from _draw(child, rest + mark, rest + onward, look)


def _lines(text: Text, first: str, rest: str, look: Look, taken: int | None = None) -> Iterator[str]:
    """A text wrapped behind its prefixes. ``taken`` are the columns of ``first``, if it has colours in it."""
    start = first
    room = max(_MIN_TEXT, look.width - (width_of(first) if taken is None else taken))
    later = max(_MIN_TEXT, look.width - width_of(rest))
    for wrapped in wrap(text, room, later, look):
        yield (start + wrapped).rstrip()
        start = rest


def wrap(text: Text, first: int, later: int, look: Look) -> Iterator[str]:
    """The text in lines of so many columns, painted; at least one line."""
    current: list[Piece] = []
    used, room = 0, first
    for word, style, glued in _words(text, look):
        blank = 0 if glued or not current else 1
        if current and used + blank + width_of(word) > room:
            yield _painted(current, look)
            current, used, room, blank = [], 0, later, 0
        for number, part in enumerate(_cut(word, room if not current else max(room - used - blank, 1))):
            if number:
                yield _painted(current, look)
                current, used, room, blank = [], 0, later, 0
            if blank:
                same = current[-1].style is style  # a blank between words of one style is of that style too
                current.append(Piece(" ", style if same else Style.PLAIN))
            current.append(Piece(part, style))
            used += blank + width_of(part)
    yield _painted(current, look)


def _painted(pieces: list[Piece], look: Look) -> str:
    """The pieces of a line, those of one style painted together."""
    runs = groupby(pieces, key=lambda piece: piece.style)
    return "".join(look.paint("".join(piece.text for piece in run), style) for style, run in runs)


def _words(text: Text, look: Look) -> Iterator[tuple[str, Style, bool]]:
    """Words with their style, and whether they stick to the one before."""
    ended_in_blank = True
    for piece in text:
        for number, word in enumerate(piece.text.split(" ")):
            glued = number == 0 and not ended_in_blank
            if word:
                yield look.fit(word.replace(NO_BREAK, " ")), piece.style, glued
        if piece.text:
            ended_in_blank = piece.text.endswith(" ")


def _cut(word: str, room: int) -> Iterable[str]:
    """A word in parts of at most so many columns."""
    parts = [""]
    used = 0
    for character in word:
        size = width_of(character)
        if used + size > room and parts[-1]:
            parts.append("")
            used = 0
        parts[-1] += character
        used += size
    return parts


def width_of(text: str) -> int:
    """The columns a text takes: two for wide characters, none for combining ones (Unicode annexes 11 and 15)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )

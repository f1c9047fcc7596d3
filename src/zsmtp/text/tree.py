"""Draws trees of text for a terminal: labels, aligned facts beneath them, branches; every line fits the width.

A :class:`Node` has pieces of text with a style each; :func:`draw` wraps them at blanks, continues under the text (never
under the guides), and cuts words that are longer than a line::

    root = Node(line("example.org", Style.STRONG))
    root.add(line("10 mx1.example.org")).fact("TLS", line("dane", Style.GOOD), line(" as TLSA records say"))
    print("\\n".join(draw(root, look)))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from zsmtp.records import NamedTuple
from zsmtp.text.lines import Text, painted, width_of, wrap
from zsmtp.text.look import Look, Style

_MIN_TEXT = 16  # least columns for text; in deeper trees lines exceed the width


@dataclass(slots=True)
class Node:
    """One branch: its label, facts (a short key and a text each, keys aligned), and smaller branches."""

    label: Text
    facts: list[tuple[str, Text]] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def add(self, label: Text) -> Node:
        """Add a branch to this one, and return it."""
        child = Node(label)
        self.children.append(child)
        return child

    def fact(self, key: str, *texts: Text) -> Node:
        """Add a fact; an empty key continues the previous fact. Returns the node itself."""
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
        onward = below + " " * (keys + 4)  # two more than the text's start, to distinguish it from the next fact
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
        yield (start + painted(wrapped, look)).rstrip()
        start = rest

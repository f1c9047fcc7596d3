"""The output properties of a stream: its width, colours, and character set.

Colours are the eight of every terminal (ECMA-48 8.3.117), used for emphasis only: no information depends on them. Text
from outside must have been escaped by ``zsmtp.escape`` before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Style(Enum):
    """The style of a text; the value is the parameter of the escape sequence."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    GOOD = "32"
    WARN = "33"
    BAD = "31"
    NAME = "36"


@dataclass(frozen=True, slots=True)
class Look:
    """The output properties of a stream: ``width`` in columns, with ``colour`` or not, ``unicode`` or ASCII only."""

    width: int = 80
    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, style: Style) -> str:
        """The text with the style around it, if colours are on."""
        if not self.colour or style is Style.PLAIN or not text:
            return text
        return f"\x1b[{style.value}m{text}\x1b[0m"

    def fit(self, text: str) -> str:
        """The text in characters that the stream can show."""
        return text if self.unicode else text.encode("ascii", "backslashreplace").decode("ascii")

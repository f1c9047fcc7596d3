"""Where output goes: how wide it is, whether it has colours, which characters it can show.

Colours are the eight of every terminal (ECMA-48 8.3.117), used for emphasis only: without them nothing is lost. They
are on where output is a terminal, unless ``NO_COLOR`` is set (no-color.org) or the terminal is called dumb; ``--color``
has the last word. Text from outside must have gone through ``zsmtp.escape`` before it comes here.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

MIN_WIDTH = 40
MAX_WIDTH = 200  # lines longer than this are not read well
FILE_WIDTH = 100  # of what goes to a file or a pipe


class Style(Enum):
    """What a text is, for the eye; the value is the parameter of the escape sequence."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    GOOD = "32"
    WARN = "33"
    BAD = "31"
    NAME = "36"


@dataclass(frozen=True, slots=True)
class Look:
    """How a stream is written to: ``width`` in columns, with ``colour`` or not, in ``unicode`` or ASCII only."""

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


def look_of(stream: TextIO, color: str = "auto") -> Look:
    """How to write to ``stream``, by the word of ``--color``, the environment, and what the stream is."""
    tty = is_terminal(stream)
    wanted = tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")
    colour = color == "always" or (color == "auto" and wanted)
    width = shutil.get_terminal_size((FILE_WIDTH, 24)).columns if tty or "COLUMNS" in os.environ else FILE_WIDTH
    return Look(max(MIN_WIDTH, min(width, MAX_WIDTH)), colour, _shows_unicode(stream))


def is_terminal(stream: TextIO) -> bool:
    """Whether a person sits there."""
    try:
        return stream.isatty()
    except (ValueError, AttributeError):  # closed, or replaced by something that is no file
        return False


def _shows_unicode(stream: TextIO) -> bool:
    try:
        "├─└│✓".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError, AttributeError):
        return False
    return True


def note(program: str, text: str) -> None:
    """One line on standard error, for people."""
    sys.stderr.write(f"{program}: {text}\n")

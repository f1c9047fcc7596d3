"""The properties of an output stream: its width, its colours, its characters.

Colours are on if output is a terminal, unless ``NO_COLOR`` is set (no-color.org) or the terminal is called dumb;
``--color`` overrides both.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from zsmtp.text.look import Look

MIN_WIDTH = 40
MAX_WIDTH = 200  # longer lines are hard to read
FILE_WIDTH = 100  # for a file or a pipe


def look_of(stream: TextIO, color: str = "auto") -> Look:
    """The :class:`Look` of ``stream``, by the value of ``--color``, the environment, and the kind of stream."""
    tty = is_terminal(stream)
    wanted = tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")
    colour = color == "always" or (color == "auto" and wanted)
    width = shutil.get_terminal_size((FILE_WIDTH, 24)).columns if tty or "COLUMNS" in os.environ else FILE_WIDTH
    return Look(max(MIN_WIDTH, min(width, MAX_WIDTH)), colour, _shows_unicode(stream))


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is an open terminal."""
    try:
        return stream.isatty()
    except (ValueError, AttributeError):  # closed, or replaced by an object that is no file
        return False


def _shows_unicode(stream: TextIO) -> bool:
    try:
        "├─└│✓".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError, AttributeError):
        return False
    return True


def note(program: str, text: str) -> None:
    """Print one line for people to standard error."""
    sys.stderr.write(f"{program}: {text}\n")

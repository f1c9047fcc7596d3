"""Where output goes: how wide it is, whether it has colours, which characters it can show.

Colours are on where output is a terminal, unless ``NO_COLOR`` is set (no-color.org) or the terminal is called dumb;
``--color`` has the last word.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from zsmtp.text.look import Look

MIN_WIDTH = 40
MAX_WIDTH = 200  # lines longer than this are not read well
FILE_WIDTH = 100  # of what goes to a file or a pipe


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

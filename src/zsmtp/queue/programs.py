"""Which program may use a database, and the numbered files by which its tables grow.

Each file is applied once, in order. What a later program adds, an earlier one does not see, and works; where it would
not, the file's first line says ``-- min_program``, and the database names the oldest program that may use it.
"""

from __future__ import annotations

from importlib.resources.abc import Traversable

from zsmtp import __version__
from zsmtp.errors import QueueError


def check_program(path: str, oldest: str) -> None:
    """Raise QueueError if this program is older than a database allows."""
    if _release(__version__) < _release(oldest):
        raise QueueError(
            f"queue {path} was made by a later program: it needs zsmtp {oldest} or later, not {__version__}"
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def numbered_files(folder: Traversable) -> list[tuple[str, str]]:
    """Each file of statements, and the oldest program that can use a database after it."""
    found = []
    oldest = "0.1.0"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            text = file.read_text(encoding="utf-8")
            first, _, _ = text.partition("\n")
            if first.startswith("-- min_program "):
                oldest = first.removeprefix("-- min_program ").strip()
            found.append((text, oldest))
    return found

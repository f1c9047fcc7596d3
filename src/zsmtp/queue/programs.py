"""Database migrations: the numbered files that add tables, and the oldest program that may use a database.

Each file is applied once, in order. An earlier program works with the additions of a later one; if it would not, the
first line of the file has ``-- min_program``, and the database then names the oldest program that may use it.
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


def later(one: str, other: str) -> str:
    """The later of two releases; "" is none."""
    return max(one, other, key=_release)


def named_release(first: str) -> str:
    """The oldest release that a database names which needs ``first``.

    Between releases this program has the number of the last one, and does not shut itself out.
    """
    return min(first, __version__, key=_release)


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

"""What ends a command early: one line for the person at the terminal, and the exit status that goes with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape


class CommandFailed(Exception):
    """The command cannot go on; ``str()`` is the line to print, without the program's name."""

    def __init__(self, status: Exit, text: str) -> None:
        self.status = status
        super().__init__(text)


def reason(error: OSError) -> str:
    """What the system said, in words."""
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what goes wrong when ``path`` is read into the failure that says so."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else path
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.NO_INPUT
        raise CommandFailed(status, f"{escape(named)}: {reason(error)}") from error


def read_file(path: str, limit: int) -> bytes:
    """All of a file (``-``: standard input), which must not be longer than ``limit`` octets. Raises CommandFailed."""
    with reading(path):
        if path == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(limit + 1)
    if len(data) > limit:
        raise CommandFailed(Exit.DATA, f"{escape(path)}: longer than {limit} octets")
    return data


@contextmanager
def warnings_told(program: str) -> Iterator[list[str]]:
    """Let what the library warns of (the logger ``zsmtp``) be lines on standard error, as a program's own.

    The list is what was told.
    """
    logger = logging.getLogger("zsmtp")
    handler = _WarningHandler(sys.stderr)
    handler.setFormatter(_Line(program))
    logger.addHandler(handler)
    try:
        yield handler.told
    finally:
        logger.removeHandler(handler)


class _WarningHandler(logging.StreamHandler[TextIO]):
    """Writes lines, and keeps what was told."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.told.append(record.getMessage())
        super().emit(record)


class _Line(logging.Formatter):
    """``program: text``, fit for a terminal."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        return f"{self._program}: {escape(record.getMessage())}"

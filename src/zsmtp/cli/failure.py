"""Failures that end a command early: one line for the terminal, and the exit status."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape


class CommandFailed(Exception):
    """The command cannot continue; ``str()`` is the line to print, without the program's name."""

    def __init__(self, status: Exit, text: str) -> None:
        self.status = status
        super().__init__(text)


def reason(error: OSError) -> str:
    """The system's error message."""
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn errors from reading ``path`` into CommandFailed."""
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
def warnings_printed(program: str) -> Iterator[list[str]]:
    """Print warnings of the library (the logger ``zsmtp``) as lines on standard error, as the program's own.

    The list has the warnings printed so far.
    """
    logger = logging.getLogger("zsmtp")
    handler = _WarningHandler(sys.stderr)
    handler.setFormatter(_Line(program))
    logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)


class _WarningHandler(logging.StreamHandler[TextIO]):
    """Writes warnings as lines, and keeps their texts."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.texts.append(record.getMessage())
        super().emit(record)


class _Line(logging.Formatter):
    """``program: text``, escaped for a terminal."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        return f"{self._program}: {escape(record.getMessage())}"

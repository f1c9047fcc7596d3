"""Paths in the spool: the message file of a control file, and the number of a control file in reports.

The two files of a message usually have the same name; with hash directories (``A/B/12345-6789``) they are in
directories of the same names below ``transport/`` and ``queue/``.
"""

from __future__ import annotations

import os

from zsmtp.errors import SpoolError
from zsmtp.patterns import pattern

_SLASH = ord("/")
_NO_NAMES = frozenset({b"", b".", b".."})
_LEADING_DIGITS = pattern(r"[0-9]+")


def message_path(path: str, message_name: bytes) -> str:
    """The message file of the control file ``path``: its hash directories exist below ``../queue/``, too.

    ``A/B/12345-6789`` has ``../queue/A/B/<message_name>``. Raises SpoolError for a name that is no plain file name, and
    for a path that is absolute or contains ``..``.
    """
    if message_name in _NO_NAMES or _SLASH in message_name or 0 in message_name:
        raise SpoolError(path, None, "the i record is not a plain file name")
    name = os.fsdecode(message_name)
    directory, slash, _ = path.rpartition("/")
    if not slash:
        return "../queue/" + name
    if path.startswith("/") or ".." in directory.split("/"):
        raise SpoolError(path, None, "not a spool path relative to the transport directory")
    return f"../queue/{directory}/{name}"


def file_id(path: str) -> bytes:
    """The leading decimal digits of the base name of ``path``, its number in reports. Raises SpoolError without any."""
    match = _LEADING_DIGITS.match(path.rpartition("/")[2])
    if match is None:
        raise SpoolError(path, None, "not a control file: its name does not start with a number")
    return match[0].encode("ascii")

"""Reads files ahead in threads, so that an event loop does not wait for a disk (``reads`` of ``GiveWay``).

What is read is not kept here: it is in the memory of the system when the work reads it again. Octets that are there
already cost two system calls and no thread: the first and the last of them are read without waiting (``RWF_NOWAIT``).
File systems that cannot tell, such as NFS, count as slow ones::

    if (load := needs_loading(block)) is not None:
        await in_thread(load)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BufferedReader, FileIO

from zsmtp.effects import FileBlock

_UNIT = 1 << 18  # octets read at a time


def needs_loading(block: FileBlock) -> Callable[[], None] | None:
    """A call that reads the block, for a thread; None if that would not wait for a disk.

    Files that are objects of a program are left to it: None.
    """
    file = block.file.raw if type(block.file) is BufferedReader else block.file
    if type(file) is not FileIO:
        return None
    probe = bytearray(1)
    try:
        for offset in (block.offset, block.offset + block.size - 1):
            os.preadv(file.fileno(), [probe], offset, os.RWF_NOWAIT)
    except (OSError, NotImplementedError):
        return partial(_load, file, block.offset, block.offset + block.size)
    except ValueError:  # it is closed, and the work says so
        return None
    return None


def _load(file: FileIO, offset: int, end: int) -> None:
    """Read the octets from ``offset`` to ``end``. Errors are left to the work, which reads them again."""
    buffer = memoryview(bytearray(min(end - offset, _UNIT)))
    with suppress(OSError, ValueError):
        while offset < end and (count := os.preadv(file.fileno(), [buffer[: end - offset]], offset)):
            offset += count

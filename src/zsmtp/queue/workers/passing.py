"""Message content that is passed to another process as an open file, so that it is never whole in memory.

All processes that have a passed file share its position, and a delivery that is returned may be passed to a third
process while the second one still has the file open. So :class:`PassedFile` keeps its own position (``pread``).
"""

from __future__ import annotations

import io
import os
from tempfile import SpooledTemporaryFile
from typing import BinaryIO


def descriptor_of(file: BinaryIO | SpooledTemporaryFile[bytes]) -> int:
    """Flush an open file and return a new descriptor of it, for another process. Raises OSError."""
    if isinstance(file, SpooledTemporaryFile):
        file.rollover()
    file.flush()
    return os.dup(file.fileno())


class PassedFile(io.RawIOBase):
    """A regular file that another process opened. It owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (os.fstat(self._descriptor).st_size if base is None else base)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read ``size`` octets, fewer at the end of the file."""
        if size < 0:
            size = max(os.fstat(self._descriptor).st_size - self._position, 0)
        octets = os.pread(self._descriptor, size, self._position)
        self._position += len(octets)
        return octets

    def close(self) -> None:
        """Close the descriptor; may be called again."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

"""Contents that go to another process as an open file, so that none of them is whole in memory.

Both processes share the position in a file that was passed, and a delivery that comes back may go to a third one while
the second still has it open. So a :class:`PassedFile` has a position of its own (``pread``).
"""

from __future__ import annotations

import io
import os
from tempfile import SpooledTemporaryFile
from typing import BinaryIO


def descriptor_of(file: BinaryIO | SpooledTemporaryFile[bytes]) -> int:
    """A new descriptor of an open file, for another process; what was written is in the file then. Raises OSError."""
    if isinstance(file, SpooledTemporaryFile):
        file.rollover()
    file.flush()
    return os.dup(file.fileno())


class PassedFile(io.RawIOBase):
    """A regular file that another process opened; it is read and closed here."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set its position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (os.fstat(self._descriptor).st_size if base is None else base)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """So many octets, fewer at the end."""
        if size < 0:
            size = max(os.fstat(self._descriptor).st_size - self._position, 0)
        octets = os.pread(self._descriptor, size, self._position)
        self._position += len(octets)
        return octets

    def close(self) -> None:
        """Let go of it; may be called again."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
